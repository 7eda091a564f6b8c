package gateway

import (
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// strangerLines is how many lines a second the log has about those who were not let in, and at once.
const strangerLines = 10

// namedFor is how long a cause counts as named: then it gets a line again, whatever else there is to say.
const namedFor = time.Minute

// A strangerLog has lines that strangers cause: so many of them, and one more for each cause that was not named
// for a while, so that a flood of one kind does not hide another. What is left out is counted, and said in the
// next line about that cause.
type strangerLog struct {
	log   *slog.Logger
	lines *rate.Limiter

	mu     sync.Mutex // guards causes
	causes map[string]*said
}

// said is what was said about a cause. Causes are the program's own, so there are few.
type said struct {
	last time.Time
	left int // out since then
}

func newStrangerLog(log *slog.Logger) *strangerLog {
	return &strangerLog{log: log, lines: rate.NewLimiter(strangerLines, strangerLines), causes: map[string]*said{}}
}

func (l *strangerLog) Info(cause, msg string, attrs ...any) {
	left, ok := l.turn(cause, time.Now())
	if !ok {
		return
	}
	attrs = append(attrs, "cause", cause)
	if left > 0 {
		attrs = append(attrs, "left_out_before", left)
	}
	l.log.Info(msg, attrs...)
}

// turn tells whether there is a line for a cause now, and how many were left out before it.
func (l *strangerLog) turn(cause string, now time.Time) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.causes[cause]
	if s == nil {
		s = new(said)
		l.causes[cause] = s
	}
	if !l.lines.AllowN(now, 1) && now.Sub(s.last) < namedFor {
		s.left++
		return 0, false
	}
	left, s.left, s.last = s.left, 0, now
	return left, true
}
