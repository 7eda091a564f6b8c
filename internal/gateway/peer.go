package gateway

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"ferry/internal/addrpool"
	"ferry/internal/admission"
	"ferry/internal/api/gvproxy"
	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/keepalive"
	"ferry/internal/multipath"
	"ferry/internal/packet"
	"ferry/internal/proto"
	"ferry/internal/router"
	"ferry/internal/session"
)

const (
	// A client that has its address already may ask again so often (exam P2); more wait, and
	// their connection is not read meanwhile.
	requestRate  = 500 // per second
	requestBurst = 100
	// lingerTime is how long a goodbye may take.
	lingerTime = time.Second
	// legacyMTU is the MTU of the 2013 client's TUN, which nothing negotiates.
	legacyMTU = 1500
)

// A peer is one connection of a client. Two goroutines serve it: run reads, queue.Run writes.
// Fields without a remark belong to the reading one.
type peer struct {
	g       *Gateway
	c       *Config // that was in force when it came: what it was told stays true
	id      uint64
	key     identity.Public // zero: the client has none
	visit   *admission.Visit
	log     *slog.Logger
	stream  carrier.Link
	queue   *router.Queue
	fair    *router.Fair // before queue; a session has its own
	port    *router.Port // changed under g.mu
	forward *router.Forwarder
	framer  proto.Framer
	session *session.Server
	tunnel  atomic.Pointer[tunnel] // set by the reading goroutine; nil: this connection is all there is
	reader  *multipath.Reader      // with a tunnel
	again   *rate.Limiter          // nil until the second request
	reply   []byte
	lease   addrpool.Lease
	super   bool // data frames were agreed upon
	left    bool // the client said goodbye

	// Observed by the goroutine that judges: nanoseconds since start, plus 1; 0 for "not so".
	start           time.Time // has the monotonic clock, which a change of the date does not move
	accepted, frame atomic.Int64

	goodbye atomic.Bool // the client understands goodbye frames
	pushed  atomic.Bool // it has an address, and understands config frames
	endOnce sync.Once
	cause   string        // why it ended; set before ended is closed
	ended   chan struct{} // closed by end
}

// newPeer makes a peer of a connection.
func newPeer(g *Gateway, id uint64, s carrier.Link, key identity.Public, visit *admission.Visit, arrived time.Time) *peer {
	budget := &g.budget
	if key == (identity.Public{}) {
		budget = &g.plain
	}
	c, offer := g.c(), g.offers(key)
	p := &peer{
		g: g, c: c, id: id, key: key, visit: visit, stream: s,
		log:     g.log.With("peer", id, "from", s.RemoteAddr().String()),
		queue:   router.NewQueue(s, router.QueueConfig{Limit: c.QueueBytes, Budget: budget}),
		session: session.NewServer(c.Pool, offer),
		framer:  proto.Framer{Extended: key != identity.Public{}}, // an attach frame may come first
		start:   arrived,
		ended:   make(chan struct{}),
	}
	if s.Max() > 0 {
		p.queue.Whole()
	}
	p.fair = router.NewFair(p.queue, budget, &g.total)
	p.queue.OnRoom(p.fair.Next)
	p.port = router.NewPort(id, router.Caps{}, p.fair)
	p.port.Guest = g.devices != nil && key == identity.Public{}
	p.forward = router.NewForwarder(g.table, p.port, &g.total, g.gateway).Tapped(&g.taps)
	p.accepted.Store(1)
	return p
}

// run serves the connection until it ends. The writing goroutine ends with the queue.
func (p *peer) run(ctx context.Context) {
	defer p.g.forget(p)
	stop := context.AfterFunc(ctx, func() { p.end("shutdown", proto.GoodbyeMessage{Reason: proto.ReasonShutdown}) })
	defer stop()
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := p.queue.Run(); err != nil {
			p.endPath("write", proto.GoodbyeMessage{})
		}
		_ = p.stream.Close()
	})
	p.endPath(explain(p.read(ctx)))
	writing.Wait()
	p.stream.Release()
	p.leave()
}

// read takes items off the stream until it ends.
func (p *peer) read(ctx context.Context) error {
	for {
		buf, start, end, err := p.stream.Fill()
		if err != nil {
			return err
		}
		if p.isEnding() {
			return net.ErrClosed
		}
		frame := p.frame.Swap(0) // while we wait ourselves, the item is not late
		i := start
		for i < end {
			kind, n, err := p.framer.Next(buf[i:end])
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			if err := p.item(ctx, kind, buf, i, i+n); err != nil {
				return err
			}
			i += n
		}
		p.forward.Flush()
		if p.reader != nil {
			p.reader.Flush()
		}
		p.stream.Consume(i - start)
		p.watchFrame(frame, i > start, i < end)
	}
}

// watchFrame keeps since when an item is incomplete: its deadline is one in total, so bytes that do
// not complete it do not move it.
func (p *peer) watchFrame(since int64, completed, incomplete bool) {
	switch {
	case !incomplete:
		return
	case completed || since == 0:
		since = p.now()
	}
	p.frame.Store(since)
}

// item treats the item buf[i:j]. Errors end the connection.
func (p *peer) item(ctx context.Context, kind proto.Kind, buf []byte, i, j int) error {
	switch kind {
	case proto.KindData:
		if !p.super {
			return proto.ErrFrame
		}
		if p.fresh(j - i) {
			p.forward.Frame(buf, i, j)
		}
		return nil
	case proto.KindIPv4:
		if p.c.LegacySelfAssign && !p.lease.Addr.IsValid() {
			p.selfAssign(ctx, packet.IPv4(buf[i:j]))
		}
		if p.fresh(j - i) {
			p.forward.Packet(buf, i, j)
		}
		return nil
	case proto.KindIPv6:
		if p.fresh(j - i) { // it has a number, as all data items
			p.forward.Drop(router.DropIPv6)
		}
		return nil
	}
	p.forward.Flush()
	b := buf[i:j]
	switch kind {
	case proto.KindKeepalive:
		return p.answer(b)
	case proto.KindPing:
		p.reply = proto.AppendPong(p.reply[:0], b)
		return p.answer(p.reply)
	case proto.KindRequest:
		return p.request(ctx, b)
	case proto.KindHello:
		ask, err := p.session.Hello(b)
		if err != nil {
			return err
		}
		return p.grant(ctx, ask)
	case proto.KindGoodbye:
		p.left = true
		return errLeft
	case proto.KindPublish:
		return p.announced(b)
	case proto.KindAttach:
		return p.attach(b)
	}
	if p.reader == nil {
		return nil // a pong, or a frame of a later version
	}
	return p.pathItem(kind, b)
}

// answer sends a control packet or frame; while there is no room, the client is not read.
func (p *peer) answer(b []byte) error {
	if !p.queue.SendControl(b) {
		return net.ErrClosed
	}
	return nil
}

func (p *peer) request(ctx context.Context, b []byte) error {
	if p.lease.Addr.IsValid() {
		if p.again == nil {
			p.again = rate.NewLimiter(requestRate, requestBurst)
		}
		if err := p.again.Wait(ctx); err != nil {
			return net.ErrClosed
		}
	}
	ask, complete := p.session.Request(b)
	// From here on the client may send frames: a hello first of all.
	p.framer.Extended = ask.Extended
	if !complete {
		return nil
	}
	return p.grant(ctx, ask)
}

// grant gets a lease, which is on disk when it returns, and answers the client.
func (p *peer) grant(ctx context.Context, ask session.Ask) error {
	if p.tunnel.Load() != nil && !p.lease.Addr.IsValid() { // one more path of a session, which has its address
		return proto.ErrMessage
	}
	if why := p.visit.Known(p.key == identity.Public{}, time.Now()); why != admission.Admitted {
		return p.refused(ask, crowdedError(why))
	}
	if p.key != (identity.Public{}) && p.tunnel.Load() == nil && ask.Features.Has(proto.FeatureSession) {
		p.begin()
	}
	lease, displaced, err := p.acquire(ctx, ask)
	switch {
	case err != nil && p.keeps(err):
		lease = p.lease
	case err != nil:
		return p.refused(ask, err)
	}
	if displaced != nil {
		displaced.end("replaced", proto.GoodbyeMessage{Reason: proto.ReasonReplaced})
	}
	first := !p.lease.Addr.IsValid()
	changed := lease.Addr != p.lease.Addr
	p.takes(lease)
	if t := p.tunnel.Load(); t != nil {
		t.setLease(lease)
	}
	if first {
		p.agree(ask)
	}
	var next identity.Pin // of the gateway's next key; nobody without a key has a use for it
	if p.key != (identity.Public{}) {
		next = p.g.c().NextKey
	}
	p.reply = p.session.Answer(p.reply[:0], lease.Addr, p.push(lease, next))
	// Others may send to the address as soon as the client can know of it.
	if !p.queue.SendFirst(p.reply, func() { p.bind(lease.Addr) }) {
		return net.ErrClosed
	}
	if ask.Features.Has(proto.FeatureConfig) {
		p.pushed.Store(true)
		p.g.tell(p.key, next)
	}
	if first {
		p.notify(gvproxy.Established)
	}
	if changed {
		p.log.Info("client joined", "addr", lease.Addr, "name", lease.Name, "extended", ask.Extended)
	}
	return nil
}

// bind makes p the one who gets what is for addr. A connection that was displaced meanwhile has been ended
// before the one that displaced it binds: it must not come after that.
func (p *peer) bind(addr netip.Addr) {
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	if !p.isEnding() && p.port.Addr() != addr {
		p.g.table.Bind(p.port, addr)
	}
}

// acquire returns the lease of a client, and the connection that had its address until now, if any.
func (p *peer) acquire(ctx context.Context, ask session.Ask) (addrpool.Lease, owner, error) {
	if p.key != (identity.Public{}) {
		return p.g.claim(p, ask)
	}
	if m, ok := p.machine(); ok {
		granted, err := p.g.leases.grantMachine(ctx, p.id, m.MAC(), m.Wanted())
		return granted.Lease, nil, err
	}
	r := addrpool.Request{
		Owner: p.id, Static: ask.Static, Hint: ask.Hint,
		Resume: ask.Resume, ResumeToken: addrpool.Token(ask.Token), Name: ask.Name,
	}
	if ask.Features.Has(proto.FeatureConfig) {
		_, _ = rand.Read(r.Token[:]) // never fails: crypto/rand
	}
	granted, err := p.g.leases.grant(ctx, r)
	if displaced := p.g.peer(granted.Displaced); displaced != nil {
		return granted.Lease, displaced, err
	}
	return granted.Lease, nil, err
}

// agree sets what the client can receive. Nothing was sent to it before.
func (p *peer) agree(ask session.Ask) {
	p.accepted.Store(0)
	p.goodbye.Store(ask.Features.Has(proto.FeatureGoodbye))
	p.queue.OnePerWrite(!ask.Extended && p.stream.Max() == 0)
	caps := router.Caps{
		Super: ask.Features.Has(proto.FeatureSuper),
		USO:   ask.Features.Has(proto.FeatureUSO),
		MTU:   p.c.MTU,
	}
	if !ask.Extended {
		caps.MTU = p.mtu()
	}
	p.super = caps.Super
	if t := p.tunnel.Load(); t != nil {
		t.caps = caps
		t.fit(p.stream.Max())
		return
	}
	p.port.SetCaps(caps)
}

func (p *peer) push(lease addrpool.Lease, next identity.Pin) proto.PushedConfig {
	servers, domains := p.c.ToldNames()
	c := proto.PushedConfig{
		Prefix:  netip.PrefixFrom(lease.Addr, p.c.Pool.Bits()),
		Gateway: p.g.gateway,
		MTU:     p.c.MTU,
		DNS:     servers,
		Domains: domains,
		Routes:  p.c.PushRoutes,
		Token:   proto.Token(lease.Token),
		Idle:    p.c.IdleTimeout,
		NextKey: next,
	}
	if t := p.tunnel.Load(); t != nil {
		c.Session, c.Carriers = t.id, p.g.carriers()
	}
	return c
}

// selfAssign gives a 2013 client the pool address that it uses without having asked for it, if that
// is free. If not, its packets are dropped like those of anybody without an address.
func (p *peer) selfAssign(ctx context.Context, ip packet.IPv4) {
	src := ip.Src()
	if !p.c.PlainPool.Contains(src) || p.key != (identity.Public{}) {
		return
	}
	if p.visit.Known(true, time.Now()) != admission.Admitted {
		return
	}
	granted, err := p.g.leases.grant(ctx, addrpool.Request{Owner: p.id, Static: src})
	if err != nil {
		return
	}
	p.takes(granted.Lease)
	p.agree(session.Ask{})
	p.bind(src)
	p.notify(gvproxy.Established)
	p.log.Info("client joined", "addr", src, "self_assigned", true)
}

// refused ends the connection: a client that understands it is told why, a 2013 client gets no bytes.
func (p *peer) refused(ask session.Ask, err error) error {
	p.goodbye.Store(ask.Features.Has(proto.FeatureGoodbye))
	cause, _ := explain(refusal{err})
	if t := p.tunnel.Load(); t != nil && !p.lease.Addr.IsValid() {
		t.fail(cause)
	}
	p.g.strange.Info(cause, "address refused", "peer", p.id, "from", p.stream.RemoteAddr().String(), "static", ask.Static, "name", ask.Name, "err", err)
	if _, ok := p.machine(); ok { // it asks again
		return nil
	}
	return refusal{err}
}

// end ends the session of p: the connection, and all others that it may have.
func (p *peer) end(cause string, bye proto.GoodbyeMessage) {
	if t := p.tunnel.Load(); t != nil {
		t.end(cause, bye)
	}
	p.endPath(cause, bye)
}

// endPath closes the connection. The first call counts; it may come from any goroutine.
func (p *peer) endPath(cause string, bye proto.GoodbyeMessage) {
	p.endOnce.Do(func() {
		p.cause = cause
		p.g.closed.count(cause)
		close(p.ended)
		if bye.Reason == 0 || !p.goodbye.Load() {
			p.queue.Close()
			_ = p.stream.Close()
			return
		}
		// The writing goroutine closes the stream behind the goodbye; a client that does not
		// read gets none.
		p.fair.Flush()
		p.queue.Finish(proto.AppendGoodbye(nil, bye))
		time.AfterFunc(lingerTime, func() { p.queue.Close(); _ = p.stream.Close() })
	})
}

func (p *peer) isEnding() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// leave gives back what the client held.
func (p *peer) leave() {
	<-p.ended
	p.fair.Close()
	if t := p.tunnel.Load(); t != nil {
		t.leave(p)
		p.log.Info("client left", "addr", t.port.Addr(), "cause", p.cause, "received", p.stream.Received(), "sent", p.stream.Sent())
		return
	}
	p.g.table.Unbind(p.port)
	p.g.departed(p.lease.Addr, p.id, p.cause)
	if !p.lease.Addr.IsValid() {
		p.log.Debug("connection ended", "cause", p.cause, "drops", p.port.Stats().Drops)
		return
	}
	if p.key != (identity.Public{}) {
		p.g.mu.Lock()
		p.g.disown(p, p.lease.Addr)
		p.g.mu.Unlock()
	} else { // who said goodbye does not come back; who vanished may
		p.g.leases.release(p.id, !p.left)
	}
	p.notify(gvproxy.Closed)
	s := p.port.Stats()
	p.log.Info("client left", "addr", p.lease.Addr, "cause", p.cause,
		"received", p.stream.Received(), "sent", p.stream.Sent(), "packets", s.Packets, "drops", s.Drops)
}

// seen is what the deadlines are judged by.
func (p *peer) seen() keepalive.Seen {
	if _, ok := p.machine(); ok {
		return sleeps()
	}
	return keepalive.Seen{
		Accepted: p.time(p.accepted.Load()), Heard: p.stream.LastReceived(),
		Frame: p.time(p.frame.Load()), Blocked: p.queue.Blocked(),
	}
}

// limits are the deadlines that p was told of; on one more path of a session, by the first one.
func (p *peer) limits() keepalive.Limits {
	if t := p.tunnel.Load(); t != nil {
		return deadlines(t.c)
	}
	return deadlines(p.c)
}

// now is never 0, which means "not so".
func (p *peer) now() int64 { return int64(time.Since(p.start)) + 1 }

func (p *peer) time(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return p.start.Add(time.Duration(ns - 1))
}
