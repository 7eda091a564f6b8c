package multipath

import (
	"slices"

	"ferry/internal/proto"
)

const (
	// maxPartial is how many frames of a path may be in parts at a time: where each part is a question of its own, through
	// resolvers, they overtake each other.
	maxPartial = 8
	// partialBytes bounds the memory that they take beside the newest one.
	partialBytes = 128 << 10
	// maxHoles is how many pieces of a frame may have come that do not touch.
	maxHoles = 64
)

// A fragments puts frames together. The frame that came to its end last lends its memory to the next one.
//
//	buf   [Headroom][0 .. from) hole [to .. ]      have: what has come, in order, and nothing touches
type fragments struct {
	all   []*partial // the oldest first
	spare *partial   // nil: there is none
}

// A partial is a frame of which some parts have come.
type partial struct {
	number uint64
	len    int
	buf    []byte // Headroom, and the frame as far as it has come
	have   []span
}

// A span is a part of a frame.
type span struct{ from, to int }

// add takes a fragment. It returns the whole frame with Headroom before it, if all parts have come; it is valid until the next call.
func (f *fragments) add(m proto.FragmentMessage) []byte {
	p := f.of(m)
	to := m.Offset + len(m.Part)
	if grow := Headroom + to - len(p.buf); grow > 0 {
		from := len(p.buf)
		p.buf = slices.Grow(p.buf, grow)[:Headroom+to]
		clear(p.buf[from:])
	}
	copy(p.buf[Headroom+m.Offset:], m.Part)
	p.cover(span{m.Offset, to})
	switch {
	case p.have[0] == span{0, p.len}:
		f.remove(p)
		return p.buf
	case len(p.have) > maxHoles:
		f.remove(p)
	}
	return nil
}

// of returns the frame that a fragment is of, or begins it.
func (f *fragments) of(m proto.FragmentMessage) *partial {
	bytes := 0
	for _, p := range f.all {
		if p.number == m.Number && p.len == m.Len {
			return p
		}
		bytes += cap(p.buf)
	}
	for len(f.all) > 0 && (len(f.all) == maxPartial || bytes > partialBytes) { // a part of the oldest was lost
		bytes -= cap(f.all[0].buf)
		f.remove(f.all[0])
	}
	p := f.spare
	if f.spare = nil; p == nil {
		p = new(partial)
	}
	p.number, p.len = m.Number, m.Len
	p.buf, p.have = append(p.buf[:0], make([]byte, Headroom)...), p.have[:0]
	f.all = append(f.all, p)
	return p
}

func (f *fragments) remove(p *partial) {
	f.all = slices.DeleteFunc(f.all, func(o *partial) bool { return o == p })
	f.spare = p
}

// cover notes that a part has come.
func (p *partial) cover(s span) {
	i := 0
	for i < len(p.have) && p.have[i].to < s.from {
		i++
	}
	j := i
	for j < len(p.have) && p.have[j].from <= s.to {
		s.from, s.to = min(s.from, p.have[j].from), max(s.to, p.have[j].to)
		j++
	}
	p.have = slices.Replace(p.have, i, j, s)
}
