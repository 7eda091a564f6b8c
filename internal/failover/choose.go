package failover

import (
	"fmt"
	"slices"
	"time"
)

// Which path is in use: by need, and for the better.

// needs tells whether another path has to be found: none is in use, or it is suspect.
func (m *Machine) needs() bool { return m.used == nil || !m.used.suspect.IsZero() }

// choose puts another path into use if it has to be, and ends what a false suspicion has begun.
func (m *Machine) choose(now time.Time) {
	if !m.needs() {
		m.goBack(now)
		return
	}
	p := m.best(func(p *path) bool { return p != m.used })
	if p == nil || m.waits(p, now) {
		return
	}
	u := m.used
	if u == nil {
		m.use(p, Action{Again: m.begun, Why: m.name(p) + " answers"}, now)
		return
	}
	why := fmt.Sprintf("%s is silent for %s", m.name(u), ms(now.Sub(u.heard)))
	if u.moved {
		why = "the network has changed, and " + why
	} else {
		m.punish(u.way, why, now)
	}
	m.use(p, Action{Again: true, Also: u.id, Why: why}, now)
	m.fell, u.left, p.ask = u, true, true
}

// goBack uses the path again that was suspected falsely, unless that would be one change too many; and ends the copy to it.
func (m *Machine) goBack(now time.Time) {
	f := m.fell
	if f == nil || !f.suspect.IsZero() {
		return
	}
	m.fell = nil
	if m.rank(f.way) <= m.rank(m.used.way) && m.mayChange(now) {
		m.change(f, m.name(f)+" answers again", now)
		return
	}
	m.do(Action{Kind: Use, Path: m.used.id, Why: fmt.Sprintf("%s answers again, but %s stays in use", m.name(f), m.name(m.used))})
}

// waits tells whether something better than p, the first path of a race, may still come.
func (m *Machine) waits(p *path, now time.Time) bool {
	if !m.race.on || p.plain || p.ready.Before(m.race.since) {
		return false
	}
	better := func(id WayID) bool { return m.rank(id) < m.rank(p.way) }
	pending := slices.ContainsFunc(m.paths, func(o *path) bool { return o.ready.IsZero() && better(o.way) })
	for id := range m.ways {
		pending = pending || m.ways[id].running() && better(WayID(id))
	}
	return pending && !m.over(p.ready.Add(min(m.c.Better, 2*p.meter.smooth)), now)
}

// use puts a path into use.
func (m *Machine) use(p *path, a Action, now time.Time) {
	m.remember(now)
	m.used, m.since, m.fell, m.begun, m.willing = p, now, nil, true, false
	if p.trial = (time.Time{}); a.Again {
		m.calm = now
	}
	m.tick = now.Add(m.upgrade())
	m.ways[p.way].fault = ""
	a.Kind, a.Path = Use, p.id
	m.do(a)
}

// upgrade returns the time to the next look for something better: 30 s, a tenth more or less.
func (m *Machine) upgrade() time.Duration {
	return m.c.Upgrade*9/10 + time.Duration(m.rand.Int64N(int64(m.c.Upgrade/5)+1))
}

// best returns the usable path of the best class that ok accepts; of several the first one. nil: there is none.
func (m *Machine) best(ok func(*path) bool) (best *path) {
	for _, p := range m.paths {
		if p.usable() && ok(p) && (best == nil || m.rank(p.way) < m.rank(best.way)) {
			best = p
		}
	}
	return best
}

// reserve returns the path that stands by; nil: none does.
func (m *Machine) reserve() *path {
	return m.best(func(p *path) bool { return p != m.used && m.class(p) != m.class(m.used) })
}

// change puts a path into use for the better.
func (m *Machine) change(p *path, why string, now time.Time) {
	m.use(p, Action{Why: why}, now)
	m.chosen, m.willing = now, true
}

// mayChange tells whether a voluntary change is allowed: the last one was long ago, and not too many were mistakes.
func (m *Machine) mayChange(now time.Time) bool {
	if len(m.flaps) == maxFlaps && now.Sub(m.flaps[0]) < m.c.Flap {
		return false
	}
	return m.chosen.IsZero() || now.Sub(m.chosen) >= m.c.Switch
}

// judge puts a path into use that was better for long enough.
func (m *Machine) judge(now time.Time) {
	if m.needs() || m.alone {
		return
	}
	for _, p := range m.paths {
		if p == m.used || !p.usable() {
			continue
		}
		if !p.tried { // it may have come a moment after the race
			p.tried = true
			if m.rank(p.way) < m.rank(m.used.way) {
				p.trial = now
			}
		}
		if !p.trial.IsZero() && m.tested(p, now) {
			return
		}
	}
}

// tested ends the trial of a path when it is time, and tells whether it is used now.
func (m *Machine) tested(p *path, now time.Time) bool {
	clean := m.cleanFor(p)
	if !m.over(later(p.trial, p.clean).Add(clean), now) {
		if m.over(p.trial.Add(3*clean), now) {
			p.trial = time.Time{}
			m.ways[p.way].fault = fmt.Sprintf("it was not without loss for %s", ms(clean))
		}
		return false
	}
	p.trial = time.Time{}
	why, ok := m.better(p, m.used)
	if !ok || !m.mayChange(now) {
		return false
	}
	m.change(p, fmt.Sprintf("%s %s for %s", m.name(p), why, ms(clean)), now)
	return true
}

// cleanFor returns for how long a path must be clean before it is used for the better.
func (m *Machine) cleanFor(p *path) time.Duration { return max(m.c.Clean, m.ways[p.way].penalty) }

// better tells whether and why p is better than u. A better class counts unless u is much faster, and speed alone by half
// as much again: so no two paths are each better than the other. Of carriers that poll the round trip says too little.
func (m *Machine) better(p, u *path) (why string, ok bool) {
	polls := func(p *path) bool { return m.ways[p.way].Polling }
	if p.meter.loss() > u.meter.loss()+0.1 { // that it was clean for a while was luck
		return "", false
	}
	if m.rank(p.way) < m.rank(u.way) {
		return "is of a better class", polls(u) || !faster(u, p, 15, m.c.Faster/2)
	}
	if polls(p) && !polls(u) || !faster(p, u, 30, m.c.Faster) {
		return "", false
	}
	gain := u.meter.least() - p.meter.least()
	return fmt.Sprintf("is %d %% and %s faster", 100*gain/u.meter.least(), ms(gain)), true
}

// faster tells whether p is faster than u by so many percent and by least.
func faster(p, u *path, percent int64, least time.Duration) bool {
	gain := u.meter.least() - p.meter.least()
	return p.meter.known() && gain >= least && 100*int64(gain) >= percent*int64(u.meter.least())
}

// measure decides whether the gateway is near: a datagram carrier gains nothing there, and costs more.
func (m *Machine) measure() {
	rtt, loss := m.used.meter.least(), m.used.meter.loss()
	switch {
	case !m.used.meter.known():
	case rtt < m.c.Near && loss == 0:
		m.near = true
	case rtt > 2*m.c.Near || loss > 0.05: // not at once, or it would go to and fro
		m.near = false
	}
}

// remember notes what works on this network. What was in use for a moment is no winner.
func (m *Machine) remember(now time.Time) {
	if m.used == nil || m.network == "" || now.Sub(m.since) < m.c.Clean {
		return
	}
	m.memory = m.memory.with(Winner{Network: m.network, Way: m.name(m.used), At: now})
}
