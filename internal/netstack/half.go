package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A Half is a connection of TCP in the tunnel, which waits for a socket that it is to be joined with.
type Half struct {
	memory  *memory
	receive int // bytes, which were reserved
	ep      tcpip.Endpoint
	queue   *waiter.Queue
	idle    time.Duration
}

// Connect connects by TCP to host:port in the tunnel.
func (l *Local) Connect(ctx context.Context, address string) (*Half, error) {
	own, addrs, port, err := l.resolve(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	h, err := race(ctx, addrs, func(ctx context.Context, a netip.Addr) (*Half, error) {
		return l.half(ctx, own, netip.AddrPortFrom(a, port))
	})
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return h, nil
}

func (l *Local) half(ctx context.Context, own netip.Addr, to netip.AddrPort) (*Half, error) {
	receive, err := l.conns.reserve(ctx)
	if err != nil {
		return nil, err
	}
	h := &Half{memory: l.conns.memory, receive: receive, queue: new(waiter.Queue), idle: defaultIdle(protoTCP, to.Port())}
	var problem tcpip.Error
	if h.ep, problem = l.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, h.queue); problem != nil {
		h.memory.release(receive)
		return nil, errno(problem)
	}
	h.ep.SocketOptions().SetReceiveBufferSize(int64(receive), false)
	if err := connect(ctx, h.ep, h.queue, own, to); err != nil {
		_ = h.Close()
		return nil, err
	}
	return h, nil
}

// Join sends first, and then copies both ways between the tunnel and a socket until both have ended. It closes both.
func (h *Half) Join(socket *net.TCPConn, first []byte) {
	x := newConn(h.ep, h.queue, socket, h.idle)
	x.join(h.memory, h.receive)
	if x.begin(first) != nil {
		x.abort()
	}
	x.run()
}

// Close ends a connection that nothing was joined with. It is called once.
func (h *Half) Close() error {
	h.ep.Abort()
	h.memory.release(h.receive)
	return nil
}
