// Package carrier is the way from one Ferry program to another. Each kind of way is a package below
// this one, which dials and listens; what they return is wrapped in a Stream, and nobody above knows
// which it was:
//
//	tcp://host:port   vsock://cid:port   unix:///path   unix:///path?vsock=port
//	       \                 |                |               /
//	        +-------- net.Conn with a file descriptor -------+
//	                              |
//	                     Stream: borrowed read buffers, writes that never wait, and
//	                             records of a Cipher where the two ends agreed upon one (package tls)
//
// The rules are:
//
//   - A Stream holds no read buffer while it waits. Ten thousand idle peers cost no buffers.
//   - One goroutine reads, one writes at a time; Close may be called by anybody and ends both.
//   - TryWrite never waits: the caller does not stall on a peer that does not read.
package carrier

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Stream is one connection of an ordered, reliable carrier.
type Stream struct {
	conn net.Conn
	raw  syscall.RawConn // nil: conn has no descriptor (an in-memory pipe)

	cipher Cipher // nil: none

	start time.Time // has the monotonic clock, which a change of the date does not move

	rd reader
	wr writer

	received, sent tally
}

// A tally counts bytes and knows when the last ones passed.
type tally struct {
	bytes atomic.Uint64
	last  atomic.Int64 // nanoseconds since start
}

// NewStream wraps a connection. A connection without a file descriptor works too, but TryWrite takes
// nothing, and it holds a buffer while it waits unless it is a Waiter.
func NewStream(conn net.Conn) *Stream { return newStream(conn, nil) }

func newStream(conn net.Conn, c Cipher) *Stream {
	s := &Stream{conn: conn, cipher: c, start: time.Now()}
	s.raw = rawConn(conn)
	s.rd.init(s)
	s.wr.init(s)
	return s
}

// RemoteAddr returns the address of the other end.
func (s *Stream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// Max returns 0: items of any length may follow each other.
func (s *Stream) Max() int { return 0 }

// Received returns the bytes read so far.
func (s *Stream) Received() uint64 { return s.received.bytes.Load() }

// Sent returns the bytes that the operating system took so far.
func (s *Stream) Sent() uint64 { return s.sent.bytes.Load() }

// LastReceived returns when the last bytes were read; at first, when the stream was made.
func (s *Stream) LastReceived() time.Time { return s.start.Add(time.Duration(s.received.last.Load())) }

// LastAcked returns when the system at the other end has acknowledged bytes last, as TCP_INFO says at now; the zero time
// where that is unknown.
func (s *Stream) LastAcked(now time.Time) (at time.Time) {
	if s.raw == nil {
		return at
	}
	_ = s.raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			at = now.Add(-time.Duration(info.Last_ack_recv) * time.Millisecond)
		}
	})
	return at
}

// LastSent returns when the operating system took the last bytes; at first, when the stream was made.
func (s *Stream) LastSent() time.Time { return s.start.Add(time.Duration(s.sent.last.Load())) }

func (s *Stream) tally(t *tally, n int) {
	t.bytes.Add(uint64(n))
	t.last.Store(int64(time.Since(s.start)))
}

// Close ends the connection; pending calls return an error. It is idempotent.
func (s *Stream) Close() error {
	err := s.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// opError makes errors of system calls look like those of net.Conn.
func (s *Stream) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	var inner *net.OpError
	if errors.As(err, &inner) {
		return err
	}
	if errno, ok := err.(unix.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: s.conn.RemoteAddr().Network(), Addr: s.conn.RemoteAddr(), Err: err}
}
