package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"ferry/internal/relay"
)

// A Conn is a connection of the stack's own: of the gateway with a client, of a device with what is in the tunnel, of a Neighbour.
type Conn struct {
	net.Conn        // gonet's
	windows         // what is written by the net.Conn is not written with mu held: up to one block more may wait than is counted
	of       *group // which counts it; nil: of udp, and nothing is still to be sent
	queue    *waiter.Queue
	packets  bool // of udp
	linger   atomic.Bool

	once sync.Once
	over chan struct{} // closed by Close
}

var (
	_ net.Conn    = (*Conn)(nil)
	_ io.WriterTo = (*Conn)(nil)
)

// keepAlive is after how long without a byte a client is asked whether it is still there: not often, for that wakes it.
const keepAlive = 2 * time.Minute

// Dial connects to a client by tcp or udp, from the gateway's address.
func (e *Exit) Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	g := e.flows.gateway.Load()
	switch {
	case g == nil:
		return fail(errors.New("the gateway has no address yet"))
	case !to.Addr().Is4() || *g == to.Addr():
		return fail(syscall.EHOSTUNREACH)
	}
	c, err := e.conns.dial(ctx, e.stack, network, *g, to)
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// dial connects from an address of a stack by tcp or udp. With tcp it announces receive bytes.
func dial(ctx context.Context, s *stack.Stack, network string, from netip.Addr, to netip.AddrPort, receive int) (*Conn, error) {
	transport, packets := tcp.ProtocolNumber, false
	switch network {
	case "tcp":
	case "udp":
		transport, packets = udp.ProtocolNumber, true
	default:
		return nil, net.UnknownNetworkError(network)
	}
	queue := new(waiter.Queue)
	ep, problem := s.NewEndpoint(transport, ipv4.ProtocolNumber, queue)
	if problem != nil {
		return nil, errno(problem)
	}
	if !packets {
		ep.SocketOptions().SetReceiveBufferSize(int64(receive), false)
	}
	if err := connect(ctx, ep, queue, from, to); err != nil {
		ep.Abort()
		return nil, err
	}
	return wrap(ep, queue, packets), nil
}

// wrap makes a Conn of an endpoint that is connected.
func wrap(ep tcpip.Endpoint, queue *waiter.Queue, packets bool) *Conn {
	c := &Conn{windows: windows{in: ep}, queue: queue, packets: packets, over: make(chan struct{})}
	if packets {
		c.Conn = gonet.NewUDPConn(queue, ep)
		return c
	}
	idle := tcpip.KeepaliveIdleOption(keepAlive)
	_ = ep.SetSockOpt(&idle)
	ep.SocketOptions().SetKeepAlive(true)
	c.Conn = gonet.NewTCPConn(queue, ep)
	c.touch()
	c.reset = func() {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	return c
}

// errNoMemory says that connections hold all memory that they may. Its number is what a system call would say.
var errNoMemory = fmt.Errorf("connections hold all the memory that they may (at a gateway: connection_memory): %w", syscall.ENOBUFS)

// connect connects an endpoint of the stack. It returns when the other end has answered, with udp at once.
func connect(ctx context.Context, ep tcpip.Endpoint, queue *waiter.Queue, from netip.Addr, to netip.AddrPort) error {
	entry, answered := waiter.NewChannelEntry(waiter.WritableEvents)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	if err := ep.Bind(full(netip.AddrPortFrom(from, 0))); err != nil {
		return errno(err)
	}
	err := ep.Connect(full(to))
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-answered:
		}
		err = ep.LastError()
	}
	if err != nil {
		return errno(err)
	}
	return nil
}

// errno is the error of the kernel's that is like one of the stack's, so that who dials need not know which it was.
func errno(err tcpip.Error) error {
	switch err.(type) {
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
	case *tcpip.ErrPortInUse:
		return syscall.EADDRINUSE
	}
	return stackError{err}
}

// CloseWrite ends one direction of a connection of tcp.
func (c *Conn) CloseWrite() error {
	c.end()
	if err := c.in.Shutdown(tcpip.ShutdownWrite); err != nil {
		if _, closed := err.(*tcpip.ErrNotConnected); closed {
			return syscall.ENOTCONN
		}
		return stackError{err}
	}
	return nil
}

// SetLinger makes Close reset a connection of tcp, if seconds is 0. There is no other choice.
func (c *Conn) SetLinger(seconds int) error {
	c.linger.Store(seconds == 0)
	return nil
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.took(n)
	return n, err
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	n := 0
	if c.isBound() && len(b) > 1 { // all of it would go out in short segments
		var err error
		if n, err = c.Conn.Write(b[:1]); err != nil {
			return n, err
		}
		c.gave(n)
	}
	more, err := c.Conn.Write(b[n:])
	c.gave(more)
	return n + more, err
}

// Close implements net.Conn. It wakes who reads and who writes. What was written is still sent, for leaveTime at most.
func (c *Conn) Close() error {
	c.once.Do(func() {
		close(c.over)
		_ = c.Conn.SetDeadline(time.Unix(1, 0))
		if c.linger.Load() {
			c.in.Abort()
		}
		c.end()
		_ = c.Conn.Close()
		if c.of != nil {
			c.of.leave(c)
		}
	})
	return nil
}

// WriteTo implements io.WriterTo: it copies what comes until its end, or until Close. With udp each Write has one datagram, and what the client says of
// a port where nobody listens just now is no end. No buffer is held while nothing comes.
func (c *Conn) WriteTo(w io.Writer) (n int64, err error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	c.queue.EventRegister(&entry)
	defer c.queue.EventUnregister(&entry)
	for {
		b := window{b: relay.Borrow()}
		_, problem := c.in.Read(&b, tcpip.ReadOptions{})
		if b.n > 0 || c.packets && problem == nil {
			_, err = w.Write(b.b[:b.n])
			n += int64(b.n)
			c.took(b.n)
		}
		relay.GiveBack(b.b)
		if err != nil {
			return n, err
		}
		switch problem.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			select {
			case <-ready:
			case <-c.over:
				return n, net.ErrClosed
			}
		case *tcpip.ErrClosedForReceive:
			return n, nil
		default:
			if !c.packets || c.isOver() {
				return n, errno(problem)
			}
		}
	}
}

// isOver tells whether Close was called.
func (c *Conn) isOver() bool {
	select {
	case <-c.over:
		return true
	default:
		return false
	}
}
