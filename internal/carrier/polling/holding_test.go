package polling

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A plainHolding is holding written down plainly.
type plainHolding struct {
	waiting []held[int]
	seen    map[uint32]bool
	newest  uint32
	begun   bool
}

func (p *plainHolding) ask(number uint32, back int, now time.Time, most int) (out held[int], empty bool) {
	q := held[int]{number, now, back}
	d := int32(number - p.newest)
	if !p.begun || d > far || d < -far {
		p.begun, p.newest, p.seen = true, number, map[uint32]bool{}
	} else if d <= -64 || p.seen[number] {
		for i := range p.waiting {
			if p.waiting[i].number == number {
				p.waiting[i].back = back
				return out, false
			}
		}
		return q, true
	}
	p.seen[number] = true
	if int32(number-p.newest) > 0 {
		p.newest = number
	}
	if len(p.waiting) == most {
		out, empty = p.waiting[0], true
		p.waiting = p.waiting[1:]
	}
	p.waiting = append(p.waiting, q)
	return out, empty
}

func (p *plainHolding) pop() (q held[int], ok bool) {
	if len(p.waiting) == 0 {
		return q, false
	}
	q, p.waiting = p.waiting[0], p.waiting[1:]
	return q, true
}

// Questions wait in order, each once, and no more than may.
func TestHolding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, p := &holding[int]{}, &plainHolding{}
		now := time.Unix(1_800_000_000, 0)
		most := rapid.IntRange(1, 8).Draw(t, "most")
		number := rapid.SampledFrom([]uint32{0, 1<<32 - 5, 1 << 31}).Draw(t, "first")
		back := 0
		t.Repeat(map[string]func(*rapid.T){
			"ask": func(t *rapid.T) {
				number += uint32(rapid.SampledFrom([]int{1, 1, 1, 1, 2, 0, -1, -2, -63, -64, 70, -70, 1 << 20}).Draw(t, "step"))
				back++
				got, gotEmpty := h.ask(number, back, now, most)
				want, wantEmpty := p.ask(number, back, now, most)
				if got != want || gotEmpty != wantEmpty {
					t.Fatalf("ask %d: got %v %v, want %v %v", number, got, gotEmpty, want, wantEmpty)
				}
			},
			"pop": func(t *rapid.T) {
				got, gotOK := h.pop()
				want, wantOK := p.pop()
				if got != want || gotOK != wantOK {
					t.Fatalf("pop: got %v %v, want %v %v", got, gotOK, want, wantOK)
				}
				if gotOK && rapid.Bool().Draw(t, "back") {
					h.unpop(got)
					p.waiting = append([]held[int]{want}, p.waiting...)
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 900).Draw(t, "ms")) * time.Millisecond)
			},
			"expire": func(t *rapid.T) {
				got, gotOK := h.expired(now.Add(-time.Second))
				var want held[int]
				wantOK := len(p.waiting) > 0 && now.Sub(p.waiting[0].at) >= time.Second
				if wantOK {
					want, _ = p.pop()
				}
				if got != want || gotOK != wantOK {
					t.Fatalf("expired: got %v %v, want %v %v", got, gotOK, want, wantOK)
				}
			},
			"": func(t *rapid.T) {
				if h.n != len(p.waiting) || h.n > most {
					t.Fatalf("%d wait, want %d, at most %d", h.n, len(p.waiting), most)
				}
			},
		})
	})
}
