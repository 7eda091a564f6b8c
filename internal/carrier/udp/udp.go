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
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	"ferry/internal/carrier/datagram"
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
	fd, err := open(a.Addr())
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
	// To which address of ours somebody speaks, as the answer has to come from there. A client's kernel chooses by itself, and
	// anew when the network is another one.
	if a.Addr().Is6() {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	if err := unix.Bind(fd, sockaddr(a)); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return newSocket(fd, a.Addr().Is6())
}

func open(a netip.Addr) (int, error) {
	domain := unix.AF_INET
	if a.Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fd, os.NewSyscallError("socket", err)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// headStart is what one address of a name has before the next one is tried too (RFC 8305, section 5).
const headStart = 250 * time.Millisecond

// maxAddrs is how many addresses of a name are tried.
const maxAddrs = 6

// Dial connects to an endpoint udp://host:port and makes the handshake, until ctx is done. The addresses of a name are tried side by
// side. The sockets are those of the opener.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c *tls.Config) (carrier.Link, error) {
	addrs, err := carrier.Lookup(ctx, e, o)
	if err != nil {
		return nil, err
	}
	addrs = addrs[:min(len(addrs), maxAddrs)]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		link *datagram.Link
		err  error
	}
	results := make(chan result, len(addrs))
	tried, open := 0, 0
	try := func() {
		to := netip.AddrPortFrom(addrs[tried], uint16(e.Port))
		tried, open = tried+1, open+1
		go func() { // ends with ctx, and is waited for below
			l, err := dial(ctx, to, o, c)
			results <- result{l, err}
		}()
	}
	try()
	next := time.NewTicker(headStart)
	defer next.Stop()
	var won *datagram.Link
	var errs error
	for open > 0 {
		select {
		case r := <-results:
			open--
			switch {
			case r.err != nil:
				errs = errors.Join(errs, r.err)
			case won == nil:
				won = r.link
				cancel()
			default:
				_ = r.link.Close()
			}
		case <-next.C:
		}
		if won == nil && tried < len(addrs) && ctx.Err() == nil {
			try()
		}
	}
	switch {
	case won != nil:
	case errors.Is(errs, datagram.ErrRefused):
		return nil, fmt.Errorf("dial %s: nothing listens there: is vpnsrv running?: %w", e, errs)
	default:
		return nil, fmt.Errorf("dial %s: %w", e, errs)
	}
	return won, nil
}

func dial(ctx context.Context, to netip.AddrPort, o carrier.Opener, c *tls.Config) (*datagram.Link, error) {
	fd, err := socketOf(to, o)
	if err != nil {
		return nil, err
	}
	s, err := newSocket(fd, to.Addr().Is6())
	if err != nil {
		return nil, err
	}
	s.mtu = routeMTU(to, o)
	s.askErrors(fd)
	return datagram.Dial(ctx, s, datagram.Addr{Remote: to}, c)
}

// socketOf returns a socket on the way to an address, that of an opener if there is one.
func socketOf(to netip.AddrPort, o carrier.Opener) (fd int, err error) {
	if o == nil {
		return open(to.Addr())
	}
	network := "udp4"
	if to.Addr().Is6() {
		network = "udp6"
	}
	f, err := o.Socket(network, to.String())
	if err != nil {
		return -1, err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(own uintptr) {
		if fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	})
	return fd, errors.Join(controlErr, err)
}

// routeMTU returns the MTU of the way to an address, as far as this machine knows it; 0: it does not.
func routeMTU(to netip.AddrPort, o carrier.Opener) int {
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	fd, err := socketOf(to, o)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	if unix.Connect(fd, sockaddr(to)) != nil { // sends nothing
		return 0
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	if err != nil {
		return 0
	}
	return mtu
}
