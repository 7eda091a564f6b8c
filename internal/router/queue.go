package router

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/buffer"
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
	// Grain returns how many bytes are to be handed to Write at once, because it is slow; 0: all there are.
	Grain() int
}

// QueueConfig is what a Queue is made of.
type QueueConfig struct {
	Limit  int            // bytes that may wait; more if the stream is fast (lately)
	Budget *buffer.Budget // shared by all queues
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

	whole       bool        // no item is cut: set before anything is sent
	onePerWrite atomic.Bool // may change while a keepalive that came before the request is answered

	mu      sync.Mutex
	writing bool // somebody is in TryWrite or Write
	blocks  []*buffer.Block
	bytes   int // in blocks, and in those that Run took
	held    int // Stream.Held, as of the last write
	lately  lately
	last    bool // nothing more is taken; Run returns when all is written
	closed  bool // what waits is lost; implies last

	wake chan struct{} // capacity 1; sent to by senders: there are blocks for Run
	less chan struct{} // capacity 1; sent to by Run: bytes went down
	done chan struct{} // closed by Close

	onProgress func()       // progress, bound once
	onRoom     func()       // OnRoom; guarded by mu
	grain      atomic.Int32 // Stream.Grain, as of the last write

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

// Whole keeps items whole: each call of the stream gets nothing but whole ones, one or more. It is called before anything
// is sent.
func (q *Queue) Whole() { q.whole = true }

// Send implements Sender.
func (q *Queue) Send(run []byte) (int, Reason) {
	if !q.begin() {
		return q.enqueue(run)
	}
	n, err := q.try(run)
	if err != nil {
		q.end(nil, 0)
		return proto.CountItems(run[proto.WholeItems(run, n):]), DropClosed // the reading goroutine sees the error too, and closes
	}
	lost, why := q.end(run, n)
	return proto.CountItems(lost), why
}

// SendControl sends a control packet or frame. Where Send would drop, it waits until there is room:
// a peer whose answers nobody takes is not read from. It returns false when the queue was closed.
func (q *Queue) SendControl(b []byte) bool { return q.SendFirst(b, func() {}) }

// SendFirst is SendControl for an answer that makes others send to the peer: then is called at a moment from
// which on what they send comes behind b.
func (q *Queue) SendFirst(b []byte, then func()) bool { return q.sendAll(b, then, nil) }

// SendUntil is SendControl for a run, and for somebody who waits only until stop is closed.
func (q *Queue) SendUntil(run []byte, stop <-chan struct{}) bool {
	return q.sendAll(run, func() {}, stop)
}

func (q *Queue) sendAll(b []byte, then func(), stop <-chan struct{}) bool {
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
		case <-stop:
			return false
		}
	}
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
		q.c.Budget.Free(b)
	}
	q.blocks = nil
}

// OnRoom lets Run call f, whenever bytes went down. It may be called at any time.
func (q *Queue) OnRoom(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.onRoom = f
}

// laterGrains is how much may wait before a slow queue, in what its stream is handed at once: 50 to 100 ms of what it carries, or the least that lets TCP inside fill the
// path (40 KiB).
const laterGrains = 20

// Room implements Bounded. A stream that is fast, or was not slow yet, takes all there is.
func (q *Queue) Room() (now, later int) {
	grain := int(q.grain.Load())
	if grain == 0 {
		return math.MaxInt, q.c.Limit
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.last {
		return math.MaxInt, q.c.Limit // Send says why not
	}
	return max(grain-q.bytes, 0), min(laterGrains*grain, q.c.Limit)
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
	q.lately.add(n, time.Now())
	q.hold(q.s.Held())
	switch {
	case n == len(run):
	case q.closed:
		lost, why = run[proto.WholeItems(run, n):], DropClosed
	default:
		cut := proto.WholeItem(run, n)
		room, full := q.room()
		keep := cut + proto.WholeItems(run[cut:], room-(cut-n))
		later := q.blocks
		q.blocks = nil
		if q.push(run[n:cut]); cut > n {
			q.blocks[len(q.blocks)-1].Sealed = true
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
	limit, why := max(q.c.Limit, min(q.lately.bytes(time.Now()), maxLately*q.c.Limit)), DropQueueFull
	if share := q.c.Budget.Share(); share < limit {
		if limit = share; share < q.c.Limit {
			why = DropMemory
		}
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
		n, why = proto.WholeItems(run, room), full
	}
	q.push(run[:n])
	wake := !q.writing && q.waiting()
	q.mu.Unlock()
	if wake {
		notify(q.wake)
	}
	return proto.CountItems(run[n:]), why
}

// push copies b into blocks; where each packet is a write of its own, or items are kept whole, none lies in
// two. The caller holds mu.
func (q *Queue) push(b []byte) {
	q.bytes += len(b)
	apart := q.whole || q.onePerWrite.Load()
	for len(b) > 0 {
		part := b
		if apart {
			part = b[:proto.ItemLen(b)]
		}
		b = b[len(part):]
		for len(part) > 0 {
			var last *buffer.Block
			if n := len(q.blocks); n > 0 {
				last = q.blocks[n-1]
			}
			if last == nil || last.Room() == 0 || apart && last.Room() < len(part) {
				last = q.c.Budget.New(len(part) + len(b))
				q.blocks = append(q.blocks, last)
			}
			part = part[last.Append(part):]
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
	q.c.Budget.Add(n - q.held)
	q.held = n
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (q *Queue) try(run []byte) (n int, err error) {
	if !q.onePerWrite.Load() {
		n, err = q.s.TryWrite(run)
		q.grain.Store(int32(q.s.Grain()))
		return n, err
	}
	for done := 0; ; {
		if done == len(run) {
			return done, nil
		}
		n := proto.ItemLen(run[done:])
		took, err := q.s.TryWrite(run[done : done+n])
		done += took
		if err != nil || took < n {
			return done, err
		}
	}
}
