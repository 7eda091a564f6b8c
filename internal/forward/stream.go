package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ferry/internal/relay"
)

// A streamDoor is where connections come in: tcp or unix.
type streamDoor struct {
	*Forward
	l net.Listener

	mu   sync.Mutex // guards what follows
	all  map[*pair]struct{}
	over bool
}

func (f *Forward) listenStream(e Entrance) error {
	l, err := f.c.Network.Listen(f.ctx, e.Scheme, e.address())
	if err != nil {
		return err
	}
	if at := addrPort(l.Addr()); at.IsValid() {
		e = e.at(at.Port())
	}
	f.bound = e
	f.door = &streamDoor{Forward: f, l: l, all: map[*pair]struct{}{}}
	return nil
}

func (d *streamDoor) live() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.all)
}

func (d *streamDoor) close() {
	d.mu.Lock()
	d.over = true
	for p := range d.all {
		p.abort()
	}
	d.mu.Unlock()
	if err := d.l.Close(); err != nil {
		d.log.Warn("forward", "err", err)
	}
}

// run accepts connections until the door is closed.
func (d *streamDoor) run() {
	var pause time.Duration
	for {
		near, err := d.l.Accept()
		if err != nil {
			if !d.pause(&pause, err) {
				return
			}
			continue
		}
		pause = 0
		p := &pair{near: near, idle: d.c.Idle, halfOpen: d.c.HalfOpen, born: time.Now(), up: &d.up, down: &d.down}
		if why := d.admit(p); why != nil {
			why.Add(1)
			reset(near)
			continue
		}
		d.work.Go(func() {
			d.serve(p)
			d.remove(p)
		})
	}
}

// admit makes room for a connection, or returns what counts those like it.
func (d *streamDoor) admit(p *pair) *atomic.Uint64 {
	if from := addrPort(p.near.RemoteAddr()); from.IsValid() && !d.bound.allows(from.Addr()) {
		return &d.refused
	}
	if !d.add(p) {
		return &d.full
	}
	return nil
}

// add makes room for a connection; false: there is none.
func (d *streamDoor) add(p *pair) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over || len(d.all) >= d.c.Conns {
		return false
	}
	d.all[p] = struct{}{}
	d.total.Add(1)
	return true
}

func (d *streamDoor) remove(p *pair) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.all, p)
}

// keepAlive is after how long without a byte a client is asked whether it is still there: not often, for that wakes it.
const keepAlive = 2 * time.Minute

// serve carries one connection.
func (d *streamDoor) serve(p *pair) {
	far, err := d.dial("tcp", addrPort(p.near.RemoteAddr()))
	if err != nil {
		d.log.Debug("dial", "peer", p.near.RemoteAddr(), "err", err)
		p.abort()
		return
	}
	if !p.reaches(far) {
		reset(far)
		return
	}
	if t, ok := far.(*net.TCPConn); ok {
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAlive})
	}
	if d.bound.Proxy != 0 {
		if _, err := far.Write(appendProxy(nil, d.bound.Proxy, addrPort(p.near.RemoteAddr()), d.dst(p.near))); err != nil {
			p.abort()
			return
		}
	}
	p.run()
}

// dst is the address that somebody has connected to.
func (d *streamDoor) dst(near net.Conn) netip.AddrPort { return addrPort(near.LocalAddr()) }

// A pair is a connection in two halves.
//
//	near --> far     an end of file here: shut down there
//	near <-- far     an error on either: both are reset
type pair struct {
	near     net.Conn
	idle     time.Duration
	halfOpen time.Duration
	born     time.Time
	last     atomic.Int64 // when a byte passed, in nanoseconds since 1970; where the kernel does not know
	up, down *atomic.Uint64

	mu    sync.Mutex // guards what follows
	far   net.Conn   // nil until the client has answered
	over  bool
	stops []func() // of what watches since a direction has ended
}

// Relay carries a connection of somebody to a client, which Network.Dial has returned, until both have ended, ctx is done, or nothing has passed for idle.
// first is what was read of near before. It closes both.
func Relay(ctx context.Context, near, far net.Conn, first []byte, idle time.Duration) {
	p := &pair{near: near, idle: idle, halfOpen: idle, born: time.Now(), up: new(atomic.Uint64), down: new(atomic.Uint64)}
	p.reaches(far)
	stop := context.AfterFunc(ctx, p.abort)
	defer stop()
	if len(first) > 0 {
		if _, err := far.Write(first); err != nil {
			p.abort()
			return
		}
	}
	p.run()
}

// reaches keeps the other half; false: the connection was aborted meanwhile.
func (p *pair) reaches(far net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.far = far
	p.touch()
	return !p.over
}

func (p *pair) touch() { p.last.Store(time.Now().UnixNano()) }

// abort resets both halves. It may be called more than once, and by anyone.
func (p *pair) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.over = true
	reset(p.near)
	if p.far != nil {
		reset(p.far)
	}
}

// run copies both ways until both have ended, one has failed, or nothing has passed for too long.
func (p *pair) run() {
	stop := relay.AfterQuiet(p.idle, p.quiet, p.abort)
	defer stop()
	var down sync.WaitGroup
	down.Go(func() { p.copy(p.near, p.far, p.down) })
	p.copy(p.far, p.near, p.up)
	down.Wait()
	p.mu.Lock()
	stops := p.stops
	p.mu.Unlock()
	for _, stop := range stops {
		stop()
	}
	_ = p.near.Close()
	_ = p.far.Close()
}

// watch gives the direction that is left its time.
func (p *pair) watch() {
	if p.halfOpen == p.idle {
		return
	}
	stop := relay.AfterQuiet(p.halfOpen, p.quiet, p.abort)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stops = append(p.stops, stop)
}

// quiet is for how long nothing has passed. Bytes that the kernel copies pass this process by: it knows when a socket of TCP sent or received some.
func (p *pair) quiet() time.Duration {
	for _, half := range []net.Conn{p.far, p.near} { // the far one may be of unix
		if t, ok := half.(*net.TCPConn); ok {
			if info, err := relay.Info(t); err == nil {
				return time.Duration(min(info.Last_data_sent, info.Last_data_recv)) * time.Millisecond
			}
		}
	}
	return time.Since(time.Unix(0, p.last.Load()))
}

// copy copies one direction, and ends it at the other end.
func (p *pair) copy(dst, src net.Conn, count *atomic.Uint64) {
	err := p.transfer(dst, src, count)
	if err == nil {
		err = closeWrite(dst)
	}
	if err != nil {
		p.abort()
		return
	}
	p.watch()
}

// transfer copies until the end of src: in the kernel if both are sockets of it (splice), else by blocks that are borrowed for as long as there is something.
func (p *pair) transfer(dst, src net.Conn, count *atomic.Uint64) error {
	s, ok := src.(syscall.Conn)
	if _, both := dst.(syscall.Conn); ok && both {
		n, err := io.Copy(dst, src)
		count.Add(uint64(n))
		return err
	}
	w := &counted{w: dst, count: count, touch: p.touch}
	if ok {
		raw, err := s.SyscallConn()
		if err != nil {
			return err
		}
		return relay.NewReader(raw, relay.StreamSize).Stream(w)
	}
	_, err := src.(io.WriterTo).WriteTo(w)
	return err
}

// A counted writer counts what passes, and notes when.
type counted struct {
	w     io.Writer
	count *atomic.Uint64
	touch func()
}

func (c *counted) Write(b []byte) (int, error) {
	c.touch()
	n, err := c.w.Write(b)
	c.count.Add(uint64(n))
	return n, err
}

// closeWrite ends a direction. A peer that is gone already has ended it.
func closeWrite(c net.Conn) error {
	h, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	if err := h.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return err
	}
	return nil
}

// reset closes a connection such that the other end learns that not all is well.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = c.Close()
}
