package penguin

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/forward"
	"ferry/internal/penguin/wire"
	"ferry/internal/relay"
)

// A network is one publication as a forward sees it: its sockets are those of this host, and what it dials is the guest.
type network struct {
	forward.Sockets
	h   *Host
	ctx context.Context // of flows, which connect when Dial has returned
	p   wire.Publication
}

var _ forward.Network = (*network)(nil)

// Dial implements forward.Network. Where it leads is the publication's.
func (n *network) Dial(ctx context.Context, _ string, _ netip.Addr, _ string) (net.Conn, error) {
	rec := n.h.rec.begin(n.p, forward.Source(ctx))
	if n.p.Transport == wire.UDP {
		ctx, cancel := context.WithCancel(n.ctx)
		return &flow{n: n, ctx: ctx, cancel: cancel, rec: rec, w: frameWriter{dropped: &n.h.dropped, budget: &n.h.waiting}}, nil
	}
	conn, err := n.connect(ctx)
	if err != nil {
		n.h.failed(n.p, err)
		return nil, err
	}
	rec.open()
	g := &guestStream{conn: conn, rec: rec}
	if !n.h.c.Guest.passesHalves() {
		g.hold = n.h.c.HoldBack
	}
	g.last.touch()
	return g, nil
}

// connect reaches the service.
func (n *network) connect(ctx context.Context) (stream, error) {
	r := n.p.Request()
	conn, err := n.h.c.Guest.dial(ctx, r)
	if err != nil || !r.Routed {
		return conn, err
	}
	status, err := readStatus(ctx, conn)
	switch {
	case err != nil:
	case status == wire.Connected:
		return conn, nil
	case status == wire.Filtered:
		err = syscall.ETIMEDOUT
	case status == wire.Refused:
		err = syscall.ECONNREFUSED
	default:
		err = fmt.Errorf("does it own the interface %q?", r.Iface)
	}
	_ = conn.Close()
	return nil, fmt.Errorf("connect in the guest through %s: %w", r.Iface, err)
}

// readStatus reads the status byte.
func readStatus(ctx context.Context, conn net.Conn) (wire.Status, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	var b [1]byte
	_, err := io.ReadFull(conn, b[:])
	if !stop() && err == nil {
		err = ctx.Err()
	}
	return wire.Status(b[0]), err
}

// A guestStream is a connection of TCP with a service of the guest.
type guestStream struct {
	conn stream
	rec  *record
	hold time.Duration // of a client's end; 0: none
	last voice         // the guest's

	mu     sync.Mutex // guards what follows
	stop   func()     // of what waits for the guest to be silent; nil: nothing does
	reset  bool
	closed bool
}

// Write writes to the service. What is recorded is so before it is sent, or an answer would come before its question.
func (g *guestStream) Write(b []byte) (int, error) {
	g.rec.toGuest(b)
	return g.conn.Write(b)
}

// WriteTo copies what the service says to w until its end.
func (g *guestStream) WriteTo(w io.Writer) (n int64, err error) {
	raw, err := g.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	to := writerFunc(func(b []byte) (int, error) {
		g.last.begin()
		defer g.last.end()
		g.rec.fromGuest(b)
		m, err := w.Write(b)
		n += int64(m)
		return m, err
	})
	err = relay.NewReader(raw, relay.StreamSize).Stream(to)
	return n, err
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// CloseWrite tells the service that nothing more comes: where that would end both directions, only when it has been silent for a while.
func (g *guestStream) CloseWrite() error {
	if g.hold == 0 {
		return g.conn.CloseWrite()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed && g.stop == nil {
		g.stop = relay.AfterQuiet(g.hold, g.last.quiet, func() { _ = g.conn.CloseWrite() })
	}
	return nil
}

// SetLinger makes Close reset the connection. There is no other choice.
func (g *guestStream) SetLinger(int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reset = true
	return nil
}

// Close implements net.Conn. It may be called more than once.
func (g *guestStream) Close() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil
	}
	g.closed = true
	stop, reset := g.stop, g.reset
	g.mu.Unlock()
	if stop != nil {
		stop()
	}
	if reset {
		carrier.Reset(g.conn)
	} else {
		_ = g.conn.Close()
	}
	g.rec.end()
	return nil
}

// All else of net.Conn is the socket's.

func (g *guestStream) Read(b []byte) (int, error)         { return g.conn.Read(b) }
func (g *guestStream) LocalAddr() net.Addr                { return g.conn.LocalAddr() }
func (g *guestStream) RemoteAddr() net.Addr               { return g.conn.RemoteAddr() }
func (g *guestStream) SetDeadline(t time.Time) error      { return g.conn.SetDeadline(t) }
func (g *guestStream) SetReadDeadline(t time.Time) error  { return g.conn.SetReadDeadline(t) }
func (g *guestStream) SetWriteDeadline(t time.Time) error { return g.conn.SetWriteDeadline(t) }
