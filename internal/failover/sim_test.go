package failover

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// A simulator of what is around a Machine: lines that fail in all the ways that lines fail in, a shell that does what it is
// told, and traffic that is acknowledged. It checks of each action that it makes sense.
//
//	traffic --> path in use (and the copy) --> line(t) --> gateway
//	   ^                                                     |
//	   +---- acks; Saw, Echo, Dialed, Failed, Lost <---------+

// A line is how the network treats one way.
type line struct {
	rtt       time.Duration
	loss      float64
	blackhole bool          // nothing passes, and nobody says so
	refused   bool          // attempts fail after a round trip
	reset     bool          // and paths are reset
	large     int           // packets that are larger are lost; 0: none
	idle      bool          // echoes pass, but nothing is acknowledged
	mute      bool          // echoes are lost, but other bytes pass
	forgets   time.Duration // paths that were made before this time from the start carry nothing
}

func (l line) good() bool {
	return !l.blackhole && !l.refused && !l.reset && l.large == 0 && !l.idle && !l.mute && l.loss == 0
}

// A shape is how a line changes with time.
type shape func(t time.Duration) line

func always(l line) shape { return func(time.Duration) line { return l } }

// from returns a shape that is a before t, and b then.
func from(a line, t time.Duration, b line) shape {
	return func(at time.Duration) line {
		if at < t {
			return a
		}
		return b
	}
}

var (
	fine = line{rtt: 20 * time.Millisecond}
	hole = line{rtt: 20 * time.Millisecond, blackhole: true}
	dead = line{rtt: 20 * time.Millisecond, reset: true, refused: true}
	slow = line{rtt: 80 * time.Millisecond}
)

type simWay struct {
	Way
	shape shape
}

func udp(s shape) simWay {
	return simWay{Way{Name: "udp", Class: ClassDatagram, Datagram: true}, s}
}
func quic(s shape) simWay {
	return simWay{Way{Name: "quic", Class: ClassDatagram, Datagram: true}, s}
}
func tcp(s shape) simWay { return simWay{Way{Name: "tcp", Class: ClassTCP}, s} }
func tls(s shape) simWay { return simWay{Way{Name: "tls", Class: ClassWeb}, s} }
func ssh(s shape) simWay { return simWay{Way{Name: "ssh", Class: ClassSSH}, s} }
func icmp(s shape) simWay {
	return simWay{Way{Name: "icmp", Class: ClassICMP, Datagram: true, Polling: true}, s}
}
func dns(s shape) simWay {
	return simWay{Way{Name: "dns", Class: ClassDNS, Datagram: true, Polling: true}, s}
}

type simPath struct {
	id    PathID
	way   WayID
	since time.Duration
	heard time.Time
	mtu   int
}

type simPacket struct {
	at    time.Time
	large bool
}

// A change is one Use.
type simUse struct {
	at        time.Duration
	way       string
	voluntary bool
}

// tester is what a simulation needs of a test: *testing.T and *rapid.T have it.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

type sim struct {
	t     tester
	m     *Machine
	ways  []simWay
	start time.Time
	now   time.Time
	rand  *rand.Rand
	queue simQueue
	count int

	deadline time.Time
	paths    map[PathID]*simPath
	running  map[WayID]int // the number of the attempt
	last     PathID
	used     PathID
	also     PathID
	plain    bool // the gateway knows no sessions

	traffic func(t time.Duration) bool
	waiting map[int]simPacket
	waits   time.Time // since when one waits
	packets int

	log       []string
	uses      []simUse
	dials     []time.Duration
	echoes    int
	sizes     map[int]int // of the echoes
	nexts     int
	lastAck   time.Time
	lastLarge time.Time
	gap       time.Duration // longest one between two acks
	gapLarge  time.Duration // the same of large packets
	check     func()
}

type simEvent struct {
	at  time.Time
	seq int
	do  func() bool // true: Next is to be called
}

type simQueue []simEvent

func (q simQueue) Len() int      { return len(q) }
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	e := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return e
}
func (q simQueue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].seq < q[j].seq
}

// newSim returns a simulator with traffic all the time.
func newSim(t tester, c Config, memory Memory, ways ...simWay) *sim {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := &sim{
		t: t, ways: ways, start: start, now: start, rand: rand.New(rand.NewPCG(1, c.Seed)), paths: map[PathID]*simPath{}, running: map[WayID]int{},
		waiting: map[int]simPacket{}, sizes: map[int]int{}, traffic: func(time.Duration) bool { return true }, check: func() {},
	}
	for _, w := range ways {
		c.Ways = append(c.Ways, w.Way)
	}
	s.m = New(c, memory, start)
	s.after(0, s.beat)
	return s
}

func (s *sim) time() time.Duration { return s.now.Sub(s.start) }

func (s *sim) after(d time.Duration, do func() bool) {
	s.count++
	heap.Push(&s.queue, simEvent{s.now.Add(d), s.count, do})
}

// at calls f at a time from the start, before Next.
func (s *sim) at(t time.Duration, f func()) {
	s.count++
	heap.Push(&s.queue, simEvent{s.start.Add(t), s.count, func() bool { f(); return true }})
}

func (s *sim) line(id WayID) line { return s.ways[id].shape(s.time()) }

// passes tells whether a packet of a size passes by a path at this time.
func (s *sim) passes(p *simPath, size int) bool {
	l := s.line(p.way)
	return !l.blackhole && p.since >= l.forgets && !l.reset && (l.large == 0 || size <= l.large) && s.rand.Float64() >= l.loss
}

// run goes on until a time from the start.
func (s *sim) run(until time.Duration) *sim {
	if s.nexts == 0 {
		s.next()
	}
	end := s.start.Add(until)
	for {
		at := s.queue[0].at
		call := !s.deadline.IsZero() && s.deadline.Before(at)
		if call {
			at = s.deadline
		}
		if at.After(end) {
			s.now = end
			return s
		}
		s.now = at
		if !call {
			call = heap.Pop(&s.queue).(simEvent).do()
		}
		if call {
			s.next()
		}
	}
}

func (s *sim) next() {
	s.nexts++
	for _, p := range s.paths {
		s.m.Saw(p.id, p.heard, s.now)
	}
	s.m.Due(s.due(), len(s.waiting), s.now)
	actions, deadline := s.m.Next(s.now)
	for _, a := range actions {
		s.apply(a)
	}
	if !deadline.IsZero() && !deadline.After(s.now) {
		s.fail("the deadline is %s, and now it is %s", deadline.Sub(s.start), s.time())
	}
	s.deadline = deadline
}

// due returns since when packets wait for an ack without any progress.
func (s *sim) due() time.Time {
	if len(s.waiting) == 0 {
		return time.Time{}
	}
	return later(s.waits, s.lastAck)
}

func (s *sim) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("at %s: %s\n%s", s.time(), fmt.Sprintf(format, args...), s.story())
}

func (s *sim) story() string { return strings.Join(s.log[max(0, len(s.log)-80):], "\n") }

func (s *sim) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%10s  %s", s.time(), fmt.Sprintf(format, args...)))
}

// apply does what the machine wants.
func (s *sim) apply(a Action) {
	p := s.paths[a.Path]
	if a.Kind != Echo {
		s.note("%s", a)
	}
	if a.Kind != Dial && a.Kind != Abandon && p == nil {
		s.fail("%s: there is no such path", a)
	}
	if a.Why == "" && a.Kind != Echo {
		s.fail("%s: no reason", a)
	}
	switch a.Kind {
	case Dial:
		s.dial(a)
	case Abandon:
		if s.running[a.Way] == 0 {
			s.fail("%s: no attempt runs", a)
		}
		s.running[a.Way] = 0
	case Use:
		s.use(a, p)
	case Echo:
		s.echo(a, p)
	case SetMTU:
		p.mtu = a.Size
	case Close:
		s.remove(a.Path)
	}
}

func (s *sim) remove(id PathID) {
	delete(s.paths, id)
	if id == s.also {
		s.also = 0
	}
	if id == s.used {
		s.used = 0
	}
}

func (s *sim) dial(a Action) {
	if s.running[a.Way] != 0 {
		s.fail("%s: an attempt runs already", a)
	}
	s.dials = append(s.dials, s.time())
	s.count++
	attempt := s.count
	s.running[a.Way] = attempt
	l := s.line(a.Way)
	if l.blackhole {
		return
	}
	s.after(2*l.rtt, func() bool {
		if s.running[a.Way] != attempt || s.line(a.Way).blackhole {
			return false
		}
		s.running[a.Way] = 0
		if s.line(a.Way).refused {
			s.note("way %d: refused", a.Way)
			s.m.Failed(a.Way, errors.New("connection refused"), s.now)
			return true
		}
		s.last++
		s.note("way %d: attached as path %d", a.Way, s.last)
		s.paths[s.last] = &simPath{id: s.last, way: a.Way, since: s.time(), heard: s.now, mtu: 1400}
		s.m.Dialed(a.Way, s.last, !s.plain, s.now)
		return true
	})
}

func (s *sim) use(a Action, p *simPath) {
	if a.Also == a.Path || a.Also != 0 && s.paths[a.Also] == nil {
		s.fail("%s: the copy goes nowhere", a)
	}
	if s.used != a.Path {
		voluntary := !a.Again && s.used != 0
		for _, u := range s.uses {
			if voluntary && u.voluntary && s.time()-u.at < 30*time.Second {
				s.fail("%s: the second voluntary change in 30 s", a)
			}
		}
		s.uses = append(s.uses, simUse{s.time(), s.ways[p.way].Name, voluntary})
	}
	s.used, s.also = a.Path, a.Also
	if a.Again {
		for n, w := range s.waiting {
			s.send(p, n, w)
		}
	}
}

func (s *sim) echo(a Action, p *simPath) {
	s.echoes++
	s.sizes[a.Size]++
	if !s.passes(p, a.Size) || s.line(p.way).mute {
		return
	}
	s.after(s.line(p.way).rtt, func() bool {
		if s.paths[a.Path] == nil || !s.passes(p, a.Size) {
			return false
		}
		p.heard = s.now
		s.m.Echo(a.Path, a.Token, s.now)
		return true
	})
}

// send sends a packet of the traffic by a path.
func (s *sim) send(p *simPath, n int, w simPacket) {
	size := 100
	if w.large {
		size = p.mtu
	}
	if l := s.line(p.way); !s.passes(p, size) || l.idle {
		return
	}
	s.after(s.line(p.way).rtt, func() bool {
		if s.paths[p.id] == nil || !s.passes(p, size) {
			return false
		}
		p.heard = s.now
		if _, ok := s.waiting[n]; !ok {
			return false
		}
		s.acked(n, w)
		return false
	})
}

func (s *sim) acked(n int, w simPacket) {
	delete(s.waiting, n)
	s.gap, s.lastAck = max(s.gap, s.now.Sub(later(s.lastAck, s.start))), s.now
	if w.large {
		s.gapLarge, s.lastLarge = max(s.gapLarge, s.now.Sub(later(s.lastLarge, s.start))), s.now
	}
}

// beat sends traffic, forgets what is too old, and resets paths.
func (s *sim) beat() (call bool) {
	s.after(10*time.Millisecond, s.beat)
	for id, p := range s.paths {
		if s.line(p.way).reset {
			s.note("path %d: reset", id)
			s.remove(id)
			s.m.Lost(id, errors.New("connection reset"), s.now)
			call = true
		}
	}
	for n, w := range s.waiting { // the receiver gives up a packet that is missing; a session keeps none for longer than 2 s
		if s.now.Sub(w.at) > 2*time.Second || s.lastAck.Sub(w.at) > 200*time.Millisecond {
			delete(s.waiting, n)
		}
	}
	if s.traffic(s.time()) && s.time()%(50*time.Millisecond) == 0 {
		if len(s.waiting) == 0 {
			call, s.waits = true, s.now
		}
		for _, large := range []bool{false, true} {
			s.packets++
			s.waiting[s.packets] = simPacket{s.now, large}
			for _, id := range []PathID{s.used, s.also} {
				if p := s.paths[id]; p != nil {
					s.send(p, s.packets, s.waiting[s.packets])
				}
			}
		}
	}
	s.check()
	return call
}

// using returns the name of the way in use.
func (s *sim) using() string {
	if p := s.paths[s.used]; p != nil {
		return s.ways[p.way].Name
	}
	return "none"
}

// wantUse checks what is in use.
func (s *sim) wantUse(want string) {
	s.t.Helper()
	if got := s.using(); got != want {
		s.fail("%s is in use, want %s", got, want)
	}
}

// wantGap checks for how long no packet was acknowledged at most, and begins anew.
func (s *sim) wantGap(limit time.Duration) {
	s.t.Helper()
	gap := max(s.gap, s.now.Sub(later(s.lastAck, s.start)))
	s.gap = 0
	if gap > limit {
		s.fail("the traffic stood still for %s, want at most %s", gap, limit)
	}
	s.t.Logf("stood still for %s, limit %s", gap, limit)
}
