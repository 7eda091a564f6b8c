package admission

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	limits = Limits{
		Sessions: 1000, Plain: 500, Unknown: 256, SourceSessions: 32, SourceUnknown: 16, SourceRate: 10, SourceBurst: 30,
		Rate: 500, Penalty: 5 * time.Second, PenaltyMax: 10 * time.Minute,
	}
	start = time.Unix(1_000_000, 0)
)

func src(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}) }

// gate is a Gate with a clock.
type gate struct {
	*Gate
	t       *testing.T
	now     time.Time
	evicted int
}

func newGate(t *testing.T, change func(*Limits)) *gate {
	l := limits
	if change != nil {
		change(&l)
	}
	return &gate{Gate: New(l), t: t, now: start}
}

func (g *gate) enter(a netip.Addr) (v *Visit, why Reason) {
	v, why = g.Enter(a, g.now, func() { g.evicted++; v.Leave(g.now) })
	return v, why
}

func (g *gate) admit(a netip.Addr) *Visit {
	g.t.Helper()
	v, why := g.enter(a)
	if why != Admitted {
		g.t.Fatalf("refused: %s", why)
	}
	return v
}

func (g *gate) want(a netip.Addr, want Reason) {
	g.t.Helper()
	v, why := g.enter(a)
	if why != want {
		g.t.Errorf("got %q, want %q", why, want)
	}
	if v != nil {
		v.Leave(g.now)
	}
}

func TestSource(t *testing.T) {
	g := newGate(t, nil)
	var visits []*Visit
	for range 16 {
		visits = append(visits, g.admit(src(1)))
	}
	g.want(src(1), SourceUnknown)
	g.want(src(2), Admitted)
	for _, v := range visits {
		if why := v.Known(false, g.now); why != Admitted {
			t.Fatal(why)
		}
	}
	for range 14 {
		g.admit(src(1)).Known(false, g.now)
	}
	g.want(src(1), SourceRate) // 30 of the burst
	g.now = g.now.Add(200 * time.Millisecond)
	g.admit(src(1)).Known(false, g.now)
	g.admit(src(1)).Known(false, g.now)
	g.want(src(1), SourceSessions)
	for _, v := range visits {
		v.Leave(g.now)
	}
	g.now = g.now.Add(100 * time.Millisecond)
	g.want(src(1), Admitted)
}

func TestSourceOf(t *testing.T) {
	for a, want := range map[string]string{
		"192.168.0.1": "192.168.0.1/32", "::ffff:192.168.0.1": "192.168.0.1/32",
		"2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := sourceOf(netip.MustParseAddr(a)); got.String() != want {
			t.Errorf("%s: got %s, want %s", a, got, want)
		}
	}
}

func TestInAll(t *testing.T) {
	g := newGate(t, func(l *Limits) { l.Sessions, l.Plain = 3, 1 })
	plain, other, keyed := g.admit(src(1)), g.admit(src(2)), g.admit(src(3))
	g.want(src(4), MaxSessions)
	if why := plain.Known(true, g.now); why != Admitted {
		t.Error(why)
	}
	if why := other.Known(true, g.now); why != PlainSessions {
		t.Errorf("the second without a key: got %q, want %q", why, PlainSessions)
	}
	if why := keyed.Known(false, g.now); why != Admitted {
		t.Error(why)
	}
	plain.Leave(g.now)
	if why := other.Known(true, g.now); why != Admitted {
		t.Error(why)
	}
	g.want(netip.Addr{}, Admitted)
}

// Who only waits is evicted by those who come; who proves something stays.
// exam: R1
func TestEviction(t *testing.T) {
	g := newGate(t, nil)
	evicted := 0
	for i := range 3200 { // 200 sources with 16 each
		g.now = g.now.Add(10 * time.Millisecond)
		if _, why := g.enter(src(i % 200)); why != Admitted {
			t.Fatal(i, why)
		}
		if i == 100 {
			evicted = g.evicted
		}
		if n := g.Stats().Unknown; n > 256 {
			t.Fatalf("%d are unknown", n)
		}
	}
	if evicted != 0 || g.evicted < 3200-256 {
		t.Errorf("evicted %d of the first 100, and %d in all", evicted, g.evicted)
	}
	// A client that proves its key before the next five have come.
	lost := 0
	for i := range 1000 {
		g.now = g.now.Add(10 * time.Millisecond)
		v := g.admit(src(1000 + i))
		for j := range 5 {
			g.now = g.now.Add(2 * time.Millisecond)
			_, _ = g.enter(src(3000 + (5*i+j)%500))
		}
		if v.Known(false, g.now) == Evicted {
			lost++ // and has left
		} else {
			v.Leave(g.now)
		}
	}
	if lost > 0 {
		t.Errorf("%d of 1000 were evicted", lost)
	}
}

// The same for clients that mean well on lines of 100 ms, while 2,000 connections a second come.
// exam: R7
func TestSlowLines(t *testing.T) {
	g := newGate(t, func(l *Limits) { l.Sessions = 10_000 })
	type client struct {
		v   *Visit
		due time.Time
	}
	var waiting []client
	tried, lost := 0, 0
	for ms := range 30_000 {
		g.now = g.now.Add(time.Millisecond)
		_, _ = g.enter(src(2 * ms % 200))
		_, _ = g.enter(src((2*ms + 1) % 200))
		if ms%50 == 0 && ms > 5000 {
			tried++
			if v, why := g.enter(netip.AddrFrom4([4]byte{203, byte(tried >> 8), byte(tried), 1})); why == Admitted {
				waiting = append(waiting, client{v, g.now.Add(300 * time.Millisecond)})
			} else {
				lost++
			}
		}
		for len(waiting) > 0 && !g.now.Before(waiting[0].due) {
			if v := waiting[0].v; v.Known(false, g.now) == Admitted {
				v.Leave(g.now)
			} else {
				lost++
			}
			waiting = waiting[1:]
		}
	}
	if 100*lost > tried {
		t.Errorf("%d of %d clients that mean well were kept out, want at most 1 %%", lost, tried)
	}
}

// A penalty grows up to its end, whatever the numbers.
func TestPenaltyGrows(t *testing.T) {
	l := Limits{Penalty: 3 * time.Hour, PenaltyMax: 24 * time.Hour}
	for n, want := range map[int]time.Duration{1: 3 * time.Hour, 2: 6 * time.Hour, 4: 24 * time.Hour, 1000: 24 * time.Hour} {
		if got := l.penalty(n); got != want {
			t.Errorf("failure %d: got %s, want %s", n, got, want)
		}
	}
}

// In a flood those go first who have not come for a while.
// exam: R7
func TestRate(t *testing.T) {
	g := newGate(t, func(l *Limits) { l.Unknown, l.Sessions = 100_000, 100_000 })
	admitted, refused := 0, 0
	for i := range 20_000 { // 2,000 a second for 10 s, of 200 sources
		g.now = g.now.Add(500 * time.Microsecond)
		if v, why := g.enter(src(i % 200)); why == Admitted {
			admitted++
			v.Leave(g.now)
		} else if refused++; why != Rate {
			t.Fatal(why)
		}
		if i%200 == 0 {
			g.want(src(10_000+i), Admitted) // for the first time
		}
		if i%400 == 0 { // again and again, as devices behind one address do
			if v, why := g.enter(src(5000)); why != Admitted {
				t.Errorf("a source that proved a key: %s", why)
			} else {
				v.Known(false, g.now)
				v.Leave(g.now)
			}
		}
	}
	if admitted > 5600 || admitted < 4800 {
		t.Errorf("admitted %d in 10 s, want about 5000", admitted)
	}
}

// Guessing costs a source ever more time; a site with a device that is known goes on.
// exam: A2
func TestPenalty(t *testing.T) {
	g := newGate(t, nil)
	fail := func() {
		t.Helper()
		v := g.admit(src(1))
		v.Failed(g.now)
		v.Leave(g.now)
	}
	for range FreeFailures {
		fail()
	}
	g.want(src(1), Admitted)
	for _, seconds := range []int{5, 10, 20, 40, 80, 160, 320, 600, 600} {
		fail()
		g.now = g.now.Add(time.Duration(seconds)*time.Second - time.Millisecond)
		g.want(src(1), Penalised)
		g.want(src(2), Admitted)
		g.now = g.now.Add(time.Millisecond)
	}
	fail()
	g.now = g.now.Add(600 * time.Second)
	fail()
	g.want(src(1), Penalised)
	g.Forgive()
	g.want(src(1), Admitted)
	known := g.admit(src(1))
	known.Known(false, g.now)
	for range 2 * FreeFailures {
		fail()
		g.now = g.now.Add(time.Second)
	}
	known.Leave(g.now)
	g.want(src(1), Admitted) // its line may have failed for a moment
	g.now = g.now.Add(20 * time.Minute)
	for range FreeFailures {
		fail()
	}
	g.want(src(1), Admitted)
}

// What is known of sources is forgotten, and there are never more than so many.
func TestSourcesAreForgotten(t *testing.T) {
	g := newGate(t, func(l *Limits) { l.Rate = 1e9; l.Sessions = 1e9 })
	for i := range maxSources + 1000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		v := g.admit(a)
		v.Failed(g.now) // remembered for long
		v.Leave(g.now)
	}
	if n := g.Stats().Sources; n > maxSources {
		t.Errorf("%d sources are known", n)
	}
	g.now = g.now.Add(time.Hour)
	for i := range maxSources {
		g.admit(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})).Leave(g.now)
		g.now = g.now.Add(time.Millisecond)
	}
	if n := g.Stats().Sources; n > 20_000 {
		t.Errorf("%d sources are known, most of which have long been idle", n)
	}
}

// Whatever happens in whatever order, the counts are those of who is inside.
// exam: P13
func TestCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := New(Limits{
			Sessions: 12, Plain: 4, Unknown: 6, SourceSessions: 5, SourceUnknown: 3, SourceRate: 100, SourceBurst: 100,
			Rate: 1000, Penalty: time.Second, PenaltyMax: time.Minute,
		})
		now := start
		var inside []*Visit
		evicted := map[*Visit]bool{}
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			now = now.Add(10 * time.Millisecond)
			switch op := rapid.IntRange(0, 4).Draw(t, "op"); {
			case op < 2:
				var v *Visit
				var why Reason
				v, why = g.Enter(src(rapid.IntRange(0, 3).Draw(t, "source")), now, func() { evicted[v] = true })
				if why == Admitted {
					inside = append(inside, v)
				}
			case len(inside) == 0:
			default:
				i := rapid.IntRange(0, len(inside)-1).Draw(t, "visit")
				v := inside[i]
				switch op {
				case 2:
					if why := v.Known(rapid.Bool().Draw(t, "plain"), now); (why == Evicted) != evicted[v] {
						t.Fatalf("got %q, evicted %v", why, evicted[v])
					}
				case 3:
					v.Failed(now)
				case 4:
					v.Leave(now)
					inside = append(inside[:i], inside[i+1:]...)
				}
			}
			check(t, g, inside)
		}
	})
}

func check(t *rapid.T, g *Gate, inside []*Visit) {
	plain, unknown := 0, 0
	by := map[*source]*source{}
	for _, v := range inside {
		s := by[v.source]
		if s == nil {
			s = new(source)
			by[v.source] = s
		}
		s.sessions++
		switch {
		case v.plain:
			plain++
		case v.known:
			s.known++
		case v.at >= 0:
			unknown++
			s.unknown++
		}
	}
	if got, want := g.Stats(), (Stats{len(inside), plain, unknown, len(g.sources)}); got != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	for s, want := range by {
		if got := fmt.Sprint(s.sessions, s.unknown, s.known); got != fmt.Sprint(want.sessions, want.unknown, want.known) {
			t.Fatalf("source: got %s, want %d %d %d", got, want.sessions, want.unknown, want.known)
		}
	}
	if plain > g.l.Plain || unknown > g.l.Unknown || len(inside) > g.l.Sessions {
		t.Fatalf("%d plain, %d unknown, %d in all", plain, unknown, len(inside))
	}
}

// A source is bounded by its clients, not by the connections that each has.
func TestShare(t *testing.T) {
	g := newGate(t, func(l *Limits) { l.SourceSessions = 3; l.SourceBurst = 100 })
	var all []*Visit
	for range 2 {
		for path := range 5 {
			v := g.admit(src(1))
			v.Known(false, g.now)
			if path > 0 {
				v.Share()
				v.Share()
			}
			all = append(all, v)
		}
	}
	unknown := g.admit(src(1))
	unknown.Share() // who has proven nothing is no client
	g.want(src(1), SourceSessions)
	if got := g.Stats().Sessions; got != 11 {
		t.Errorf("%d are inside, want 11", got)
	}
	for _, v := range append(all, unknown) {
		v.Leave(g.now)
	}
	for range 3 {
		g.admit(src(1))
	}
	g.want(src(1), SourceSessions)
}

// A source is not forgotten while a client of it is inside, though none of its connections counts for it.
func TestSharedSourceIsKept(t *testing.T) {
	g := newGate(t, nil)
	v := g.admit(src(1))
	v.Known(false, g.now)
	v.Share()
	for i := range 1000 {
		g.now = g.now.Add(time.Minute)
		g.admit(src(i + 2)).Leave(g.now)
	}
	for range FreeFailures + 1 {
		stranger := g.admit(src(1))
		stranger.Failed(g.now)
		stranger.Leave(g.now)
	}
	g.want(src(1), Admitted)
}
