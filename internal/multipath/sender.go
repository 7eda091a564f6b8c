package multipath

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/buffer"
	"ferry/internal/proto"
	"ferry/internal/router"
	"ferry/internal/session"
)

// Config is what a Sender is made of.
type Config struct {
	Limit  int // bytes that may wait behind what is being sent
	Keep   int // bytes that are kept until they are acknowledged; 0: the constant Limit
	Budget *buffer.Budget
	// Fit is called when another path is used: max is the longest item that it carries, 0: any. What is larger nevertheless
	// is sent in fragments. It must not wait, nor call the Sender.
	Fit func(max int)
	// Room is called when there may be room again for what comes before the Sender. It is called without a lock.
	Room func()
	// Waiting is called when a frame waits for its acknowledgement and none did before. It must not wait.
	Waiting func()
}

// A Sender is the sending half of a session: a router.Sender in front of its paths.
//
// Whoever finds it idle hands his run to the path himself. What comes meanwhile is only kept, and a goroutine that ends
// when nothing is left hands it on: a pump, as after a change of the path.
type Sender struct {
	c Config

	mu      sync.Mutex // guards what follows
	log     *session.Log
	sent    uint64    // number of the next frame to hand to a path
	acked   uint64    // number before which the other end waits for none
	due     time.Time // since when frames wait for an ack frame, and none has come; zero: none waits
	waiting int       // bytes of the frames from sent on, while there is a path
	main    *Path     // in use; nil: none
	also    *Path     // gets a copy; nil: none
	change  *change
	turns   uint64 // changes so far
	until   uint64 // frames before it were there when the path changed
	part    int    // bytes of these that go out between two pauses; 0: any number
	busy    bool   // somebody hands frames to paths: only he may set sent, main and also
	closed  bool

	stop  chan struct{} // closed when a waiting pump has to look anew; replaced by the pump
	pumps sync.WaitGroup

	again, lost atomic.Uint64 // frames: sent again, given up before they were sent
}

// A change is what Use wants.
type change struct {
	main, also *Path
	again      bool
}

var _ router.Bounded = (*Sender)(nil)

// NewSender returns a Sender without a path.
func NewSender(c Config) *Sender {
	if c.Keep == 0 {
		c.Keep = Limit
	}
	if c.Fit == nil {
		c.Fit = func(int) {}
	}
	if c.Room == nil {
		c.Room = func() {}
	}
	if c.Waiting == nil {
		c.Waiting = func() {}
	}
	return &Sender{c: c, log: session.NewLog(c.Keep, c.Budget), stop: make(chan struct{})}
}

// Start makes p the first path: nothing was sent yet, and nobody has to be told.
func (s *Sender) Start(p *Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.Begins()
	s.set(p, nil)
}

// set makes a path the one in use. The caller holds mu.
func (s *Sender) set(main, also *Path) {
	s.main, s.also = main, also
	if main != nil {
		s.c.Fit(int(main.max.Load()))
	}
}

// Send implements router.Sender. What is lost with a path is no drop: it is kept.
func (s *Sender) Send(run []byte) (int, router.Reason) {
	now := time.Now()
	s.mu.Lock()
	if s.busy || s.main == nil || s.closed {
		defer s.mu.Unlock()
		return s.wait(run, now)
	}
	s.expire(now)
	first := s.log.Keep(run, now)
	s.sent = s.log.Next()
	s.waits(now)
	s.busy = true
	main, also := s.main, s.also
	s.mu.Unlock()

	dropped, why := main.send(first, run)
	if also != nil {
		also.send(first, run)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	s.wake()
	return dropped, why
}

// Room implements router.Bounded. What comes while there is no path, or before the frames that had no path are handed on, is kept.
func (s *Sender) Room() (now, later int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.main == nil || s.sent < s.until || s.closed {
		return math.MaxInt, s.c.Limit
	}
	now, later = s.main.queue.Room()
	return max(now-s.waiting, 0), later
}

// wait keeps a run for the one who is busy, or for the next path. The caller holds mu.
func (s *Sender) wait(run []byte, now time.Time) (int, router.Reason) {
	if s.closed {
		return proto.CountItems(run), router.DropClosed
	}
	dropped, why := 0, router.None
	if s.main == nil {
		s.expire(now)
	} else {
		n := proto.WholeItems(run, s.c.Limit-s.waiting)
		if n < len(run) {
			dropped, why = proto.CountItems(run[n:]), router.DropQueueFull
		}
		run = run[:n]
		s.waiting += n
	}
	s.log.Keep(run, now)
	s.waits(now)
	return dropped, why
}

// wake starts a pump if there is something to do for one. The caller holds mu, and nobody is busy.
func (s *Sender) wake() {
	if s.closed || s.change == nil && (s.main == nil || s.sent == s.log.Next()) {
		return
	}
	s.busy = true
	s.pumps.Go(s.pump)
}

// Use sends by main from now on. With again, all that is not acknowledged goes there once more: the path before is
// dead, or seems so; then also, which may be nil, still gets a copy of what is new. It does not wait.
func (s *Sender) Use(main, also *Path, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.change != nil {
		again = again || s.change.again
	}
	s.change = &change{main, also, again}
	if s.busy {
		close(s.stop)
		s.stop = make(chan struct{})
		return
	}
	s.wake()
}

// Limit says that a path carries items of up to max bytes now, if it is one that carries datagrams; 0: of all lengths again.
func (s *Sender) Limit(p *Path, max int) {
	if p.max.Load() > 0 && (max == 0 || max > 2*proto.FragmentOverhead) {
		p.limit.Store(int64(max))
	}
}

// Lost says that a path carries nothing any more. If another one got a copy, it is used from now on.
func (s *Sender) Lost(p *Path) {
	s.forget(p)
	s.c.Room()
}

func (s *Sender) forget(p *Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.change != nil && s.change.main == p {
		s.change = nil
	}
	if s.change != nil && s.change.also == p {
		s.change.also = nil
	}
	if s.also == p {
		s.also = nil
	}
	if s.main == p {
		s.set(s.also, nil)
	}
}

// Acked says that the other end waits for no frame before number next.
func (s *Sender) Acked(next uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next = min(next, s.sent); next <= s.acked {
		return
	}
	s.acked = next
	s.log.Acked(next)
	if s.due = time.Now(); s.acked == s.log.Next() {
		s.due = time.Time{}
	}
}

// waits notes that a frame waits for its acknowledgement. The caller holds mu.
func (s *Sender) waits(now time.Time) {
	if s.due.IsZero() {
		s.due = now
		s.c.Waiting()
	}
}

// Due returns since when frames wait for an acknowledgement and none has come that says more, and how many do.
func (s *Sender) Due() (since time.Time, frames int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.due, int(s.log.Next() - max(s.log.First(), s.acked))
}

// Expire forgets what is too old to be sent once more. It has to be called now and then, for the sake of memory.
func (s *Sender) Expire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
}

// expire forgets what is too old at now. When that was all, none waits any more: the next frame does from its own time
// on. The caller holds mu.
func (s *Sender) expire(now time.Time) {
	if s.main != nil {
		s.log.Expire(now.Add(-keepAge), 0)
	} else {
		s.log.Expire(now.Add(-replayAge), tail)
		s.log.Expire(now.Add(-tailAge), 0)
	}
	if s.log.First() == s.log.Next() {
		s.due = time.Time{}
	}
}

// Using returns the path in use; nil when there is none.
func (s *Sender) Using() *Path {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.change != nil {
		return s.change.main
	}
	return s.main
}

// Replayed returns how many frames were sent again, and how many were given up before they were sent.
func (s *Sender) Replayed() (again, lost uint64) { return s.again.Load(), s.lost.Load() }

// Kept returns the bytes of memory that the frames take which wait for their acknowledgement, or for a path.
func (s *Sender) Kept() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Bytes()
}

// Close gives all memory back. It waits for nobody's queue.
func (s *Sender) Close() {
	s.mu.Lock()
	s.closed, s.main, s.also, s.change = true, nil, nil, nil
	close(s.stop) // a pump that waits for room ends
	s.stop = make(chan struct{})
	s.mu.Unlock()
	s.pumps.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.Close()
}

// pump brings a change about, and hands on what waits, until there is nothing to do.
func (s *Sender) pump() {
	for sent := 0; ; { // bytes since the last pause
		main, also, first, frames, stop := s.next()
		if main == nil {
			s.c.Room()
			return
		}
		part := s.partAt(first)
		if left := part - sent; part > 0 && left < len(frames) {
			frames = frames[:max(proto.WholeItems(frames, left), proto.ItemLen(frames))]
		}
		ok := main.put(first, frames, stop)
		if ok && also != nil {
			also.send(first, frames)
		}
		s.handed(main, first, frames, ok, stop)
		if sent += len(frames); part > 0 && sent >= part {
			pause(stop)
			sent = 0
		}
	}
}

// partAt returns how many bytes go out between two pauses, where number first is the next; 0: any number.
func (s *Sender) partAt(first uint64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first >= s.until {
		return 0
	}
	return s.part
}

// pause waits for a tick, unless stop is closed.
func pause(stop <-chan struct{}) {
	t := time.NewTimer(paceTick)
	defer t.Stop()
	select {
	case <-t.C:
	case <-stop:
	}
}

// next returns what to hand to whom. Without a path the pump has to end: then nobody is busy any more.
func (s *Sender) next() (main, also *Path, first uint64, frames []byte, stop <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.change != nil && !s.closed {
		tell := s.begin()
		s.mu.Unlock()
		tell()
		s.mu.Lock()
	}
	if s.main != nil && !s.closed {
		if first, frames = s.log.Pin(s.sent); frames != nil || len(s.main.owed) > 0 {
			s.lost.Add(first - s.sent)
			return s.main, s.also, first, frames, s.stop
		}
	}
	s.log.Unpin()
	s.busy, s.waiting = false, 0
	return nil, nil, 0, nil, nil
}

// begin makes the change that is wanted, and returns what tells the other end. The caller holds mu and is busy.
func (s *Sender) begin() (tell func()) {
	c, before := s.change, s.main
	s.change, s.until = nil, s.log.Next()
	s.set(c.main, c.also)
	if c.again {
		s.log.Expire(time.Now().Add(-replayAge), tail)
		if first := max(s.log.First(), s.acked); first < s.sent {
			s.again.Add(s.sent - first)
			s.sent = first
		}
	}
	s.part = c.main.partOf(s.log.Bytes())
	s.turns++
	m := proto.SwitchMessage{Epoch: c.main.Epoch, Next: s.sent, Turn: s.turns, Again: c.again}
	return func() {
		if before != nil && before != c.main && !c.again {
			before.leave(m)
		}
		c.main.turn(m)
	}
}

// handed notes what a pump has handed to a path.
func (s *Sender) handed(to *Path, first uint64, frames []byte, ok bool, stop <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.Unpin()
	switch {
	case ok:
		s.sent = first + uint64(proto.CountItems(frames))
		s.waiting = max(0, s.waiting-len(frames))
	case s.main == to && s.stop == stop: // it was not stopped
		s.set(s.also, nil) // its queue is closed
	}
}
