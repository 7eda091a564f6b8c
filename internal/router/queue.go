package router

import (
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/packet"
	"ferry/internal/proto"
)

// A Stream is what a Queue writes to: carrier.Stream.
type Stream interface {
	// TryWrite writes what can be taken without waiting and returns how much that was.
	TryWrite(b []byte) (int, error)
	// Write writes all of b and calls progress whenever a part was taken.
	Write(b []byte, progress func()) error
}

// A Budget bounds the memory of all queues together. The zero value bounds nothing.
type Budget struct {
	Limit int // bytes; 0: none
	used  atomic.Int64
}

// Used returns the bytes that queues hold now.
func (b *Budget) Used() int { return int(b.used.Load()) }

func (b *Budget) full() bool { return b.Limit > 0 && b.used.Load() >= int64(b.Limit) }

// QueueConfig is what a Queue is made of.
type QueueConfig struct {
	Limit  int     // bytes that may wait
	Budget *Budget // shared by all queues
}

// A Queue is the only way out to a peer. Whoever finds it empty writes at once, without waiting;
// what is left over, and what comes while somebody writes, waits in blocks for the goroutine that
// runs Run.
//
// States, guarded by mu:
//
//	           Send, TryWrite took all
//	  +--------------------------------+
//	  v                                |
//	idle --Send--> writing (by a sender, or by Run) --took a part--> waiting --Run--> writing
type Queue struct {
	c QueueConfig
	s Stream

	onePerWrite bool // set before anything is sent

	mu      sync.Mutex
	writing bool // somebody is in TryWrite or Write
	blocks  []*block
	bytes   int  // in blocks, and in those that Run took
	last    bool // nothing more is taken; Run returns when all is written
	closed  bool // what waits is lost; implies last

	wake chan struct{} // capacity 1; sent to by senders: there are blocks for Run
	room chan struct{} // capacity 1; sent to by Run: bytes went down
	done chan struct{} // closed by Close

	onProgress func() // progress, bound once

	start   time.Time    // has the monotonic clock
	blocked atomic.Int64 // since when Run makes no progress: nanoseconds since start, plus 1; 0: it does
}

// NewQueue returns an empty queue in front of s.
func NewQueue(s Stream, c QueueConfig) *Queue {
	q := &Queue{
		c: c, s: s, start: time.Now(),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1), done: make(chan struct{}),
	}
	q.onProgress = q.progress
	return q
}

// OnePerWrite gives each packet a write of its own: a 2013 peer takes one read for one packet. It is
// called before anything is sent.
func (q *Queue) OnePerWrite(on bool) { q.onePerWrite = on }

// Send implements Sender.
func (q *Queue) Send(run []byte) (int, Reason) {
	if !q.begin() {
		return q.enqueue(run)
	}
	n, err := q.try(run)
	if err != nil {
		q.end(nil, 0)
		return countItems(run[n:]), DropClosed // the reading goroutine sees the error too, and closes
	}
	return q.end(run, n)
}

// SendControl sends a control packet or frame. Where Send would drop, it waits until there is room:
// a peer whose answers nobody takes is not read from. It returns false when the queue was closed.
func (q *Queue) SendControl(b []byte) bool {
	if q.begin() {
		n, err := q.try(b)
		if err != nil {
			q.end(nil, 0)
			return false
		}
		if dropped, _ := q.end(b, n); dropped == 0 {
			return true
		}
	}
	for {
		q.mu.Lock()
		if q.last {
			q.mu.Unlock()
			return false
		}
		if q.bytes == 0 || q.bytes+len(b) <= q.c.Limit {
			q.push(b)
			writing := q.writing
			q.mu.Unlock()
			if !writing {
				notify(q.wake)
			}
			return true
		}
		q.mu.Unlock()
		select {
		case <-q.room:
		case <-q.done:
			return false
		}
	}
}

// Run writes what waits, until Close or Finish. It returns the error of the stream, or nil.
func (q *Queue) Run() error {
	for {
		select {
		case <-q.wake:
		case <-q.done:
			return nil
		}
		if err := q.drain(); err != nil {
			return err
		}
		if q.finished() {
			q.Close()
			return nil
		}
	}
}

func (q *Queue) finished() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.last && !q.writing && len(q.blocks) == 0
}

// Finish takes b as the last thing to send: Run returns when it is written, as after Close.
func (q *Queue) Finish(b []byte) {
	q.mu.Lock()
	if !q.last {
		q.last = true
		q.push(b)
	}
	q.mu.Unlock()
	notify(q.wake)
}

// Close makes Run return and drops what waits. It does not close the stream.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.last, q.closed = true, true
	close(q.done)
	for _, b := range q.blocks {
		q.c.Budget.free(b)
	}
	q.blocks = nil
}

// Queued returns how many bytes wait.
func (q *Queue) Queued() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// Blocked returns since when bytes wait and none is taken; the zero time when that is not so.
func (q *Queue) Blocked() time.Time {
	if ns := q.blocked.Load(); ns != 0 {
		return q.start.Add(time.Duration(ns - 1))
	}
	return time.Time{}
}

// begin makes the caller the one who writes, if nobody does and nothing waits.
func (q *Queue) begin() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.writing || q.last || len(q.blocks) > 0 {
		return false
	}
	q.writing = true
	return true
}

// end hands what was not taken of run, from its byte n on, to Run: in front of what came meanwhile.
// The item that was cut has to be completed; those behind it wait as far as there is room.
func (q *Queue) end(run []byte, n int) (dropped int, why Reason) {
	q.mu.Lock()
	q.writing = false
	if n < len(run) && !q.closed {
		keep := wholeItem(run, n)
		keep += wholeItems(run[keep:], q.c.Limit-q.bytes-(keep-n))
		later := q.blocks
		q.blocks = nil
		q.push(run[n:keep])
		q.blocks = append(q.blocks, later...)
		if dropped = countItems(run[keep:]); dropped > 0 {
			why = DropQueueFull
		}
	}
	waiting := len(q.blocks) > 0
	q.mu.Unlock()
	if waiting {
		notify(q.wake)
	}
	return dropped, why
}

// enqueue lets whole items wait as far as there is room.
func (q *Queue) enqueue(run []byte) (int, Reason) {
	q.mu.Lock()
	n, why := len(run), None
	switch room := q.c.Limit - q.bytes; {
	case q.last:
		n, why = 0, DropClosed
	case q.c.Budget.full():
		n, why = 0, DropMemory
	case n > room:
		n, why = wholeItems(run, room), DropQueueFull
	}
	q.push(run[:n])
	wake := !q.writing && len(q.blocks) > 0
	q.mu.Unlock()
	if wake {
		notify(q.wake)
	}
	return countItems(run[n:]), why
}

// push copies b into blocks. The caller holds mu.
func (q *Queue) push(b []byte) {
	q.bytes += len(b)
	for len(b) > 0 {
		var last *block
		if n := len(q.blocks); n > 0 && q.blocks[n-1].room() > 0 {
			last = q.blocks[n-1]
		} else {
			last = q.c.Budget.newBlock(len(b))
			q.blocks = append(q.blocks, last)
		}
		b = b[last.append(b):]
	}
}

// drain writes blocks until none is left.
func (q *Queue) drain() error {
	defer q.blocked.Store(0)
	for {
		b := q.take()
		if b == nil {
			return nil
		}
		q.progress()
		err := q.write(b.bytes())
		n := len(b.bytes())
		q.c.Budget.free(b)
		q.mu.Lock()
		q.bytes -= n
		q.writing = false
		q.mu.Unlock()
		notify(q.room)
		if err != nil {
			return err
		}
	}
}

// take makes Run the one who writes and returns the first block, or nil.
func (q *Queue) take() *block {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.writing || len(q.blocks) == 0 {
		return nil
	}
	b := q.blocks[0]
	q.blocks = q.blocks[1:]
	if len(q.blocks) == 0 {
		q.blocks = nil
	}
	q.writing = true
	return b
}

func (q *Queue) progress() { q.blocked.Store(int64(time.Since(q.start)) + 1) }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (q *Queue) try(run []byte) (int, error) {
	if !q.onePerWrite {
		return q.s.TryWrite(run)
	}
	for done := 0; ; {
		if done == len(run) {
			return done, nil
		}
		n := itemLen(run[done:])
		took, err := q.s.TryWrite(run[done : done+n])
		done += took
		if err != nil || took < n {
			return done, err
		}
	}
}

func (q *Queue) write(b []byte) error {
	if !q.onePerWrite {
		return q.s.Write(b, q.onProgress)
	}
	for len(b) > 0 {
		n := itemLen(b)
		if err := q.s.Write(b[:n], q.onProgress); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// itemLen returns the length of the packet or frame at the start of b, which we made ourselves. Only
// the rest of an item that was cut by a write fits nothing: it is whatever b has.
func itemLen(b []byte) int {
	n := len(b)
	switch {
	case b[0]>>4 == 8 && n >= proto.DataHeaderLen:
		n = proto.DataLen(b)
	case b[0]>>4 == 4 && n >= proto.ControlLen:
		n = max(packet.IPv4(b).TotalLen(), proto.ControlLen)
	}
	return min(n, len(b))
}

// wholeItem returns where the item of run ends that byte n belongs to; n itself where one begins.
func wholeItem(run []byte, n int) int {
	end := 0
	for end < n {
		end += itemLen(run[end:])
	}
	return end
}

// wholeItems returns the length of the items at the start of run that fit into room.
func wholeItems(run []byte, room int) int {
	done := 0
	for done < len(run) {
		n := itemLen(run[done:])
		if done+n > room {
			break
		}
		done += n
	}
	return done
}

func countItems(run []byte) (n int) {
	for len(run) > 0 {
		run = run[itemLen(run):]
		n++
	}
	return n
}
