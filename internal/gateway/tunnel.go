package gateway

import (
	"crypto/rand"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"ferry/internal/addrpool"
	"ferry/internal/api/gvproxy"
	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/multipath"
	"ferry/internal/proto"
	"ferry/internal/router"
)

// A tunnel is the session of a device with numbers for its frames: it outlives the connections, each of which is a
// path of it, and keeps what they have lost.
//
//	open, with paths --the last one is lost--> away --ResumeTimeout, or ended by anybody--> closed
//	       ^                                    |
//	       +----------------attach--------------+
type tunnel struct {
	g    *Gateway
	c    *Config // that was in force when it began
	id   proto.SessionID
	nr   uint64 // under which operators know it: that of its first connection
	key  identity.Public
	log  *slog.Logger
	port *router.Port
	caps router.Caps  // of port, where the path in use carries everything
	fair *router.Fair // before send
	send *multipath.Sender
	recv *multipath.Receiver
	born time.Time

	mu     sync.Mutex // guards what follows
	lease  addrpool.Lease
	paths  map[*peer]*multipath.Path
	epochs epochs    // of all paths that there were
	turn   uint64    // of the change that was followed last
	away   time.Time // since when there is no path; zero: there is one
	cause  string    // why it ends; empty: it does not
}

// newTunnel makes a session of the connection p, its first path.
func (g *Gateway) newTunnel(p *peer) *tunnel {
	t := &tunnel{
		g: g, c: p.c, nr: p.id, key: p.key, log: g.log.With("session", p.id), port: p.port, born: time.Now(),
		paths: map[*peer]*multipath.Path{},
	}
	_, _ = rand.Read(t.id[:]) // never fails: crypto/rand
	t.send = multipath.NewSender(multipath.Config{Limit: p.c.QueueBytes, Budget: &g.budget, Fit: t.fit, Room: t.refill})
	t.fair = router.NewFair(t.send, &g.budget, &g.total)
	t.recv = multipath.NewReceiver(t.ack)
	p.queue.OnRoom(t.fair.Next)
	path := multipath.NewPath(0, p.queue, p.stream)
	t.paths[p] = path
	t.send.Start(path)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tunnels[t.id] = t
	return t
}

// fit says what can be sent: datagrams do not carry super-packets.
func (t *tunnel) fit(max int) {
	caps := t.caps
	caps.Super = caps.Super && max == 0
	t.port.SetCaps(caps)
}

// refill hands on what waits before the Sender.
func (t *tunnel) refill() { t.fair.Refill() }

// ack tells the client what has come, by the path in use.
func (t *tunnel) ack(received uint64) {
	if path := t.send.Using(); path != nil {
		path.Ack(received)
	}
}

// join makes p a path of t, to be used at once or to stand by. The first frame that the path brings may have to wait until alone
// is closed.
func (t *tunnel) join(p *peer, m proto.AttachMessage) (path *multipath.Path, use bool, alone <-chan struct{}, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.cause != "":
		return nil, false, nil, errEnded
	case !t.epochs.take(m.Epoch):
		return nil, false, nil, errEpoch
	}
	t.away = time.Time{}
	use = m.Use && m.Epoch == t.epochs.highest
	using := t.send.Using()
	for other, its := range t.paths {
		if its == using && !use {
			alone = other.ended
		}
	}
	p.queue.OnRoom(t.fair.Next)
	path = multipath.NewPath(m.Epoch, p.queue, p.stream)
	t.paths[p] = path
	return path, use, alone, nil
}

// maxPaths is how many a session may have: one by each carrier, and those whose end was not noticed yet.
const maxPaths = 16

// trim ends the oldest connection that is not in use, when there are too many.
func (t *tunnel) trim() {
	using := t.send.Using()
	t.mu.Lock()
	var oldest *peer
	for p, path := range t.paths {
		if path != using && !p.isEnding() && (oldest == nil || path.Epoch < t.paths[oldest].Epoch) {
			oldest = p
		}
	}
	many := len(t.paths) > maxPaths
	t.mu.Unlock()
	if many {
		oldest.endPath("replaced", proto.GoodbyeMessage{})
	}
}

// follow sends by the path that the client names, as the client does.
func (t *tunnel) follow(m proto.SwitchMessage) {
	t.mu.Lock()
	var to *multipath.Path
	for _, path := range t.paths {
		if path.Epoch == m.Epoch && m.Turn > t.turn {
			to, t.turn = path, m.Turn
		}
	}
	t.mu.Unlock()
	using := t.send.Using()
	if to == nil || to == using && m.Again {
		return
	}
	if !m.Again { // also where it is in use already: the one before was suspected falsely, and gets no copy any more
		using = nil
	}
	t.send.Use(to, using, m.Again)
}

// turnsTo tells whether an epoch is that of the path p, which is not in use yet.
func (t *tunnel) turnsTo(p *peer, epoch uint64) bool {
	t.mu.Lock()
	path := t.paths[p]
	t.mu.Unlock()
	return path.Epoch == epoch && t.send.Using() != path
}

// Epochs are those of the paths of a session. They come in order, but on different ways: one may overtake another.
type epochs struct {
	highest uint64
	seen    uint64 // bit n: highest - n was there
}

// take tells whether n comes for the first time.
func (e *epochs) take(n uint64) bool {
	if n > e.highest {
		e.seen = e.seen<<min(n-e.highest, 64) | 1 // a shift by 64 leaves nothing
		e.highest = n
		return true
	}
	bit := uint64(1) << (e.highest - n) // likewise
	if n == 0 || bit == 0 || e.seen&bit != 0 {
		return false
	}
	e.seen |= bit
	return true
}

// limit says how long items may be that go by the connection p.
func (t *tunnel) limit(p *peer, max int) {
	t.mu.Lock()
	path := t.paths[p]
	t.mu.Unlock()
	if path == nil {
		return
	}
	t.send.Limit(path, max)
	if l, ok := p.stream.(carrier.Limiter); ok {
		l.Limit(max)
	}
}

// leave takes the connection p off the session, for good if the client said goodbye.
func (t *tunnel) leave(p *peer) {
	t.mu.Lock()
	path := t.paths[p]
	delete(t.paths, p)
	var others []*peer
	if p.left && t.cause == "" {
		t.cause = p.cause
		others = slices.Collect(maps.Keys(t.paths))
	}
	last := len(t.paths) == 0
	if last {
		t.away = time.Now()
	}
	ends := last && t.cause != ""
	t.mu.Unlock()
	t.send.Lost(path)
	for _, other := range others {
		other.endPath(p.cause, proto.GoodbyeMessage{})
	}
	if ends {
		t.close()
	}
}

// end ends the session and all its connections. The first call counts; it may come from any goroutine.
func (t *tunnel) end(cause string, bye proto.GoodbyeMessage) {
	t.mu.Lock()
	if t.cause != "" {
		t.mu.Unlock()
		return
	}
	t.cause = cause
	var all []*peer
	for p := range t.paths {
		all = append(all, p)
	}
	t.mu.Unlock()
	t.fair.Flush()
	for _, p := range all {
		p.endPath(cause, bye)
	}
	if len(all) == 0 {
		t.g.closed.count(cause)
		t.close()
	}
}

// fail lets a session that has not begun end with its connection.
func (t *tunnel) fail(cause string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cause = cause
}

// close gives back what the session held. All paths have left.
func (t *tunnel) close() {
	t.g.table.Unbind(t.port)
	t.fair.Close()
	t.send.Close()
	t.recv.Close()
	t.g.departed(t.lease.Addr, t.nr, t.cause)
	t.g.mu.Lock()
	defer t.g.mu.Unlock()
	delete(t.g.tunnels, t.id)
	t.g.disown(t, t.lease.Addr)
	if t.lease.Addr.IsValid() {
		t.g.notify(gvproxy.Closed, standIn(t.lease.Addr), t.lease)
	}
	t.log.Info("session ended", "addr", t.lease.Addr, "cause", t.cause, "packets", t.port.Stats().Packets)
}

func (t *tunnel) number() uint64 { return t.nr }

// judge ends a session that is over a deadline, and forgets what is too old to be sent again.
func (t *tunnel) judge(now time.Time) {
	t.send.Expire(now)
	t.mu.Lock()
	for p, path := range t.paths {
		path.Carries(p.stream.Max())
	}
	late := t.cause == "" && !t.away.IsZero() && now.Sub(t.away) >= t.c.ResumeTimeout
	if late { // from here on nobody attaches to it
		t.cause = "resume_timeout"
	}
	t.mu.Unlock()
	switch {
	case late:
		t.g.closed.count(t.cause)
		t.close()
	case now.Sub(t.born) >= t.c.SessionLifetime:
		t.end("session_lifetime", proto.GoodbyeMessage{Reason: proto.ReasonLifetime})
	}
}

// setLease notes the address of the session.
func (t *tunnel) setLease(l addrpool.Lease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lease = l
}
