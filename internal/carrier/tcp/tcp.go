// Package tcp is the carrier over TCP: the 2013 protocol's own.
//
// What stands in a TCP socket's send buffer can not be overtaken or dropped any more, so a TCP
// inside the tunnel would feel a loss late and its latency would go to seconds. NotSentLowat keeps
// what the network has not asked for yet out of the socket, and in our queue.
package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
)

const (
	// NotSentLowat is how many bytes a socket takes beyond what is under way: TCP_NOTSENT_LOWAT.
	NotSentLowat = 128 << 10
	// UserTimeout ends a connection whose bytes are not acknowledged: RFC 5482, TCP_USER_TIMEOUT. It is 30 s, and so
	// much less that the probe which is sent then finds it over: the next one comes 5 s later.
	UserTimeout = 29 * time.Second
	// Probes of the kernel find a dead idle peer in 30 s: after 14, 19, 24 and 29 s, each up to 0.3 s late. A timer of more than
	// 16 s would be up to 2 s late (the kernel's timer wheel at 250 Hz).
	probeIdle     = 14 * time.Second
	probeInterval = 5 * time.Second
	probeCount    = 3
)

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: probeIdle, Interval: probeInterval, Count: probeCount}

// Listen serves an endpoint tcp://[host]:port, on IPv4 and IPv6 where no host is given.
func Listen(ctx context.Context, e carrier.Endpoint) (net.Listener, error) {
	lc := net.ListenConfig{Control: control(nil), KeepAliveConfig: keepAlive}
	// Multipath TCP is off: Landlock's rules for TCP do not cover it.
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: port %d is taken: stop the other program ('ss -ltnp sport = %d' shows it) or use --listen with another port: %w", e, e.Port, e.Port, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s: this machine has no such address ('ip addr' shows what it has): %w", e, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	return l, nil
}

// Dial connects to an endpoint tcp://host:port. All addresses of a name are tried, the two families
// side by side (RFC 8305). The sockets are those of the opener; so are those of the questions to the name
// servers, for a full tunnel must not swallow them.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener) (net.Conn, error) {
	conn, err := Dialer(o).DialContext(ctx, "tcp", net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))))
	if err != nil {
		return nil, explain(e, err)
	}
	return conn, nil
}

// Dialer returns what Dial connects with, for carriers over TCP.
func Dialer(o carrier.Opener) *net.Dialer {
	d := &net.Dialer{Control: control(o), KeepAliveConfig: keepAlive, Resolver: resolver(o)}
	d.SetMultipathTCP(false)
	return d
}

// Lookup returns the addresses of an endpoint's host, in the order of preference.
func Lookup(ctx context.Context, e carrier.Endpoint, o carrier.Opener) ([]netip.Addr, error) {
	r := resolver(o)
	if r == nil {
		r = net.DefaultResolver
	}
	addrs, err := r.LookupNetIP(ctx, "ip", e.Host)
	if err != nil {
		return nil, explain(e, err)
	}
	return addrs, nil
}

// resolver asks with the sockets of an opener; nil: with ordinary ones.
func resolver(o carrier.Opener) *net.Resolver {
	if o == nil {
		return nil
	}
	return &net.Resolver{PreferGo: true, Dial: (&net.Dialer{Control: control(o)}).DialContext}
}

// explain says what an error means to who named the endpoint.
func explain(e carrier.Endpoint, err error) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && !dns.IsNotFound:
		return fmt.Errorf("dial %s: the name %s can not be looked up: is a name server reachable? An address needs none: %w", e, e.Host, err)
	case errors.As(err, &dns):
		return fmt.Errorf("dial %s: the name %s was not found: check it, or use an address: %w", e, e.Host, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("dial %s: nothing listens there: is vpnsrv running?: %w", e, err)
	}
	return fmt.Errorf("dial %s: %w", e, err)
}

// control sets the options of a socket before it is used; accepted sockets inherit them. One of an opener
// takes its place first.
func control(o carrier.Opener) func(network, address string, raw syscall.RawConn) error {
	return func(network, address string, raw syscall.RawConn) (err error) {
		var other *os.File
		if o != nil {
			if other, err = o.Socket(network, address); err != nil {
				return err
			}
			defer other.Close()
		}
		controlErr := raw.Control(func(fd uintptr) {
			if other != nil {
				if err = replace(fd, other); err != nil {
					return
				}
			}
			if network == "udp4" || network == "udp6" {
				return // a question to a name server
			}
			// Both are as old as Linux 3.12; without them the connection works, only slower to notice.
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, NotSentLowat)
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(UserTimeout.Milliseconds()))
		})
		return errors.Join(controlErr, err)
	}
}

// replace puts the socket of a file in the place of another.
func replace(fd uintptr, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(from uintptr) { err = unix.Dup3(int(from), int(fd), unix.O_CLOEXEC) })
	return errors.Join(controlErr, err)
}
