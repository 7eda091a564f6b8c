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
	// TryWrite takes what can be taken without waiting and returns how much that was.
	TryWrite(b []byte) (int, error)
	// Write writes all of b, behind what TryWrite took and could not write, and calls progress
	// whenever a part was taken.
	Write(b []byte, progress func()) error
	// Held returns how many bytes of memory the stream needs for what TryWrite took and could not write.
	Held() int
}

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

	onePerWrite atomic.Bool // may change while a keepalive that came before the request is answered

	mu      sync.Mutex
	writing bool // somebody is in TryWrite or Write
	blocks  []*block
	bytes   int  // in blocks, and in those that Run took
	held    int  // Stream.Held, as of the last write
	last    bool // nothing more is taken; Run returns when all is written
	closed  bool // what waits is lost; implies last

	wake chan struct{} // capacity 1; sent to by senders: there are blocks for Run
	less chan struct{} // capacity 1; sent to by Run: bytes went down
	done chan struct{} // closed by Close

	onProgress func() // progress, bound once

	start   time.Time    // has the monotonic clock
	blocked atomic.Int64 // since when Run makes no progress: nanoseconds since start, plus 1; 0: it does
}

// NewQueue returns an empty queue in front of s.
func NewQueue(s Stream, c QueueConfig) *Queue {
	q := &Queue{
		c: c, s: s, start: time.Now(),
		wake: make(chan struct{}, 1), less: make(chan struct{}, 1), done: make(chan struct{}),
	}
	q.onProgress = q.progress
	return q
}

// OnePerWrite gives each packet a write of its own: a 2013 peer takes one read for one packet. It is
// called before anything is sent.
func (q *Queue) OnePerWrite(on bool) { q.onePerWrite.Store(on) }

// Send implements Sender.
func (q *Queue) Send(run []byte) (int, Reason) {
	if !q.begin() {
		return q.enqueue(run)
	}
	n, err := q.try(run)
	if err != nil {
		q.end(nil, 0)
		return countItems(run[wholeItems(run, n):]), DropClosed // the reading goroutine sees the error too, and closes
	}
	lost, why := q.end(run, n)
	return countItems(lost), why
}

// SendControl sends a control packet or frame. Where Send would drop, it waits until there is room:
// a peer whose answers nobody takes is not read from. It returns false when the queue was closed.
func (q *Queue) SendControl(b []byte) bool { return q.SendFirst(b, func() {}) }

// SendFirst is SendControl for an answer that makes others send to the peer: then is called at a moment from
// which on what they send comes behind b.
func (q *Queue) SendFirst(b []byte, then func()) bool {
	if q.begin() { // who sends now finds somebody writing, and waits in the queue
		then()
		then = func() {}
		n, err := q.try(b)
		if err != nil {
			q.end(nil, 0)
			return false
		}
		if b, _ = q.end(b, n); len(b) == 0 {
			return true
		}
	}
	for {
		q.mu.Lock()
		if q.last {
			q.mu.Unlock()
			return false
		}
		if room, _ := q.room(); q.bytes == 0 || len(b) <= room {
			q.push(b)
			q.mu.Unlock()
			then()
			notify(q.wake)
			return true
		}
		q.mu.Unlock()
		select {
		case <-q.less:
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
	return q.last && !q.writing && !q.waiting()
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
	q.hold(0)
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
	if q.writing || q.last || q.waiting() {
		return false
	}
	q.writing = true
	return true
}

// end hands what was not taken of run, from its byte n on, to Run: in front of what came meanwhile.
// The item that was cut has to be completed; those behind it wait as far as there is room. It returns
// the items that did not fit.
func (q *Queue) end(run []byte, n int) (lost []byte, why Reason) {
	q.mu.Lock()
	q.writing = false
	q.hold(q.s.Held())
	switch {
	case n == len(run):
	case q.closed:
		lost, why = run[wholeItems(run, n):], DropClosed
	default:
		cut := wholeItem(run, n)
		room, full := q.room()
		keep := cut + wholeItems(run[cut:], room-(cut-n))
		later := q.blocks
		q.blocks = nil
		if q.push(run[n:cut]); cut > n {
			q.blocks[len(q.blocks)-1].rest = true
		}
		q.push(run[cut:keep])
		q.blocks = append(q.blocks, later...)
		if lost = run[keep:]; len(lost) > 0 {
			why = full
		}
	}
	waiting := q.waiting()
	q.mu.Unlock()
	if waiting {
		notify(q.wake)
	}
	return lost, why
}

// room returns how many bytes more may wait, and why no more. The caller holds mu.
func (q *Queue) room() (int, Reason) {
	limit, why := q.c.Limit, DropQueueFull
	if share := q.c.Budget.share(); share < limit {
		limit, why = share, DropMemory
	}
	return max(limit-q.bytes, 0), why
}

// enqueue lets whole items wait as far as there is room.
func (q *Queue) enqueue(run []byte) (int, Reason) {
	q.mu.Lock()
	n, why := len(run), None
	switch room, full := q.room(); {
	case q.last:
		n, why = 0, DropClosed
	case n > room:
		n, why = wholeItems(run, room), full
	}
	q.push(run[:n])
	wake := !q.writing && q.waiting()
	q.mu.Unlock()
	if wake {
		notify(q.wake)
	}
	return countItems(run[n:]), why
}

// push copies b into blocks; where each packet is a write of its own, none lies in two. The caller
// holds mu.
func (q *Queue) push(b []byte) {
	q.bytes += len(b)
	for len(b) > 0 {
		part := b
		if q.onePerWrite.Load() {
			part = b[:itemLen(b)]
		}
		b = b[len(part):]
		for len(part) > 0 {
			var last *block
			if n := len(q.blocks); n > 0 {
				last = q.blocks[n-1]
			}
			if last == nil || last.rest || last.room() == 0 || q.onePerWrite.Load() && last.room() < len(part) {
				last = q.c.Budget.newBlock(len(part) + len(b))
				q.blocks = append(q.blocks, last)
			}
			part = part[last.append(part):]
		}
	}
}

// waiting tells whether there is something for Run. The caller holds mu.
func (q *Queue) waiting() bool { return len(q.blocks) > 0 || q.held > 0 }

// hold counts what the stream holds. The caller holds mu.
func (q *Queue) hold(n int) {
	if q.closed {
		n = 0
	}
	q.c.Budget.add(n - q.held)
	q.held = n
}

// drain writes what waits until nothing is left.
func (q *Queue) drain() error {
	defer q.blocked.Store(0)
	for {
		b, more := q.take()
		if !more {
			return nil
		}
		q.progress()
		err := q.write(b)
		q.wrote(b)
		notify(q.less)
		if err != nil {
			return err
		}
	}
}

// take makes Run the one who writes and returns the first block, or nil where only the stream has
// something left.
func (q *Queue) take() (b *block, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.writing || !q.waiting() {
		return nil, false
	}
	q.writing = true
	if len(q.blocks) == 0 {
		return nil, true
	}
	b = q.blocks[0]
	q.blocks = q.blocks[1:]
	if len(q.blocks) == 0 {
		q.blocks = nil
	}
	return b, true
}

// wrote ends what take has begun.
func (q *Queue) wrote(b *block) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writing = false
	q.hold(q.s.Held())
	if b != nil {
		q.bytes -= b.n
		q.c.Budget.free(b)
	}
}

func (q *Queue) progress() { q.blocked.Store(int64(time.Since(q.start)) + 1) }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (q *Queue) try(run []byte) (int, error) {
	if !q.onePerWrite.Load() {
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

func (q *Queue) write(k *block) error {
	if k == nil {
		return q.s.Write(nil, q.onProgress)
	}
	b := k.bytes()
	if !q.onePerWrite.Load() || k.rest {
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
