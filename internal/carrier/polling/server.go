package polling

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ferry/internal/carrier/datagram"
)

// A Server is the gateway's end: a transport to all who ask.
//
//	Receive ◀── questions, which wait for their clients' datagrams
//	Send ── takes waiting questions ──▶ Answer
//	run  ── those that have waited for too long ──▶ Answer, empty
type Server[B any] struct {
	m    Answerer[B]
	c    Config
	done chan struct{} // closed by Close
	kick chan struct{} // capacity 1: there are clients again
	runs sync.WaitGroup
	once sync.Once
	outs sync.Pool // of *outgoing[B]

	timers sync.Pool // of *time.Timer, for await

	mu        sync.Mutex // guards what follows
	clients   map[netip.AddrPort]*client[B]
	strangers int          // clients without a connection
	guests    []guest[B]   // what came last from those of whom nothing is kept
	over      []holding[B] // of those that have left: to be answered without a datagram, by run

	// Of the goroutine that receives:
	questions  []Question[B]
	next, have int // of questions
}

// A client is one who asks.
type client[B any] struct {
	holding holding[B]
	aside   aside
	seen    netip.AddrPort
	last    time.Time     // when it asked
	wake    chan struct{} // capacity 1, made by who waits for a question; sent to when there is one, or never will be
	proven  bool
	links   int  // connections that are made or used from there, as far as it is known; 0: a stranger
	gone    bool // forgotten
}

// A guest's question lasts until what came with it is looked at.
type guest[B any] struct {
	from, seen netip.AddrPort
	held       held[B]
}

// outgoing is what one call of Answer needs.
type outgoing[B any] struct {
	replies []Reply[B]
	held    []held[B] // what they were made of, to be put back
	bytes   []byte
	lens    []int
}

func (o *outgoing[B]) reset() {
	clear(o.replies)
	clear(o.held)
	o.replies, o.held, o.bytes, o.lens = o.replies[:0], o.held[:0], o.bytes[:0], o.lens[:0]
}

// add adds an answer.
func (o *outgoing[B]) add(q held[B], p []byte, now time.Time) {
	o.replies = append(o.replies, Reply[B]{Number: q.number, Held: now.Sub(q.at), Back: q.back})
	o.bytes, o.lens = append(o.bytes, p...), append(o.lens, len(p))
}

var _ datagram.Prover = (*Server[int])(nil)

// NewServer answers those who ask. The medium belongs to the Server from now on.
func NewServer[B any](m Answerer[B], c Config) *Server[B] {
	c.setDefaults()
	s := &Server[B]{
		m: m, c: c, done: make(chan struct{}), kick: make(chan struct{}, 1),
		clients: map[netip.AddrPort]*client[B]{}, questions: make([]Question[B], maxBatch),
	}
	s.timers.New = newTimer
	s.outs.New = func() any { return new(outgoing[B]) }
	s.runs.Go(s.run)
	return s
}

// Receive implements datagram.Transport.
func (s *Server[B]) Receive(all []*datagram.Chunk) (int, error) {
	c := chunks{all: all}
	for {
		for s.next < s.have {
			q := &s.questions[s.next]
			if len(q.Data) > 0 && !c.add(datagram.Addr{Remote: q.From}, q.Data) {
				return c.n, nil
			}
			s.next++
		}
		if c.n > 0 {
			return c.n, nil
		}
		if err := s.dismiss(); err != nil {
			return 0, err
		}
		n, err := s.m.Receive(s.questions)
		if err != nil {
			return 0, err
		}
		s.next, s.have = 0, n
		if err := s.asked(s.questions[:n]); err != nil {
			return 0, err
		}
	}
}

// asked keeps questions, and answers those for which there is something, or which can not be kept.
func (s *Server[B]) asked(all []Question[B]) error {
	o := s.outs.Get().(*outgoing[B])
	defer s.outs.Put(o)
	o.reset()
	now := time.Now()
	s.mu.Lock()
	for i := range all {
		s.keep(&all[i], o, now)
	}
	s.mu.Unlock()
	return s.answer(o)
}

// answer sends answers that are lost if there is no room for them.
func (s *Server[B]) answer(o *outgoing[B]) error {
	b, lens, to := o.bytes, o.lens, o.replies
	for len(lens) > 0 {
		k := min(len(lens), maxBatch)
		if _, err := s.m.Answer(to[:k], b, lens[:k], false); err != nil {
			return err
		}
		b, lens, to = b[sum(lens[:k]):], lens[k:], to[k:]
	}
	return nil
}

// keep keeps one question. The caller holds mu.
func (s *Server[B]) keep(q *Question[B], o *outgoing[B], now time.Time) {
	c := s.clients[q.From]
	if c == nil {
		if s.strangers >= s.c.Strangers {
			s.guests = append(s.guests, guest[B]{q.From, q.Seen, held[B]{q.Number, now, q.Back}})
			return
		}
		c = s.add(q.From)
	}
	c.seen, c.last = q.Seen, now
	most := s.c.Held
	if !c.proven {
		most = min(most, strangerHeld)
	}
	if out, empty := c.holding.ask(q.Number, q.Back, now, most); empty {
		o.add(out, nil, now)
	}
	for len(c.aside.lens) > 0 && c.holding.n > 0 {
		h, _ := c.holding.pop()
		o.add(h, c.aside.bytes[:c.aside.lens[0]], now)
		c.aside.drop(1)
	}
	if s.c.Hold >= 0 {
		c.tell()
		return
	}
	if h, ok := c.holding.pop(); ok {
		o.add(h, nil, now)
	}
	if c.wake != nil { // there is room aside
		notify(c.wake)
	}
}

// dismiss answers the questions of guests that were left over.
func (s *Server[B]) dismiss() error {
	o := s.outs.Get().(*outgoing[B])
	defer s.outs.Put(o)
	o.reset()
	now := time.Now()
	s.mu.Lock()
	for i := range s.guests {
		o.add(s.guests[i].held, nil, now)
	}
	clear(s.guests)
	s.guests = s.guests[:0]
	s.mu.Unlock()
	return s.answer(o)
}

// tell tells who waits that there is a question.
func (c *client[B]) tell() {
	if c.wake != nil && (c.holding.n > 0 || c.gone) {
		notify(c.wake)
	}
}

// add makes an entry of a stranger. The caller holds mu.
func (s *Server[B]) add(from netip.AddrPort) *client[B] {
	c := &client[B]{}
	s.clients[from] = c
	s.strangers++
	if len(s.clients) == 1 {
		notify(s.kick)
	}
	return c
}

// forget forgets a client. The caller holds mu.
func (s *Server[B]) forget(a netip.AddrPort, c *client[B]) {
	delete(s.clients, a)
	if c.links == 0 {
		s.strangers--
	}
	c.gone = true
	c.tell()
}

// Crowded implements datagram.Prover.
func (s *Server[B]) Crowded(a datagram.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients[a.Remote] == nil && s.strangers >= s.c.Strangers
}

// Come implements datagram.Prover: who was a guest has a place from now on, with the questions that it has just asked.
func (s *Server[B]) Come(a datagram.Addr) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[a.Remote]
	if c == nil {
		c = s.add(a.Remote)
		c.seen, c.last = a.Remote, now
	}
	if c.links++; c.links == 1 {
		s.strangers--
	}
	s.guests = slices.DeleteFunc(s.guests, func(g guest[B]) bool {
		if g.from != a.Remote || c.holding.n == strangerHeld {
			return false
		}
		c.seen = g.seen
		_, empty := c.holding.ask(g.held.number, g.held.back, g.held.at, strangerHeld)
		return !empty // one that has come twice is answered as others are
	})
}

// Proven implements datagram.Prover: a client may have more questions waiting.
func (s *Server[B]) Proven(a datagram.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[a.Remote]; c != nil && c.links > 0 {
		c.proven = true
	}
}

// Left implements datagram.Prover: what waits there, waits for nothing. So a client has one place, however often it moves.
func (s *Server[B]) Left(a datagram.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[a.Remote]
	if c == nil || c.links == 0 {
		return
	}
	if c.links--; c.links > 0 {
		return
	}
	s.strangers++
	if c.holding.n > 0 { // a resolver takes who does not answer for broken
		s.over = append(s.over, c.holding)
	}
	if len(c.aside.lens) == 0 {
		s.forget(a.Remote, c)
		return
	}
	c.proven, c.holding, c.last = false, holding[B]{}, time.Now() // the last word is still to be said
}

// Send implements datagram.Transport.
func (s *Server[B]) Send(b []byte, lens []int, to datagram.Addr, wait bool) (done int, err error) {
	o := s.outs.Get().(*outgoing[B])
	defer s.outs.Put(o)
	for len(lens) > 0 {
		o.reset()
		c, put := s.take(o, to, b, lens, wait)
		k := len(o.replies)
		switch {
		case c == nil && k == 0: // lost
			return done + len(lens), nil
		case k == 0 && !wait:
			return done + put, nil
		case put > 0:
			done += put
			b, lens = b[sum(lens[:put]):], lens[put:]
			continue
		case k == 0:
			if !s.await(c) {
				return done, nil
			}
			continue
		}
		n, err := s.m.Answer(o.replies, b, lens[:k], wait)
		s.back(c, o.held[n:])
		done += n
		if err != nil || n < k {
			return done, err
		}
		b, lens = b[sum(lens[:n]):], lens[n:]
	}
	return done, nil
}

// take takes as many questions of a client as there are datagrams, or are there. If there is none, and nobody waits or none ever will be, it puts
// datagrams aside and returns how many. A nil client: a guest asks from there, or nobody.
func (s *Server[B]) take(o *outgoing[B], to datagram.Addr, b []byte, lens []int, wait bool) (c *client[B], put int) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if c = s.clients[to.Remote]; c == nil {
		s.takeGuest(o, to, len(lens), now)
		return nil, 0
	}
	for len(o.replies) < min(len(lens), maxBatch) && c.holding.n > 0 {
		h, _ := c.holding.pop()
		o.held = append(o.held, h)
		o.replies = append(o.replies, Reply[B]{Number: h.number, Held: now.Sub(h.at), Back: h.back})
	}
	if len(o.replies) == 0 && (!wait || s.c.Hold < 0) {
		most := asideBytes
		if !c.proven {
			most = strangerAside
		}
		put = c.aside.add(b, lens, most)
	}
	return c, put
}

// takeGuest takes as many questions of a guest as there are datagrams, or are there. The caller holds mu.
func (s *Server[B]) takeGuest(o *outgoing[B], to datagram.Addr, n int, now time.Time) {
	s.guests = slices.DeleteFunc(s.guests, func(g guest[B]) bool {
		if g.from != to.Remote || len(o.replies) == n {
			return false
		}
		o.held = append(o.held, g.held)
		o.replies = append(o.replies, Reply[B]{Number: g.held.number, Held: now.Sub(g.held.at), Back: g.held.back})
		return true
	})
}

// back puts questions back that were not answered; those of a guest are lost.
func (s *Server[B]) back(c *client[B], left []held[B]) {
	if len(left) == 0 || c == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(left) - 1; i >= 0; i-- {
		c.holding.unpop(left[i])
	}
}

// await waits for a question of a client. It returns false when the caller may think again.
func (s *Server[B]) await(c *client[B]) bool {
	s.mu.Lock()
	if c.wake == nil {
		c.wake = make(chan struct{}, 1)
	}
	c.tell() // one may have come meanwhile
	wake := c.wake
	s.mu.Unlock()
	return await(&s.timers, wake, s.done)
}

// run answers the questions that have waited for too long, and forgets clients. It ends with Close.
func (s *Server[B]) run() {
	every := max(min(max(s.c.Hold, 0), strangerHold)/10, pace)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-s.kick:
			tick.Reset(every)
			continue
		case <-tick.C:
		}
		if !s.sweep(time.Now(), every) {
			tick.Stop() // the next one who comes says so
		}
	}
}

// sweep does it once; the next one comes in a while. It tells whether there are clients.
func (s *Server[B]) sweep(now time.Time, soon time.Duration) bool {
	o := s.outs.Get().(*outgoing[B])
	defer s.outs.Put(o)
	o.reset()
	s.mu.Lock()
	for a, c := range s.clients {
		hold := s.c.Hold
		if !c.proven {
			hold = min(hold, strangerHold)
		}
		for {
			h, ok := c.holding.expired(now.Add(soon - hold))
			if !ok {
				break
			}
			o.add(h, nil, now)
		}
		if c.links == 0 && now.Sub(c.last) > forgotten {
			s.forget(a, c)
		}
	}
	for i := range s.over {
		for h, ok := s.over[i].pop(); ok; h, ok = s.over[i].pop() {
			o.add(h, nil, now)
		}
	}
	s.over = nil
	some := len(s.clients) > 0
	s.mu.Unlock()
	_ = s.answer(o) // an error ends Receive, too
	return some
}

// Max implements datagram.Transport.
func (s *Server[B]) Max(datagram.Addr) int { return s.m.Max() }

// Takes implements datagram.Taker.
func (s *Server[B]) Takes(datagram.Addr) int { return s.m.Takes() }

// Name implements datagram.Transport.
func (s *Server[B]) Name(a datagram.Addr) net.Addr {
	s.mu.Lock()
	seen := a.Remote
	if c := s.clients[a.Remote]; c != nil {
		seen = c.seen
	}
	s.mu.Unlock()
	return s.m.Name(seen)
}

// Local implements datagram.Transport.
func (s *Server[B]) Local() net.Addr { return s.m.Local() }

// Close implements datagram.Transport.
func (s *Server[B]) Close() (err error) {
	s.once.Do(func() {
		close(s.done)
		err = s.m.Close()
		s.runs.Wait()
	})
	return err
}
