package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	unixsocket "ferry/internal/carrier/unix"
)

// A Network has the two sides of a forward. For published ports a Listener is of this host and a Dialer of the tunnel, as with -L of ssh; with -R it is
// the other way round.
type Network interface {
	Listener
	Dialer
}

// Sides is the Network of two sides.
type Sides struct {
	Listener
	Dialer
}

// A Listener is the side where connections come in. What it accepts is a socket of the kernel or an io.WriterTo, as with a Dialer.
type Listener interface {
	// Listen listens on tcp, or on a path of unix. Whoever closes the listener of a path removes the socket.
	Listen(ctx context.Context, network, address string) (net.Listener, error)
	ListenPacket(ctx context.Context, address string) (PacketConn, error)
}

// A PacketConn is a socket of udp, or what stands in for one. oob holds control messages of the kernel's, or nothing.
type PacketConn interface {
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, from netip.AddrPort, err error)
	WriteMsgUDPAddrPort(b, oob []byte, to netip.AddrPort) (n, oobn int, err error)
	LocalAddr() net.Addr
	Close() error
}

var _ PacketConn = (*net.UDPConn)(nil)

// A Dialer is the side where connections go on.
type Dialer interface {
	// Dial connects by tcp or udp to host:port, from an address of this host if that is valid, or by unix to a path. What it returns is a socket of
	// the kernel, or an io.WriterTo that copies what comes and holds no buffer while nothing does; one of tcp has CloseWrite and SetLinger.
	Dial(ctx context.Context, network string, from netip.Addr, to string) (net.Conn, error)
}

// Sockets is the Network of a process that may make sockets itself, on a host whose routes lead to both sides.
type Sockets struct{}

var _ Network = Sockets{}

// Listen implements Listener.
func (Sockets) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if network == "unix" {
		return unixsocket.ListenPrivate(ctx, carrier.Endpoint{Scheme: "unix", Path: address})
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // splice(2) knows TCP
	return lc.Listen(ctx, carrier.Family(network, address), address)
}

// ListenPacket implements Listener.
func (Sockets) ListenPacket(ctx context.Context, address string) (PacketConn, error) {
	var lc net.ListenConfig
	l, err := lc.ListenPacket(ctx, carrier.Family("udp", address), address)
	if err != nil {
		return nil, err
	}
	return l.(*net.UDPConn), nil
}

// Dial implements Dialer.
func (Sockets) Dial(ctx context.Context, network string, from netip.Addr, to string) (net.Conn, error) {
	return dialFrom(ctx, new(net.Dialer), network, from, to)
}

func dialFrom(ctx context.Context, d *net.Dialer, network string, from netip.Addr, to string) (net.Conn, error) {
	d.SetMultipathTCP(false)
	switch {
	case !from.IsValid():
	case network == "tcp":
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	case network == "udp":
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	default:
		return nil, fmt.Errorf("dial %s: %w", network, net.UnknownNetworkError(network))
	}
	return d.DialContext(ctx, network, to)
}

// Via is a Dialer that connects by one interface of this host, whatever the routes say: what is to go through a tunnel never goes beside it.
type Via struct{ Interface string }

var _ Dialer = Via{}

// Dial implements Dialer.
func (v Via) Dial(ctx context.Context, network string, from netip.Addr, to string) (net.Conn, error) {
	return dialFrom(ctx, &net.Dialer{Control: v.bind}, network, from, to)
}

// bind ties a socket to the interface. Until Linux 5.7 that took CAP_NET_RAW.
func (v Via) bind(_, _ string, raw syscall.RawConn) error {
	var fault error
	err := raw.Control(func(fd uintptr) {
		fault = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, v.Interface)
	})
	if err = errors.Join(err, fault); errors.Is(err, unix.EPERM) {
		return fmt.Errorf("connect by the interface %s takes Linux 5.7: %w", v.Interface, err)
	}
	return os.NewSyscallError("setsockopt", err)
}
