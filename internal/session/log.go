package session

import (
	"math"
	"sort"
	"time"

	"ferry/internal/buffer"
	"ferry/internal/proto"
)

// A Log has the frames of one direction that the other end may not have yet, each with its number: to be
// sent again when the carrier that had them dies. It belongs to one goroutine at a time.
//
//	 acknowledged     kept: [segment][segment][segment]      not kept yet
//	---------------->|<--------------------------------->|<----------------
//	               First                               Next
type Log struct {
	limit    int            // bytes of memory
	budget   *buffer.Budget // shared by all
	segments []segment      // in order, without a gap
	next     uint64
	bytes    int    // of memory
	pinned   uint64 // segments from this number on stay; math.MaxUint64: none
}

// A segment is a block of whole frames with consecutive numbers.
type segment struct {
	block *buffer.Block
	first uint64
	count int
	at    time.Time // when the last one was kept
}

func (s *segment) end() uint64 { return s.first + uint64(s.count) }

// NewLog returns an empty log that takes up to limit bytes, and less when the budget is short.
func NewLog(limit int, budget *buffer.Budget) *Log {
	return &Log{limit: limit, budget: budget, pinned: math.MaxUint64}
}

// Next returns the number that the next frame gets.
func (l *Log) Next() uint64 { return l.next }

// First returns the number of the oldest frame that is kept; Next when there is none.
func (l *Log) First() uint64 {
	if len(l.segments) == 0 {
		return l.next
	}
	return l.segments[0].first
}

// Keep gives numbers to the items of a run, and keeps a copy of them. It returns the number of the first one.
// The oldest are given up when there is no room for all.
func (l *Log) Keep(run []byte, now time.Time) (first uint64) {
	first = l.next
	for len(run) > 0 {
		n := proto.ItemLen(run)
		s := l.room(n, len(run))
		s.block.Append(run[:n])
		s.count++
		s.at = now
		l.next++
		run = run[n:]
	}
	for limit := min(l.limit, l.budget.Share()); l.bytes > limit && l.dropFirst(); {
	}
	return first
}

// room returns the segment that takes the next frame, of n bytes; more is what is to come.
func (l *Log) room(n, more int) *segment {
	if k := len(l.segments); k > 0 {
		if s := &l.segments[k-1]; s.block.Room() >= n {
			return s
		}
	}
	b := l.budget.New(max(n, more))
	l.bytes += b.Cap()
	l.segments = append(l.segments, segment{block: b, first: l.next})
	return &l.segments[len(l.segments)-1]
}

// dropFirst gives up the oldest segment, unless it is in use.
func (l *Log) dropFirst() bool {
	if len(l.segments) == 0 || l.segments[0].end() > l.pinned {
		return false
	}
	s := l.segments[0]
	l.bytes -= s.block.Cap()
	l.budget.Free(s.block)
	l.segments[0] = segment{}
	if l.segments = l.segments[1:]; len(l.segments) == 0 {
		l.segments = nil
	}
	return true
}

// Acked forgets the frames before number next, which the other end has.
func (l *Log) Acked(next uint64) {
	for len(l.segments) > 0 && l.segments[0].end() <= next && l.dropFirst() {
	}
}

// Expire forgets the frames that were kept before t, but for the newest ones in about so many bytes of memory.
func (l *Log) Expire(t time.Time, tail int) {
	for len(l.segments) > 0 && l.segments[0].at.Before(t) && l.bytes-l.segments[0].block.Cap() >= tail && l.dropFirst() {
	}
}

// Pin returns some consecutive frames from number n on, the first of which has the number first, which is
// larger than n where those before were given up. They stay valid until Unpin. There are none when n is
// Next.
func (l *Log) Pin(n uint64) (first uint64, frames []byte) {
	k := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].end() > n })
	if k == len(l.segments) {
		return l.next, nil
	}
	s := &l.segments[k]
	l.pinned = s.first
	first, frames = s.first, s.block.Bytes()
	for first < n {
		frames = frames[proto.ItemLen(frames):]
		first++
	}
	return first, frames
}

// Unpin ends the use of what Pin returned.
func (l *Log) Unpin() { l.pinned = math.MaxUint64 }

// Bytes returns the memory that is in use.
func (l *Log) Bytes() int { return l.bytes }

// Close gives all memory back.
func (l *Log) Close() {
	l.Unpin()
	for l.dropFirst() {
	}
}
