// Package udp is the carrier over UDP: package datagram over a socket.
//
//	Send     [datagram][datagram] ... [shorter]     one message, which the kernel or the device cuts: UDP_SEGMENT
//	         several messages                        one system call: sendmmsg
//	Receive  as they come from one sender            put together again by the kernel: UDP_GRO, recvmmsg
//
// The socket is not connected, so that either end may move. A gateway answers from the address that it was spoken to
// (IP_PKTINFO). Nothing is fragmented: a datagram that is too long for the way is lost.
package udp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	"ferry/internal/carrier/datagram"
	"ferry/internal/carrier/netsock"
)

// A Listener takes the connections of clients.
type Listener = datagram.Listener

// Listen serves an endpoint udp://[host]:port, on IPv4 and IPv6 where no host is given.
func Listen(ctx context.Context, e carrier.Endpoint) (*Listener, error) {
	return ListenConfig(ctx, e, datagram.Config{})
}

// ListenConfig is Listen with other bounds than the usual ones.
func ListenConfig(ctx context.Context, e carrier.Endpoint, c datagram.Config) (*Listener, error) {
	at := netip.IPv6Unspecified()
	if e.Host != "" {
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", e.Host)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", e, err)
		}
		at = addrs[0].Unmap()
	}
	s, err := bind(netip.AddrPortFrom(at, uint16(e.Port)))
	if errors.Is(err, syscall.EAFNOSUPPORT) && e.Host == "" { // ipv6.disable=1
		s, err = bind(netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(e.Port)))
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: port %d is taken: stop the other program ('ss -lnup sport = %d' shows it) or use --listen with another port: %w", e, e.Port, e.Port, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s: this machine has no such address ('ip addr' shows what it has): %w", e, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	return datagram.Listen(s, c), nil
}

func bind(a netip.AddrPort) (*socket, error) {
	fd, err := netsock.UDP(a, nil)
	if err != nil {
		return nil, err
	}
	if a.Addr().Is6() {
		only := 0
		if !a.Addr().IsUnspecified() {
			only = 1
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only)
	}
	netsock.AskLocal(fd, a.Addr().Is6())
	if err := unix.Bind(fd, netsock.Sockaddr(a)); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return newSocket(fd, a.Addr().Is6())
}

// Dial connects to an endpoint udp://host:port and makes the handshake, until ctx is done. The addresses of a name are tried side by
// side. The sockets are those of the opener.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c *tls.Config) (carrier.Link, error) {
	l, err := netsock.Dial(ctx, e, o, "ip", func(ctx context.Context, to netip.Addr) (*datagram.Link, error) {
		return dial(ctx, netip.AddrPortFrom(to, uint16(e.Port)), o, c)
	})
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, datagram.ErrRefused):
		return nil, fmt.Errorf("%w: nothing listens there: is vpnsrv running?", err)
	}
	return nil, err
}

func dial(ctx context.Context, to netip.AddrPort, o carrier.Opener, c *tls.Config) (*datagram.Link, error) {
	fd, err := netsock.UDP(to, o)
	if err != nil {
		return nil, err
	}
	s, err := newSocket(fd, to.Addr().Is6())
	if err != nil {
		return nil, err
	}
	s.mtu = netsock.RouteMTU(to, o)
	s.in.AskErrors(fd)
	return datagram.Dial(ctx, s, datagram.Addr{Remote: to}, c)
}
