package quic

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
)

// ErrHandshake is returned, with the cause, for a handshake that did not succeed.
var ErrHandshake = errors.New("QUIC handshake")

const (
	// socketBuffer is what a UDP socket may hold, bytes each way: some milliseconds at full rate.
	socketBuffer = 4 << 20
	// attemptDelay is when the next address is tried beside the one before (RFC 8305, section 8).
	attemptDelay = 250 * time.Millisecond
)

// Dial connects to an endpoint quic://host:port and makes the handshake. All addresses of a name are tried, each one
// attemptDelay after the one before or as soon as that has failed. The sockets are those of the opener, and so are those of the
// questions to name servers. Whether the gateway takes the key is known only when the first item has come: a client is done
// before the server has checked it.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c *tls.Config) (carrier.Link, error) {
	l, err := race(ctx, e, o, func(ctx context.Context, to netip.AddrPort) (*Link, error) { return dial(ctx, to, o, c) })
	if err != nil {
		return nil, err
	}
	return l, nil
}

// race calls dial for all addresses of an endpoint's name, until one succeeds or ctx is done.
func race[T io.Closer](ctx context.Context, e carrier.Endpoint, o carrier.Opener, dial func(context.Context, netip.AddrPort) (T, error)) (won T, err error) {
	addrs, err := carrier.Lookup(ctx, "ip", e, o)
	if err != nil {
		return won, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var attempts sync.WaitGroup
	defer attempts.Wait() // behind cancel
	defer cancel()
	results := make(chan result[T]) // each attempt sends one, unless ctx is done
	started, running := 0, 0
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return won, explain(e, errors.Join(ctx.Err(), err))
		case <-next.C:
			if started < len(addrs) {
				to := netip.AddrPortFrom(addrs[started], uint16(e.Port))
				attempts.Go(func() { try(ctx, to, dial, results) })
				started, running = started+1, running+1
				next.Reset(attemptDelay)
			}
		case r := <-results:
			if running--; r.err == nil {
				return r.of, nil
			}
			if err = r.err; running == 0 && started == len(addrs) {
				return won, explain(e, err)
			}
			next.Reset(0)
		}
	}
}

// A result is what has come of an attempt.
type result[T io.Closer] struct {
	of  T
	err error
}

// try makes one attempt.
func try[T io.Closer](ctx context.Context, to netip.AddrPort, dial func(context.Context, netip.AddrPort) (T, error), results chan<- result[T]) {
	of, err := dial(ctx, to)
	select {
	case results <- result[T]{of, err}:
	case <-ctx.Done():
		if err == nil {
			_ = of.Close()
		}
	}
}

func dial(ctx context.Context, to netip.AddrPort, o carrier.Opener, c *tls.Config) (*Link, error) {
	s, err := socketTo(ctx, to, o, maxBurst)
	if err != nil {
		return nil, err
	}
	n, err := s.dial(ctx, net.UDPAddrFromAddrPort(to), c)
	if err != nil {
		s.leave()
		return nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	return newLink(n, s, false), nil
}

// socketTo returns a socket on the way to an address, that of an opener if there is one.
func socketTo(ctx context.Context, to netip.AddrPort, o carrier.Opener, burst int) (*socket, error) {
	network, here := "udp4", "0.0.0.0:0"
	if to.Addr().Is6() {
		network, here = "udp6", "[::]:0"
	}
	udp, err := listenUDP(ctx, network, here, func(_, _ string, raw syscall.RawConn) error {
		return carrier.PutSocket(o, network, to.String(), raw)
	})
	if err != nil {
		return nil, err
	}
	return newSocket(udp, burst), nil
}

// listenUDP makes a UDP socket with large buffers. control is called before it is bound.
func listenUDP(ctx context.Context, network, address string, control func(network, address string, raw syscall.RawConn) error) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(network, address string, raw syscall.RawConn) error {
		if err := control(network, address, raw); err != nil {
			return err
		}
		return raw.Control(func(fd uintptr) {
			setBuffer(int(fd), unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
			setBuffer(int(fd), unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
		})
	}}
	c, err := lc.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// setBuffer sets the size of a buffer beyond what the system allows to everybody, or, without the right for that, as far as it does.
func setBuffer(fd, force, option int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, socketBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, socketBuffer)
	}
}

// explain says what an error means to who named the endpoint.
func explain(e carrier.Endpoint, err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("dial %s: no answer: is vpnsrv listening there, and does UDP pass?: %w", e, err)
	}
	return fmt.Errorf("dial %s: %w", e, err)
}

func hostPort(e carrier.Endpoint) string { return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))) }
