// Package relay reads from sockets without holding memory for those that have nothing to say:
//
//	socket --readable?--> borrow a block --> read once --> hand it on --> give the block back
//
// So ten thousand idle connections cost their goroutines, and no buffers.
package relay

import (
	"io"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Size is the length of a block in bytes: what a datagram can hold.
	Size = 64 << 10
	// StreamSize is how much is read of a stream at once, bytes: with headers around it, it is one packet still. What is a little longer than that is
	// sent by a TCP in user mode (gVisor) as a long packet and a very short one, each time.
	StreamSize = Size - 1<<10
)

// pool has the blocks. One get (Borrow), one put (GiveBack).
var pool = sync.Pool{New: func() any { return new([Size]byte) }}

// Borrow returns a block, which is to be given back.
func Borrow() *[Size]byte { return pool.Get().(*[Size]byte) }

// GiveBack takes a block back. Nobody may use it afterwards.
func GiveBack(b *[Size]byte) { pool.Put(b) }

// A Reader reads from a socket. It belongs to one goroutine.
type Reader struct {
	raw   syscall.RawConn
	most  int // bytes read at once
	try   func(fd uintptr) bool
	block *[Size]byte // nil: nothing is borrowed
	n     int
	fault error
}

// NewReader returns a Reader of a socket, which reads so many bytes at once: Size of datagrams, StreamSize of a stream.
func NewReader(raw syscall.RawConn, most int) *Reader {
	r := &Reader{raw: raw, most: most}
	r.try = r.read
	return r
}

// Next waits until there is something, and returns it. The bytes are valid until Release, which has to be called unless there is an error.
// The end of a stream is no bytes and no error, as is an empty datagram.
func (r *Reader) Next() ([]byte, error) {
	err := r.raw.Read(r.try)
	if err == nil {
		err = r.fault
	}
	if err != nil {
		r.Release()
		return nil, err
	}
	return r.block[:r.n], nil
}

// Release gives back what Next has borrowed.
func (r *Reader) Release() {
	if r.block != nil {
		GiveBack(r.block)
		r.block = nil
	}
}

func (r *Reader) read(fd uintptr) bool {
	r.block = Borrow()
	for {
		if r.n, r.fault = unix.Read(int(fd), r.block[:r.most]); r.fault != unix.EINTR {
			break
		}
	}
	if r.fault == unix.EAGAIN {
		r.Release()
	}
	return r.fault != unix.EAGAIN
}

// Stream copies a stream to w until its end.
func (r *Reader) Stream(w io.Writer) error {
	for {
		b, err := r.Next()
		if err != nil {
			return err
		}
		n := len(b)
		if n > 0 {
			_, err = w.Write(b)
		}
		r.Release()
		if err != nil || n == 0 {
			return err
		}
	}
}

// AfterQuiet calls end once nothing has passed for idle, as quiet tells. stop ends the watch; end may be running then.
//
// It looks twice, a quarter of idle apart: a process that was stopped, or had no processor, finds its timers due before it has read what came meanwhile.
func AfterQuiet(idle time.Duration, quiet func() time.Duration, end func()) (stop func()) {
	w := &watch{idle: idle, quiet: quiet, end: end}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(idle-idle/4, w.look)
	return w.stop
}

type watch struct {
	idle  time.Duration
	quiet func() time.Duration
	end   func()

	mu      sync.Mutex // guards what follows
	timer   *time.Timer
	second  bool      // the next look is
	due     time.Time // when that is
	stopped bool
}

func (w *watch) look() {
	left, last := w.idle-w.quiet(), w.idle/4
	w.mu.Lock()
	over := w.second && left <= 0 && time.Since(w.due) <= last // or it was stopped between the two
	w.second = left <= last
	if w.stopped = w.stopped || over; !w.stopped {
		next := last
		if !w.second {
			next = left - last
		}
		w.due = time.Now().Add(next)
		w.timer.Reset(next)
	}
	w.mu.Unlock()
	if over {
		w.end()
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
}
