package vtunnel

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"ferry/internal/carrier"
)

// waiting is how many datagrams of a flow wait for its tunnel, and to be kept apart.
const waiting = 32

// flows are the tunnels of a Client for UDP, one for each address that datagrams come from:
//
//	ServeUDP: socket --> flow of the source --> queue --> write --> server
//	          socket <-------------------------------- read <--- server
//
// When there are too many, the one gives way that was idle for longest.
type flows struct {
	c      *Client
	socket *net.UDPConn
	ctx    context.Context // of what a datagram starts
	work   sync.WaitGroup

	mu  sync.Mutex // guards what follows
	all map[netip.AddrPort]*list.Element
	use list.List // of *flow, the one that was used last in front
}

// A datagram waits for its tunnel.
type datagram struct {
	b [maxDatagram]byte
	n int
}

// datagrams have one get (ServeUDP) and one put (giveBack); those that wait when their flow ends are left to the collector.
var datagrams = sync.Pool{New: func() any { return new(datagram) }}

func giveBack(d *datagram) { datagrams.Put(d) }

// A flow is one source.
type flow struct {
	from  netip.AddrPort
	queue chan *datagram // sent to by ServeUDP; full: the datagram is dropped
	last  time.Time      // guarded by flows.mu
	end   context.CancelFunc
}

// ServeUDP serves a socket until ctx is done, and closes it. It waits for all flows.
func (c *Client) ServeUDP(ctx context.Context, socket *net.UDPConn) error {
	ctx, cancel := context.WithCancel(ctx)
	f := &flows{c: c, socket: socket, ctx: ctx, all: map[netip.AddrPort]*list.Element{}}
	defer socket.Close()
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	defer stop()
	defer f.work.Wait()
	defer cancel()
	b := make([]byte, maxDatagram+1)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // an ICMP error about one of them
			continue
		case n > maxDatagram:
			c.c.Log.Warn("datagram dropped: it is longer than a tunnel carries", "from", from, "bytes", n)
			continue
		case n == 0: // a stream can not carry it
			continue
		}
		f.of(from).put(b[:n])
	}
}

// put lets a datagram wait. Where too many do it is dropped, as by a line that is slower than its source.
func (x *flow) put(b []byte) {
	d := datagrams.Get().(*datagram)
	d.n = copy(d.b[:], b)
	select {
	case x.queue <- d:
	default:
		giveBack(d)
	}
}

// of returns the flow of a source, a new one if there is none.
func (f *flows) of(from netip.AddrPort) *flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e, ok := f.all[from]; ok {
		f.use.MoveToFront(e)
		x := e.Value.(*flow)
		x.last = time.Now()
		return x
	}
	if f.use.Len() >= f.c.c.Max {
		f.removeLocked(f.use.Back())
	}
	ctx, end := context.WithCancel(f.ctx)
	x := &flow{from: from, queue: make(chan *datagram, waiting), last: time.Now(), end: end}
	f.all[from] = f.use.PushFront(x)
	f.work.Go(func() {
		defer f.remove(x)
		f.run(ctx, x)
	})
	return x
}

// removeLocked ends a flow.
func (f *flows) removeLocked(e *list.Element) {
	x := f.use.Remove(e).(*flow)
	delete(f.all, x.from)
	x.end()
}

func (f *flows) remove(x *flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e, ok := f.all[x.from]; ok && e.Value == x {
		f.removeLocked(e)
	}
	x.end()
}

// touch tells that a flow is used.
func (f *flows) touch(x *flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x.last = time.Now()
	if e, ok := f.all[x.from]; ok && e.Value == x {
		f.use.MoveToFront(e)
	}
}

// left is how long a flow may stay idle from now on.
func (f *flows) left(x *flow) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.c.c.Idle(f.c.c.Port) - time.Since(x.last)
}

// run is the life of a flow.
func (f *flows) run(ctx context.Context, x *flow) {
	f.c.c.Lines.Say("received connection on %s udp", f.socket.LocalAddr())
	server, err := f.c.connect(ctx, "udp")
	if err != nil {
		if ctx.Err() == nil {
			f.c.failed(err)
		}
		return
	}
	f.touch(x) // what waits for the tunnel is not idle
	// Behind its end a stream is read no more, and closed.
	stop := context.AfterFunc(ctx, func() { carrier.Reset(server) })
	defer stop()
	defer server.Close()
	f.work.Go(func() {
		defer x.end()
		f.answers(x, server)
	})
	f.questions(ctx, x, server)
	x.end()
	f.c.c.Lines.Say("finished processing tunnel, thread exiting")
}

// questions writes what a source has sent, until the flow is idle or ended.
func (f *flows) questions(ctx context.Context, x *flow, server net.Conn) {
	var p pacer
	idle := time.NewTimer(f.left(x))
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-idle.C:
			left := f.left(x)
			if left <= 0 {
				return
			}
			idle.Reset(left)
		case d := <-x.queue:
			p.wait()
			_, err := server.Write(d.b[:d.n])
			giveBack(d)
			if err != nil {
				return
			}
		}
	}
}

// answers makes a datagram of whatever is read at once.
func (f *flows) answers(x *flow, server net.Conn) {
	b := make([]byte, maxDatagram)
	for {
		n, err := server.Read(b)
		if err != nil {
			return
		}
		f.touch(x)
		if _, err := f.socket.WriteToUDPAddrPort(b[:n], x.from); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}
