package admission

import "testing"

// New limits hold for who comes; who is inside stays.
func TestSetLimits(t *testing.T) {
	g := newGate(t, func(l *Limits) { l.Sessions = 2 })
	a, b := g.admit(src(1)), g.admit(src(2))
	g.want(src(3), MaxSessions)
	more, fewer := limits, limits
	more.Sessions, fewer.Sessions = 3, 1
	g.SetLimits(more)
	c := g.admit(src(3))
	g.SetLimits(fewer)
	g.want(src(4), MaxSessions)
	if s := g.Stats(); s.Sessions != 3 || g.evicted != 0 {
		t.Errorf("got %+v, %d evicted; want all three inside", s, g.evicted)
	}
	for _, v := range []*Visit{a, b, c} {
		v.Leave(g.now)
	}
	g.admit(src(4)).Leave(g.now)
}
