package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"ferry/internal/carrier"
)

// What a resolver carries is found out before it is used, by tests: how long the answer to them is to be, they say.
//
//	UDP, large ──came──▶ UDP, large
//	  |
//	  | truncated: the gateway does not know yet who asks     TCP ──came──▶ UDP, large, once more; then small ──silent──▶ TCP
//	  +─────────────────────────────────────────────────────▶  ^
//	  | silent for a while: large answers may be lost          |
//	  +───────────▶ UDP, small ──came──▶ UDP, small            |
//	                     +───────── at the same time ──────────+
//
// A resolver that is told to come by TCP does so itself, as a rule. Some hand that on, and the gateway itself says it to who asks it directly.

// Why a resolver is of no use.
var (
	ErrDelegation = errors.New("the DNS knows no such name: the zone is not delegated to the gateway")
	ErrRefused    = errors.New("the resolver refuses to ask for it")
	ErrGateway    = errors.New("the resolver can not reach the gateway")
	ErrOther      = errors.New("this is no gateway's zone")
	ErrSilent     = errors.New("the resolver does not answer")
	ErrTCP        = errors.New("answers are to be fetched by TCP, which does not get through")
	ErrLarge      = errors.New("large answers do not come any more")
)

// advised is an error, and what can be done about it.
type advised struct {
	err  error
	text string
}

var advice = []advised{
	{ErrTCP, "port 53 of TCP has to be open, too"},
	{ErrDelegation, "its parent needs an NS record for it (docs/carriers.md), and the name may be misspelt"},
	{ErrRefused, "name another one, as in dns://192.0.2.1/zone, or look whether the gateway listens for this zone"},
	{ErrGateway, "does vpnsrv run, with --listen dns://zone, is port 53 open for UDP and TCP, and does the NS record lead there?"},
	{ErrOther, "the records of its parent lead somewhere else"},
	{ErrSilent, "name another one, as in dns://192.0.2.1/zone, where 'nameserver' of /etc/resolv.conf is of no use"},
}

// advise adds what can be done.
func advise(err error) error {
	for _, a := range advice {
		if errors.Is(err, a.err) {
			return fmt.Errorf("%w: %s", err, a.text)
		}
	}
	return err
}

// A resolver is asked, as long as a client is connected, by the sockets of an opener. It may be the gateway itself.
type resolver struct {
	z  *zone
	at netip.AddrPort
	o  carrier.Opener
}

// dial connects to the resolver. A socket of UDP hears of it when nobody is there.
func (r *resolver) dial(ctx context.Context, network string) (net.Conn, error) {
	d := net.Dialer{Control: func(network, address string, raw syscall.RawConn) error {
		return carrier.PutSocket(r.o, network, address, raw)
	}}
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, network, r.at.String())
}

const (
	// udpTime and tcpTime are how long tests take at most, before and after TCP has shown the gateway who asks.
	udpTime   = 2500 * time.Millisecond
	tcpTime   = 2500 * time.Millisecond
	againTime = 900 * time.Millisecond
	// patience is how long a large answer by UDP may take before something else is tried, too.
	patience = 900 * time.Millisecond
	// networks is how many a resolver may show before it is believed that it has more.
	networks = 3
	// resend is after how long a test by UDP is sent again.
	resend = 300 * time.Millisecond

	// smallDown is the longest datagram in an answer where large ones are lost: with it and the longest name it has 512 bytes.
	smallDown = 208
)

var errTruncated = errors.New("truncated")

// A manner is how a resolver is asked.
type manner struct {
	stream bool // by TCP
	takes  int  // length of the longest datagram in an answer
}

// A trial is a test that runs, or is over.
type trial struct {
	manner
	done chan error // nil: nothing is waited for
	err  error
}

// A finding is what runs to find out what a resolver carries for a client.
type finding struct {
	*resolver
	client            uint64
	large, small, tcp trial
	work              sync.WaitGroup
}

func (x *finding) start(ctx context.Context, t *trial, limit time.Duration) {
	t.done, t.err = make(chan error, 1), nil
	x.work.Go(func() { t.done <- x.try(ctx, x.client, t.manner, limit) })
}

// test finds out what the resolver carries for a client.
func (r *resolver) test(ctx context.Context, client uint64) (manner, error) {
	ctx, cancel := context.WithCancel(ctx)
	x := &finding{resolver: r, client: client, large: trial{manner: manner{takes: maxDown}}, small: trial{manner: manner{takes: smallDown}}}
	x.tcp.manner = manner{stream: true, takes: smallDown}
	defer x.work.Wait()
	defer cancel()
	x.start(ctx, &x.large, udpTime)
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case err := <-x.large.done:
		x.large.done, x.large.err = nil, err
		if err == nil || isSpoken(err) {
			return x.large.manner, err
		}
	case <-late.C:
	}
	if !errors.Is(x.large.err, errTruncated) {
		x.start(ctx, &x.small, udpTime-patience)
	}
	x.start(ctx, &x.tcp, tcpTime)
	return x.others(ctx)
}

// others waits for what else is tried.
func (x *finding) others(ctx context.Context) (manner, error) {
	for x.large.done != nil || x.small.done != nil || x.tcp.done != nil {
		var over *trial
		var err error
		select {
		case err = <-x.large.done:
			over = &x.large
		case err = <-x.small.done:
			over = &x.small
		case err = <-x.tcp.done:
			over = &x.tcp
		}
		over.done, over.err = nil, err
		switch {
		case err == nil && over == &x.tcp:
			return x.again(ctx), nil
		case err == nil, isSpoken(err):
			return over.manner, err
		}
	}
	for _, t := range []*trial{&x.large, &x.small} {
		if errors.Is(t.err, errTruncated) {
			return manner{}, fmt.Errorf("%w: by TCP %w", ErrTCP, x.tcp.err)
		}
	}
	return manner{}, x.large.err
}

// again tests UDP once more, when TCP has shown the gateway who asks.
func (x *finding) again(ctx context.Context) manner {
	for _, t := range []*trial{&x.large, &x.small} {
		if !errors.Is(t.err, ErrSilent) && x.passes(ctx, t.manner) {
			return t.manner
		}
	}
	return manner{stream: true, takes: maxDown}
}

// passes tells whether answers come by UDP. Of a resolver in several networks each has to be shown to the gateway; the others will be as they are
// met.
func (x *finding) passes(ctx context.Context, m manner) bool {
	for range networks {
		err := x.try(ctx, x.client, m, againTime)
		if !errors.Is(err, errTruncated) {
			return err == nil
		}
		_ = x.try(ctx, x.client, x.tcp.manner, againTime)
	}
	return true
}

// try tests one manner.
func (r *resolver) try(ctx context.Context, client uint64, m manner, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	network := "udp"
	if m.stream {
		network = "tcp"
	}
	conn, err := r.dial(ctx, network)
	if err != nil {
		return silence(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	size := heldLen + m.takes
	b := binary.BigEndian.AppendUint16(nil, uint16(size))
	b = appendQuestion(nil, uint16(rand.Uint32()), r.z, query{client: client, number: rand.Uint32(), test: true, data: b})
	var got reply
	if m.stream {
		got, err = r.testTCP(conn, b)
	} else {
		got, err = r.testUDP(ctx, conn, b)
	}
	if err != nil {
		return silence(err)
	}
	return verify(got, size)
}

// silence says that nobody has answered, and why, if that is more than that it has taken too long.
func silence(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrSilent
	}
	return fmt.Errorf("%w: %w", ErrSilent, err)
}

// rawOf returns what the answer to a question has as the question.
func rawOf(m []byte) []byte { return m[messageHeader : len(m)-optLen] }

// testUDP asks by UDP, again and again.
func (r *resolver) testUDP(ctx context.Context, conn net.Conn, m []byte) (reply, error) {
	var b, scratch [maxMessage]byte
	for {
		if _, err := conn.Write(m); err != nil {
			return reply{}, err
		}
		_ = conn.SetReadDeadline(time.Now().Add(resend))
		for ctx.Err() == nil {
			n, err := conn.Read(b[:])
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil { // nobody is there, or a firewall says no
				return reply{}, err
			}
			if got, err := parseReply(scratch[:0], b[:n], rawOf(m)); err == nil && got.id == binary.BigEndian.Uint16(m) {
				return got, nil
			}
		}
		if ctx.Err() != nil {
			return reply{}, ctx.Err()
		}
	}
}

// testTCP asks by TCP.
func (r *resolver) testTCP(conn net.Conn, m []byte) (reply, error) {
	var b, scratch [maxMessage]byte
	n, err := exchange(conn, b[:], m)
	if err != nil {
		return reply{}, err
	}
	return parseReply(scratch[:0], b[:n], rawOf(m))
}

// isSpoken tells an answer from silence.
func isSpoken(err error) bool {
	return slices.ContainsFunc(advice, func(a advised) bool { return errors.Is(err, a.err) }) && !errors.Is(err, ErrSilent)
}

// exchange sends a message by TCP, and reads one into b.
func exchange(conn net.Conn, b, m []byte) (n int, err error) {
	framed := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(m)), uint16(len(m))), m...)
	if _, err := conn.Write(framed); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(conn, b[:2]); err != nil {
		return 0, err
	}
	if n = int(binary.BigEndian.Uint16(b)); n > len(b) {
		return 0, errMessage
	}
	return io.ReadFull(conn, b[:n])
}

// verify says what is wrong with the answer to a test.
func verify(r reply, size int) error {
	switch {
	case r.code == codeName:
		return ErrDelegation
	case r.code == codeRefused, r.code == codeUnknown:
		return ErrRefused
	case r.code != codeSuccess:
		return ErrGateway
	case r.truncated:
		return errTruncated
	case !r.found || r.kind != textTest || len(r.text) != size:
		return ErrOther
	}
	return nil
}
