package netstack

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// What comes to a device without a TUN from the tunnel. It listens on no address but on whichever the device has: another lease is nothing to it.

// backlog is how many connections a listener has made that nobody has accepted yet. They count from then on: until then each may hold middleWindow.
const backlog = 256

// Listen takes connections of TCP to a port of the device's address in the tunnel, whichever that is; 0 is any. Each connection is a *Conn. That a port is
// taken is syscall.EADDRINUSE.
func (l *Local) Listen(port uint16) (net.Listener, error) {
	x := &listener{conns: l.conns, queue: new(waiter.Queue)}
	x.ctx, x.end = context.WithCancel(l.conns.ctx)
	var problem tcpip.Error
	if x.ep, problem = l.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, x.queue); problem == nil {
		x.ep.SocketOptions().SetReceiveBufferSize(middleWindow, false)
		if problem = x.ep.Bind(tcpip.FullAddress{NIC: nic, Port: port}); problem == nil {
			problem = x.ep.Listen(backlog)
		}
		if problem != nil {
			x.ep.Close()
		}
	}
	if problem != nil {
		x.end()
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: &net.TCPAddr{Port: int(port)}, Err: errno(problem)}
	}
	return x, nil
}

type listener struct {
	conns *group
	ep    tcpip.Endpoint
	queue *waiter.Queue
	ctx   context.Context // done by Close, and when the group ends
	end   context.CancelFunc
	once  sync.Once
}

// acceptTime is how long a connection that has come waits for memory.
const acceptTime = 2 * time.Second

// count returns a connection that has come once it is counted; nil: there is no memory for it, and it was reset.
func (l *listener) count(ep tcpip.Endpoint, queue *waiter.Queue) *Conn {
	ctx, cancel := context.WithTimeout(l.ctx, acceptTime)
	defer cancel()
	if !l.conns.memory.reserve(ctx, middleWindow) {
		ep.Abort()
		return nil
	}
	c := wrap(ep, queue, false)
	l.conns.join(c, middleWindow)
	return c
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	l.queue.EventRegister(&entry)
	defer l.queue.EventUnregister(&entry)
	for {
		ep, queue, problem := l.ep.Accept(nil)
		if problem == nil {
			if c := l.count(ep, queue); c != nil {
				return c, nil
			}
			continue
		}
		if _, none := problem.(*tcpip.ErrWouldBlock); none {
			select {
			case <-ready:
				continue
			case <-l.ctx.Done():
			}
		}
		if l.ctx.Err() != nil {
			return nil, net.ErrClosed
		}
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: errno(problem)}
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.end()
		l.ep.Close()
	})
	return nil
}

// Addr implements net.Listener. Its address is that of no device.
func (l *listener) Addr() net.Addr {
	at, _ := l.ep.GetLocalAddress()
	return &net.TCPAddr{IP: net.IPv4zero, Port: int(at.Port)}
}

// A PacketConn is a port of UDP of the device. One goroutine reads, any may write.
type PacketConn struct {
	ep    tcpip.Endpoint
	queue *waiter.Queue
	entry waiter.Entry
	ready chan struct{}
	next  tcpip.SliceWriter // where what is read goes
	once  sync.Once
	gone  chan struct{} // closed by Close
}

// ListenPacket takes datagrams of UDP to a port of the device's address in the tunnel, whichever that is; 0 is any. That a port is taken is syscall.EADDRINUSE.
func (l *Local) ListenPacket(port uint16) (*PacketConn, error) {
	c := &PacketConn{queue: new(waiter.Queue), gone: make(chan struct{})}
	c.entry, c.ready = waiter.NewChannelEntry(waiter.ReadableEvents)
	var problem tcpip.Error
	if c.ep, problem = l.stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, c.queue); problem == nil {
		if problem = c.ep.Bind(tcpip.FullAddress{NIC: nic, Port: port}); problem != nil {
			c.ep.Close()
		}
	}
	if problem != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: &net.UDPAddr{Port: int(port)}, Err: errno(problem)}
	}
	c.queue.EventRegister(&c.entry)
	return c, nil
}

// ReadMsgUDPAddrPort is that of net.UDPConn. There are no control messages.
func (c *PacketConn) ReadMsgUDPAddrPort(b, _ []byte) (n, oobn, flags int, from netip.AddrPort, err error) {
	for {
		c.next = b
		r, problem := c.ep.Read(&c.next, tcpip.ReadOptions{NeedRemoteAddr: true})
		if problem == nil {
			return r.Count, 0, 0, fromStack(r.RemoteAddr.Addr, r.RemoteAddr.Port), nil
		}
		if _, none := problem.(*tcpip.ErrWouldBlock); none {
			select {
			case <-c.ready:
				continue
			case <-c.gone:
			}
		}
		select {
		case <-c.gone:
			return 0, 0, 0, from, net.ErrClosed
		default:
			return 0, 0, 0, from, &net.OpError{Op: "read", Net: "udp", Addr: c.LocalAddr(), Err: errno(problem)}
		}
	}
}

// A parcel is what the stack wants of a datagram that goes out.
type parcel struct {
	payload bytes.Reader
	to      tcpip.FullAddress
}

// parcels has those that nobody uses. One get and one put, in WriteMsgUDPAddrPort.
var parcels = sync.Pool{New: func() any { return new(parcel) }}

// WriteMsgUDPAddrPort is that of net.UDPConn. It does not wait: what does not go at once is lost, as UDP may be.
func (c *PacketConn) WriteMsgUDPAddrPort(b, _ []byte, to netip.AddrPort) (n, oobn int, err error) {
	select {
	case <-c.gone:
		return 0, 0, net.ErrClosed
	default:
	}
	p := parcels.Get().(*parcel)
	p.payload.Reset(b)
	p.to = full(to)
	sent, problem := c.ep.Write(&p.payload, tcpip.WriteOptions{To: &p.to})
	p.payload.Reset(nil)
	parcels.Put(p)
	if problem != nil {
		return 0, 0, &net.OpError{Op: "write", Net: "udp", Addr: net.UDPAddrFromAddrPort(to), Err: errno(problem)}
	}
	return int(sent), 0, nil
}

// LocalAddr returns the port. Its address is that of no device.
func (c *PacketConn) LocalAddr() net.Addr {
	at, _ := c.ep.GetLocalAddress()
	return &net.UDPAddr{IP: net.IPv4zero, Port: int(at.Port)}
}

// Close ends it, and wakes who reads.
func (c *PacketConn) Close() error {
	c.once.Do(func() {
		close(c.gone)
		c.queue.EventUnregister(&c.entry)
		c.ep.Close()
	})
	return nil
}
