package failover

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Never is returned as a deadline when there is nothing to wait for.
var Never = time.Time{}

// A Machine decides. It belongs to one goroutine.
type Machine struct {
	c      Config
	ways   []way
	paths  []*path // in the order in which they were dialled
	rand   *rand.Rand
	token  uint64
	alone  bool
	memory Memory

	network string
	changed time.Time // the first of the changes that are not settled
	settles time.Time // when the change of the network is over; zero: there was none

	used    *path       // nil: none
	since   time.Time   // of used, in use
	fell    *path       // was in use when it became suspect; what is used was only its substitute
	willing bool        // what is in use was chosen freely
	flaps   []time.Time // when such a choice turned out to be a mistake: the last ones
	chosen  time.Time   // the last voluntary change
	calm    time.Time   // since when nothing that was in use was suspect or lost, and something is in use
	begun   bool        // something was in use
	due     time.Time   // since when traffic waits for an acknowledgement without any progress; zero: none waits
	frames  int         // that wait
	many    time.Time   // since when so many wait that they can not all be lost
	busy    time.Time   // when traffic was due last
	near    bool        // the gateway is so near that tcp is better than datagrams

	race race
	tick time.Time // when to look for something better
	seen time.Time // the last such look

	strays  []PathID // nobody has asked for them
	actions []Action
	next    time.Time // of what is to be done later, the earliest
}

// A way is what is known of one.
type way struct {
	Way
	attempt attempt

	deaths  int // in a row
	penalty time.Duration
	until   time.Time // end of the penalty
	fails   int       // attempts in a row
	retry   time.Time // when it may be tried again as a standby
	fault   string    // why it is not used, in words
}

// An attempt is one that runs.
type attempt struct {
	since time.Time // zero: none runs
	trial bool      // to see whether it is better than what is in use
}

func (w *way) running() bool { return !w.attempt.since.IsZero() }

// New returns a machine that knows what has worked.
func New(c Config, memory Memory, now time.Time) *Machine {
	c.setDefaults()
	m := &Machine{c: c, alone: c.Alone, memory: memory.fresh(now, c.Remember), rand: rand.New(rand.NewPCG(c.Seed, 2002)), calm: now, seen: now}
	for _, w := range c.Ways {
		m.Add(w)
	}
	return m
}

// Add adds a way. What the gateway says of itself is not known from the start.
func (m *Machine) Add(w Way) WayID {
	if w.Full == 0 {
		w.Full = DefaultFull
	}
	m.ways = append(m.ways, way{Way: w})
	return WayID(len(m.ways) - 1)
}

// Network says on which network the machine begins. It is no change.
func (m *Machine) Network(id string) { m.network = id }

// Dialed says that an attempt has made a connection that is attached to the session, or has begun one. sessions: the
// gateway knows them; else the path is the only one that there may be, and is used as it is. While there is no session yet
// several attempts may run: the first one to come so far asks for it, and the others attach to it.
func (m *Machine) Dialed(id WayID, path PathID, sessions bool, now time.Time) {
	w := &m.ways[id]
	if !w.running() || m.find(path) != nil {
		m.strays = append(m.strays, path)
		return
	}
	p := newPath(path, id, w, now)
	if w.attempt.trial {
		p.trial = now
	}
	w.attempt = attempt{}
	m.paths = append(m.paths, p)
	if !sessions {
		m.alone, p.plain = true, true
		p.pass(now)
	}
}

// Failed says that an attempt has failed. None is reported after Abandon.
func (m *Machine) Failed(id WayID, err error, now time.Time) {
	if m.ways[id].running() {
		m.failed(id, err.Error(), now)
	}
}

// Lost says that a path has ended: reset, closed, unreachable. The shell has closed it.
func (m *Machine) Lost(id PathID, err error, now time.Time) {
	if p := m.find(id); p != nil {
		m.gone(p, err.Error(), now)
	}
}

// Ended says that the other end has closed a path in good order, for a reason of its own: its way is as good as it was.
func (m *Machine) Ended(id PathID, err error, now time.Time) {
	if p := m.find(id); p != nil {
		p.ended = true
		m.gone(p, err.Error(), now)
	}
}

// Saw says when the last bytes came by a path. Of a stream that still sends what it was given before, an acknowledgement
// by the other end's system counts as well (TCP_INFO): on a slow line an echo waits behind the data.
func (m *Machine) Saw(id PathID, heard, now time.Time) {
	if p := m.find(id); p != nil {
		m.heard(p, heard, now)
	}
}

// Due says since when frames of the session wait for an acknowledgement without one that says more than the one before, and
// how many do; 0: none does. Frames that were given up are no progress. A single frame may just be lost, and nothing is
// acknowledged before another one comes: a few are no reason for more than a question.
func (m *Machine) Due(since time.Time, frames int, now time.Time) {
	if frames >= strikes && m.frames < strikes {
		m.many = now
	}
	m.frames = frames
	if m.due = since; frames > 0 {
		m.busy = now
	}
}

// Echo says that an echo was answered.
func (m *Machine) Echo(id PathID, token uint64, now time.Time) {
	p := m.find(id)
	if p == nil {
		return
	}
	e, ok := p.meter.answered(token, now)
	if !ok {
		return
	}
	p.answered(e, now)
	m.heard(p, now, now)
}

// NetworkChanged says that a link, an address or a route has changed, and which network it is now. It may be called once
// for each of many changes.
func (m *Machine) NetworkChanged(id string, now time.Time) {
	m.remember(now) // what worked there
	m.network = id
	if m.settles.IsZero() {
		m.changed = now
	}
	m.settles = earlier(now.Add(m.c.Settle), m.changed.Add(4*m.c.Settle))
}

// Memory returns what has worked, to be kept.
func (m *Machine) Memory(now time.Time) Memory {
	m.remember(now)
	return m.memory.fresh(now, m.c.Remember)
}

// Next returns what to do at now, and when to ask again at the latest.
func (m *Machine) Next(now time.Time) ([]Action, time.Time) {
	// An action changes what is due later, so the deadline is that of the pass which does nothing.
	for done := -1; done != len(m.actions); {
		done = len(m.actions)
		m.next = Never
		m.pass(now)
	}
	actions := m.actions
	m.actions = nil
	return actions, m.next
}

// pass does what is due, once.
func (m *Machine) pass(now time.Time) {
	for _, id := range m.strays {
		m.do(Action{Kind: Close, Path: id, Why: "nobody waits for it any more"})
	}
	m.strays = nil
	m.settle(now)
	m.expire(now)
	for _, p := range slices.Clone(m.paths) {
		m.watch(p, now)
	}
	m.choose(now)
	m.look(now)
	m.judge(now)
	m.trim(now)
	m.run(now)
	m.standby(now)
	for _, p := range m.paths {
		m.ping(p, now)
	}
}

// Carries says that the carrier of a path has found what its way takes: nothing of more than max bytes goes in one piece. No larger echo is sent
// then. It may be said at any time, and again.
func (m *Machine) Carries(id PathID, max int) {
	p := m.find(id)
	if p == nil || max <= 0 {
		return
	}
	z, full := &p.size, min(m.ways[p.way].Full, max)
	if full > z.now && p.meter.awaits(z.now) { // its answer is to count
		return
	}
	if z.now == z.full { // smaller ones than that are no question
		if p.told == z.now {
			p.told = full
		}
		z.now = full
	}
	z.full = full
	z.now = min(z.now, full)
}

func newPath(id PathID, by WayID, w *way, now time.Time) *path {
	return &path{id: id, way: by, since: now, heard: now, clean: now, told: w.Full, size: size{full: w.Full, now: w.Full}}
}

func (m *Machine) find(id PathID) *path {
	if i := slices.IndexFunc(m.paths, func(p *path) bool { return p.id == id }); i >= 0 {
		return m.paths[i]
	}
	return nil
}

func (m *Machine) name(p *path) string { return m.ways[p.way].Name }
func (m *Machine) class(p *path) Class { return m.ways[p.way].Class }

// has tells whether there is a path by a way.
func (m *Machine) has(id WayID) bool {
	return slices.ContainsFunc(m.paths, func(p *path) bool { return p.way == id })
}

// rank orders the classes: the least one is the best.
func (m *Machine) rank(id WayID) int {
	c := m.ways[id].Class
	if m.near && c == ClassTCP {
		return 2*int(ClassDatagram) - 1
	}
	return 2 * int(c)
}

// jitter spreads the clients of a gateway that has come back: between half and all of d.
func (m *Machine) jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(m.rand.Int64N(int64(d/2)+1))
}

// wake sees to it that Next is called at t.
func (m *Machine) wake(t time.Time) { m.next = earlier(m.next, t) }

// over tells whether t has come; else Next will be called then. A zero time does not come.
func (m *Machine) over(t, now time.Time) bool {
	if t.IsZero() {
		return false
	}
	if now.Before(t) {
		m.wake(t)
		return false
	}
	return true
}
