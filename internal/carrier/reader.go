package carrier

import (
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// Headroom is how many bytes before the first unread one the caller may overwrite: enough for
	// the header of a data frame before a bare packet.
	Headroom = 16
	// readSize is how much one read takes at most: several super-packets, so that a system call
	// and the bytes of an unfinished packet that are moved to the front are shared by them.
	readSize = 256 << 10
)

// readPool has the buffers of all streams. One get (window.borrow), one put (window.giveBack).
var readPool = sync.Pool{New: func() any { return new([Headroom + readSize]byte) }}

// A window has unread bytes: in a borrowed buffer while bytes come, in a slice of just their length
// while none do.
type window struct {
	buf        *[Headroom + readSize]byte // nil while idle
	start, end int                        // unread bytes in buf
	rest       []byte                     // unread bytes while buf is nil
}

func (w *window) len() int { return w.end - w.start + len(w.rest) }

// borrow makes room behind the unread bytes. What one item needs at most is far less than readSize.
func (w *window) borrow() {
	if w.buf == nil {
		w.buf = readPool.Get().(*[Headroom + readSize]byte)
		w.start = Headroom
		w.end = Headroom + copy(w.buf[Headroom:], w.rest)
		w.rest = nil
		return
	}
	if w.start == w.end {
		w.start, w.end = Headroom, Headroom
	} else if w.start > Headroom {
		w.end = Headroom + copy(w.buf[Headroom:], w.buf[w.start:w.end])
		w.start = Headroom
	}
}

// giveBack returns the buffer to the pool for the time of waiting. Unread bytes move to a slice of
// their own length: what the stranger has sent, never what it says that it will send.
func (w *window) giveBack() {
	if w.buf == nil {
		return
	}
	if w.start < w.end {
		w.rest = append([]byte(nil), w.buf[w.start:w.end]...)
	}
	w.start, w.end = 0, 0
	readPool.Put(w.buf)
	w.buf = nil
}

func (w *window) release() {
	w.giveBack()
	w.rest = nil
}

// A reader keeps the unread bytes of a stream.
type reader struct {
	s     *Stream
	in    window  // as they came
	plain window  // out of the records in in; not in use without a cipher
	out   *window // the one of them that the caller sees

	tryRead func(fd uintptr) bool // bound once: a closure per call would be an allocation
	idle    func()                // bound once
	err     error                 // of tryRead
	final   error                 // of the cipher; what came before is delivered first
}

func (r *reader) init(s *Stream) {
	r.s, r.out = s, &r.in
	if s.cipher != nil {
		r.out = &r.plain
	}
	r.tryRead, r.idle = r.try, r.giveBack
}

// Fill waits until more bytes have come and returns all that are unread. buf is the whole buffer
// and the unread bytes are buf[start:end]; there are at least Headroom bytes before start. They
// stay valid until the next Fill. The error is io.EOF at the end of the stream.
func (s *Stream) Fill() (buf []byte, start, end int, err error) {
	r := &s.rd
	more := false
	for !more && err == nil {
		if s.cipher == nil {
			more, err = true, r.fill()
		} else if more, err = r.open(); !more && err == nil {
			err = r.fill()
		}
	}
	if err != nil {
		s.Release()
		return nil, 0, 0, s.opError("read", err)
	}
	return r.out.buf[:], r.out.start, r.out.end, nil
}

// Consume marks n bytes of what Fill returned as read.
func (s *Stream) Consume(n int) { s.rd.out.start += n }

// Release gives the buffers back. It is called by the reading goroutine when it ends.
func (s *Stream) Release() {
	s.rd.in.release()
	s.rd.plain.release()
}

// fill waits for bytes of the network.
func (r *reader) fill() (err error) {
	before := r.in.len()
	if r.s.raw == nil {
		err = r.fillConn()
	} else if err = r.s.raw.Read(r.tryRead); err == nil {
		err = r.err
	}
	if err == nil {
		r.s.tally(&r.s.received, r.in.len()-before)
	}
	return err
}

// try is called by the runtime before it waits for the descriptor and whenever it is readable.
func (r *reader) try(fd uintptr) bool {
	w := &r.in
	w.borrow()
	for {
		n, err := unix.Read(int(fd), w.buf[w.end:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			r.giveBack()
			return false
		case err == nil && n == 0:
			r.err = io.EOF
		case err != nil:
			r.err = err
		default:
			w.end += n
			r.err = nil
		}
		return true
	}
}

// giveBack returns the buffers for the time of waiting.
func (r *reader) giveBack() {
	r.in.giveBack()
	r.plain.giveBack()
}

// A Waiter is a connection without a descriptor that can be waited for without a buffer.
type Waiter interface {
	net.Conn
	// Wait waits until Read would return something, or an error. It calls idle before it waits, unless it need not.
	Wait(idle func()) error
}

func (r *reader) fillConn() error {
	if w, ok := r.s.conn.(Waiter); ok {
		if err := w.Wait(r.idle); err != nil {
			return err
		}
	}
	r.in.borrow()
	n, err := r.s.conn.Read(r.in.buf[r.in.end:])
	r.in.end += n
	if n > 0 {
		return nil
	}
	return err
}

// open opens the whole records of r.in, as many as there is room for, and tells whether that made more
// bytes.
func (r *reader) open() (more bool, err error) {
	in, plain := &r.in, &r.plain
	if r.final != nil || in.buf == nil {
		return false, r.final
	}
	plain.borrow()
	before := plain.end
	for len(plain.buf)-plain.end >= MaxRecord {
		b, n, err := r.s.cipher.Open(plain.buf[:plain.end], in.buf[in.start:in.end])
		if err != nil {
			r.final = err
			break
		}
		if n == 0 {
			break
		}
		in.start += n
		plain.end = len(b)
	}
	if plain.end > before {
		return true, nil
	}
	return false, r.final
}
