package forward

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/flowlist"
)

// Config is what forwards have in common. The zero value of a field means its default.
type Config struct {
	Network Network // Sockets
	// Resolve returns the address of a device, each time that it is dialled: nil, Network looks names up.
	Resolve func(name string) (netip.Addr, error)
	// Check says why a forward may not lead somewhere, when it is opened: nil, they lead anywhere.
	Check func(Target) error
	Log   *slog.Logger // nothing

	DialTimeout time.Duration // for a client to answer: 10 s
	Forwards    int           // of one Table: MaxForwards
	Conns       int           // connections of one forward: 1024
	Flows       int           // of udp, of one forward: 4096
	Idle        time.Duration // after how long without a byte a connection ends: 2 h
	FlowIdle    time.Duration // the same for a flow of udp: 2 min
	HalfOpen    time.Duration // after how long without a byte a connection ends when one direction has: Idle
}

func (c *Config) setDefaults() {
	if c.Network == nil {
		c.Network = Sockets{}
	}
	if c.Check == nil {
		c.Check = func(Target) error { return nil }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.DialTimeout = cmp.Or(c.DialTimeout, 10*time.Second)
	c.Forwards = cmp.Or(c.Forwards, MaxForwards)
	c.Conns, c.Flows = cmp.Or(c.Conns, 1024), cmp.Or(c.Flows, 4096)
	c.Idle, c.FlowIdle = cmp.Or(c.Idle, 2*time.Hour), cmp.Or(c.FlowIdle, 2*time.Minute)
	c.HalfOpen = cmp.Or(c.HalfOpen, c.Idle)
}

// A Forward publishes one port. Open makes one.
type Forward struct {
	c     *Config
	spec  Spec
	bound Entrance
	log   *slog.Logger

	ctx  context.Context // of its dials; done when it is closed
	end  context.CancelFunc
	work sync.WaitGroup
	door interface {
		run()
		close() // is called once
		live() int
		list(clients []netip.Addr, room int) (some []flowlist.Flow, total int)
	}

	total, refused, full, failed, up, down atomic.Uint64
}

// Stats is what a forward has carried since it was opened.
type Stats struct {
	Live    int    // connections, or flows
	Total   uint64 // of them
	Refused uint64 // sources that may not come
	Full    uint64 // connections beyond what there may be, flows that gave way to others, and datagrams too many for a name that is looked up
	Failed  uint64 // targets that could not be reached
	Up      uint64 // bytes to the target
	Down    uint64 // bytes from the target. Both of connections count when the direction has ended
}

// plus adds up.
func (s Stats) plus(o Stats) Stats {
	return Stats{s.Live + o.Live, s.Total + o.Total, s.Refused + o.Refused, s.Full + o.Full, s.Failed + o.Failed, s.Up + o.Up, s.Down + o.Down}
}

// Open listens, and carries until Close, or until ctx is done. prefer is the port that it had before, which comes first; 0: none.
func Open(ctx context.Context, c *Config, spec Spec, prefer uint16) (*Forward, error) {
	own := *c
	own.setDefaults()
	f := &Forward{c: &own, spec: spec, bound: spec.From, log: own.Log.With("forward", spec.From.bare(), "to", spec.To.String())}
	f.ctx, f.end = context.WithCancel(ctx)
	if err := f.listen(prefer); err != nil {
		f.end()
		return nil, err
	}
	f.work.Go(f.door.run)
	f.work.Go(func() {
		<-f.ctx.Done()
		f.door.close()
	})
	return f, nil
}

// listen makes the door.
func (f *Forward) listen(prefer uint16) error {
	switch f.spec.From.Scheme {
	case "udp":
		return f.spec.From.listenAt(prefer, f.listenUDP)
	case "unix":
		return explain(f.spec.From, f.listenStream(f.spec.From))
	}
	return f.spec.From.listenAt(prefer, f.listenStream)
}

// Bound is where it listens: with the port that was found.
func (f *Forward) Bound() Entrance { return f.bound }

// Spec is what was asked for.
func (f *Forward) Spec() Spec { return f.spec }

// Stats returns the counts so far.
func (f *Forward) Stats() Stats {
	return Stats{Live: f.door.live(), Total: f.total.Load(), Refused: f.refused.Load(), Full: f.full.Load(), Failed: f.failed.Load(), Up: f.up.Load(), Down: f.down.Load()}
}

// Close ends the forward and what it carries, and returns when all has ended. It may be called more than once.
func (f *Forward) Close() {
	f.end()
	f.work.Wait()
}

// sourceKey is that of Source in a context.
type sourceKey struct{}

// Source returns who has come, in the context that a Network's Dial is called with; not valid: by a unix socket.
func Source(ctx context.Context) netip.AddrPort {
	a, _ := ctx.Value(sourceKey{}).(netip.AddrPort)
	return a
}

// dial reaches the target, for who has come.
func (f *Forward) dial(network string, source netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.WithValue(f.ctx, sourceKey{}, source), f.c.DialTimeout)
	defer cancel()
	if f.spec.Via != nil {
		conn, err := f.spec.Via(ctx)
		if err != nil {
			f.failed.Add(1)
		}
		return conn, err
	}
	to := f.spec.To.address()
	switch {
	case f.spec.To.Path != "":
		network = "unix"
	case f.spec.To.Name != "" && f.c.Resolve != nil:
		a, err := f.c.Resolve(f.spec.To.Name)
		if err != nil {
			f.failed.Add(1)
			return nil, err
		}
		to = netip.AddrPortFrom(a, f.spec.To.Port).String()
	}
	conn, err := f.c.Network.Dial(ctx, network, f.spec.From.Source, to)
	if err != nil && !errors.Is(err, context.Canceled) {
		f.failed.Add(1)
	}
	return conn, err
}

// pause waits after an error of the kernel's, as for want of descriptors; false: the forward was closed.
func (f *Forward) pause(p *time.Duration, err error) bool {
	if f.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return false
	}
	const first, longest = 5 * time.Millisecond, time.Second
	*p = min(max(2**p, first), longest)
	f.log.Warn("forward", "err", err, "pause", *p)
	select {
	case <-time.After(*p):
		return true
	case <-f.ctx.Done():
		return false
	}
}
