package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/failover"
	"ferry/internal/hostnet"
	"ferry/internal/proto"
)

// A roamer keeps a client connected, by the ways that package failover chooses. All that a client knows is changed
// by the goroutine of its run; attempts and connections hand that one functions.
//
//	failover.Machine --actions--> run --starts--> attempt --todo: reached--> connection --todo: leased, lost--> run
//	       ^                       |
//	       +------- events --------+
type roamer struct {
	*client
	m       *failover.Machine
	ways    []way
	dials   map[failover.WayID]*attempt
	paths   map[failover.PathID]*connection
	newest  failover.PathID
	used    *connection          // nil: none
	asker   *connection          // has asked for a lease, and has no answer yet; nil: nobody
	later   []*connection        // that wait until there is a session to attach to
	joining map[*connection]bool // connections that are no path yet

	until    time.Time // before which the gateway does not want to be asked
	fault    error     // why there is no connection
	told     bool      // that it will be tried again
	stopping bool
	learned  []carrier.Endpoint // what the gateway says that it has, where it was reached
	kept     memory             // on disk
	network  hostnet.Network    // that this host is on

	services   proto.PublishMessage // what this device serves; Serial 0: the gateway need not know
	servicesOn *connection          // by which it was told
	untold     atomic.Bool          // there was no room for it

	todo chan func()
	over chan struct{} // closed when todo is not read any more
	work sync.WaitGroup
	err  error // ends run
}

// How long a connection must have lasted for the pauses to begin anew. A session goes on with the next one if that comes
// within a second; without one there is nothing to be saved by haste.
const (
	steadySession = 3 * time.Second
	steadyPlain   = 30 * time.Second
)

// Why a connection is closed here.
var (
	errStopped   = errors.New("not needed any more")
	errForgotten = errors.New("the gateway has forgotten the session")
)

func newRoamer(c *client) *roamer {
	r := &roamer{
		client: c, dials: map[failover.WayID]*attempt{}, paths: map[failover.PathID]*connection{}, joining: map[*connection]bool{},
		todo: make(chan func()), over: make(chan struct{}),
	}
	config := failover.Config{Seed: rand.Uint64(), RetryMin: c.c.RetryMin, RetryMax: c.c.RetryMax, Keepalive: c.c.Keepalive, Steady: steadySession}
	if c.c.Key.IsZero() {
		config.Alone, config.Steady = true, steadyPlain
	}
	worked := r.recall()
	r.m = failover.New(config, worked, time.Now())
	for _, e := range c.servers {
		r.addWay(e)
	}
	again, _ := usable(&c.c, r.learned)
	for _, e := range again {
		r.addWay(e)
	}
	c.ways = func() (all []failover.WayStatus) {
		_ = r.call(func() error { all = r.m.Ways(time.Now()); return nil })
		return all
	}
	return r
}

// do lets run call f. It returns false when run has ended.
func (r *roamer) do(f func()) bool {
	select {
	case r.todo <- f:
		return true
	case <-r.over:
		return false
	}
}

// call is do, and waits for the error that f returns.
func (r *roamer) call(f func() error) error {
	done := make(chan error, 1)
	if !r.do(func() { done <- f() }) {
		return errStopped
	}
	return <-done
}

// run keeps this device connected until ctx is done, or connecting has no point.
func (r *roamer) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for ctx.Err() == nil && r.err == nil {
		now := time.Now()
		if now.Before(r.until) && len(r.paths) == 0 { // the gateway has said when to ask again
			r.idle(r.until)
			r.wait(ctx, r.until)
			continue
		}
		r.saw(now)
		actions, next := r.m.Next(now)
		for _, a := range actions {
			r.act(ctx, a)
		}
		if len(actions) == 0 {
			r.remember(now)
			r.idle(next)
			r.wait(ctx, next)
		}
	}
	cancel()
	r.remember(time.Now())
	r.finish(ctx.Err())
	return r.err
}

// wait does what others want, until it is time to ask the machine again.
func (r *roamer) wait(ctx context.Context, next time.Time) {
	var late <-chan time.Time // never: the machine waits for nothing
	if next != failover.Never {
		timer := time.NewTimer(time.Until(next))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-ctx.Done():
	case <-late:
	case <-r.due:
	case f := <-r.todo:
		f()
	}
}

// finish ends all connections, with a goodbye, and waits for all that was started.
func (r *roamer) finish(cause error) {
	r.stopping = true
	for _, x := range r.paths {
		x.end(cause)
	}
	for x := range r.joining {
		x.end(cause)
	}
	go func() { // ends before finish does
		r.work.Wait()
		close(r.over)
	}()
	for {
		select {
		case f := <-r.todo:
			f()
		case <-r.over:
			return
		}
	}
}

// begin says on which network this host is, before run.
func (r *roamer) begin(on hostnet.Network) {
	r.network = on
	r.m.Network(on.ID)
}

// moved says on which network this host is now.
func (r *roamer) moved(to hostnet.Network) {
	r.do(func() {
		if to != r.network {
			r.log.Info("the way out of this host has changed", "network", to.ID, "state", to.State)
			r.network = to
			r.m.NetworkChanged(to.ID, time.Now())
		}
	})
}

// act does what the machine wants.
func (r *roamer) act(ctx context.Context, a failover.Action) {
	if a.Why != "" {
		r.log.Debug("failover", "action", a.String())
	}
	switch a.Kind {
	case failover.Dial:
		r.try(ctx, a.Way)
	case failover.Abandon:
		r.abandon(a.Way)
	case failover.Use:
		r.use(a)
	case failover.Echo:
		if x := r.paths[a.Path]; x != nil {
			x.echo(a.Token, a.Size)
		}
	case failover.Close:
		if x := r.paths[a.Path]; x != nil {
			x.end(fmt.Errorf("%w: %s", errStopped, a.Why))
		}
	case failover.SetMTU:
		if x := r.paths[a.Path]; x != nil && x.tunnel != nil {
			x.tunnel.send.Limit(x.path, a.Size)
			if l, ok := x.stream.(carrier.Limiter); ok {
				l.Limit(a.Size)
			}
			x.queue.Send(proto.AppendLimit(nil, a.Size)) // what is too long there is so on the way back, as a rule
		}
	}
}

// saw tells the machine what was observed of the paths.
func (r *roamer) saw(now time.Time) {
	for id, x := range r.paths {
		heard := x.stream.LastReceived()
		if s, ok := x.stream.(*carrier.Stream); ok && x == r.used { // an echo waits behind the data
			heard = later(heard, s.LastAcked(now))
		}
		r.m.Saw(id, heard, now)
		if x.path != nil {
			max := x.stream.Max()
			x.path.Carries(max)
			r.m.Carries(id, max)
		}
	}
	if r.tunnel != nil {
		r.tunnel.send.Expire(now)
		since, frames := r.tunnel.send.Due()
		r.m.Due(since, frames, now)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// idle says when it will be tried again, once all ways have failed.
func (r *roamer) idle(next time.Time) {
	if r.told || r.fault == nil || len(r.paths)+len(r.dials)+len(r.joining) > 0 || next.IsZero() {
		return
	}
	r.told = true
	in := time.Until(next).Round(time.Millisecond)
	r.log.Warn("not connected", "err", r.fault, "retry_in", in)
	r.event(Event{Kind: EventReconnecting, Reason: r.fault.Error(), RetryIn: in.Seconds()})
}

// tellConnected says that there is a connection, and with which lease.
func (r *roamer) tellConnected(x *connection, why string) {
	l := x.lease
	changed := r.last.Prefix != l.Prefix
	r.last = l
	protocol := "ferry"
	if !l.Extended {
		protocol = "2013"
	}
	r.log.Info("connected", "server", x.stream.RemoteAddr().String(), "addr", l.Prefix, "gateway", l.Gateway,
		"interface", r.exit.Name(), "mtu", l.MTU, "protocol", protocol, "secure", !r.c.Key.IsZero(), "carrier", r.ways[x.way].endpoint.Scheme, "reason", why)
	e := Event{
		Kind: EventConnected, Server: x.stream.RemoteAddr().String(), Interface: r.exit.Name(),
		Address: l.Prefix.Addr(), Prefix: l.Prefix.Masked(), Gateway: l.Gateway, MTU: l.MTU, Protocol: protocol,
		Secure: !r.c.Key.IsZero(), Carrier: r.ways[x.way].endpoint.Scheme, Way: r.ways[x.way].name,
	}
	r.event(e)
	if changed {
		e.Kind = EventAddress
		r.event(e)
	}
	r.forwards.leased(l.Prefix.Addr())
}
