package multipath

import (
	"sync"
	"time"

	"ferry/internal/proto"
	"ferry/internal/session"
)

// A Receiver is the receiving half of a session: it takes each frame once, whichever path brought it, and
// says when the other end is to be told.
type Receiver struct {
	ack func(received uint64)

	mu      sync.Mutex // guards what follows
	window  session.Window
	frames  int // since the last ack
	bytes   int
	timer   *time.Timer // fires when an ack is due; nil until the first one
	armed   bool
	marks   [patience]uint64 // what Next was, ackDelay apart: the oldest first
	marked  time.Time
	target  uint64        // reached is closed when nothing is missing before it
	reached chan struct{} // nil: nobody waits
	closed  bool
}

// NewReceiver returns a Receiver. ack sends an ack frame, without waiting; it may be called by any goroutine.
func NewReceiver(ack func(received uint64)) *Receiver { return &Receiver{ack: ack} }

// Received returns the number before which nothing is waited for.
func (r *Receiver) Received() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.window.Base()
}

// take tells whether the frame n, of so many bytes, comes for the first time.
func (r *Receiver) take(n uint64, size int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frames++ // one that comes again is to be acknowledged again
	r.bytes += size
	fresh := r.window.Take(n)
	return fresh
}

// Flush is called behind each batch of frames: it sends an ack frame, or lets a timer do so.
func (r *Receiver) Flush() {
	r.mu.Lock()
	if r.reached != nil && r.window.Base() >= r.target { // and all before has been handed on by now
		close(r.reached)
		r.reached = nil
	}
	if r.frames == 0 || r.closed {
		r.mu.Unlock()
		return
	}
	if r.frames < ackFrames && r.bytes < ackBytes {
		if !r.armed {
			r.arm()
		}
		r.mu.Unlock()
		return
	}
	received := r.tell()
	r.mu.Unlock()
	r.ack(received)
}

// arm starts the timer. The caller holds mu.
func (r *Receiver) arm() {
	r.armed = true
	if r.timer == nil {
		r.timer = time.AfterFunc(ackDelay, r.late)
		return
	}
	r.timer.Reset(ackDelay)
}

// late sends the ack frame that is due since the first frame.
func (r *Receiver) late() {
	r.mu.Lock()
	r.armed = false
	if r.frames == 0 || r.closed {
		r.mu.Unlock()
		return
	}
	received := r.tell()
	r.mu.Unlock()
	r.ack(received)
}

// tell returns what to acknowledge. What is missing for long is given up first. The caller holds mu.
func (r *Receiver) tell() uint64 {
	r.frames, r.bytes = 0, 0
	if now := time.Now(); now.Sub(r.marked) >= ackDelay {
		r.marked = now
		r.window.GiveUp(r.marks[0])
		copy(r.marks[:], r.marks[1:])
		r.marks[patience-1] = r.window.Next()
	}
	if r.window.Base() < r.window.Next() && !r.armed { // something is missing: look again
		r.frames = 1
		r.arm()
	}
	return r.window.Base()
}

// await waits until nothing is missing before number n, but not for long.
func (r *Receiver) await(n uint64, give <-chan struct{}) {
	r.mu.Lock()
	if r.closed || r.reached != nil || r.window.Base() >= n {
		r.mu.Unlock()
		return
	}
	reached := make(chan struct{})
	r.target, r.reached = n, reached
	r.mu.Unlock()
	timer := time.NewTimer(holdTime)
	defer timer.Stop()
	select {
	case <-reached:
		return
	case <-timer.C:
	case <-give:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reached == reached {
		r.reached = nil
	}
}

// Close ends the timer.
func (r *Receiver) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
	}
}

// A Reader counts the frames of one path. It belongs to the goroutine that reads the path.
type Reader struct {
	*Receiver
	next  uint64
	parts fragments
	alone <-chan struct{} // closed when no other path brings frames
}

// NewReader returns a reader for a path whose first frame is counted as number first, unless the path says something
// else. alone is closed as soon as the path before carries nothing any more; nil: there is none.
func (r *Receiver) NewReader(first uint64, alone <-chan struct{}) *Reader {
	return &Reader{Receiver: r, next: first, alone: alone}
}

// Hold is called behind a switch frame that says that frames come by this path from now on, and not again: the first of them
// wait for those that are still on their way by the path before, unless ended is closed.
func (r *Reader) Hold(ended <-chan struct{}) { r.alone = ended }

// Number takes a number frame. Where frames of the path before are still on their way, it waits for those.
func (r *Reader) Number(frame []byte) error {
	n, err := proto.ParseNumber(frame)
	if err != nil {
		return err
	}
	r.next = n
	if r.alone != nil {
		r.await(n, r.alone)
		r.alone = nil
	}
	return nil
}

// Take tells whether the next data frame, of so many bytes, comes for the first time.
func (r *Reader) Take(size int) bool {
	n := r.next
	r.next++
	return r.take(n, size)
}

// Headroom is the room before a frame that Fragment returns, bytes.
const Headroom = 16

// Fragment takes a fragment frame. It returns the whole frame with Headroom before it, once all parts have come and if it
// comes for the first time; it is valid until the next call.
func (r *Reader) Fragment(frame []byte) ([]byte, error) {
	f, err := proto.ParseFragment(frame)
	if err != nil {
		return nil, err
	}
	whole := r.parts.add(f)
	if whole == nil {
		return nil, nil
	}
	if !isData(whole[Headroom:]) {
		return nil, proto.ErrMessage
	}
	if !r.take(f.Number, f.Len) {
		return nil, nil
	}
	return whole, nil
}

// isData tells whether b is one data item and nothing else, as its own header says. The parts came from a stranger.
func isData(b []byte) bool {
	kind, n, err := proto.Framer{Extended: true}.Next(b)
	return err == nil && n == len(b) && (kind == proto.KindData || kind == proto.KindIPv4)
}
