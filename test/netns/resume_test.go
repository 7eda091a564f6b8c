package netns

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/test/lab"
)

// A numberedStream is a stream of small UDP packets with numbers through the tunnel: it tells what was lost, doubled,
// overtaken, and for how long nothing came.
type numberedStream struct {
	t        *testing.T
	from, to net.PacketConn
	peer     net.Addr
	stop     chan struct{}
	sent     int
	work     sync.WaitGroup

	came map[int]int
	// As they came:
	reordered int
	stall     time.Duration
}

// newNumberedStream begins to send a packet every interval.
func newNumberedStream(t *testing.T, from, to *lab.Namespace, addr string, interval time.Duration) *numberedStream {
	t.Helper()
	tr := &numberedStream{t: t, stop: make(chan struct{}), came: map[int]int{}}
	listen := func(ns *lab.Namespace) (c net.PacketConn) {
		err := ns.Do(func() (err error) {
			c, err = net.ListenPacket("udp4", ":0")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		// What was kept comes at once, and is not to be lost behind the tunnel while this process has no processor.
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
		}
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	tr.from, tr.to = listen(from), listen(to)
	tr.peer = &net.UDPAddr{IP: net.ParseIP(addr), Port: tr.to.LocalAddr().(*net.UDPAddr).Port}
	tr.work.Go(func() { tr.send(interval) })
	tr.work.Go(tr.receive)
	return tr
}

func (tr *numberedStream) send(interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-tr.stop:
			return
		case <-ticker.C:
			_, _ = tr.from.WriteTo(binary.BigEndian.AppendUint64(nil, uint64(tr.sent)), tr.peer)
			tr.sent++
		}
	}
}

func (tr *numberedStream) receive() {
	b := make([]byte, 100)
	last, highest := time.Now(), -1
	for {
		n, _, err := tr.to.ReadFrom(b)
		if err != nil {
			return
		}
		if n != 8 {
			continue
		}
		k := int(binary.BigEndian.Uint64(b))
		tr.came[k]++
		if k < highest {
			tr.reordered++
		}
		highest = max(highest, k)
		tr.stall = max(tr.stall, time.Since(last))
		last = time.Now()
	}
}

// end stops sending, and returns what became of the packets.
func (tr *numberedStream) end() (lost, doubled, reordered int, stall time.Duration) {
	close(tr.stop)
	time.Sleep(500 * time.Millisecond) // those on their way
	_ = tr.to.Close()
	tr.work.Wait()
	for k := range tr.sent {
		switch n := tr.came[k]; {
		case n == 0:
			lost++
		case n > 1:
			doubled++
		}
	}
	return lost, doubled, tr.reordered, tr.stall
}

// TestConnectionKilled: the connection to the gateway is reset again and again, and what is inside of the tunnel loses
// nothing: the session goes on by the next one.
func TestConnectionKilled(t *testing.T) {
	t.Parallel()
	n := newSecure(t)
	dev := newClient(t, n.c1, "--state", n.join(n.c1, "cam1"))
	addr := dev.waitConnected()
	ssh := newSession(t, n.c1, n.gw, gatewayVPN)
	up := newNumberedStream(t, n.c1, n.gw, gatewayVPN, time.Millisecond)
	down := newNumberedStream(t, n.gw, n.c1, addr, time.Millisecond)
	const kills = 3
	for round := 1; round <= kills; round++ {
		time.Sleep(3500 * time.Millisecond) // longer than what makes a connection a steady one
		run(t, n.gw, "ss -K sport = 2002")
		dev.event("connected", round)
		ssh.say(fmt.Sprintf("round %d", round), patience)
	}
	for name, tr := range map[string]*numberedStream{"to the gateway": up, "to the client": down} {
		lost, doubled, reordered, stall := tr.end()
		t.Logf("%s: %d packets, %d lost, %d twice, %d overtaken, the longest pause %s", name, tr.sent, lost, doubled, reordered, stall.Round(time.Millisecond))
		if lost+doubled+reordered > 0 || tr.sent < 1000 {
			t.Errorf("%s: of %d packets %d are lost, %d came twice, %d were overtaken", name, tr.sent, lost, doubled, reordered)
		}
	}
	if got := dev.Count(`"event":"address"`); got != 1 {
		t.Errorf("the client heard of %d addresses", got)
	}
}
