package polling

import (
	"math/bits"
	"time"
)

// An asked question may be under way.
type asked struct {
	at   time.Time
	open bool
}

// asking decides how many questions a client keeps under way. It is pure.
//
//	first           next
//	  | open, closed  |        numbers; at most len(ring) apart
type asking struct {
	c           Config
	ring        []asked // by number
	first, next uint32
	open        int // of them

	want     int       // how many are to be under way while something happens
	active   time.Time // when something was sent, or has come, last
	halved   time.Time // when a datagram came last, or want was halved for want of one
	polled   time.Time // when a poll was sent last
	interval time.Duration
	empty    bool // the last answer was

	rtt, vary time.Duration // RFC 9002, section 5.3; rtt 0: not measured
}

// newAsking begins with a number.
func newAsking(c Config, first uint32, now time.Time) *asking {
	size := 1 << bits.Len(uint(max(c.Polls, c.Held)-1))
	return &asking{c: c, ring: make([]asked, size), first: first, next: first, want: c.Least, polled: now, interval: c.IdleMin}
}

func (a *asking) slot(n uint32) *asked { return &a.ring[n&uint32(len(a.ring)-1)] }

// ask takes numbers for n questions, which are sent now, and returns the first. Where there are more than the gateway keeps, it has
// given up the oldest.
func (a *asking) ask(n int, now time.Time) (first uint32) {
	first = a.next
	for range n {
		if a.next-a.first == uint32(len(a.ring)) {
			a.retire()
		}
		*a.slot(a.next) = asked{at: now, open: true}
		a.next++
		a.open++
	}
	return first
}

// sent notes that the next questions have datagrams.
func (a *asking) sent(now time.Time) {
	a.active, a.interval = now, a.c.IdleMin
}

// unsent takes back numbers of questions that were not sent.
func (a *asking) unsent(from, to uint32) {
	for n := from; n != to; n++ {
		a.close(n)
	}
}

// close tells whether a question was under way, and when it was sent.
func (a *asking) close(n uint32) (at time.Time, ok bool) {
	if n-a.first >= a.next-a.first {
		return at, false
	}
	s := a.slot(n)
	if s.open {
		at, ok = s.at, true
		s.open = false
		a.open--
	}
	for a.first != a.next && !a.slot(a.first).open {
		a.first++
	}
	return at, ok
}

// retire gives up the oldest question.
func (a *asking) retire() { a.close(a.first) }

// refused takes the word that there will be no answer. It came at once, so the next polls have to wait: else they are as many as the
// way there and back lets through.
func (a *asking) refused(n uint32) {
	a.close(n)
	a.want = max(a.want-1, a.c.Least)
	a.empty = true
}

// answered takes an answer. To what was never asked there is none: that is an invention, and gives nothing up.
func (a *asking) answered(n uint32, held time.Duration, full bool, now time.Time) {
	if int32(n-a.next) >= 0 {
		return
	}
	at, ok := a.close(n)
	if ok {
		a.measured(now.Sub(at) - held)
	}
	for a.first != a.next && int32(n-a.first) > reorder {
		a.retire()
	}
	switch {
	case !full, held > max(a.rtt, 2*pace):
		a.want = max(a.want-1, a.c.Least)
	case held <= max(a.rtt/4, 5*time.Millisecond):
		a.want = min(a.want+1, a.most())
	}
	if a.empty = !full; full {
		a.active, a.halved, a.interval = now, now, a.c.IdleMin
	}
}

// most is how many polls there may be: datagrams have to find room beside them.
func (a *asking) most() int {
	if a.c.Bound {
		return max(a.c.Polls*3/4, 1)
	}
	return a.c.Polls
}

// room returns how many questions with datagrams may be sent.
func (a *asking) room() int {
	if a.c.Bound {
		return max(a.c.Polls-a.open, 0)
	}
	return maxBatch
}

func (a *asking) measured(rtt time.Duration) {
	rtt = max(rtt, time.Microsecond)
	if a.rtt == 0 {
		a.rtt, a.vary = rtt, rtt/2
		return
	}
	a.vary = (3*a.vary + (a.rtt - rtt).Abs()) / 4
	a.rtt = (7*a.rtt + rtt) / 8
}

// timeout is how long an answer may take that is not held.
func (a *asking) timeout() time.Duration {
	if a.rtt == 0 {
		return max(a.c.Lost, time.Second)
	}
	return max(a.c.Lost, min(a.rtt+4*a.vary, 2*time.Second))
}

// lost is when the oldest question is not waited for any more.
func (a *asking) lost() time.Time {
	return a.slot(a.first).at.Add(max(a.c.Hold, 0) + a.timeout())
}

// due returns how many polls to send now; they are counted when they are asked.
func (a *asking) due(now time.Time) (n int) {
	for a.first != a.next && !now.Before(a.lost()) {
		a.retire()
	}
	for a.want > a.c.Least && now.Sub(a.halved) >= quiet {
		a.want = max(a.want/2, a.c.Least)
		a.halved = a.halved.Add(quiet)
	}
	if a.lively(now) && now.Sub(a.polled) >= a.pause() {
		n = a.want - a.open
	}
	if now.Sub(a.polled) >= a.interval {
		n = max(n, 1)
		a.interval = min(2*a.interval, a.c.IdleMax)
	}
	if n > 0 { // or there would be, and there are enough
		a.polled = now
	}
	return max(min(n, a.most()-a.open), 0)
}

// pause is the least time between polls: none where there is something to fetch.
func (a *asking) pause() time.Duration {
	if a.empty {
		return pace
	}
	return 0
}

// lively tells whether something has happened a moment ago.
func (a *asking) lively(now time.Time) bool { return !a.active.IsZero() && now.Sub(a.active) < lively }

// deadline returns when due is to be asked, if nothing happens before.
func (a *asking) deadline(now time.Time) time.Time {
	at := a.polled.Add(a.interval)
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	if a.first != a.next && (a.lively(now) || a.c.Bound) {
		sooner(a.lost())
	}
	if a.lively(now) && a.open < min(a.want, a.most()) {
		sooner(a.polled.Add(max(a.pause(), haste)))
	}
	if !at.After(now) {
		at = now.Add(haste)
	}
	return at
}
