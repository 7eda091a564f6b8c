package carrier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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

// TCPListenConfig returns how the carriers over TCP listen.
func TCPListenConfig() *net.ListenConfig {
	lc := &net.ListenConfig{Control: control(nil), KeepAliveConfig: keepAlive}
	// Multipath TCP is off: Landlock's rules for TCP do not cover it.
	lc.SetMultipathTCP(false)
	return lc
}

// DialTCP connects to the host and the port of an endpoint. All addresses of a name are tried, the two families
// side by side (RFC 8305). The sockets are those of the opener; so are those of the questions to the name
// servers, for a full tunnel must not swallow them.
func DialTCP(ctx context.Context, e Endpoint, o Opener) (net.Conn, error) {
	conn, err := TCPDialer(o).DialContext(ctx, "tcp", e.Target())
	if err != nil {
		return nil, explain(e, err)
	}
	return conn, nil
}

// TCPDialer returns what DialTCP connects with.
func TCPDialer(o Opener) *net.Dialer {
	d := &net.Dialer{Control: control(o), KeepAliveConfig: keepAlive, Resolver: Resolver(o)}
	d.SetMultipathTCP(false)
	return d
}

// Lookup returns the addresses of an endpoint's host, among those of a network of package net (ip, ip4), in the order of preference, without zeros in front of those of IPv4.
func Lookup(ctx context.Context, network string, e Endpoint, o Opener) ([]netip.Addr, error) {
	if e.At.IsValid() {
		return []netip.Addr{e.At}, nil
	}
	addrs, err := Resolver(o).LookupNetIP(ctx, network, e.Host)
	if err != nil {
		return nil, explain(e, err)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

// explain says what an error means to who named the endpoint.
func explain(e Endpoint, err error) error {
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
func control(o Opener) func(network, address string, raw syscall.RawConn) error {
	return func(network, address string, raw syscall.RawConn) error {
		if err := PutSocket(o, network, address, raw); err != nil {
			return err
		}
		return raw.Control(func(fd uintptr) {
			// Both are as old as Linux 3.12; without them the connection works, only slower to notice.
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, NotSentLowat)
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(UserTimeout.Milliseconds()))
		})
	}
}
