package netstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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
	windows // in is the half that the stack has
	queue   *waiter.Queue
	out     *net.TCPConn
	raw     syscall.RawConn
	client  netip.Addr // whose it is; of an Exit only, as the three that follow
	from    netip.AddrPort
	to      netip.AddrPort // as the client has called it
	place   int            // of shares
	born    time.Time
	idle    time.Duration

	b     []byte // of push: what is to be written
	n     int    // how much was
	fault error
	try   func(fd uintptr) bool // writes b, once

	once sync.Once
	over chan struct{} // closed when it was aborted
}

func newConn(in tcpip.Endpoint, queue *waiter.Queue, out *net.TCPConn, idle time.Duration) *conn {
	x := &conn{windows: windows{in: in}, queue: queue, out: out, idle: idle, born: time.Now(), over: make(chan struct{})}
	x.reset, x.try = x.abort, x.write
	x.raw, _ = out.SyscallConn() // of a TCPConn that was made by a Dialer: no error
	x.touch()
	return x
}

// seat implements member, as used does.
func (x *conn) seat() *int  { return &x.place }
func (x *conn) used() int64 { return x.last.Load() }

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
	farewell(x.in, x.queue, x.over)
	x.leave()
}

// leaveTime is for how long a client may take what was on its way when its connection ended. The stack alone would keep that for a quarter of an hour.
const leaveTime = time.Minute

// farewell closes an endpoint of the stack, and waits until the client has all that it was given, or for leaveTime. It resets the connection then, and
// when over is closed.
func farewell(in tcpip.Endpoint, queue *waiter.Queue, over <-chan struct{}) {
	entry, ready := waiter.NewChannelEntry(waiter.EventHUp)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	in.Close()
	late := time.NewTimer(leaveTime)
	defer late.Stop()
	for s := stateOf(in); s != tcp.StateClose && s != tcp.StateError; s = stateOf(in) {
		select {
		case <-ready:
			continue
		case <-over:
		case <-late.C:
		}
		in.Abort()
		return
	}
}

func stateOf(in tcpip.Endpoint) tcp.EndpointState { return tcp.EndpointState(in.State()) }

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
		close(x.over)
		_ = x.out.SetLinger(0)
		_ = x.out.Close()
		x.in.Abort()
	})
}

func (x *conn) isOver() bool {
	select {
	case <-x.over:
		return true
	default:
		return false
	}
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
			failed = x.push(w.b[:w.n])
		}
		relay.GiveBack(w.b)
		w.b = nil
		if failed != nil {
			return failed
		}
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			select {
			case <-ready:
			case <-x.over:
				return net.ErrClosed
			}
		case *tcpip.ErrClosedForReceive:
			return x.out.CloseWrite()
		default:
			return stackError{err}
		}
	}
}

// push writes to the socket what came from the client.
func (x *conn) push(b []byte) error {
	x.b = b
	err := x.raw.Write(x.try)
	x.b = nil
	if err == nil {
		err = x.fault
	}
	if err != nil {
		return err
	}
	if x.n < len(b) {
		x.hold(relay.Size)
		_, err = x.out.Write(b[x.n:])
		x.hold(-relay.Size)
	}
	x.took(len(b))
	return err
}

// write writes as much as the socket takes without waiting.
func (x *conn) write(fd uintptr) bool {
	for {
		x.n, x.fault = unix.Write(int(fd), x.b)
		switch x.fault {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			x.fault = nil
		}
		x.n = max(x.n, 0)
		return true
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
	r := relay.NewReader(x.raw, relay.StreamSize)
	for {
		b, err := r.Next()
		if err != nil {
			return err
		}
		if len(b) == 0 {
			r.Release()
			return x.finish()
		}
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
		x.mu.Lock()
		x.bound()
		n, err := x.in.Write(rest, tcpip.WriteOptions{})
		x.mu.Unlock()
		switch err.(type) {
		case nil:
			x.gave(int(n))
		case *tcpip.ErrWouldBlock:
			x.hold(relay.Size)
			select {
			case <-ready:
			case <-x.over:
			}
			x.hold(-relay.Size)
			if x.isOver() {
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
	x.end()
	if err := x.in.Shutdown(tcpip.ShutdownWrite); err != nil {
		return stackError{err}
	}
	return nil
}

// A stackError is an error of the stack's.
type stackError struct{ err tcpip.Error }

func (e stackError) Error() string { return e.err.String() }
