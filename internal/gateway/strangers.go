package gateway

import (
	"log/slog"
	"sync"

	"golang.org/x/time/rate"
)

// strangerLines is how many lines a second the log has about those who were not let in, and at once.
const strangerLines = 10

// A strangerLog has lines that strangers cause: so many of them, and no more. What is left out is counted,
// and said in the next line.
type strangerLog struct {
	log   *slog.Logger
	lines *rate.Limiter

	mu   sync.Mutex // guards left
	left int
}

func newStrangerLog(log *slog.Logger) *strangerLog {
	return &strangerLog{log: log, lines: rate.NewLimiter(strangerLines, strangerLines)}
}

func (l *strangerLog) Info(msg string, attrs ...any) {
	l.mu.Lock()
	if !l.lines.Allow() {
		l.left++
		l.mu.Unlock()
		return
	}
	left := l.left
	l.left = 0
	l.mu.Unlock()
	if left > 0 {
		attrs = append(attrs, "left_out_before", left)
	}
	l.log.Info(msg, attrs...)
}
