package vtunnel

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
)

// A stream is a connection that ends in two halves: TCP, unix or vsock.
type stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

var (
	_ stream = (*net.TCPConn)(nil)
	_ stream = (*net.UnixConn)(nil)
)

// A relay copies between two streams:
//
//	a --forth--> b      an end of file: shut down there; the other direction may be silent for halfOpen from then on
//	a <--back--- b      an error: both are reset
//
// Two goroutines, and no buffer where nothing moves.
type relay struct {
	a, b   stream
	hold   time.Duration // for which what b says waits for a byte of a
	silent time.Duration // that a direction may be when the other one has ended
	lines  *Lines

	first chan struct{} // closed with the first byte of a
	half  atomic.Bool   // a direction has ended
}

// run copies until both directions have ended, one has failed, or ctx is done, and closes both streams.
func (r *relay) run(ctx context.Context) {
	defer r.a.Close()
	defer r.b.Close()
	stop := context.AfterFunc(ctx, r.abort)
	defer stop()
	r.first = make(chan struct{})
	var back sync.WaitGroup
	back.Go(func() {
		r.await(ctx)
		r.copy(r.a, r.b, func() {})
	})
	r.copy(r.b, r.a, sync.OnceFunc(func() { close(r.first) }))
	back.Wait()
}

// await lets b speak once a has, or has had the time to read the reply.
func (r *relay) await(ctx context.Context) {
	if r.hold <= 0 {
		return
	}
	timer := time.NewTimer(r.hold)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.first:
	case <-ctx.Done():
	}
}

// abort ends both directions, and tells both ends that it is none in order. It may be called more than once.
func (r *relay) abort() {
	carrier.Reset(r.a)
	carrier.Reset(r.b)
}

// copy copies one direction, and calls moved behind each write.
func (r *relay) copy(to, from stream, moved func()) {
	s, err := newSource(from)
	for err == nil {
		if r.half.Load() {
			r.limit(to, from)
		}
		var b []byte
		if b, err = s.next(); err != nil {
			break
		}
		if r.lines.verbose() {
			r.lines.Say("bytes read: %d", len(b))
		}
		moved()
		_, err = to.Write(b)
		s.release()
	}
	if err != io.EOF || to.CloseWrite() != nil {
		r.abort()
		return
	}
	r.half.Store(true)
	r.limit(from, to) // the other direction may wait already
}

// limit gives the direction that is left its time.
func (r *relay) limit(to, from stream) {
	end := time.Now().Add(r.silent)
	_ = from.SetReadDeadline(end)
	_ = to.SetWriteDeadline(end)
}

// bufferSize is how much is copied at once, bytes.
const bufferSize = 64 << 10

// buffers are those of sources: one get (next), one put (release).
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// A source reads a stream into a buffer that it has only while there are bytes.
type source struct {
	raw  syscall.RawConn
	b    *[bufferSize]byte
	n    int
	err  error
	read func(fd uintptr) bool
}

func newSource(conn syscall.Conn) (*source, error) {
	raw, err := conn.SyscallConn()
	s := &source{raw: raw}
	s.read = s.readNow
	return s, err
}

func (s *source) readNow(fd uintptr) bool {
	s.b = buffers.Get().(*[bufferSize]byte)
	for {
		if s.n, s.err = unix.Read(int(fd), s.b[:]); s.err != unix.EINTR {
			break
		}
	}
	if s.err == unix.EAGAIN {
		s.release()
	}
	return s.err != unix.EAGAIN
}

// next waits for bytes and returns them; they are valid until release. At the end it returns io.EOF.
func (s *source) next() ([]byte, error) {
	err := s.raw.Read(s.read)
	switch {
	case err != nil:
	case s.err != nil:
		err = os.NewSyscallError("read", s.err)
	case s.n == 0:
		err = io.EOF
	default:
		return s.b[:s.n], nil
	}
	s.release()
	return nil, err
}

func (s *source) release() {
	if s.b != nil {
		buffers.Put(s.b)
		s.b = nil
	}
}
