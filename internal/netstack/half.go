package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A Half is a connection of TCP in the tunnel, which waits for a socket that it is to be joined with.
type Half struct {
	ep    tcpip.Endpoint
	queue *waiter.Queue
	idle  time.Duration
}

// Connect connects by TCP to host:port in the tunnel.
func (l *Local) Connect(ctx context.Context, address string) (*Half, error) {
	own, addrs, port, err := l.resolve(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, a := range addrs {
		h, err := l.half(ctx, own, netip.AddrPortFrom(a, port))
		if err == nil {
			return h, nil
		}
		faults = append(faults, fmt.Errorf("dial %s: %w", address, err))
	}
	return nil, errors.Join(faults...)
}

func (l *Local) half(ctx context.Context, own netip.Addr, to netip.AddrPort) (*Half, error) {
	h := &Half{queue: new(waiter.Queue), idle: defaultIdle(protoTCP, to.Port())}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	h.queue.EventRegister(&entry)
	defer h.queue.EventUnregister(&entry)
	var problem tcpip.Error
	if h.ep, problem = l.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, h.queue); problem != nil {
		return nil, stackError{problem}
	}
	if problem = h.ep.Bind(full(netip.AddrPortFrom(own, 0))); problem == nil {
		problem = h.ep.Connect(full(to))
	}
	if _, started := problem.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ready:
			problem = h.ep.LastError()
		case <-ctx.Done():
			h.ep.Abort()
			return nil, ctx.Err()
		}
	}
	if problem != nil {
		h.ep.Close()
		return nil, stackError{problem}
	}
	return h, nil
}

// Join sends first, and then copies both ways between the tunnel and a socket until both have ended. It closes both.
func (h *Half) Join(socket *net.TCPConn, first []byte) {
	x := newConn(h.ep, h.queue, socket, h.idle)
	if x.begin(first) != nil {
		x.abort()
	}
	x.run()
}

// Close ends a connection that nothing was joined with.
func (h *Half) Close() error {
	h.ep.Abort()
	return nil
}

// Unwrap returns what the system would say.
func (e stackError) Unwrap() error {
	switch e.err.(type) {
	case *tcpip.ErrConnectionRefused:
		return syscall.ECONNREFUSED
	case *tcpip.ErrConnectionReset, *tcpip.ErrConnectionAborted:
		return syscall.ECONNRESET
	case *tcpip.ErrTimeout:
		return syscall.ETIMEDOUT
	case *tcpip.ErrHostUnreachable:
		return syscall.EHOSTUNREACH
	case *tcpip.ErrNetworkUnreachable:
		return syscall.ENETUNREACH
	}
	return nil
}
