package carrier

import (
	"golang.org/x/sys/unix"
)

// A writer sends without a closure per call. Only one goroutine at a time may use it.
type writer struct {
	s        *Stream
	rest     []byte // what is left to be written
	progress func() // called after each part that was taken; may be nil
	err      error

	tryOnce  func(fd uintptr) bool
	tryUntil func(fd uintptr) bool
}

func (w *writer) init(s *Stream) {
	w.s = s
	w.tryOnce = func(fd uintptr) bool { w.write(fd); return true }
	w.tryUntil = func(fd uintptr) bool { return w.write(fd) }
}

// pipePart is how much is written at once to a connection without a descriptor: the grain of
// progress there.
const pipePart = 4 << 10

// TryWrite writes what can be taken at once and returns how much that was. Nothing but an error
// that ends the connection is an error.
func (s *Stream) TryWrite(b []byte) (int, error) {
	if s.raw == nil {
		return 0, nil
	}
	w := &s.wr
	w.rest, w.err, w.progress = b, nil, nil
	err := s.raw.Write(w.tryOnce)
	n := len(b) - len(w.rest)
	w.rest = nil
	if err == nil {
		err = w.err
	}
	return n, s.opError("write", err)
}

// Write writes all of b, waiting as long as it takes or until the stream is closed. progress is
// called whenever a part was taken.
func (s *Stream) Write(b []byte, progress func()) error {
	w := &s.wr
	if s.raw == nil {
		return w.writeConn(b, progress)
	}
	w.rest, w.err, w.progress = b, nil, progress
	err := s.raw.Write(w.tryUntil)
	w.rest, w.progress = nil, nil
	if err == nil {
		err = w.err
	}
	return s.opError("write", err)
}

// write returns true when there is nothing more to do: all was taken or the connection is at its end.
func (w *writer) write(fd uintptr) bool {
	for len(w.rest) > 0 {
		n, err := unix.Write(int(fd), w.rest)
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
