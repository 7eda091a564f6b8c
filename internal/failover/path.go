package failover

import (
	"fmt"
	"time"
)

// A PathID names a path; the shell chooses it, never the same one twice. 0 is none.
type PathID uint64

// smallSize is that of an echo which asks only whether somebody is there.
const smallSize = 8

// steps are the sizes that are tried when those of full size do not pass, each 60 bytes and more below an MTU, for what a
// carrier adds: the least one of IPv6; that of old tunnels; the least that every IPv4 host takes.
var steps = [...]int{1220, 940, 500}

const (
	strikes = 3 // echoes in a row that must be lost before something is concluded from it
	rounds  = 3 // of echoes of all sizes, before a path is left
)

// A path is one connection.
type path struct {
	id    PathID
	way   WayID
	since time.Time // Dialed
	ready time.Time // since when it may be used; zero: it is being tested
	plain bool      // the gateway knows no sessions: nothing is sent, keepalive judges it
	meter meter

	heard      time.Time // when the last bytes came
	suspect    time.Time // since when; zero: it is not
	moved      bool      // suspect since the network has changed
	blamed     time.Time // Machine.due when it was suspect last, in use
	ended      bool      // the other end has closed it in good order
	left       bool      // another one is used instead, since it is suspect
	unanswered int       // echoes to the suspect
	clean      time.Time // since when no echo was late
	trial      time.Time // since when it is watched whether it is better; zero: it is not
	ask        bool      // a small echo is due now
	asked      time.Time // when the last echo was sent
	tries      int       // full echoes of the test
	told       int       // size that the shell knows of
	tried      bool      // it was seen whether it is worth a trial
	sampled    time.Time // when the last full echo was sent

	size size
}

// A size is what is known of the largest echo that passes.
type size struct {
	full, now int       // at best; as far as is known
	missed    int       // full echoes in a row that are late
	small     bool      // a small one was answered since the first of them
	round     int       // of echoes of all sizes; 0: they are not sent
	until     time.Time // end of the round
	best      int       // size of the largest one that was answered in these rounds
	lowered   int       // times
	raise     time.Time // when the full size is tried again
}

func (p *path) usable() bool { return !p.ready.IsZero() && p.suspect.IsZero() }

// silentAt returns when the path becomes suspect if nothing is heard; zero: never. due is since when traffic waits.
func (p *path) silentAt(c *Config, due time.Time) time.Time {
	from, _ := p.meter.owed(p.heard)
	if !due.IsZero() && (from.IsZero() || due.Before(from)) {
		from = due
	}
	if from.IsZero() {
		return from
	}
	return later(from, p.heard).Add(max(4*p.meter.smooth, c.Silence))
}

// stalledAt returns when traffic that waits for an acknowledgement has waited too long, though other bytes come. A slow
// line makes progress all the time; only the first answer may take some round trips.
func (p *path) stalledAt(c *Config, polling bool, due time.Time) time.Time {
	if due.IsZero() {
		return due
	}
	least := c.Stall
	if polling {
		least *= 4
	}
	return due.Add(max(8*p.meter.smooth, least))
}

// pace is the time between two echoes to a suspect.
func (p *path) pace(c *Config) time.Duration { return max(2*p.meter.smooth, c.Pace) }

// answered notes the answer to an echo.
func (p *path) answered(e echo, now time.Time) {
	z := &p.size
	switch {
	case e.size == smallSize:
		z.small = z.small || z.missed > 0
	case z.round > 0:
		z.best = max(z.best, e.size)
		if e.size == z.now { // it passes after all
			z.pass()
			p.pass(now)
		}
	case e.size >= z.now: // larger: it passes again
		z.now = e.size
		z.pass()
		p.pass(now)
	}
}

// pass ends the test.
func (p *path) pass(now time.Time) {
	if p.ready.IsZero() {
		p.ready, p.clean = now, now
	}
}

// late notes which echoes are late.
func (p *path) late(now time.Time) {
	limit := p.meter.late()
	for i := range p.meter.echoes {
		e := &p.meter.echoes[i]
		if e.late || now.Sub(e.at) < limit {
			continue
		}
		e.late = true
		p.clean = now
		if e.size == p.size.now && p.size.round == 0 && p.suspect.IsZero() {
			p.size.missed++
		}
	}
	p.meter.expire(now)
}

// nextLate returns when the next echo is late or lost; zero: none is waited for.
func (p *path) nextLate() (at time.Time) {
	for _, e := range p.meter.echoes {
		t := e.at.Add(p.meter.late())
		if e.late {
			t = e.at.Add(max(lostAfter, 4*p.meter.late()))
		}
		at = earlier(at, t)
	}
	return at
}

// lower ends the rounds of echoes of all sizes. It returns false when none but small ones pass.
func (p *path) lower(c *Config, now time.Time) bool {
	z := &p.size
	if z.best == 0 {
		return false
	}
	z.now = z.best
	z.pass()
	z.raise = now.Add(double(c.Upgrade, c.PenaltyMax, z.lowered))
	z.lowered++
	p.pass(now)
	return true
}

// pass forgets what was late.
func (z *size) pass() { z.missed, z.small, z.round = 0, false, 0 }

// sizes returns those of the echoes of a round.
func (z *size) sizes() []int {
	all := []int{z.now}
	for _, s := range steps {
		if s < z.now {
			all = append(all, s)
		}
	}
	return all
}

// state says in a word how the path does.
func (p *path) state(used bool) string {
	switch {
	case used && !p.suspect.IsZero():
		return "in use, suspect"
	case used:
		return "in use"
	case !p.suspect.IsZero():
		return "suspect"
	case p.ready.IsZero():
		return "testing"
	case !p.trial.IsZero():
		return "on trial"
	}
	return "standby"
}

// ms writes a time for people.
func ms(d time.Duration) string {
	switch {
	case d <= 0:
		return ""
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < 2*time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// earlier returns the earlier one of two times; a zero one does not count.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
