package netstack

import (
	"context"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A group is the connections of a stack that hold one memory together, until the last byte of each is gone.
type group struct {
	memory *memory
	ctx    context.Context // of what the stack calls, which has none of its own; done when the group ends
	end    context.CancelFunc
	work   sync.WaitGroup

	mu   sync.Mutex // guards what follows
	over bool
}

func newGroup(limit int) *group {
	g := &group{memory: newMemory(limit)}
	g.ctx, g.end = context.WithCancel(context.Background())
	g.work.Go(func() { g.memory.run(g.ctx) })
	return g
}

// dial connects by tcp or udp. A connection of tcp is counted, and waits until there is memory for it.
func (g *group) dial(ctx context.Context, s *stack.Stack, network string, from netip.Addr, to netip.AddrPort) (*Conn, error) {
	if network != "tcp" {
		return dial(ctx, s, network, from, to, 0)
	}
	receive, err := g.reserve(ctx)
	if err != nil {
		return nil, err
	}
	c, err := dial(ctx, s, network, from, to, receive)
	if err != nil {
		g.memory.release(receive)
		return nil, err
	}
	g.join(c, receive)
	return c, nil
}

// reserve sets memory aside for a connection, and returns the window that it begins with.
func (g *group) reserve(ctx context.Context) (receive int, err error) {
	receive = firstWindows[g.memory.first()]
	if !g.memory.reserve(ctx, receive) {
		return 0, errNoMemory
	}
	return receive, nil
}

// join counts a connection for which memory was reserved, until it has ended after its Close.
func (g *group) join(c *Conn, receive int) {
	c.of = g
	c.join(g.memory, receive)
}

// leave sees to it that the other end hears the end of a connection, and that the group does not end before.
func (g *group) leave(x *Conn) {
	if g.follow(func() { farewell(x.in, x.queue, g.ctx.Done()); x.leave() }) {
		return
	}
	x.in.Abort()
	x.leave()
}

// follow runs f on a goroutine that close waits for; false: it is too late for that.
func (g *group) follow(f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.over {
		g.work.Go(f)
	}
	return !g.over
}

// stop resets what is on its way, and keeps out what comes.
func (g *group) stop() {
	g.end()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
}

// close is stop, and waits until all has ended. It may be called more than once.
func (g *group) close() {
	g.stop()
	g.work.Wait()
}
