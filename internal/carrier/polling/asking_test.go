package polling

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A plainAsking is asking written down plainly: the questions under way, the oldest first.
type plainAsking struct {
	size int
	open []plainAsked
	next uint32
}

type plainAsked struct {
	n  uint32
	at time.Time
}

func (p *plainAsking) ask(n int, now time.Time) {
	for range n {
		p.open = slices.DeleteFunc(p.open, func(q plainAsked) bool { return p.next-q.n >= uint32(p.size) })
		p.open = append(p.open, plainAsked{p.next, now})
		p.next++
	}
}

func (p *plainAsking) close(n uint32) {
	p.open = slices.DeleteFunc(p.open, func(q plainAsked) bool { return q.n == n })
}

func (p *plainAsking) answered(n uint32) {
	p.close(n)
	p.open = slices.DeleteFunc(p.open, func(q plainAsked) bool { return int32(n-q.n) > reorder })
}

func (p *plainAsking) expire(before time.Time) {
	p.open = slices.DeleteFunc(p.open, func(q plainAsked) bool { return !q.at.After(before) })
}

// Whatever happens: what is under way is counted right, there are never more polls than there may be, want has its bounds, and the
// next deadline is neither now nor never.
func TestAsking(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{
			Polls: 1 << rapid.IntRange(2, 6).Draw(t, "polls"), Bound: rapid.Bool().Draw(t, "bound"),
			Hold: rapid.SampledFrom([]time.Duration{-1, 300 * time.Millisecond, 12 * time.Second}).Draw(t, "hold"),
		}
		c.setDefaults()
		now := time.Unix(1_800_000_000, 0)
		first := rapid.SampledFrom([]uint32{0, 1 << 31, 1<<32 - 20}).Draw(t, "first")
		a := newAsking(c, first, now)
		p := &plainAsking{size: len(a.ring), next: first}
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				n := rapid.IntRange(1, 40).Draw(t, "n")
				if n = min(n, a.room()); n > 0 {
					if got, want := a.ask(n, now), p.next; got != want {
						t.Fatalf("the first number is %d, want %d", got, want)
					}
					p.ask(n, now)
				}
				a.sent(now)
			},
			"answer": func(t *rapid.T) {
				n := p.next - uint32(rapid.IntRange(-3, 80).Draw(t, "back"))
				held := time.Duration(rapid.IntRange(0, 200).Draw(t, "held")) * time.Millisecond
				a.answered(n, held, rapid.Bool().Draw(t, "full"), now)
				p.answered(n)
			},
			"lose": func(t *rapid.T) {
				n := p.next - uint32(rapid.IntRange(0, 20).Draw(t, "back"))
				a.unsent(n, n+1)
				p.close(n)
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			},
			"poll": func(t *rapid.T) {
				p.expire(now.Add(-max(c.Hold, 0) - a.timeout()))
				n := a.due(now)
				if len(p.open)+n > max(a.most(), len(p.open)) {
					t.Fatalf("%d polls beside %d questions, of at most %d", n, len(p.open), a.most())
				}
				a.ask(n, now)
				p.ask(n, now)
				if at := a.deadline(now); !at.After(now) || at.Sub(now) > c.IdleMax {
					t.Fatalf("the next deadline is in %v", at.Sub(now))
				}
			},
			"": func(t *rapid.T) {
				if a.open != len(p.open) {
					t.Fatalf("%d questions are under way, want %d", a.open, len(p.open))
				}
				if a.want < c.Least || a.want > a.most() {
					t.Fatalf("%d are wanted, not %d to %d", a.want, c.Least, a.most())
				}
			},
		})
	})
}

// Round trips are measured without the time that questions wait.
func TestRTT(t *testing.T) {
	c := Config{}
	c.setDefaults()
	now := time.Unix(1_800_000_000, 0)
	a := newAsking(c, 7, now)
	for range 20 {
		n := a.ask(1, now)
		now = now.Add(420 * time.Millisecond)
		a.answered(n, 400*time.Millisecond, true, now)
	}
	if a.rtt != 20*time.Millisecond || a.timeout() != 100*time.Millisecond {
		t.Errorf("a round trip of %v, and a timeout of %v", a.rtt, a.timeout())
	}
}
