package penguin

import (
	"context"
	"io"
	"net"
	"time"

	"ferry/internal/penguin/wire"
)

// A flow is what one client sends by UDP to a service, and the replies. It connects in WriteTo, which is called on a goroutine of its own, so that clients do
// not wait for each other; meanwhile some of its datagrams wait.
type flow struct {
	n      *network
	ctx    context.Context // done with Close
	cancel context.CancelFunc
	rec    *record
	w      frameWriter
}

// maxReply is the length of the longest datagram that can be sent to a client: what IPv4 has room for.
const maxReply = 1<<16 - 1 - 20 - 8

// Write sends a datagram, or drops it.
func (f *flow) Write(b []byte) (int, error) {
	if len(b) > wire.MaxDatagram { // the original's guest would end the flow
		f.n.h.dropped.Add(1)
		return len(b), nil
	}
	f.rec.toGuest(b)
	f.w.write(b)
	return len(b), nil
}

// WriteTo connects, and copies replies to w until the guest or Close ends the flow.
func (f *flow) WriteTo(w io.Writer) (n int64, err error) {
	conn, err := f.n.connect(f.ctx)
	if err != nil {
		if f.ctx.Err() == nil {
			f.n.h.failed(f.n.p, err)
		}
		return 0, err
	}
	if !f.w.attach(conn) {
		_ = conn.Close()
		return 0, net.ErrClosed
	}
	err = readFrames(conn, func(b []byte) error {
		if len(b) > maxReply {
			f.n.h.dropped.Add(1)
			return nil
		}
		f.rec.fromGuest(b)
		m, err := w.Write(b)
		n += int64(m)
		return err
	})
	return n, err
}

// Close implements net.Conn. It may be called more than once.
func (f *flow) Close() error {
	f.cancel()
	f.w.close()
	f.rec.end()
	return nil
}

// A forward needs nothing else of net.Conn.

func (f *flow) Read([]byte) (int, error)         { return 0, net.ErrClosed }
func (f *flow) LocalAddr() net.Addr              { return nil }
func (f *flow) RemoteAddr() net.Addr             { return nil }
func (f *flow) SetDeadline(time.Time) error      { return nil }
func (f *flow) SetReadDeadline(time.Time) error  { return nil }
func (f *flow) SetWriteDeadline(time.Time) error { return nil }
