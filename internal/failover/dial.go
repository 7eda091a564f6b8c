package failover

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Which ways are dialled: in a race while nothing is in use, as a standby, and to see whether they are better.

// A race goes through all ways in order.
type race struct {
	on     bool
	since  time.Time
	order  []WayID   // still to be dialled
	at     time.Time // when the next one starts at the latest; while off, when the next race may start
	soon   time.Time // while off: the same while traffic is due
	rounds int       // since the connection was steady
}

// order returns the ways in the order in which they are tried: those that died a moment ago last, the winner on this
// network first, then by class.
func (m *Machine) order(now time.Time) []WayID {
	ids := make([]WayID, len(m.ways))
	for i := range ids {
		ids[i] = WayID(i)
	}
	winner := m.memory.fresh(now, m.c.Remember).winner(m.network)
	key := func(id WayID) int {
		switch w := &m.ways[id]; {
		case now.Before(w.until):
			return 1000 + m.rank(id)
		case w.Name == winner && m.network != "":
			return -1
		}
		return m.rank(id)
	}
	slices.SortStableFunc(ids, func(a, b WayID) int { return cmp.Compare(key(a), key(b)) })
	return ids
}

// run is the race. It ends with a path in use, or when all ways have failed; then there is a pause.
func (m *Machine) run(now time.Time) {
	r := &m.race
	switch {
	case len(m.ways) == 0:
		return
	case !m.needs() || m.alone && m.used != nil:
		if r.on {
			m.pause(now)
		}
		return
	case !r.on && !r.at.IsZero() && !m.over(m.turn(), now):
		return
	case !r.on:
		*r = race{on: true, since: now, at: now, order: m.order(now), rounds: r.rounds}
	}
	m.start(now)
	if len(r.order) == 0 && !m.pending() {
		m.pause(now)
		m.wake(m.turn())
	}
}

// start dials those whose turn it is.
func (m *Machine) start(now time.Time) {
	r := &m.race
	ready := m.best(func(p *path) bool { return p != m.used })
	for len(r.order) > 0 {
		id := r.order[0]
		w := &m.ways[id]
		switch {
		case m.awaited(id), ready != nil && m.rank(id) >= m.rank(ready.way):
			r.order = r.order[1:]
			continue
		case m.alone && m.pending(), !m.over(r.at, now):
			return
		}
		m.dial(id, attempt{since: now}, m.reason(w), now)
		r.order = r.order[1:]
		if len(r.order) > 0 {
			r.at = now.Add(m.c.step(m.ways[r.order[0]].Way))
		}
	}
}

// reason says why a race goes on to a way.
func (m *Machine) reason(w *way) string {
	switch {
	case m.used != nil:
		return m.name(m.used) + " is silent"
	case len(m.race.order) < len(m.ways):
		return "none before it has answered yet"
	case w.Name == m.memory.winner(m.network) && m.network != "":
		return "it worked on this network before"
	}
	return "the first one in order"
}

// pause ends a race; the next one starts after a pause, which doubles as long as no connection is steady.
func (m *Machine) pause(now time.Time) {
	d := double(m.c.RetryMin, m.c.RetryMax, m.race.rounds)
	m.race = race{at: now.Add(m.jitter(d)), soon: now.Add(m.jitter(min(d, m.c.RetryDue))), rounds: min(m.race.rounds+1, 64)}
}

// turn returns when the next race starts. The pauses are long for the sake of those for whom nobody waits.
func (m *Machine) turn() time.Time {
	if m.frames > 0 {
		return earlier(m.race.at, m.race.soon)
	}
	return m.race.at
}

// awaited tells whether an attempt or a test of a way runs.
func (m *Machine) awaited(id WayID) bool {
	return m.ways[id].running() || slices.ContainsFunc(m.paths, func(p *path) bool { return p.way == id && p.ready.IsZero() })
}

// pending tells whether any attempt or test runs, or a path waits to be used.
func (m *Machine) pending() bool {
	return slices.ContainsFunc(m.ways, func(w way) bool { return w.running() }) ||
		slices.ContainsFunc(m.paths, func(p *path) bool { return p.ready.IsZero() || p != m.used && p.usable() })
}

func (m *Machine) dial(id WayID, a attempt, why string, now time.Time) {
	m.ways[id].attempt = a
	m.do(Action{Kind: Dial, Way: id, Why: fmt.Sprintf("%s: %s", m.ways[id].Name, why)})
	m.wake(now.Add(m.c.Dial))
}

func (m *Machine) abandon(id WayID, why string) {
	m.ways[id].attempt = attempt{}
	m.do(Action{Kind: Abandon, Way: id, Why: fmt.Sprintf("%s: %s", m.ways[id].Name, why)})
}

// expire gives up the attempts that take too long.
func (m *Machine) expire(now time.Time) {
	for i := range m.ways {
		if w := &m.ways[i]; w.running() && m.over(w.attempt.since.Add(m.c.Dial), now) {
			why := "no answer for " + ms(m.c.Dial)
			m.abandon(WayID(i), why)
			m.failed(WayID(i), why, now)
		}
	}
}

// failed notes that a way could not be used; the next one need not wait.
func (m *Machine) failed(id WayID, why string, now time.Time) {
	w := &m.ways[id]
	w.attempt = attempt{}
	w.retry = now.Add(double(m.c.PenaltyMin, m.c.PenaltyMax, w.fails))
	w.fails = min(w.fails+1, 64)
	w.fault = why
	if m.race.on {
		m.race.at = now
	}
}

// standby dials a way of another class than that in use, if there is none yet, and none is about to become one.
func (m *Machine) standby(now time.Time) {
	if m.needs() || m.alone || m.fell != nil || m.reserve() != nil {
		return
	}
	for _, id := range m.order(now) {
		w := &m.ways[id]
		switch {
		case w.Class == m.class(m.used):
		case m.awaited(id):
			return
		case !m.has(id) && m.free(w, now):
			m.dial(id, attempt{since: now}, "to stand by for "+m.name(m.used), now)
			return
		}
	}
}

// free tells whether a way may be dialled as a standby; else Next will be called when it may.
func (m *Machine) free(w *way, now time.Time) bool {
	at := later(w.until, w.retry)
	return at.IsZero() || m.over(at, now)
}

// look watches for a while what may be better than what is in use. An idle session waits with that for its next traffic.
func (m *Machine) look(now time.Time) {
	if m.needs() || m.alone || !m.over(m.tick, now) || !m.busy.After(m.seen) {
		return
	}
	m.seen, m.tick = now, now.Add(m.upgrade())
	m.wake(m.tick)
	m.measure()
	for _, p := range m.paths {
		if _, better := m.better(p, m.used); better && p != m.used && p.usable() && p.trial.IsZero() {
			p.trial = now
		}
	}
	for i := range m.ways {
		id, w := WayID(i), &m.ways[i]
		if !w.running() && !m.has(id) && !now.Before(w.until) && m.worth(id) {
			m.dial(id, attempt{since: now, trial: true}, "it may be better than "+m.name(m.used), now)
		}
	}
}

// worth tells whether a way may be better than what is in use, or than what stands by.
func (m *Machine) worth(id WayID) bool {
	if m.rank(id) < m.rank(m.used.way) || m.ways[id].Class == m.class(m.used) {
		return true
	}
	r := m.reserve()
	return r != nil && m.rank(id) < m.rank(r.way)
}

// trim ends what is not needed: attempts of a race that is won, and all paths but that in use, the standby and those on
// trial. A winner has to prove itself first: one that is quick to answer and carries nothing would win each race again.
func (m *Machine) trim(now time.Time) {
	if m.needs() || !m.alone && !m.over(m.since.Add(m.c.Dial), now) {
		return
	}
	keep := m.reserve()
	for i := range m.ways {
		id, w := WayID(i), &m.ways[i]
		if w.running() && (m.alone || !m.wanted(id, keep)) {
			m.abandon(id, m.name(m.used)+" is in use")
		}
	}
	for _, p := range slices.Clone(m.paths) {
		ended := p.usable() && p.trial.IsZero() && p != keep
		if p != m.used && (m.alone || ended) {
			m.drop(p, m.name(m.used)+" is in use")
		}
	}
}

// wanted tells whether the attempt of a way is of use though a path is in use.
func (m *Machine) wanted(id WayID, standby *path) bool {
	w := &m.ways[id]
	return w.attempt.trial || m.rank(id) < m.rank(m.used.way) || w.Class != m.class(m.used) && standby == nil
}
