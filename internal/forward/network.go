package forward

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"ferry/internal/carrier"
	"ferry/internal/carrier/unix"
)

// A Network has the two sides of a forward: this host, where it listens, and the tunnel, into which it dials.
type Network interface {
	// Listen listens on tcp, or on a path of unix. Whoever closes the listener of a path removes the socket.
	Listen(ctx context.Context, network, address string) (net.Listener, error)
	ListenPacket(ctx context.Context, address string) (*net.UDPConn, error)
	// Dial connects to a client by tcp or udp, from an address of this host if that is valid. What it returns is a socket of the kernel, or
	// an io.WriterTo that copies what comes and holds no buffer while nothing does; one of tcp has CloseWrite and SetLinger.
	Dial(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (net.Conn, error)
}

// Sockets is the Network of a process that may make sockets itself, on a host whose routes lead to the clients.
type Sockets struct{}

var _ Network = Sockets{}

// Listen implements Network.
func (Sockets) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if network == "unix" {
		return unix.ListenPrivate(ctx, carrier.Endpoint{Scheme: "unix", Path: address})
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // splice(2) knows TCP
	return lc.Listen(ctx, network, address)
}

// ListenPacket implements Network.
func (Sockets) ListenPacket(ctx context.Context, address string) (*net.UDPConn, error) {
	var lc net.ListenConfig
	l, err := lc.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	return l.(*net.UDPConn), nil
}

// Dial implements Network.
func (Sockets) Dial(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
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
	return d.DialContext(ctx, network, to.String())
}
