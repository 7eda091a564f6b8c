package carrier

import (
	"io"
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

// readPool has the buffers of all streams. One get (reader.borrow), one put (reader.giveBack).
var readPool = sync.Pool{New: func() any { return new([Headroom + readSize]byte) }}

// A reader keeps the unread bytes of a stream: in a borrowed buffer while bytes come, in a slice of
// just their length while none do.
type reader struct {
	s          *Stream
	buf        *[Headroom + readSize]byte // nil while idle
	start, end int                        // unread bytes in buf
	rest       []byte                     // unread bytes while buf is nil

	tryRead func(fd uintptr) bool // bound once: a closure per call would be an allocation
	err     error                 // of tryRead
}

func (r *reader) init(s *Stream) {
	r.s = s
	r.tryRead = r.try
}

// Fill waits until more bytes have come and returns all that are unread. buf is the whole buffer
// and the unread bytes are buf[start:end]; there are at least Headroom bytes before start. They
// stay valid until the next Fill. The error is io.EOF at the end of the stream.
func (s *Stream) Fill() (buf []byte, start, end int, err error) {
	r := &s.rd
	before := r.end - r.start + len(r.rest)
	if s.raw == nil {
		err = r.fillConn()
	} else if err = s.raw.Read(r.tryRead); err == nil {
		err = r.err
	}
	if err != nil {
		r.release()
		return nil, 0, 0, s.opError("read", err)
	}
	s.tally(&s.received, r.end-r.start-before)
	return r.buf[:], r.start, r.end, nil
}

// Consume marks n bytes of what Fill returned as read.
func (s *Stream) Consume(n int) { s.rd.start += n }

// Release gives the buffer back. It is called by the reading goroutine when it ends.
func (s *Stream) Release() { s.rd.release() }

// try is called by the runtime before it waits for the descriptor and whenever it is readable.
func (r *reader) try(fd uintptr) bool {
	r.borrow()
	for {
		n, err := unix.Read(int(fd), r.buf[r.end:])
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
			r.end += n
			r.err = nil
		}
		return true
	}
}

func (r *reader) fillConn() error {
	r.borrow()
	n, err := r.s.conn.Read(r.buf[r.end:])
	r.end += n
	if n > 0 {
		return nil
	}
	return err
}

// borrow makes room behind the unread bytes. What one item needs at most is far less than readSize.
func (r *reader) borrow() {
	if r.buf == nil {
		r.buf = readPool.Get().(*[Headroom + readSize]byte)
		r.start = Headroom
		r.end = Headroom + copy(r.buf[Headroom:], r.rest)
		r.rest = nil
		return
	}
	if r.start == r.end {
		r.start, r.end = Headroom, Headroom
	} else if r.start > Headroom {
		r.end = Headroom + copy(r.buf[Headroom:], r.buf[r.start:r.end])
		r.start = Headroom
	}
}

// giveBack returns the buffer to the pool for the time of waiting. Unread bytes move to a slice of
// their own length: what the stranger has sent, never what it says that it will send.
func (r *reader) giveBack() {
	if r.start < r.end {
		r.rest = append([]byte(nil), r.buf[r.start:r.end]...)
	}
	r.start, r.end = 0, 0
	readPool.Put(r.buf)
	r.buf = nil
}

func (r *reader) release() {
	if r.buf != nil {
		r.giveBack()
	}
	r.rest = nil
}
