package netstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"ferry/internal/relay"
)

// A conn is a connection of TCP in two halves: in, which the stack has with the client, and out, a socket.
//
//	client --> in --up()--> out --> destination     an end of file here: shut down there
//	client <-- in <-down()- out <-- destination     an error here: both are reset
type conn struct {
	in     tcpip.Endpoint
	queue  *waiter.Queue
	out    *net.TCPConn
	raw    syscall.RawConn
	client netip.Addr // whose it is; of an Exit only, as the two that follow
	from   netip.AddrPort
	to     netip.AddrPort // as the client has called it
	born   time.Time
	idle   time.Duration
	last   atomic.Int64 // when a byte passed, in nanoseconds since 1970

	once sync.Once
	gone chan struct{} // closed when it was aborted
}

func newConn(in tcpip.Endpoint, queue *waiter.Queue, out *net.TCPConn, idle time.Duration) *conn {
	x := &conn{in: in, queue: queue, out: out, idle: idle, born: time.Now(), gone: make(chan struct{})}
	x.raw, _ = out.SyscallConn() // of a TCPConn that was made by a Dialer: no error
	x.touch()
	return x
}

func (x *conn) touch() { x.last.Store(time.Now().UnixNano()) }

// run copies both ways until both have ended, one has failed, or nothing has passed for too long.
func (x *conn) run() {
	quiet := func() time.Duration { return time.Since(time.Unix(0, x.last.Load())) }
	stop := relay.AfterQuiet(x.idle, quiet, x.abort)
	defer stop()
	var down sync.WaitGroup
	down.Go(func() {
		if x.down() != nil {
			x.abort()
		}
	})
	if x.up() != nil {
		x.abort()
	}
	down.Wait()
	_ = x.out.Close()
	x.leave()
}

// leave waits until the client has all that it was given, or for a minute. The stack alone would for a quarter of an hour, and what it keeps for that
// would be nobody's.
func (x *conn) leave() {
	entry, ready := waiter.NewChannelEntry(waiter.EventHUp)
	x.queue.EventRegister(&entry)
	defer x.queue.EventUnregister(&entry)
	x.in.Close()
	late := time.NewTimer(leaveTime)
	defer late.Stop()
	for s := x.state(); s != tcp.StateClose && s != tcp.StateError; s = x.state() {
		select {
		case <-ready:
		case <-x.gone:
			return
		case <-late.C:
			x.abort()
			return
		}
	}
}

func (x *conn) state() tcp.EndpointState { return tcp.EndpointState(x.in.State()) }

const leaveTime = time.Minute

// begin hands the client's side, which is the stack's, what was read of the socket already.
func (x *conn) begin(first []byte) error {
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	x.queue.EventRegister(&entry)
	defer x.queue.EventUnregister(&entry)
	return x.give(bytes.NewReader(first), ready)
}

// abort resets both halves. It may be called more than once, and by anyone.
func (x *conn) abort() {
	x.once.Do(func() {
		close(x.gone)
		_ = x.out.SetLinger(0)
		_ = x.out.Close()
		x.in.Abort()
	})
}

// up copies what comes from the client.
func (x *conn) up() error {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	x.queue.EventRegister(&entry)
	defer x.queue.EventUnregister(&entry)
	var w window
	for {
		w.b = relay.Borrow()
		w.n = 0
		_, err := x.in.Read(&w, tcpip.ReadOptions{})
		var failed error
		if w.n > 0 {
			x.touch()
			_, failed = x.out.Write(w.b[:w.n])
		}
		relay.GiveBack(w.b)
		w.b = nil
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			select {
			case <-ready:
			case <-x.gone:
				return net.ErrClosed
			}
		case *tcpip.ErrClosedForReceive:
			return x.out.CloseWrite()
		default:
			return stackError{err}
		}
		if failed != nil {
			return failed
		}
	}
}

// A window takes what an endpoint of the stack has, as far as there is room.
type window struct {
	b *[relay.Size]byte
	n int
}

// Write implements io.Writer.
func (w *window) Write(b []byte) (int, error) {
	n := copy(w.b[w.n:], b)
	w.n += n
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// down copies what comes for the client.
func (x *conn) down() error {
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	x.queue.EventRegister(&entry)
	defer x.queue.EventUnregister(&entry)
	var rest bytes.Reader
	r := relay.NewReader(x.raw)
	for {
		b, err := r.Next()
		if err != nil {
			return err
		}
		if len(b) == 0 {
			r.Release()
			return x.finish()
		}
		x.touch()
		rest.Reset(b)
		err = x.give(&rest, ready)
		r.Release()
		if err != nil {
			return err
		}
	}
}

// give hands the client all of rest.
func (x *conn) give(rest *bytes.Reader, ready <-chan struct{}) error {
	for rest.Len() > 0 {
		_, err := x.in.Write(rest, tcpip.WriteOptions{})
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			select {
			case <-ready:
			case <-x.gone:
				return net.ErrClosed
			}
		default:
			return stackError{err}
		}
	}
	return nil
}

// finish tells the client that nothing more comes.
func (x *conn) finish() error {
	if err := x.in.Shutdown(tcpip.ShutdownWrite); err != nil {
		return stackError{err}
	}
	return nil
}

// A stackError is an error of the stack's.
type stackError struct{ err tcpip.Error }

func (e stackError) Error() string { return e.err.String() }
