package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/failover"
	"ferry/internal/multipath"
	"ferry/internal/proto"
	"ferry/internal/session"
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
	dials   map[failover.WayID]context.CancelFunc
	paths   map[failover.PathID]*connection
	newest  failover.PathID
	used    *connection   // nil: none
	asker   *connection   // has asked for a lease, and has no answer yet; nil: nobody
	later   []*connection // that wait until there is a session to attach to
	joining int           // connections that are no path yet

	until    time.Time // before which the gateway does not want to be asked
	fault    error     // why there is no connection
	told     bool      // that it will be tried again
	stopping bool
	network  string // this host's; empty: unknown

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
		client: c, dials: map[failover.WayID]context.CancelFunc{}, paths: map[failover.PathID]*connection{},
		todo: make(chan func()), over: make(chan struct{}),
	}
	config := failover.Config{Seed: rand.Uint64(), RetryMin: c.c.RetryMin, RetryMax: c.c.RetryMax, Keepalive: c.c.Keepalive, Steady: steadySession}
	if c.c.Key.IsZero() {
		config.Alone, config.Steady = true, steadyPlain
	}
	r.m = failover.New(config, nil, time.Now())
	for _, e := range c.servers {
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
		if now.Before(r.until) { // the gateway has said when to ask again
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
			r.idle(next)
			r.wait(ctx, next)
		}
	}
	cancel()
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
	go func() {
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

// attempt reaches the gateway by a way, and begins a connection.
func (r *roamer) attempt(ctx context.Context, id failover.WayID, why string) {
	w := r.ways[id]
	r.told = false
	r.event(Event{Kind: EventConnecting, Server: w.endpoint.String()})
	s, err := r.search(ctx, w.endpoint)
	if err != nil {
		r.failed(id, err)
		return
	}
	keys := r.keys()
	ctx, r.dials[id] = context.WithCancel(ctx)
	r.work.Go(func() {
		link, err := s.find(ctx, r.reach, keys, func() { _ = r.call(func() error { r.lead(); return nil }) })
		if !r.do(func() { r.reached(id, link, keys, err) }) && err == nil {
			_ = link.Close()
		}
	})
}

// abandon ends an attempt that is running.
func (r *roamer) abandon(id failover.WayID) {
	if cancel := r.dials[id]; cancel != nil {
		cancel()
	}
	for _, x := range r.later {
		if x.way == id {
			x.end(errStopped)
		}
	}
	if r.asker != nil && r.asker.way == id {
		r.asker.end(errStopped)
	}
}

// reached has the result of an attempt: a connection by which nothing was said yet.
func (r *roamer) reached(id failover.WayID, l carrier.Link, keys *keyring, err error) {
	cancel := r.dials[id]
	delete(r.dials, id)
	defer cancel()
	if err != nil {
		r.failed(id, err)
		return
	}
	w := r.ways[id]
	if from := hostOf(l.RemoteAddr()); from.IsValid() {
		r.found[w.endpoint] = first(from, r.found[w.endpoint])
	}
	x := newConnection(r.client, l)
	x.roamer, x.way = r, id
	if keys != nil {
		x.shown = keys.shown
	}
	r.joining++
	r.work.Go(func() {
		x.run()
		r.do(func() { r.gone(x) })
	})
	switch {
	case r.tunnel != nil:
		x.attach(r.tunnel, len(r.paths) == 0)
	case r.asker != nil:
		r.later = append(r.later, x)
	default:
		r.asker = x
		x.ask()
	}
}

// leased has a lease that is complete, over the connection x.
func (r *roamer) leased(x *connection, l session.Lease) error {
	if err := r.configure(&l, x.stream.RemoteAddr()); err != nil {
		return err
	}
	r.learn(l, x.shown)
	r.asker = nil
	r.forget()
	if l.Session != (proto.SessionID{}) {
		r.tunnel = r.newTunnel(x, l)
	}
	r.enters(x, l)
	r.learnWays(x, l.Carriers)
	for _, later := range r.later {
		if r.tunnel == nil {
			later.end(errStopped)
			continue
		}
		later.attach(r.tunnel, false)
	}
	r.later = nil
	return nil
}

// attached has the answer to an attach frame.
func (r *roamer) attached(x *connection, m proto.AttachedMessage) error {
	t := x.tunnel
	if t != r.tunnel {
		return errStopped
	}
	if !m.Known {
		r.log.Info("the gateway has forgotten this session: a new one begins")
		for _, other := range r.paths {
			other.end(errForgotten)
		}
		r.forget()
		x.tunnel, x.epoch, x.session = nil, 0, session.NewClient(r.want())
		r.asker = x
		x.ask()
		return nil
	}
	l := t.lease
	if err := r.configure(&l, x.stream.RemoteAddr()); err != nil {
		return err
	}
	var alone <-chan struct{}
	if r.used != nil {
		alone = r.used.ended
	}
	x.enter(t, alone)
	t.send.Acked(m.Received)
	r.enters(x, l)
	return nil
}

// enters makes x, which has a lease, one of the paths.
func (r *roamer) enters(x *connection, l session.Lease) {
	r.joining--
	r.newest++
	x.id = r.newest
	r.paths[x.id] = x
	x.isUp(l)
	x.lease = l
	r.m.Dialed(x.way, x.id, x.tunnel != nil, time.Now())
}

// use sends by a path from now on.
func (r *roamer) use(a failover.Action) {
	x := r.paths[a.Path]
	if x == nil {
		return // its end will be heard of
	}
	before := r.used
	r.used = x
	if t := x.tunnel; t != nil {
		var also *multipath.Path
		if other := r.paths[a.Also]; other != nil {
			also = other.path
		}
		t.send.Use(x.path, also, a.Again)
	}
	if before != nil {
		r.log.Info("switched", "from", r.ways[before.way].name, "to", r.ways[x.way].name, "reason", a.Why)
		r.event(Event{Kind: EventSwitched, Server: x.stream.RemoteAddr().String(), Carrier: r.ways[x.way].endpoint.Scheme, Way: r.ways[x.way].name, Reason: a.Why})
		return
	}
	r.uplink.Connect(x.port)
	r.tellConnected(x, a.Why)
}

// echoed has the answer to an echo.
func (r *roamer) echoed(x *connection, token uint64) {
	r.m.Echo(x.id, token, time.Now())
}

// gone takes a connection that has ended out of use.
func (r *roamer) gone(x *connection) {
	if r.asker == x {
		r.asker = nil
	}
	if x.id == 0 { // it never was a path
		r.joining--
		r.failed(x.way, x.cause)
		r.nextAsker()
		return
	}
	delete(r.paths, x.id)
	if x.tunnel != nil {
		x.tunnel.send.Lost(x.path)
	} else {
		r.uplink.Connect(nil)
	}
	var bye *byeError
	if errors.As(x.cause, &bye) && ends(bye.Reason) && x.tunnel == r.tunnel {
		r.forget()
	}
	if r.used == x {
		r.used = nil
	}
	if len(r.paths) == 0 && !r.stopping {
		r.event(Event{Kind: EventLost, Reason: x.cause.Error()})
	}
	r.holdOff(x.cause)
	r.m.Lost(x.id, x.cause, time.Now())
}

// nextAsker lets the next connection that waits ask for a lease, when the one that did has failed.
func (r *roamer) nextAsker() {
	if r.asker != nil || r.tunnel != nil || len(r.later) == 0 {
		return
	}
	r.asker, r.later = r.later[0], r.later[1:]
	r.asker.ask()
}

// failed has an attempt that has led to nothing.
func (r *roamer) failed(id failover.WayID, err error) {
	if !r.last.Prefix.IsValid() && len(r.ways) == 1 && hopeless(err) {
		r.err = err
		return
	}
	r.fault = err
	r.holdOff(err)
	r.log.Warn("not connected", "server", r.ways[id].name, "err", err)
	r.m.Failed(id, err, time.Now())
}

// holdOff keeps from asking again before the gateway has said that it makes sense.
func (r *roamer) holdOff(err error) {
	if d := retryAfter(err); d > 0 {
		r.until = time.Now().Add(d)
	}
	r.fault = err
}

// moved says that this host has these addresses now.
func (r *roamer) moved(addrs []netip.Addr) {
	r.do(func() {
		network := r.networkOf(addrs)
		switch {
		case network == r.network:
			return
		case r.network == "":
			r.m.Network(network)
		default:
			r.log.Info("this host is on another network", "addrs", network)
			r.m.NetworkChanged(network, time.Now())
		}
		r.network = network
	})
}

// networkOf names a network by the addresses that this host has there. That of the tunnel says nothing.
func (r *roamer) networkOf(addrs []netip.Addr) string {
	var names []string
	for _, a := range addrs {
		if a.IsGlobalUnicast() && a != r.client.last.Prefix.Addr() {
			names = append(names, a.String())
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// act does what the machine wants.
func (r *roamer) act(ctx context.Context, a failover.Action) {
	if a.Why != "" {
		r.log.Debug("failover", "action", a.String())
	}
	switch a.Kind {
	case failover.Dial:
		r.attempt(ctx, a.Way, a.Why)
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
	}
	if r.tunnel != nil {
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
	if r.told || r.fault == nil || len(r.paths)+len(r.dials)+r.joining > 0 || next.IsZero() {
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
}
