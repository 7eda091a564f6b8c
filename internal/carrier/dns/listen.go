package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	"ferry/internal/carrier/datagram"
	"ferry/internal/carrier/netsock"
	"ferry/internal/carrier/polling"
)

// A Listener takes the connections of clients.
type Listener = datagram.Listener

// polls is how many questions are under way at most.
const polls = 32

// config says how questions are asked, at most so many at a time, and kept.
func config(polls int) polling.Config {
	return polling.Config{Polls: polls, Bound: true, Hold: hold}
}

// Listen serves an endpoint dns://[host:port/]zone, by UDP and by TCP, on IPv4 and IPv6 where no host is given.
func Listen(ctx context.Context, e carrier.Endpoint) (*Listener, error) {
	at := netip.IPv6Unspecified()
	if e.Host != "" {
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", e.Host)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", e, err)
		}
		at = addrs[0].Unmap()
	}
	udp, tcp, err := bind(ctx, at, e.Port)
	if errors.Is(err, syscall.EAFNOSUPPORT) && e.Host == "" { // ipv6.disable=1
		udp, tcp, err = bind(ctx, netip.IPv4Unspecified(), e.Port)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: port %d is taken, perhaps by the resolver of this machine ('ss -lnp sport = %d' shows it): name an address of this machine that others reach, as in dns://192.0.2.1%s: %w",
			e, e.Port, e.Port, e.Path, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s: this machine has no such address ('ip addr' shows what it has): %w", e, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	g, err := newGate(newZone(e.Path[1:]), udp, tcp)
	if err != nil {
		_, _ = udp.Close(), tcp.Close()
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	return datagram.Listen(polling.NewServer(g, config(polls)), datagram.Config{Proven: true}), nil
}

// bind makes both sockets, on the same port.
func bind(ctx context.Context, at netip.Addr, port uint32) (*net.UDPConn, *net.TCPListener, error) {
	lc := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { setSocket(int(fd), network) })
	}}
	lc.SetMultipathTCP(false)
	host := at.String()
	if at == netip.IPv6Unspecified() {
		host = "" // IPv4 as well
	}
	udp, err := lc.ListenPacket(ctx, "udp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err != nil {
		return nil, nil, err
	}
	_, bound, _ := net.SplitHostPort(udp.LocalAddr().String())
	tcp, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, bound))
	if err != nil {
		_ = udp.Close()
		return nil, nil, err
	}
	return udp.(*net.UDPConn), tcp.(*net.TCPListener), nil
}

// socketBuffer is for the questions of many.
const socketBuffer = 1 << 20

// setSocket sets the options of a socket. Without any of them it works, only not as well.
func setSocket(fd int, network string) {
	if !strings.HasPrefix(network, "udp") {
		return
	}
	netsock.AskLocal(fd, network == "udp6")
	netsock.Buffers(fd, socketBuffer)
}

// controlLen has room for an address of ours.
const controlLen = 64

// localOf returns to which address of ours a datagram came, by its control message; invalid: it is not known.
func localOf(control []byte) netip.Addr {
	if len(control) < unix.SizeofCmsghdr {
		return netip.Addr{}
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	return netsock.To(h.Level, h.Type, control[unix.CmsgLen(0):])
}
