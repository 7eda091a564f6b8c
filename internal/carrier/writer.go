package carrier

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A writer sends without a closure per call. Only one goroutine at a time may use it.
type writer struct {
	s        *Stream
	rest     []byte // what is left to be written
	progress func() // called after each part that was taken; may be nil
	err      error

	pace   Pace
	untold bool // the socket is not one of TCP
	slow   int  // Grain of a socket

	grain int // how much is sealed at once, bytes
	unit  int // after how many bytes a piece of the kernel's is to end; 0: wherever it likes
	since int // how many there are since the last end

	sealed *[sealSize]byte // nil: none is borrowed
	held   []byte          // records in sealed that were not written yet

	tryOnce  func(fd uintptr) bool
	tryUntil func(fd uintptr) bool
}

const (
	// sealPart is how many bytes are sealed at once: few system calls for a super-packet, and not much
	// that waits sealed, out of the queue's control.
	sealPart = 64 << 10
	sealSize = sealPart + 1<<10 // with what records add
)

// sealPool has the buffers for sealed records. One get (writer.seal), one put (writer.giveBack).
var sealPool = sync.Pool{New: func() any { return new([sealSize]byte) }}

// longSegment is how long a segment of TCP may be, bytes, so that one more may wait in the kernel of a slow connection.
const longSegment = 16 << 10

func (w *writer) init(s *Stream) {
	w.s, w.grain = s, sealPart
	w.tryOnce = func(fd uintptr) bool { w.write(fd); return true }
	w.tryUntil = func(fd uintptr) bool { return w.write(fd) }
}

// pipePart is how much is written at once to a connection without a descriptor: a record of TLS with as much as fits into it,
// so that one which arrives can be opened. It is the grain of progress there.
const pipePart = 5 + 16<<10 + 1 + 16

// TryWrite takes what can be taken at once and returns how much that was. Nothing but an error
// that ends the connection is an error.
func (s *Stream) TryWrite(b []byte) (int, error) {
	w := &s.wr
	if s.raw == nil {
		return 0, nil
	}
	if s.cipher == nil {
		rest, err := w.once(b)
		return len(b) - len(rest), err
	}
	for n := 0; ; {
		rest, err := w.once(w.held)
		w.hold(rest)
		if err != nil || len(rest) > 0 || n == len(b) {
			return n, err
		}
		part := b[n:min(n+w.grain, len(b))]
		if err := w.seal(part); err != nil {
			return n, s.opError("write", err)
		}
		n += len(part)
	}
}

// Write writes all of b, and before it what is held, waiting as long as it takes or until the stream is
// closed. progress is called whenever a part was taken.
func (s *Stream) Write(b []byte, progress func()) error {
	w := &s.wr
	if s.cipher == nil {
		return w.until(b, progress)
	}
	for {
		if err := w.until(w.held, progress); err != nil {
			return err
		}
		w.hold(nil)
		if len(b) == 0 {
			return nil
		}
		part := b[:min(w.grain, len(b))]
		if err := w.seal(part); err != nil {
			return s.opError("write", err)
		}
		b = b[len(part):]
	}
}

// Held returns how many bytes of memory are taken by what TryWrite took and could not send. They are
// sent by the next call of Write. It is for the goroutine that writes.
func (s *Stream) Held() int {
	if len(s.wr.held) == 0 {
		return 0
	}
	return sealSize
}

// Grain returns how many bytes are to be handed to Write at once; 0: all there are. Where it is little, no more than that is sealed at once, and about
// twice as much waits in the kernel unsent: what is urgent is soon under way. It is for the goroutine that writes.
func (s *Stream) Grain() int {
	w := &s.wr
	if s.raw == nil || w.untold {
		return w.pace.Grain()
	}
	if now := time.Now(); w.pace.due(s.sent.bytes.Load(), now) {
		_ = s.raw.Control(func(fd uintptr) { w.look(int(fd), now) })
	}
	return w.slow
}

// look asks the kernel how fast the connection is, and lets less wait in there the slower it is.
func (w *writer) look(fd int, now time.Time) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		w.untold = true // not TCP
		return
	}
	w.pace.see(now, info)
	n := w.pace.Grain()
	if n == w.slow {
		return
	}
	w.slow, w.grain, w.unit = n, sealPart, 0
	unsent := NotSentLowat
	if n > 0 {
		w.grain, w.unit, unsent = n, n, 2*n
		if mss := int(info.Snd_mss); mss > 0 && mss <= longSegment {
			w.unit = max(n/mss, 1) * mss
		}
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
}

// send writes to the socket. TCP looks at TCP_NOTSENT_LOWAT only before it begins another piece, of up to 64 KiB: on a slow connection its pieces
// end after some whole segments (MSG_EOR), so that no short one is sent for that.
func (w *writer) send(fd int, b []byte) (int, error) {
	if w.unit == 0 {
		return unix.Write(fd, b)
	}
	if w.since >= w.unit { // it was larger before
		w.since = 0
	}
	flags := unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	if left := w.unit - w.since; len(b) >= left {
		b = b[:left]
		flags |= unix.MSG_EOR
	}
	n, err := unix.SendmsgN(fd, b, nil, nil, flags)
	if n > 0 {
		w.since = (w.since + n) % w.unit
	}
	return n, err
}

// seal makes records of b. Nothing is held.
func (w *writer) seal(b []byte) (err error) {
	if w.sealed == nil {
		w.sealed = sealPool.Get().(*[sealSize]byte)
	}
	w.held, err = w.s.cipher.Seal(w.sealed[:0], b)
	return err
}

// hold keeps what is left of the sealed records, and the buffer only as long as there is something.
func (w *writer) hold(rest []byte) {
	w.held = rest
	if len(rest) == 0 && w.sealed != nil {
		sealPool.Put(w.sealed)
		w.sealed, w.held = nil, nil
	}
}

// once writes what the operating system takes of b, and returns the rest.
func (w *writer) once(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, nil
	}
	w.rest, w.err, w.progress = b, nil, nil
	err := w.s.raw.Write(w.tryOnce)
	rest := w.rest
	w.rest = nil
	if err == nil {
		err = w.err
	}
	return rest, w.s.opError("write", err)
}

// until writes all of b.
func (w *writer) until(b []byte, progress func()) error {
	if len(b) == 0 {
		return nil
	}
	if w.s.raw == nil {
		return w.writeConn(b, progress)
	}
	w.rest, w.err, w.progress = b, nil, progress
	err := w.s.raw.Write(w.tryUntil)
	w.rest, w.progress = nil, nil
	if err == nil {
		err = w.err
	}
	return w.s.opError("write", err)
}

// write returns true when there is nothing more to do: all was taken or the connection is at its end.
func (w *writer) write(fd uintptr) bool {
	for len(w.rest) > 0 {
		n, err := w.send(int(fd), w.rest)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return false
		case err != nil:
			w.err = err
			return true
		}
		w.rest = w.rest[n:]
		w.s.tally(&w.s.sent, n)
		if w.progress != nil {
			w.progress()
		}
	}
	return true
}

func (w *writer) writeConn(b []byte, progress func()) error {
	start, all := time.Now(), len(b)
	defer func() { w.pace.Took(all-len(b), time.Since(start)) }()
	for len(b) > 0 {
		n, err := w.s.conn.Write(b[:min(len(b), pipePart)])
		w.s.tally(&w.s.sent, n)
		if err != nil {
			return w.s.opError("write", err)
		}
		b = b[n:]
		if progress != nil {
			progress()
		}
	}
	return nil
}
