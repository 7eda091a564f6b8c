package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ferry/test/lab"
)

const (
	holders        = 2 // processes that hold the sessions
	dialers        = 64
	joinTime       = 60 * time.Second
	settle         = 10 * time.Second // after the last has joined
	cpuWindow      = 30 * time.Second // in which the processor time of vpnsrv is measured
	keepaliveEvery = 15 * time.Second // of each session
	controlSize    = 20               // bytes
)

// Control packets of the 2013 protocol (docs/protocol.md).
var (
	dynamicRequest = unhex("4514000000000000400000000000000000000000")
	keepalive      = unhex("451400000000000040000000ffffffffffffffff")
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("bench: " + err.Error())
	}
	return b
}

// sessionsRow measures what plain sessions cost a gateway when they only keep themselves alive. Each
// run has a gateway of its own.
func sessionsRow(ctx context.Context, b *bench) ([]*line, error) {
	// The sessions are files of vpnsrv, and half as many of each holder. Children inherit the limit.
	if err := raiseFiles(uint64(b.sessions + 1000)); err != nil {
		return nil, err
	}
	n := fmt.Sprintf("%d idle sessions", b.sessions)
	lines := []*line{
		{what: n + ": vpnsrv RSS, MiB", bars: []bar{atMost(240, "<= 240 MiB")}},
		{what: n + ": vpnsrv CPU, % of one core", bars: []bar{below(2, "< 2 %")}},
		{what: n + ": time to join, s"},
	}
	return lines, b.inTurn(ctx, []path{{ours, bareGateway}}, func(ctx context.Context, p path) ([]float64, error) {
		f, err := b.startFerry()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return b.idleSessions(ctx, f, p)
	}, lines...)
}

// raiseFiles raises the limit of open files to at least n.
func raiseFiles(n uint64) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("get limit of open files: %w", err)
	}
	limit.Max = max(limit.Max, n)
	limit.Cur = max(limit.Cur, n)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise limit of open files to %d ('ulimit -n'): %w", n, err)
	}
	return nil
}

// idleSessions returns the memory of vpnsrv in MiB, its load in percent, and the time to join in s.
func (b *bench) idleSessions(ctx context.Context, f *ferry, p path) ([]float64, error) {
	began := time.Now()
	var held []*lab.Proc
	defer func() { stop(held...) }()
	for i := range holders {
		n := b.sessions / holders
		h, err := b.net.c1.Start(b.self, "sessions", "-n", fmt.Sprint(n), "-addr", p.addr+":2002",
			fmt.Sprintf("-keys=%t", f.secure), "-first", fmt.Sprint(i*n))
		if err != nil {
			return nil, err
		}
		held = append(held, h)
	}
	for _, h := range held {
		if _, err := h.Await("joined", 0, joinTime); err != nil {
			return nil, err
		}
	}
	joined := time.Since(began)
	load, err := cpuLoad(ctx, f.srv.Pid())
	if err != nil {
		return nil, err
	}
	memory, err := rss(f.srv.Pid())
	if err != nil {
		return nil, err
	}
	for _, h := range held { // a session that was lost costs nothing
		if status, err := h.Stop(patience); err != nil || status != 0 {
			return nil, fmt.Errorf("sessions: status %d, %w: %s", status, err, h.Output())
		}
	}
	return []float64{memory / mib, load, joined.Seconds()}, nil
}

// cpuLoad returns the load of a process in percent of one core, after it has settled.
func cpuLoad(ctx context.Context, pid int) (float64, error) {
	if !sleep(ctx, settle) {
		return 0, ctx.Err()
	}
	began := time.Now()
	before, err := cpuTime(pid)
	if err != nil {
		return 0, err
	}
	if !sleep(ctx, cpuWindow) {
		return 0, ctx.Err()
	}
	after, err := cpuTime(pid)
	return 100 * (after - before).Seconds() / time.Since(began).Seconds(), err
}

// holdSessions is a traffic generator: it joins with many sessions, says so, and holds them until
// SIGTERM. The exit status is 1 if one of them was lost or never answered.
func holdSessions(args []string) error {
	set := flag.NewFlagSet("sessions", flag.ContinueOnError)
	n := set.Int("n", 1, "number of sessions")
	addr := set.String("addr", "", "address of the gateway, with the port")
	keys := set.Bool("keys", false, "speak TLS, each session with a key of its own")
	first := set.Int("first", 0, "number of the first key")
	if err := set.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	secure := func(_ context.Context, conn net.Conn, _ int) (net.Conn, error) { return conn, nil }
	if *keys {
		secure = func(ctx context.Context, conn net.Conn, i int) (net.Conn, error) { return shake(ctx, conn, *first+i) }
	}
	conns, err := join(ctx, *addr, *n, secure)
	if err != nil {
		return err
	}
	fmt.Println("joined", len(conns))
	var echoes, lost atomic.Int64
	var wg sync.WaitGroup
	for i, c := range conns {
		// Those who joined within a second would also send within a second.
		phase := keepaliveEvery * time.Duration(i) / time.Duration(len(conns))
		wg.Go(func() { // ends with ctx
			if err := hold(ctx, c, phase, &echoes); err != nil {
				lost.Add(1)
				fmt.Println("lost:", err)
			}
		})
	}
	wg.Wait()
	fmt.Println("echoes", echoes.Load())
	if lost.Load() > 0 {
		return fmt.Errorf("%d of %d sessions were lost", lost.Load(), len(conns))
	}
	return nil
}

// join opens n sessions; secure is called with each connection and its number.
func join(ctx context.Context, addr string, n int, secure func(context.Context, net.Conn, int) (net.Conn, error)) ([]net.Conn, error) {
	conns := make([]net.Conn, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(dialers)
	for i := range conns {
		g.Go(func() error {
			c, err := (&net.Dialer{Timeout: patience, KeepAlive: -1}).DialContext(ctx, "tcp4", addr)
			if err != nil {
				return err
			}
			// A reset at the end, for 10,000 ports in TIME_WAIT would be missing in the next runs.
			if err := c.(*net.TCPConn).SetLinger(0); err != nil {
				return err
			}
			if conns[i], err = secure(ctx, c, i); err != nil {
				return err
			}
			reply, err := ask(conns[i], dynamicRequest)
			if err == nil && bytes.Equal(reply[16:], dynamicRequest[16:]) {
				err = errors.New("the reply has no address")
			}
			return err
		})
	}
	return conns, g.Wait()
}

// ask sends a control packet and returns the next one that comes.
func ask(c net.Conn, packet []byte) (reply []byte, err error) {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(packet); err != nil {
		return nil, err
	}
	reply = make([]byte, controlSize)
	_, err = io.ReadFull(c, reply)
	return reply, err
}

// hold keeps a session alive, from phase on. Without an echo it is lost.
func hold(ctx context.Context, c net.Conn, phase time.Duration, echoes *atomic.Int64) error {
	defer c.Close()
	for wait := phase; sleep(ctx, wait); wait = keepaliveEvery {
		reply, err := ask(c, keepalive)
		if err != nil {
			return err
		}
		if !bytes.Equal(reply, keepalive) {
			return fmt.Errorf("%x is no echo of a keepalive", reply)
		}
		echoes.Add(1)
	}
	return nil
}
