package nameserver

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// limits bound what is under way, in all and for one client.
type limits struct {
	mu        sync.Mutex // guards what follows
	all, each int
	total     int
	by        map[netip.Addr]int
}

func newLimits(all, each int) *limits {
	return &limits{all: all, each: each, by: map[netip.Addr]int{}}
}

// enter reserves a place; who got one calls leave.
func (l *limits) enter(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.all || l.by[a] >= l.each {
		return false
	}
	l.total++
	l.by[a]++
	return true
}

func (l *limits) leave(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.by[a]--; l.by[a] == 0 {
		delete(l.by, a)
	}
}

// counters count questions by what became of them.
type counters struct {
	local, forwarded, failed, refused, malformed, busy, stranger atomic.Uint64
}

// Stats returns how many questions there were, by what became of them.
func (s *Server) Stats() map[string]uint64 {
	c := &s.count
	return map[string]uint64{
		"local": c.local.Load(), "forwarded": c.forwarded.Load(), "failed": c.failed.Load(), "refused": c.refused.Load(),
		"malformed": c.malformed.Load(), "busy": c.busy.Load(), "stranger": c.stranger.Load(),
	}
}
