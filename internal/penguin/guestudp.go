package penguin

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"

	"ferry/internal/penguin/wire"
	"ferry/internal/relay"
)

// datagrams serves a Forward of UDP: a flow, whose two directions know nothing of each other.
func (g *Guest) datagrams(ctx context.Context, conn stream, r wire.Request) {
	far, err := g.dial(ctx, r)
	if err != nil {
		g.refuse(conn, reasonDial, err)
		return
	}
	w := g.admit(conn)
	defer g.leave(w)
	service := far.(*net.UDPConn) // connected: nobody else's datagrams come
	end := func() { _ = service.Close() }
	defer end()
	stop := context.AfterFunc(ctx, end)
	defer stop()
	var back sync.WaitGroup
	back.Go(func() {
		defer conn.Close()
		g.replies(w, service)
	})
	_ = readFrames(conn, func(b []byte) error {
		w.last.touch()
		_, err := service.Write(b)
		if isUnreachable(err) { // of an earlier one, which has kept this one from being sent (udp(7))
			_, err = service.Write(b)
		}
		switch {
		case errors.Is(err, syscall.EMSGSIZE):
			g.count[reasonLong].Add(1)
		case errors.Is(err, net.ErrClosed):
			return err
		}
		return nil // what else may be wrong may pass
	})
	end()
	back.Wait()
}

// A guestFlow is a flow of UDP as one of those that there are.
type guestFlow struct {
	conn stream
	last voice // of either end
}

// admit makes room for a flow. Flows have half of what there is at most: their hosts need not end them ever, and whoever sends datagrams makes them. The one that
// was silent for longest gives way.
func (g *Guest) admit(conn stream) *guestFlow {
	w := &guestFlow{conn: conn}
	w.last.touch()
	g.mu.Lock()
	var first *guestFlow
	if len(g.flows) >= max(g.c.Max/2, 1) {
		for f := range g.flows {
			if first == nil || f.last.since() > first.last.since() {
				first = f
			}
		}
		delete(g.flows, first)
	}
	g.flows[w] = struct{}{}
	g.mu.Unlock()
	if first != nil {
		g.refuse(first.conn, reasonFull, errors.New("a flow of UDP gives way to another"))
	}
	return w
}

func (g *Guest) leave(w *guestFlow) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.flows, w)
}

// isUnreachable tells whether a datagram before was answered by ICMP.
func isUnreachable(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

// replies sends the host what the service says. The socket is read no faster than the host takes it; what does not fit there the kernel drops.
func (g *Guest) replies(w *guestFlow, service *net.UDPConn) {
	raw, err := service.SyscallConn()
	if err != nil {
		return
	}
	in := relay.NewReader(raw, relay.Size)
	for {
		b, err := in.Next()
		w.last.touch()
		switch {
		case isUnreachable(err):
			continue // nobody listens there just now
		case err != nil:
			return
		case len(b) > wire.MaxDatagram: // the original's host can not read it
			g.count[reasonLong].Add(1)
			in.Release()
			continue
		}
		block := relay.Borrow()
		_, err = w.conn.Write(wire.AppendFrame(block[:0], b))
		relay.GiveBack(block)
		in.Release()
		if err != nil {
			return
		}
	}
}
