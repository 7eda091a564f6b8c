package session

import "ferry/internal/proto"

// windowSize is how many numbers are remembered behind the highest one.
const windowSize = 8192

// A Window tells which frames of one direction have come, whichever carrier brought them, so that each is
// taken once. The zero value expects number 0.
//
//	 taken, or given up      some of these were taken         none of these
//	------------------->|<--------------------------->|<-----------------
//	                   base      at most windowSize  next
type Window struct {
	base, next uint64
	seen       *[windowSize / 64]uint64 // of base to next: bit n % windowSize; nil while there is no gap
}

// Base returns the number before which nothing is waited for.
func (w *Window) Base() uint64 { return w.base }

// Next returns the number behind the highest that came.
func (w *Window) Next() uint64 { return w.next }

// Take tells whether the frame n comes for the first time. What is further back than the window is not
// taken.
func (w *Window) Take(n uint64) bool {
	switch {
	case n > proto.MaxNumber || n < w.base:
		return false
	case n == w.base && n == w.next: // the usual case: all come in order
		w.base++
		w.next++
		return true
	case n < w.next && w.bit(n):
		return false
	}
	w.advance(n + 1)
	w.set(n, true)
	w.slide()
	return true
}

// GiveUp waits no more for what is missing before number n.
func (w *Window) GiveUp(n uint64) {
	w.forget(min(n, w.next))
	w.slide()
}

// advance makes room for numbers before next.
func (w *Window) advance(next uint64) {
	if w.seen == nil {
		w.seen = new([windowSize / 64]uint64)
	}
	if next <= w.next {
		return
	}
	w.next = next
	if next > windowSize {
		w.forget(next - windowSize)
	}
}

// forget moves base up to n.
func (w *Window) forget(n uint64) {
	if n <= w.base {
		return
	}
	if w.seen != nil {
		if n-w.base >= windowSize {
			clear(w.seen[:])
		} else {
			for i := w.base; i < n; i++ {
				w.set(i, false)
			}
		}
	}
	w.base = n
}

// slide moves base over what has come.
func (w *Window) slide() {
	for w.base < w.next && w.bit(w.base) {
		w.set(w.base, false)
		w.base++
	}
}

func (w *Window) bit(n uint64) bool {
	n %= windowSize
	return w.seen != nil && w.seen[n/64]>>(n%64)&1 != 0
}

func (w *Window) set(n uint64, on bool) {
	n %= windowSize
	if w.seen[n/64] &^= 1 << (n % 64); on {
		w.seen[n/64] |= 1 << (n % 64)
	}
}
