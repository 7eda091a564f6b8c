package session

import (
	"testing"

	"pgregory.net/rapid"

	"ferry/internal/proto"
)

// slow is a Window that remembers everything.
type slow struct {
	base, next uint64
	seen       map[uint64]bool
}

func (s *slow) take(n uint64) bool {
	if n > proto.MaxNumber || n < s.base || s.seen[n] {
		return false
	}
	s.seen[n] = true
	s.next = max(s.next, n+1)
	if s.next > windowSize {
		s.base = max(s.base, s.next-windowSize)
	}
	s.slide()
	return true
}

func (s *slow) giveUp(n uint64) {
	s.base = max(s.base, min(n, s.next))
	s.slide()
}

func (s *slow) slide() {
	for s.seen[s.base] {
		s.base++
	}
}

func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w Window
		s := slow{seen: map[uint64]bool{}}
		jump := rapid.SampledFrom([]uint64{1, 3, 60, 200, 9000, 20000}).Draw(t, "jump")
		for range rapid.IntRange(1, 400).Draw(t, "steps") {
			if rapid.IntRange(0, 20).Draw(t, "what") == 0 {
				n := s.base + rapid.Uint64Range(0, jump).Draw(t, "up to")
				w.GiveUp(n)
				s.giveUp(n)
			} else {
				low := s.next - min(s.next, jump)
				n := rapid.Uint64Range(low, s.next+jump).Draw(t, "n")
				if got, want := w.Take(n), s.take(n); got != want {
					t.Fatalf("frame %d: taken %v, want %v (base %d, next %d)", n, got, want, s.base, s.next)
				}
			}
			if w.Base() != s.base || w.Next() != s.next {
				t.Fatalf("got %d to %d, want %d to %d", w.Base(), w.Next(), s.base, s.next)
			}
		}
	})
}

// Numbers that wrap around would let old frames in again.
func TestWindowEnds(t *testing.T) {
	var w Window
	if w.Take(proto.MaxNumber + 1) {
		t.Error("took a number beyond the last one")
	}
	if !w.Take(proto.MaxNumber) || w.Take(proto.MaxNumber) || w.Take(0) || w.Next() != proto.MaxNumber+1 {
		t.Error("the last number is not taken once")
	}
}

func TestWindowInOrderAllocatesNothing(t *testing.T) {
	var w Window
	n := uint64(0)
	if got := testing.AllocsPerRun(1000, func() { w.Take(n); n++ }); got != 0 {
		t.Errorf("%v allocations", got)
	}
	if w.seen != nil {
		t.Error("a window without a gap holds memory")
	}
}
