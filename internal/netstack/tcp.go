package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// conns are the connections of TCP, and the attempts that are to become some.
type conns struct {
	e    *Exit
	ctx  context.Context // of what the stack calls, which has none of its own; done when the exit ends
	end  context.CancelFunc
	work sync.WaitGroup

	mu    sync.Mutex // guards what follows
	dials shares
	all   map[*conn]struct{}
	of    shares
	over  bool
}

func newConns(e *Exit) *conns {
	c := &conns{e: e, dials: shares{}, all: map[*conn]struct{}{}, of: shares{}}
	c.ctx, c.end = context.WithCancel(context.Background())
	return c
}

// accept is called with each SYN, on a goroutine of its own, which ends with the connection.
func (c *conns) accept(r *tcp.ForwarderRequest) {
	id := r.ID()
	client, to := fromStack(id.RemoteAddress, id.RemotePort), fromStack(id.LocalAddress, id.LocalPort)
	if !c.begin(client.Addr()) {
		r.Complete(false) // its SYN comes again
		return
	}
	defer c.work.Done()
	x := c.connect(r, client, to)
	c.dialled(client.Addr())
	if x != nil {
		x.run()
		c.remove(x)
	}
}

// begin reserves an attempt for a client.
func (c *conns) begin(client netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.dials[client] >= c.e.c.ClientDials {
		c.e.count.dials.Add(1)
		return false
	}
	c.dials.add(client)
	c.work.Add(1)
	return true
}

func (c *conns) dialled(client netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dials.sub(client)
}

// connect dials, and answers the client's SYN if that succeeds; nil: it has not.
func (c *conns) connect(r *tcp.ForwarderRequest, client, to netip.AddrPort) *conn {
	if c.e.isGateway(to.Addr()) { // nothing of ours listens there
		r.Complete(true)
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.e.c.DialTimeout)
	defer cancel()
	out, err := new(net.Dialer).DialContext(ctx, "tcp4", c.e.c.target(to).String())
	if err != nil {
		c.e.count.refused.Add(1)
		c.e.c.Log.Debug("dial", "client", client, "addr", to, "err", err)
		r.Complete(!silent(err))
		return nil
	}
	queue := new(waiter.Queue)
	in, problem := c.shake(r, queue)
	if problem != nil {
		c.e.c.Log.Debug("accept", "client", client, "addr", to, "err", problem)
		r.Complete(false)
		_ = out.Close()
		return nil
	}
	r.Complete(false)
	x := newConn(in, queue, out.(*net.TCPConn), c.e.c.Idle(protoTCP, to.Port()))
	x.client, x.from, x.to = client.Addr(), client, to
	if !c.add(x) {
		x.abort()
		return nil
	}
	return x
}

// shake answers a client's SYN, and waits for what it says to that: as long as for a destination, and not for the two minutes that the stack would, at
// the end of the exit, too.
func (c *conns) shake(r *tcp.ForwarderRequest, queue *waiter.Queue) (tcpip.Endpoint, tcpip.Error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.e.c.DialTimeout)
	defer cancel()
	id, ended := r.ID(), make(chan struct{})
	defer close(ended)
	stop := context.AfterFunc(ctx, func() {
		for {
			if ep := c.e.stack.FindTransportEndpoint(ipv4.ProtocolNumber, tcp.ProtocolNumber, id, nic); ep != nil {
				ep.Abort()
				return
			}
			select { // it may be about to be made
			case <-ended:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	defer stop()
	return r.CreateEndpoint(queue)
}

// silent tells whether a destination has said nothing: then its client is told nothing either, as without a gateway.
func silent(err error) bool {
	var timeout net.Error
	return errors.Is(err, syscall.ETIMEDOUT) || errors.As(err, &timeout) && timeout.Timeout()
}

// add makes room for a connection: where there is none, the one gives way that was idle for longest, of the client that has most.
func (c *conns) add(x *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	if len(c.all) >= c.e.c.Conns {
		var oldest *conn
		client := c.of.most()
		for y := range c.all {
			if y.client == client && (oldest == nil || y.last.Load() < oldest.last.Load()) {
				oldest = y
			}
		}
		c.e.count.evicted.Add(1)
		c.forget(oldest)
		oldest.abort()
	}
	c.all[x] = struct{}{}
	c.of.add(x.client)
	return true
}

func (c *conns) remove(x *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.all[x]; ok { // or it has given way
		c.forget(x)
	}
}

// forget takes a connection out of the table. The caller holds mu.
func (c *conns) forget(x *conn) {
	delete(c.all, x)
	c.of.sub(x.client)
}

// close resets all connections and waits until they have ended. It may be called more than once.
func (c *conns) close() {
	c.end()
	c.mu.Lock()
	c.over = true
	for x := range c.all {
		x.abort()
	}
	c.mu.Unlock()
	c.work.Wait()
}

// isGateway tells whether an address is that of the gateway itself.
func (e *Exit) isGateway(a netip.Addr) bool {
	g := e.flows.gateway.Load()
	return g != nil && *g == a
}
