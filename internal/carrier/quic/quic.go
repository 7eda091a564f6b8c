package quic

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"ferry/internal/carrier"
	"ferry/internal/carrier/netsock"
)

// ErrHandshake is returned, with the cause, for a handshake that did not succeed.
var ErrHandshake = errors.New("QUIC handshake")

// Dial connects to an endpoint quic://host:port and makes the handshake. All addresses of a name are tried, side by side. The sockets
// are those of the opener, and so are those of the questions to name servers. Whether the gateway takes the key is known only when
// the first item has come: a client is done before the server has checked it.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c *tls.Config) (carrier.Link, error) {
	l, err := netsock.Dial(ctx, e, o, "ip", func(ctx context.Context, to netip.Addr) (*Link, error) {
		return dial(ctx, netip.AddrPortFrom(to, uint16(e.Port)), o, c)
	})
	if err != nil {
		return nil, explain(err)
	}
	return l, nil
}

func dial(ctx context.Context, to netip.AddrPort, o carrier.Opener, c *tls.Config) (*Link, error) {
	s, err := socketTo(ctx, to, o)
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
func socketTo(ctx context.Context, to netip.AddrPort, o carrier.Opener) (*socket, error) {
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
	return newSocket(udp), nil
}

// listenUDP makes a UDP socket with large buffers. control is called before it is bound.
func listenUDP(ctx context.Context, network, address string, control func(network, address string, raw syscall.RawConn) error) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(network, address string, raw syscall.RawConn) error {
		if err := control(network, address, raw); err != nil {
			return err
		}
		return raw.Control(func(fd uintptr) {
			netsock.Buffers(int(fd), netsock.BufferSize)
		})
	}}
	c, err := lc.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// explain says what an error of netsock.Dial means to who named the endpoint.
func explain(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: no answer: is vpnsrv listening there, and does UDP pass?", err)
	}
	return err
}

func hostPort(e carrier.Endpoint) string { return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))) }
