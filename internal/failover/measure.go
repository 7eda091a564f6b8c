package failover

import (
	"math/bits"
	"slices"
	"time"
)

const (
	leastLate = 100 * time.Millisecond // after which an echo is late, on the fastest line
	firstLate = 250 * time.Millisecond // while no round trip is known
	lostAfter = 2 * time.Second        // an echo that has not come by then never comes
	maxEchoes = 16                     // by one path that are waited for
	samples   = 8                      // round trips of which the least counts
)

// A meter is what echoes have shown of a path.
type meter struct {
	smooth, vary time.Duration // RFC 6298, section 2
	last         [samples]time.Duration
	count        int    // of all samples
	outcomes     uint32 // of the last echoes, the newest in bit 0: 1 is a lost one
	echoes       []echo // not answered, the oldest first
}

// An echo was sent and is waited for.
type echo struct {
	token uint64
	size  int
	at    time.Time
	late  bool
}

func (e *meter) known() bool { return e.count > 0 }

func (e *meter) add(rtt time.Duration) {
	if e.count == 0 {
		e.smooth, e.vary = rtt, rtt/2
	} else {
		e.vary = (3*e.vary + (e.smooth - rtt).Abs()) / 4
		e.smooth = (7*e.smooth + rtt) / 8
	}
	e.last[e.count%samples] = rtt
	e.count++
}

// least returns the least of the last round trips: what waited in a queue on its way says nothing of the line.
func (e *meter) least() time.Duration {
	if e.count == 0 {
		return 0
	}
	return slices.Min(e.last[:min(e.count, samples)])
}

// late returns how long an echo may take.
func (e *meter) late() time.Duration {
	if !e.known() {
		return firstLate
	}
	return max(e.smooth+4*e.vary, leastLate)
}

// loss returns which part of the last echoes was lost.
func (e *meter) loss() float64 {
	if e.count == 0 {
		return 0
	}
	return float64(bits.OnesCount32(e.outcomes)) / 32
}

func (e *meter) outcome(lost uint32) { e.outcomes = e.outcomes<<1 | lost }

// sent notes an echo.
func (e *meter) sent(token uint64, size int, now time.Time) {
	if len(e.echoes) == maxEchoes {
		e.echoes = slices.Delete(e.echoes, 0, 1)
		e.outcome(1)
	}
	e.echoes = append(e.echoes, echo{token: token, size: size, at: now})
}

// answered notes an answer. It returns false for one that is not waited for.
func (e *meter) answered(token uint64, now time.Time) (echo, bool) {
	i := slices.IndexFunc(e.echoes, func(o echo) bool { return o.token == token })
	if i < 0 {
		return echo{}, false
	}
	o := e.echoes[i]
	e.echoes = slices.Delete(e.echoes, i, i+1)
	e.add(now.Sub(o.at))
	e.outcome(0)
	return o, true
}

// expire forgets the echoes that are lost.
func (e *meter) expire(now time.Time) {
	for len(e.echoes) > 0 && now.Sub(e.echoes[0].at) >= max(lostAfter, 4*e.late()) {
		e.echoes = slices.Delete(e.echoes, 0, 1)
		e.outcome(1)
	}
}

// owed returns when the first echo was sent since heard, and how many were; zero: none was.
func (e *meter) owed(heard time.Time) (since time.Time, n int) {
	for _, o := range e.echoes {
		if !o.at.Before(heard) {
			since = earlier(since, o.at)
			n++
		}
	}
	return since, n
}

// awaits tells whether an echo of a size is waited for, and not late.
func (e *meter) awaits(size int) bool {
	return slices.ContainsFunc(e.echoes, func(o echo) bool { return o.size == size && !o.late })
}
