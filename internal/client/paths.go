package client

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/failover"
	"ferry/internal/multipath"
	"ferry/internal/proto"
	"ferry/internal/session"
)

// What becomes of an attempt: all of this is called by the roamer's goroutine.
//
//	try --reached--> joining: asks for a lease, or to be one more path --leased, attached--> path --use--> used
//	 |                  |                                                                     |             |
//	 +---- failed ------+                                                                     +--- gone ----+

// An attempt is one to reach the gateway by a way.
type attempt struct {
	way       failover.WayID
	keys      *keyring
	cancel    context.CancelFunc
	abandoned bool
}

// try reaches the gateway by a way, and begins a connection.
func (r *roamer) try(ctx context.Context, id failover.WayID) {
	w := r.ways[id]
	r.told = false
	r.event(Event{Kind: EventConnecting, Server: w.endpoint.String()})
	s := r.search(w.endpoint)
	k := seeker{
		opener: r.opener, reach: r.reach,
		close: func(found map[string][]netip.Addr) error {
			return r.call(func() error { return r.shut(found) })
		},
		lead: func() { _ = r.call(func() error { r.lead(); return nil }) },
	}
	a := &attempt{way: id, keys: r.keys()}
	ctx, a.cancel = context.WithCancel(ctx)
	r.dials[id] = a
	r.work.Go(func() {
		link, err := s.find(ctx, k, a.keys)
		if !r.do(func() { r.reached(a, link, err) }) && err == nil {
			_ = link.Close()
		}
	})
}

// abandon ends an attempt that is running.
func (r *roamer) abandon(id failover.WayID) {
	if a := r.dials[id]; a != nil {
		a.abandoned = true
		a.cancel()
		delete(r.dials, id)
	}
	for x := range r.joining {
		if x.way == id {
			x.abandoned = true
			x.end(errStopped)
		}
	}
}

// reached has the result of an attempt: a connection by which nothing was said yet.
func (r *roamer) reached(a *attempt, l carrier.Link, err error) {
	defer a.cancel()
	switch {
	case a.abandoned || r.stopping:
		if err == nil {
			_ = l.Close()
		}
		return
	case err != nil:
		delete(r.dials, a.way)
		r.failed(a.way, err)
		return
	}
	delete(r.dials, a.way)
	r.seen(r.ways[a.way].endpoint, l.RemoteAddr())
	x := newConnection(r.client, l)
	x.roamer, x.way = r, a.way
	if a.keys != nil {
		x.shown = a.keys.shown
	}
	r.joining[x] = true
	r.work.Go(func() {
		x.run()
		r.do(func() { r.gone(x) })
	})
	switch {
	case r.tunnel != nil:
		x.attach(r.tunnel, len(r.paths) == 0 && len(r.joining) == 1)
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
		r.endOthers(errForgotten)
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
	delete(r.joining, x)
	r.newest++
	x.id = r.newest
	r.paths[x.id] = x
	x.isUp(l)
	x.lease = l
	r.m.Dialed(x.way, x.id, x.tunnel != nil, time.Now())
	r.m.Carries(x.id, x.stream.Max())
}

// use sends by a path from now on.
func (r *roamer) use(a failover.Action) {
	x := r.paths[a.Path]
	if x == nil {
		return // its end will be heard of
	}
	before := r.used
	r.used = x
	defer r.tellServices()
	if t := x.tunnel; t != nil {
		var also *multipath.Path
		if other := r.paths[a.Also]; other != nil && other.tunnel == t {
			also = other.path
		}
		t.send.Use(x.path, also, a.Again)
	}
	if before != nil && before.tunnel == x.tunnel {
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
		delete(r.joining, x)
		r.later = slices.DeleteFunc(r.later, func(o *connection) bool { return o == x })
		if !x.abandoned {
			r.failed(x.way, x.cause)
		}
		r.nextAsker()
		return
	}
	delete(r.paths, x.id)
	switch {
	case x.tunnel != nil:
		x.tunnel.send.Lost(x.path)
	case r.used == x:
		r.uplink.Connect(nil)
	}
	ended := endsSession(x.cause)
	if ended && x.tunnel == r.tunnel {
		r.holdOff(x.cause)
		if x.tunnel != nil {
			r.endOthers(x.cause)
			r.forget()
		}
	}
	if r.used == x {
		r.used = nil
	}
	if len(r.paths) == 0 && !r.stopping {
		r.event(Event{Kind: EventLost, Reason: x.cause.Error()})
	}
	if ended {
		r.m.Ended(x.id, x.cause, time.Now())
		return
	}
	r.holdOff(x.cause)
	r.m.Lost(x.id, x.cause, time.Now())
}

// endOthers ends all paths: their session has ended.
func (r *roamer) endOthers(cause error) {
	for _, x := range r.paths {
		x.end(cause)
	}
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
	r.holdOff(err)
	r.log.Warn("not connected", "server", r.ways[id].name, "err", err)
	r.m.Failed(id, err, time.Now())
}

// holdOff notes why there is no connection, and keeps from asking again before the gateway has said that it makes sense.
func (r *roamer) holdOff(err error) {
	d := retryAfter(err)
	if saysBye(err, proto.ReasonReplaced) { // or two devices with one key would displace each other all the time
		d = max(d, r.c.RetryMax/3)
	}
	if d > 0 {
		r.until = time.Now().Add(d)
	}
	r.fault = err
}
