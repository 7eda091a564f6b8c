package router

import "time"

const (
	// latelyTime is what "lately" means: more may wait for a stream than its limit, if it took that much in this time. (A fixed number of bytes is too little
	// for one that takes 1 GB/s and whose writer the kernel wakes a millisecond late, and much for one that takes 1 MB/s.)
	latelyTime = 2 * time.Millisecond
	// maxLately is how many times the limit may wait at most.
	maxLately = 8
)

// A lately counts what a stream took in the last one or two latelyTimes.
type lately struct {
	since       time.Time // when now began
	now, before int       // bytes, before being those of the latelyTime before now's
}

func (l *lately) turn(now time.Time) {
	d := now.Sub(l.since)
	if d < latelyTime {
		return
	}
	l.since, l.before, l.now = now, l.now, 0
	if d >= 2*latelyTime {
		l.before = 0
	}
}

// add counts n bytes.
func (l *lately) add(n int, now time.Time) {
	l.turn(now)
	l.now += n
}

// bytes returns what was counted in a latelyTime.
func (l *lately) bytes(now time.Time) int {
	l.turn(now)
	return max(l.now, l.before)
}
