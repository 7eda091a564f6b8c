package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// conns are the connections of TCP, and the attempts that are to become some.
type conns struct {
	*group     // whose mu guards what follows it, too
	e          *Exit
	forwarders [len(firstWindows)]*tcp.Forwarder // which have no attempt that is not in the table here

	attempts map[stack.TransportEndpointID]attempt
	dials    map[netip.Addr]int // attempts of each client
	all      shares[*conn]
}

// An attempt is a SYN that is to be answered.
type attempt struct {
	client netip.Addr // whose it is
	ttl    uint8      // of the SYN
}

func newConns(e *Exit) *conns {
	c := &conns{group: newGroup(e.c.Memory), e: e, attempts: map[stack.TransportEndpointID]attempt{}, dials: map[netip.Addr]int{}, all: newShares[*conn]()}
	for i, receive := range firstWindows {
		c.forwarders[i] = tcp.NewForwarder(e.stack, receive, e.c.Dials, func(r *tcp.ForwarderRequest) { c.accept(r, receive) })
	}
	return c
}

// packet is called with each segment of no connection. A SYN begins an attempt; false: it belongs to nothing.
func (c *conns) packet(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	flags := header.TCP(pkt.TransportHeader().Slice()).Flags()
	if !flags.Contains(header.TCPFlagSyn) || flags.Contains(header.TCPFlagAck) {
		return false
	}
	if !c.begin(id, pkt.Network().(header.IPv4).TTL()) {
		return true // its SYN comes again
	}
	if !c.forwarders[c.memory.first()].HandlePacket(id, pkt) {
		c.ended(id)
		c.work.Done()
		return false
	}
	return true
}

// accept is called for each attempt, on a goroutine of its own, which ends with the connection. receive is the window that is to be announced.
func (c *conns) accept(r *tcp.ForwarderRequest, receive int) {
	defer c.work.Done()
	id := r.ID()
	x := c.connect(r, id, receive)
	c.ended(id)
	if x == nil {
		return
	}
	x.join(c.memory, receive)
	if c.add(x) {
		x.run()
		c.remove(x)
	} else {
		x.abort()
		x.leave()
	}
}

// begin reserves an attempt.
func (c *conns) begin(id stack.TransportEndpointID, ttl uint8) bool {
	client := c.e.owner(fromStack(id.RemoteAddress, 0).Addr())
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, again := c.attempts[id]; again || c.over {
		return false
	}
	if len(c.attempts) >= c.e.c.Dials || c.dials[client] >= c.e.c.ClientDials {
		c.e.count.dials.Add(1)
		return false
	}
	c.attempts[id] = attempt{client, ttl}
	c.dials[client]++
	c.work.Add(1)
	return true
}

// ended ends an attempt.
func (c *conns) ended(id stack.TransportEndpointID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	client := c.attempts[id].client
	delete(c.attempts, id)
	if c.dials[client]--; c.dials[client] == 0 {
		delete(c.dials, client)
	}
}

// attempt returns one that has begun.
func (c *conns) attempt(id stack.TransportEndpointID) attempt {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.attempts[id]
}

// connect dials, and answers the client's SYN if that succeeds; nil: it has not. For a connection memory is reserved.
func (c *conns) connect(r *tcp.ForwarderRequest, id stack.TransportEndpointID, receive int) *conn {
	client, to := fromStack(id.RemoteAddress, id.RemotePort), fromStack(id.LocalAddress, id.LocalPort)
	if c.e.isGateway(to.Addr()) { // nothing of ours listens there
		r.Complete(true)
		return nil
	}
	a := c.attempt(id)
	ctx, cancel := context.WithTimeout(c.ctx, c.e.c.DialTimeout)
	defer cancel()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { // one hop less, so that what is routed in a circle ends
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, int(max(a.ttl, 2)-1))
		})
	}}
	out, err := dialer.DialContext(ctx, "tcp4", c.e.c.target(to).String())
	if err != nil {
		c.e.count.refused.Add(1)
		c.e.c.Log.Debug("dial", "client", client, "addr", to, "err", err)
		r.Complete(!silent(err))
		return nil
	}
	if !c.memory.reserve(ctx, receive) {
		_ = out.Close()
		r.Complete(false) // its SYN comes again
		return nil
	}
	queue := new(waiter.Queue)
	in, problem := c.shake(r, queue)
	r.Complete(false)
	if problem != nil {
		c.e.c.Log.Debug("accept", "client", client, "addr", to, "err", problem)
		c.memory.release(receive)
		_ = out.Close()
		return nil
	}
	x := newConn(in, queue, out.(*net.TCPConn), c.e.c.Idle(protoTCP, to.Port()))
	x.client, x.from, x.to = a.client, client, to
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

// add makes room for a connection: where there is none, one gives way that was idle for long, of the client that has most.
func (c *conns) add(x *conn) bool {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return false
	}
	var old *conn
	if c.all.n >= c.e.c.Conns {
		old = c.all.oldest()
		c.all.sub(old.client, old)
		old.place = gaveWay
	}
	c.all.add(x.client, x)
	c.mu.Unlock()
	if old != nil {
		c.e.count.evicted.Add(1)
		old.abort()
	}
	return true
}

func (c *conns) remove(x *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x.place != gaveWay {
		c.all.sub(x.client, x)
	}
}

// close resets all connections and waits until they have ended. It may be called more than once.
func (c *conns) close() {
	c.stop()
	c.mu.Lock()
	var all []*conn
	for _, s := range c.all.of {
		all = append(all, s.all...)
	}
	c.mu.Unlock()
	for _, x := range all {
		x.abort()
	}
	c.work.Wait()
}

// isGateway tells whether an address is that of the gateway itself.
func (e *Exit) isGateway(a netip.Addr) bool {
	g := e.flows.gateway.Load()
	return g != nil && *g == a
}
