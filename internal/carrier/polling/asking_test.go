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
				if int32(n-p.next) < 0 {
					p.answered(n)
				}
			},
			"refuse": func(t *rapid.T) {
				n := p.next - uint32(rapid.IntRange(0, 20).Draw(t, "back"))
				a.refused(n)
				p.close(n)
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

// A resolver that says at once, to each question, that there is no answer (SERVFAIL) is not asked as fast as it can say so.
func TestRefusedAtOnce(t *testing.T) {
	c := Config{Polls: 32, Bound: true, Hold: 300 * time.Millisecond}
	c.setDefaults()
	now := time.Unix(1_800_000_000, 0)
	a := newAsking(c, 7, now)
	for range c.Polls { // something was downloaded before
		a.answered(a.ask(1, now), 0, true, now)
	}
	a.sent(now)
	asked := 0
	for end := now.Add(time.Second); now.Before(end); now = now.Add(time.Millisecond) {
		n := a.due(now)
		asked += n
		for first := a.ask(n, now); n > 0; n-- {
			a.refused(first)
			first++
		}
	}
	if most := 10 * c.Polls; asked > most {
		t.Errorf("%d questions in a second, want %d at most", asked, most)
	}
}

// An answer to a question that was never asked is somebody else's invention: what is under way stays, and no more is asked for it.
func TestInventedAnswers(t *testing.T) {
	c := Config{Polls: 1024}
	c.setDefaults()
	now := time.Unix(1_800_000_000, 0)
	a := newAsking(c, 7, now)
	first := a.ask(8, now)
	for i := range uint32(1000) {
		a.answered(first+1000+i, 0, true, now)
	}
	if a.open != 8 || a.want != c.Least {
		t.Errorf("%d questions are under way, and %d are wanted", a.open, a.want)
	}
}
