package failover

import (
	"fmt"
	"slices"
	"time"
)

// What happens to the paths: tested, silent, heard again, dead, and how large a packet they carry.

// watch sees what became of a path.
func (m *Machine) watch(p *path, now time.Time) {
	if p.plain {
		return
	}
	p.late(now)
	m.wake(p.nextLate())
	switch {
	case p.ready.IsZero():
		m.test(p, now)
	case !p.suspect.IsZero():
		if p.unanswered >= strikes && m.over(p.asked.Add(p.pace(&m.c)), now) {
			m.leave(p, fmt.Sprintf("%d echoes are unanswered, silent for %s", strikes, ms(now.Sub(p.heard))), now)
		}
	default:
		m.listen(p, now)
	}
}

// test ends the test of a path that answers nothing.
func (m *Machine) test(p *path, now time.Time) {
	if m.over(p.since.Add(m.c.Test), now) {
		m.leave(p, fmt.Sprintf("it was attached, but no echo of %d bytes came back for %s", p.size.now, ms(m.c.Test)), now)
		return
	}
	m.large(p, now)
}

// listen finds a ready path silent, or stalled.
func (m *Machine) listen(p *path, now time.Time) {
	m.ways[p.way].fails = 0
	due := m.owes(p, now)
	if since, n := p.meter.owed(p.heard); n == 1 && m.over(since.Add(p.meter.late()), now) {
		p.ask = true // a single echo may just be lost, too
	}
	silent := m.over(p.silentAt(&m.c, due), now)
	switch {
	case silent && (due.IsZero() || !p.blamed.Equal(m.due)):
		if !due.IsZero() {
			p.blamed = m.due
		}
		m.suspect(p, now)
	case silent, m.over(p.stalledAt(&m.c, m.ways[p.way].Polling, due), now): // it has answered echoes, but moved nothing
		m.leave(p, fmt.Sprintf("it answers, but nothing that was sent is acknowledged for %s", ms(now.Sub(m.due))), now)
	case p.size.missed >= strikes*strikes:
		m.leave(p, fmt.Sprintf("it receives, but %d echoes are unanswered", p.size.missed), now)
	default:
		m.large(p, now)
	}
}

// owes returns since when the traffic has waited for a path; zero: it does not, or so few frames do that they may be lost.
// Then the path is asked once whether it is there, and what it owes is the answer.
func (m *Machine) owes(p *path, now time.Time) time.Time {
	if p != m.used {
		return time.Time{}
	}
	m.over(m.since.Add(m.c.Silence), now) // to see what waited already when it came into use
	if m.frames == 0 {
		return time.Time{}
	}
	due := later(m.due, m.since)
	if m.frames >= strikes {
		return later(due, m.many)
	}
	if from := later(due, p.heard); p.asked.Before(from) && m.over(from.Add(m.c.Silence), now) {
		p.ask = true
	}
	return time.Time{}
}

// suspect asks a path whether it is still there.
func (m *Machine) suspect(p *path, now time.Time) {
	p.suspect, p.clean = now, now
	p.unanswered, p.asked, p.trial = 0, time.Time{}, time.Time{}
	if _, n := p.meter.owed(p.heard); n > 0 {
		p.unanswered = 1
	}
	p.size.pass()
	if p == m.used {
		m.unsettle(now)
	}
}

// heard ends a suspicion.
func (m *Machine) heard(p *path, at, now time.Time) {
	if at.After(now) || !at.After(p.heard) {
		return
	}
	p.heard = at
	if p.suspect.IsZero() || !at.After(p.suspect) {
		return
	}
	p.suspect, p.moved, p.left, p.clean = time.Time{}, false, false, now
	if p == m.used {
		m.calm = now
	}
}

// large finds that large packets are lost while small ones pass, and which size does pass: three in a row are lost at
// full size, then echoes of all sizes go out at once. So it takes a few round trips, not some for each size.
//
//	full          full, small    full, small     all sizes       all sizes       the largest that came back, or
//	 |--- late ------>|--- late ----->|--- late ----->|--- late ----->|--- late -----> once more, or leave
func (m *Machine) large(p *path, now time.Time) {
	z := &p.size
	switch {
	case z.round == 0 && (z.missed < strikes || !z.small):
		return
	case !m.ways[p.way].Datagram: // it could not be told to use smaller ones
		m.leave(p, fmt.Sprintf("small echoes pass, those of %d bytes do not", z.now), now)
		return
	case z.round == 0:
		z.best = 0
	case !m.over(z.until, now):
		return
	case z.round > 1 && p.lower(&m.c, now): // once may be chance
		return
	case z.round == rounds:
		m.leave(p, fmt.Sprintf("small echoes pass, those of %d bytes do not", steps[len(steps)-1]), now)
		return
	}
	z.round++
	z.until = now.Add(p.meter.late())
	for _, size := range z.sizes() {
		m.echo(p, size, now)
	}
}

// size tells the shell what passes.
func (m *Machine) size(p *path) {
	before := p.told
	if p.told = p.size.now; p.told < before {
		m.do(Action{Kind: SetMTU, Path: p.id, Size: p.told, Why: fmt.Sprintf("by %s small packets pass, those of %d bytes are lost", m.name(p), before)})
	} else if p.told > before {
		m.do(Action{Kind: SetMTU, Path: p.id, Size: p.told, Why: fmt.Sprintf("by %s packets of %d bytes pass again", m.name(p), p.told)})
	}
}

// leave closes a path that has failed.
func (m *Machine) leave(p *path, why string, now time.Time) {
	m.do(Action{Kind: Close, Path: p.id, Why: m.name(p) + ": " + why})
	m.gone(p, why, now)
}

// drop closes a path that is not needed.
func (m *Machine) drop(p *path, why string) {
	m.do(Action{Kind: Close, Path: p.id, Why: m.name(p) + ": " + why})
	m.paths = slices.DeleteFunc(m.paths, func(o *path) bool { return o == p })
}

// gone forgets a path that has failed, and remembers that it did.
func (m *Machine) gone(p *path, why string, now time.Time) {
	if p == m.used {
		m.remember(now)
		m.unsettle(now)
		m.used = nil
	}
	if p == m.fell {
		m.fell = nil
	}
	m.paths = slices.DeleteFunc(m.paths, func(o *path) bool { return o == p })
	switch {
	case p.ended:
		m.ways[p.way].fault = why
	case p.ready.IsZero():
		m.failed(p.way, why, now)
	case p.moved || p.left: // the network is to blame; or it is punished already
		m.ways[p.way].fault = why
	default:
		m.punish(p.way, why, now)
	}
}

// punish keeps a way that died, or fell silent, out of consideration for a while; longer each time, until it was fine for long.
func (m *Machine) punish(id WayID, why string, now time.Time) {
	w := &m.ways[id]
	if now.Sub(w.until) >= m.c.PenaltyMax {
		w.deaths = 0
	}
	w.penalty = double(m.c.PenaltyMin, m.c.PenaltyMax, w.deaths)
	w.until = now.Add(w.penalty)
	w.fault = why
	w.deaths = min(w.deaths+1, 64)
}

// unsettle notes that what is in use is in trouble. If it was fine for long, the pauses between attempts begin anew; if it
// was chosen freely a moment ago, that was a mistake.
func (m *Machine) unsettle(now time.Time) {
	if m.willing && now.Sub(m.since) < m.c.Flap {
		m.flaps = append(m.flaps, now)[max(0, len(m.flaps)+1-maxFlaps):]
	}
	m.willing = false
	if now.Sub(m.calm) >= m.c.Steady {
		m.race.rounds, m.race.at = 0, now
	}
	m.calm = now
}

// settle makes all that is known of the network before doubtful, when its change is over.
func (m *Machine) settle(now time.Time) {
	if !m.over(m.settles, now) {
		return
	}
	m.settles = time.Time{}
	for i := range m.ways {
		w := &m.ways[i]
		if w.running() {
			m.abandon(WayID(i), "the network has changed")
		}
		*w = way{Way: w.Way, fault: w.fault}
	}
	for _, p := range slices.Clone(m.paths) {
		switch {
		case p.plain:
		case p.ready.IsZero():
			m.drop(p, "the network has changed")
		default:
			m.suspect(p, now)
			p.moved = true
		}
	}
	m.calm, m.flaps = now, nil
	m.race = race{at: now}
}

// ping sends the echoes that are due.
func (m *Machine) ping(p *path, now time.Time) {
	if !p.plain && p.told != p.size.now {
		m.size(p)
	}
	z := &p.size
	switch {
	case p.plain || z.round > 0:
	case !p.suspect.IsZero():
		if p.unanswered < strikes && (p.asked.IsZero() || m.over(p.asked.Add(p.pace(&m.c)), now)) {
			p.unanswered++
			m.echo(p, smallSize, now)
		}
	case z.missed > 0:
		m.again(p, now)
	case p.ready.IsZero():
		m.try(p, now)
	case p.ask:
		m.echo(p, smallSize, now)
	case !p.trial.IsZero() || p == m.used && m.isBusy(now):
		m.sample(p, now)
	case m.over(later(p.heard, p.asked).Add(m.keepalive(p)), now):
		m.echo(p, smallSize, now)
	}
}

// again repeats a full echo that is late, and a small one with it to see whether that passes.
func (m *Machine) again(p *path, now time.Time) {
	switch {
	case p.meter.awaits(p.size.now):
	case p.size.missed < strikes || m.over(p.sampled.Add(m.c.Busy), now):
		m.echo(p, smallSize, now)
		m.echo(p, p.size.now, now)
	}
}

// try sends the echoes of a test. A stream needs one; on the slowest carriers they are fragments, so they get fewer.
func (m *Machine) try(p *path, now time.Time) {
	if p.tries > 0 && !m.over(p.sampled.Add(firstLate<<(p.tries-1)), now) {
		return
	}
	p.tries++
	m.echo(p, smallSize, now)
	m.echo(p, p.size.now, now)
}

// sample measures a path with full echoes, and tries now and then whether larger ones pass again.
func (m *Machine) sample(p *path, now time.Time) {
	every := m.c.Busy
	if !p.trial.IsZero() {
		every = max(every, m.cleanFor(p)/10) // a long trial needs no more echoes than a short one
	}
	if m.ways[p.way].Polling {
		every *= 5
	}
	if !m.over(p.sampled.Add(every), now) {
		return
	}
	z := &p.size
	if z.now < z.full && !now.Before(z.raise) {
		z.raise = now.Add(double(m.c.Upgrade, m.c.PenaltyMax, z.lowered))
		m.echo(p, z.full, now)
	}
	m.echo(p, z.now, now)
}

func (m *Machine) echo(p *path, size int, now time.Time) {
	m.token++
	p.asked, p.ask = now, false
	if size != smallSize {
		p.sampled = now
	}
	p.meter.sent(m.token, size, now)
	m.do(Action{Kind: Echo, Path: p.id, Size: size, Token: m.token})
}

// isBusy tells whether traffic was due a moment ago.
func (m *Machine) isBusy(now time.Time) bool { return !m.busy.IsZero() && now.Sub(m.busy) < m.c.Busy }

func (m *Machine) keepalive(p *path) time.Duration {
	if p != m.used && m.ways[p.way].Polling {
		return m.c.Idle
	}
	return m.c.Keepalive
}
