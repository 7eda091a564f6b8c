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
	"slices"
	"sync"
	"syscall"
	"time"

	"ferry/internal/carrier"
)

// What a resolver carries is found out before it is used:
//
//	UDP: a test, whose answer is to be of full size ──────── it came ──▶ UDP
//	  | truncated: the gateway does not know who asks         ^
//	  | silent, for a while                                   | UDP: once more, as the gateway knows it now
//	  +──▶ TCP: the same ──── it came ────────────────────────+──▶ silent: large answers are lost. TCP
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
	{ErrDelegation, "its parent needs an NS record for it (docs/carriers.md), and the name may be misspelt"},
	{ErrRefused, "name another one, as in dns://192.0.2.1/zone, or look whether the gateway listens for this zone"},
	{ErrGateway, "does vpnsrv run, with --listen dns://zone, is port 53 open for UDP and TCP, and does the NS record lead there?"},
	{ErrOther, "the records of its parent lead somewhere else"},
	{ErrSilent, "name another one, as in dns://192.0.2.1/zone, where 'nameserver' of /etc/resolv.conf is of no use"},
	{ErrTCP, "port 53 of TCP has to be open, too"},
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
	// udpTime and tcpTime are how long the tests take at most.
	udpTime = 2500 * time.Millisecond
	tcpTime = 2500 * time.Millisecond
	// tcpAfter is how long UDP may be silent before TCP is tried, too.
	tcpAfter = 900 * time.Millisecond
	// againTime is how long the second test by UDP takes at most.
	againTime = 1200 * time.Millisecond
	// resend is after how long a test is sent again.
	resend = 400 * time.Millisecond
)

var errTruncated = errors.New("truncated")

// test finds out what the resolver carries for a client: stream says that it is TCP only.
func (r *resolver) test(ctx context.Context, client uint64) (stream bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var tests sync.WaitGroup
	defer tests.Wait()
	defer cancel()
	udp, tcp := make(chan error, 1), make(chan error, 1)
	tests.Go(func() { udp <- r.testUDP(ctx, client, udpTime) })
	late := time.NewTimer(tcpAfter)
	defer late.Stop()
	var udpErr error
	select {
	case udpErr = <-udp:
		if !errors.Is(udpErr, errTruncated) && !errors.Is(udpErr, ErrSilent) { // it has spoken
			return false, udpErr
		}
		udp = nil
	case <-late.C:
	}
	tests.Go(func() { tcp <- r.testTCP(ctx, client) })
	for {
		select {
		case udpErr = <-udp:
			if udpErr == nil {
				return false, nil
			}
			udp = nil
		case tcpErr := <-tcp:
			switch {
			case tcpErr == nil:
				return r.testUDP(ctx, client, againTime) != nil, nil
			case udp != nil:
				return false, <-udp
			case errors.Is(udpErr, errTruncated):
				return false, fmt.Errorf("%w: %w", ErrTCP, tcpErr)
			case isSpoken(tcpErr):
				return false, tcpErr
			}
			return false, udpErr
		}
	}
}

// isSpoken tells an answer from silence.
func isSpoken(err error) bool {
	return slices.ContainsFunc(advice, func(a advised) bool { return errors.Is(err, a.err) }) && !errors.Is(err, ErrSilent)
}

// message returns a test, and what its answer has as the question.
func (r *resolver) message(client uint64) (m, raw []byte) {
	size := binary.BigEndian.AppendUint16(nil, heldLen+maxDown)
	m = appendQuestion(nil, uint16(rand.Uint32()), r.z, query{client: client, number: rand.Uint32(), test: true, data: size})
	return m, m[messageHeader : len(m)-optLen]
}

// testUDP asks by UDP, several times.
func (r *resolver) testUDP(ctx context.Context, client uint64, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := r.dial(ctx, "udp")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSilent, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	m, raw := r.message(client)
	var b, scratch [maxMessage]byte
	for ctx.Err() == nil {
		if _, err := conn.Write(m); err != nil {
			return fmt.Errorf("%w: %w", ErrSilent, err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(resend))
		if ctx.Err() != nil {
			break
		}
		for {
			n, err := conn.Read(b[:])
			if errors.Is(err, syscall.ECONNREFUSED) {
				return fmt.Errorf("%w: %w", ErrSilent, err)
			}
			if err != nil {
				break
			}
			if got, err := parseReply(scratch[:0], b[:n], raw); err == nil && got.id == binary.BigEndian.Uint16(m) {
				return verify(got)
			}
		}
	}
	return ErrSilent
}

// testTCP asks by TCP.
func (r *resolver) testTCP(ctx context.Context, client uint64) error {
	ctx, cancel := context.WithTimeout(ctx, tcpTime)
	defer cancel()
	conn, err := r.dial(ctx, "tcp")
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	m, raw := r.message(client)
	var b, scratch [maxMessage]byte
	n, err := exchange(conn, b[:], m)
	if err != nil {
		return err
	}
	got, err := parseReply(scratch[:0], b[:n], raw)
	if err != nil {
		return err
	}
	return verify(got)
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
func verify(r reply) error {
	switch {
	case r.code == codeName:
		return ErrDelegation
	case r.code == codeRefused, r.code == codeUnknown:
		return ErrRefused
	case r.code != codeSuccess:
		return ErrGateway
	case r.truncated:
		return errTruncated
	case !r.found || r.kind != textTest || len(r.text) != heldLen+maxDown:
		return ErrOther
	}
	return nil
}
