package datagram

import (
	"slices"
	"time"
)

// A segment is a part of a stream that was not acknowledged.
type segment struct {
	offset uint64
	data   []byte
	number uint64    // of the packet that carried it last
	sent   time.Time // when
	times  int       // 0: not yet
	lost   bool      // a later packet came, this one did not
}

func (s *segment) end() uint64 { return s.offset + uint64(len(s.data)) }

// A sending is the sending half of a stream: it keeps what was not acknowledged.
type sending struct {
	segments []segment // in order
	next     uint64    // offset behind all
	bytes    int       // in segments
	progress time.Time // when it began to wait, or heard of its last progress
	backoff  int       // times that the timer has fired without progress
}

// add takes b, in segments of at most size bytes.
func (s *sending) add(b []byte, size int, now time.Time) {
	if len(s.segments) == 0 {
		s.progress = now
	}
	for len(b) > 0 {
		if n := len(s.segments); n > 0 {
			if last := &s.segments[n-1]; last.times == 0 && len(last.data) < size {
				k := min(len(b), size-len(last.data))
				last.data = append(last.data, b[:k]...)
				b = b[k:]
				s.next += uint64(k)
				s.bytes += k
				continue
			}
		}
		k := min(len(b), size)
		s.segments = append(s.segments, segment{offset: s.next, data: append([]byte(nil), b[:k]...)})
		b = b[k:]
		s.next += uint64(k)
		s.bytes += k
	}
}

// split makes segments of at most size bytes of longer ones.
func (s *sending) split(size int) {
	var all []segment
	for _, g := range s.segments {
		for len(g.data) > size {
			rest := g
			rest.offset, rest.data = g.offset+uint64(size), g.data[size:]
			g.data = g.data[:size:size]
			all = append(all, g)
			g = rest
		}
		all = append(all, g)
	}
	s.segments = all
}

// again makes all segments ones that were never sent.
func (s *sending) again() {
	for i := range s.segments {
		s.segments[i].times = 0
	}
}

// due returns the first segment to send now; nil: none.
func (s *sending) due(now time.Time, timeout time.Duration) *segment {
	for i := range s.segments {
		if g := &s.segments[i]; g.times == 0 || g.lost || now.Sub(g.sent) >= timeout {
			return g
		}
	}
	return nil
}

// deadline returns when a segment is due; the zero time: none is.
func (s *sending) deadline(timeout time.Duration) (at time.Time) {
	for i := range s.segments {
		g := &s.segments[i]
		if g.times == 0 {
			continue
		}
		if t := g.sent.Add(timeout); at.IsZero() || t.Before(at) {
			at = t
		}
	}
	return at
}

// acked takes an ack. It returns the round trip that it measures; negative: none.
func (s *sending) acked(a ack, now time.Time) (rtt time.Duration) {
	rtt = -1
	if a.before > s.next || a.n > 0 && a.spans[a.n-1].to > s.next {
		return rtt // of what was never sent
	}
	before := len(s.segments)
	s.segments = slices.DeleteFunc(s.segments, func(g segment) bool {
		if g.times == 0 || !a.has(&g) {
			return false
		}
		if g.number == a.number {
			rtt = now.Sub(g.sent)
		}
		s.bytes -= len(g.data)
		return true
	})
	if len(s.segments) == before {
		return rtt
	}
	s.progress, s.backoff = now, 0
	for i := range s.segments {
		if g := &s.segments[i]; g.times > 0 && g.number+2 < a.number { // three packets later (RFC 9002, section 6.1.1)
			g.lost = true
		}
	}
	return rtt
}

func (a *ack) has(g *segment) bool {
	if g.end() <= a.before {
		return true
	}
	for _, s := range a.spans[:a.n] {
		if s.from <= g.offset && g.end() <= s.to {
			return true
		}
	}
	return false
}

// A piece of a stream has come before what is in front of it.
type piece struct {
	offset uint64
	data   []byte
}

// A receiving is the receiving half of a stream: it puts pieces in order. It holds no more than has come.
type receiving struct {
	ready  []byte // in order, not fetched yet
	next   uint64 // offset behind ready
	pieces []piece
}

// take takes a piece. One that is further ahead than limit bytes is left to be sent again.
func (r *receiving) take(offset uint64, b []byte, limit int) {
	end := offset + uint64(len(b))
	if end <= offset || end <= r.next || end > r.next+uint64(limit) { // it is empty, or ends behind the greatest number
		return
	}
	if offset > r.next {
		r.keep(offset, b)
		return
	}
	r.ready = append(r.ready, b[r.next-offset:]...)
	r.next = end
	for len(r.pieces) > 0 && r.pieces[0].offset <= r.next {
		p := r.pieces[0]
		r.pieces = r.pieces[1:]
		if e := p.offset + uint64(len(p.data)); e > r.next {
			r.ready = append(r.ready, p.data[r.next-p.offset:]...)
			r.next = e
		}
	}
	if len(r.pieces) == 0 {
		r.pieces = nil
	}
}

// keep keeps a piece in its place, unless another one at its offset has as much.
func (r *receiving) keep(offset uint64, b []byte) {
	i, found := slices.BinarySearchFunc(r.pieces, offset, func(p piece, o uint64) int {
		switch {
		case p.offset < o:
			return -1
		case p.offset > o:
			return 1
		}
		return 0
	})
	switch {
	case found && len(r.pieces[i].data) >= len(b):
	case found:
		r.pieces[i].data = append([]byte(nil), b...)
	case len(r.pieces) < maxPieces:
		r.pieces = slices.Insert(r.pieces, i, piece{offset, append([]byte(nil), b...)})
	}
}

// ack returns what to acknowledge with the packet of a number.
func (r *receiving) ack(number uint64) ack {
	a := ack{number: number, before: r.next}
	for _, p := range r.pieces {
		end := p.offset + uint64(len(p.data))
		if a.n > 0 && p.offset <= a.spans[a.n-1].to {
			a.spans[a.n-1].to = max(a.spans[a.n-1].to, end)
			continue
		}
		if a.n == maxSpans {
			break
		}
		a.spans[a.n] = span{p.offset, end}
		a.n++
	}
	return a
}
