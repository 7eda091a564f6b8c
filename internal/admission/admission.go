// Package admission decides who may come in, before a byte of a stranger is read: so many in all, so many
// of one source, so many who have not proven anything yet, so many a second. It is pure but for its lock:
// times come from outside.
//
//	          Enter                    Known                      Leave
//	stranger ───────▶ unknown ───────────────────▶ known ──────────────▶ gone
//	    │                │ Failed: a penalty for the source         ▲
//	    ▼                │ evicted at random, when too many         │
//	 refused, counted    └──────────────────────────────────────────┘
//
// A source is an IPv4 address or an IPv6 /64. Ways without addresses have none, and are bounded in all
// alone.
//
// The rules are:
//
//   - When too many are unknown, one of them has to go, not the one that comes: of a few chosen at random the
//     one that has waited longest, and rather one whose source comes again and again. Whoever proves
//     something does so soon, and is hardly ever hit; who only waits is.
//   - When too many come a second, sources go first that have not come for a while, or have had a client
//     that proved its key.
//   - A source that has, or just had, a client with a key is not penalised: behind its address may be a whole
//     site.
//   - Memory is bounded: what is known of a source is forgotten when it says nothing any more.
package admission

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Limits are those of a Gate. All are positive.
type Limits struct {
	Sessions int // in all
	Plain    int // of them without a key
	Unknown  int // who have not proven anything yet; from half of it on some are evicted

	SourceSessions int
	SourceUnknown  int
	SourceRate     float64 // new ones a second
	SourceBurst    int

	Rate float64 // new ones a second, in all

	Penalty    time.Duration // after FreeFailures; doubles with each failure
	PenaltyMax time.Duration
}

// memory is how long a source counts as one that has just come: until its whole burst is there again.
func (l Limits) memory() time.Duration {
	return time.Duration(float64(l.SourceBurst) / l.SourceRate * float64(time.Second))
}

// FreeFailures of a source have no consequence: people mistype.
const FreeFailures = 5

// maxSources is how many sources are known at a time.
const maxSources = 1 << 16

// A Reason says why a stranger is refused; empty when not. It is the name under which that is counted.
type Reason string

// The reasons.
const (
	Admitted       Reason = ""
	MaxSessions    Reason = "max_sessions"
	PlainSessions  Reason = "plain_sessions"
	SourceSessions Reason = "source_sessions"
	SourceUnknown  Reason = "source_unauthenticated"
	SourceRate     Reason = "source_rate"
	Penalised      Reason = "source_penalty"
	Rate           Reason = "accept_rate"
	Evicted        Reason = "unauthenticated" // there are too many, and this one was chosen
)

// A Gate counts who is inside. It is safe for concurrent use.
type Gate struct {
	mu       sync.Mutex // guards what follows
	l        Limits
	sessions int
	plain    int
	unknown  []*Visit // in no order
	entered  uint64
	sources  map[netip.Prefix]*source
	all      bucket
}

// A source is what is known of one.
type source struct {
	sessions, unknown, known int
	rate                     bucket
	last                     time.Time // when it came
	failures                 int
	failed, penalty          time.Time // the last failure; until when it is refused
	proven                   time.Time // when a client of it proved its key, or the last such one left
}

// A Visit is one connection.
type Visit struct {
	g      *Gate
	key    netip.Prefix
	source *source // nil: none
	evict  func()
	at     int    // index in Gate.unknown; -1: not there
	number uint64 // of all that came
	first  bool   // its source goes first
	plain  bool
	known  bool
	shared bool // it does not count for its source
}

// New returns a gate with nobody inside.
func New(l Limits) *Gate { return &Gate{l: l, sources: map[netip.Prefix]*source{}} }

// SetLimits replaces the limits. Whoever is inside stays.
func (g *Gate) SetLimits(l Limits) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.l = l
}

// Enter admits a stranger from src, which may be invalid, or says why not. evict is called, without a lock
// held, if it has to go before Known was called.
func (g *Gate) Enter(src netip.Addr, now time.Time, evict func()) (*Visit, Reason) {
	v, victim, why := g.enter(src, now, evict)
	if victim != nil {
		victim.evict()
	}
	return v, why
}

func (g *Gate) enter(src netip.Addr, now time.Time, evict func()) (v, victim *Visit, why Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v = &Visit{g: g, evict: evict}
	fresh := true
	if src.IsValid() {
		v.key = sourceOf(src)
		v.source = g.source(v.key, now)
		fresh = now.Sub(v.source.last) >= g.l.memory() || v.source.trusted(g.l, now)
		v.source.last = now
		if why := g.refuse(v.source, now); why != Admitted {
			return nil, nil, why
		}
	}
	if g.sessions >= g.l.Sessions {
		return nil, nil, MaxSessions
	}
	// Half of what may come at once is for those who go first.
	burst := max(int(g.l.Rate), 2)
	reserve := float64(burst) / 2
	if fresh {
		reserve = 0
	}
	if !g.all.take(g.l.Rate, burst, reserve, now) {
		return nil, nil, Rate
	}
	victim = g.overflow()
	g.sessions++
	g.entered++
	v.at, v.number, v.first = len(g.unknown), g.entered, fresh
	g.unknown = append(g.unknown, v)
	if s := v.source; s != nil {
		s.sessions++
		s.unknown++
	}
	return v, victim, Admitted
}

// refuse tells whether a source has had its share.
func (g *Gate) refuse(s *source, now time.Time) Reason {
	switch {
	case now.Before(s.penalty) && !s.trusted(g.l, now):
		return Penalised
	case s.unknown >= g.l.SourceUnknown:
		return SourceUnknown
	case s.sessions >= g.l.SourceSessions:
		return SourceSessions
	case !s.rate.take(g.l.SourceRate, g.l.SourceBurst, 0, now):
		return SourceRate
	}
	return Admitted
}

// overflow takes one of the unknown out: surely when there is no room for another, and from
// half of that on the likelier, the more there are.
func (g *Gate) overflow() *Visit {
	n, early := len(g.unknown), g.l.Unknown/2
	if n < g.l.Unknown && (n <= early || rand.IntN(g.l.Unknown-early) >= n-early) {
		return nil
	}
	v := g.unknown[rand.IntN(n)]
	for range 7 {
		if other := g.unknown[rand.IntN(n)]; other.before(v) {
			v = other
		}
	}
	g.drop(v)
	return v
}

// before tells whether v has to go rather than other.
func (v *Visit) before(other *Visit) bool {
	if v.first != other.first {
		return !v.first
	}
	return v.number < other.number
}

// drop takes v out of the unknown.
func (g *Gate) drop(v *Visit) {
	if v.at < 0 {
		return
	}
	last := g.unknown[len(g.unknown)-1]
	g.unknown[v.at], last.at = last, v.at
	g.unknown = g.unknown[:len(g.unknown)-1]
	v.at = -1
	if v.source != nil {
		v.source.unknown--
	}
}

// Known tells that a client has proven its key, or, plain, that it has an address without one. It returns
// why it can not stay, if so; and Evicted when it had to go before.
func (v *Visit) Known(plain bool, now time.Time) Reason {
	g := v.g
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case v.known:
		return Admitted
	case v.at < 0:
		return Evicted
	case plain && g.plain >= g.l.Plain:
		return PlainSessions
	}
	g.drop(v)
	v.known, v.plain = true, plain
	if plain {
		g.plain++
	}
	if s := v.source; s != nil && !plain {
		s.known++
		s.failures, s.proven = 0, now
	}
	return Admitted
}

// Failed tells that a client has shown a key or a secret that opens nothing.
func (v *Visit) Failed(now time.Time) {
	v.g.mu.Lock()
	defer v.g.mu.Unlock()
	s := v.source
	if s == nil {
		return
	}
	if now.Sub(s.failed) > v.g.l.PenaltyMax {
		s.failures = 0
	}
	s.failures++
	s.failed = now
	if s.failures > FreeFailures {
		s.penalty = now.Add(v.g.l.penalty(s.failures - FreeFailures))
	}
}

// penalty is that for the n-th failure that has one.
func (l Limits) penalty(n int) time.Duration {
	d := min(l.Penalty, l.PenaltyMax)
	for ; n > 1 && d < l.PenaltyMax; n-- {
		d = min(2*d, l.PenaltyMax)
	}
	return d
}

// Forgive ends all penalties: the operator has just made a key or a secret known.
func (g *Gate) Forgive() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.sources {
		s.failures, s.penalty = 0, time.Time{}
	}
}

// Share tells that the connection is one more of a client that is inside already: a source is bounded by its clients, who have
// several each.
func (v *Visit) Share() {
	v.g.mu.Lock()
	defer v.g.mu.Unlock()
	if v.source != nil && v.known && !v.shared {
		v.shared = true
		v.source.sessions--
	}
}

// Leave ends the visit. It is called once.
func (v *Visit) Leave(now time.Time) {
	g := v.g
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drop(v)
	g.sessions--
	if v.plain {
		g.plain--
	}
	if s := v.source; s != nil {
		if !v.shared {
			s.sessions--
		}
		if v.known && !v.plain {
			s.known--
			s.proven = now
		}
	}
}

// Stats are who is inside.
type Stats struct{ Sessions, Plain, Unknown, Sources int }

// Stats returns the counts.
func (g *Gate) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Stats{g.sessions, g.plain, len(g.unknown), len(g.sources)}
}

// source returns what is known of a source, and forgets a few of whom nothing is to be remembered.
func (g *Gate) source(key netip.Prefix, now time.Time) *source {
	s := g.sources[key]
	if s != nil {
		return s
	}
	looked := 0
	for other, o := range g.sources { // begins anywhere
		if o.idle(g.l, now) || len(g.sources) >= maxSources && o.empty() {
			delete(g.sources, other)
		}
		if looked++; looked == 8 {
			break
		}
	}
	s = new(source)
	g.sources[key] = s
	return s
}

// trusted tells whether a source has a client that proved its key, or had one lately.
func (s *source) trusted(l Limits, now time.Time) bool {
	return s.known > 0 || !s.proven.IsZero() && now.Sub(s.proven) < l.PenaltyMax
}

// empty tells whether nobody of a source is inside. A client of whom all connections but shared ones have left is.
func (s *source) empty() bool { return s.sessions == 0 && s.known == 0 }

func (s *source) idle(l Limits, now time.Time) bool {
	return s.empty() && now.Sub(s.failed) > l.PenaltyMax && now.Sub(s.proven) > l.PenaltyMax && now.Sub(s.last) >= l.memory()
}

// sourceOf returns whom an address stands for: one host has as many IPv6 addresses as it likes.
func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// A bucket holds tokens, which come at a rate up to a number.
type bucket struct {
	tokens float64
	at     time.Time // of which tokens is true; zero: the bucket is full
}

// take takes a token, if reserve are left then.
func (b *bucket) take(rate float64, burst int, reserve float64, now time.Time) bool {
	if b.at.IsZero() {
		b.tokens = float64(burst)
	} else if d := now.Sub(b.at); d > 0 {
		b.tokens = min(b.tokens+rate*d.Seconds(), float64(burst))
	}
	b.at = now
	if b.tokens < reserve+1 {
		return false
	}
	b.tokens--
	return true
}
