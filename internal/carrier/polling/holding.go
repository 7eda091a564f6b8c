package polling

import "time"

// A held question waits for something to say.
type held[B any] struct {
	number uint32
	at     time.Time
	back   B
}

// holding are the questions of a client that wait, the oldest first. It is pure.
type holding[B any] struct {
	ring    []held[B] // grows with what is in it
	head, n int

	begun  bool
	newest uint32 // number
	seen   uint64 // bit i: newest - i has come
}

func (h *holding[B]) slot(i int) *held[B] { return &h.ring[(h.head+i)%len(h.ring)] }

// ask takes a question, of which at most most wait. What it returns is to be answered now, without a datagram.
func (h *holding[B]) ask(number uint32, back B, now time.Time, most int) (out held[B], empty bool) {
	if h.again(number) {
		for i := range h.n {
			if s := h.slot(i); s.number == number {
				s.back = back
				return out, false
			}
		}
		return held[B]{number, now, back}, true
	}
	if h.n >= most {
		out, empty = h.pop()
	}
	if h.n == len(h.ring) {
		h.grow(min(max(2*h.n, 4), most))
	}
	h.n++
	*h.slot(h.n - 1) = held[B]{number, now, back}
	return out, empty
}

// far is how far apart numbers are that do not belong together: somebody else has come to this address.
const far = 1 << 16

// again notes a number, and tells whether it has come before. One that is much older than the newest counts as such.
func (h *holding[B]) again(number uint32) bool {
	d := int32(number - h.newest)
	switch {
	case !h.begun || d > far || d < -far:
		h.begun, h.newest, h.seen = true, number, 1
	case d > 0:
		h.newest, h.seen = number, h.seen<<min(d, 64)|1
	case d <= -64 || h.seen&(1<<-d) != 0:
		return true
	default:
		h.seen |= 1 << -d
	}
	return false
}

func (h *holding[B]) grow(size int) {
	ring := make([]held[B], size)
	for i := range h.n {
		ring[i] = *h.slot(i)
	}
	h.ring, h.head = ring, 0
}

// pop takes the oldest question.
func (h *holding[B]) pop() (q held[B], ok bool) {
	if h.n == 0 {
		return q, false
	}
	s := h.slot(0)
	q = *s
	*s = held[B]{}
	h.head, h.n = (h.head+1)%len(h.ring), h.n-1
	return q, true
}

// unpop puts the question back that was popped last.
func (h *holding[B]) unpop(q held[B]) {
	if h.n == len(h.ring) { // others have come meanwhile
		return
	}
	h.head, h.n = (h.head+len(h.ring)-1)%len(h.ring), h.n+1
	*h.slot(0) = q
}

// expired takes the oldest question if it came before a time.
func (h *holding[B]) expired(before time.Time) (q held[B], ok bool) {
	if h.n == 0 || h.slot(0).at.After(before) {
		return q, false
	}
	return h.pop()
}
