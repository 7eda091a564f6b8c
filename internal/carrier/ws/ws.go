// Package ws is the carrier over WebSocket (RFC 6455), for a device that gets out by a proxy only, or to port 443 only:
//
//	device ──TCP──▶ HTTP CONNECT or SOCKS5 proxy ──▶ reverse proxy, which ends the TLS of wss:// ──▶ gateway
//	        \__ none: straight on ______________/  \__ none: the gateway ends it, AcceptTLS __/
//
//	GET /ferry HTTP/1.1, Upgrade: websocket  ──▶
//	                                         ◀──  101 Switching Protocols
//	[2 or 4 or 10][mask 4] a part of the stream   binary messages, both ways; their borders mean nothing
//	                       \__ Ferry's own handshake (package tls) and its records
//
// The rules are:
//
//   - The outer TLS proves nothing, and the certificate is not verified. Who ends it reads and changes what he likes, which
//     is why it is Ferry's handshake inside that tells who is at the other end, by keys that are pinned, and its records that are
//     secret. The outer one is there for the network to see what it lets pass. So a self-signed certificate will do, as will that of
//     a cloud's load balancer, and no authority can be made to stand between the two ends. Where no key of the gateway is known, and
//     the 2013 protocol is spoken, wss:// is as open to who stands in the way as tcp:// is.
//   - Who asks is a stranger until that handshake is done: head of at most 8 KiB, 10 s, no body, one request. What he says
//     about where he comes from (X-Forwarded-For) is not believed.
//   - Messages are read as they come, never as a whole: what they claim to hold makes nobody allocate. They are not
//     compressed. A text is an error.
//   - No goroutine is started here, and none waits here when the connection is closed.
package ws

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"ferry/internal/carrier"
)

const (
	// maxMessage is how long a message of the other end may be, which is more than ours are: a proxy may join some.
	maxMessage = 1 << 20
	// maxPart is how much goes into one of ours.
	maxPart = holdSize - maxFrameHeader
	// readPart is how much of a message is read at once: a record of TLS.
	readPart = carrier.MaxRecord
	// closeGrace is how long the word that nothing follows may wait for a socket that is full.
	closeGrace = 200 * time.Millisecond
)

// partPool has the buffers of all streams. One get (next), one put (giveBack).
var partPool = sync.Pool{New: func() any { return new([readPart]byte) }}

// ErrText is returned for a message that is text: nothing of Ferry's sends one.
var ErrText = errors.New("a text where Ferry's messages are binary")

// A stream is the bytes in the messages of a WebSocket. One goroutine at a time reads, one writes; Close may be called
// by anybody. A deadline that passes ends its direction for good.
type stream struct {
	ws     *websocket.Conn
	wire   *wire
	scheme string

	// For the goroutine that reads.
	message io.Reader       // what is left of a message; nil between two
	part    *[readPart]byte // nil: none is borrowed
	unread  []byte          // of part
	end     error           // nothing comes behind unread

	closed atomic.Bool
}

var _ carrier.Waiter = (*stream)(nil)

func newStream(c *websocket.Conn, w *wire, scheme string) *stream {
	c.SetReadLimit(maxMessage)
	return &stream{ws: c, wire: w, scheme: scheme}
}

// Wait is that of carrier.Waiter.
func (s *stream) Wait(idle func()) error {
	if len(s.unread) == 0 && s.end == nil {
		idle()
	}
	for len(s.unread) == 0 && s.end == nil {
		s.next()
	}
	if len(s.unread) > 0 {
		return nil
	}
	return s.end
}

// next waits for the next part of a message, or for the next message. The library gives a part when it is whole, so its
// buffer is a small one: the other end may let it wait in the middle.
func (s *stream) next() {
	if s.message == nil {
		// A net.Conn knows no ctx: what waits here is ended by Close.
		kind, r, err := s.ws.Reader(context.Background())
		switch {
		case err != nil:
			s.end = s.readError(err)
		case kind != websocket.MessageBinary:
			s.end = ErrText
		default:
			s.message = r
		}
		return
	}
	s.part = partPool.Get().(*[readPart]byte)
	n, err := s.message.Read(s.part[:])
	s.unread = s.part[:n]
	switch {
	case err == io.EOF:
		s.message = nil
	case err != nil:
		s.end = s.readError(err)
	}
	if n == 0 {
		s.giveBack()
	}
}

func (s *stream) giveBack() {
	partPool.Put(s.part)
	s.part, s.unread = nil, nil
}

func (s *stream) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	if err := s.Wait(func() {}); err != nil {
		return 0, err
	}
	n := copy(b, s.unread)
	if s.unread = s.unread[n:]; len(s.unread) == 0 {
		s.giveBack()
	}
	return n, nil
}

// Write sends b as one message, if it is no longer than maxPart.
func (s *stream) Write(b []byte) (n int, err error) {
	for n < len(b) {
		part := b[n:min(n+maxPart, len(b))]
		if err := s.ws.Write(context.Background(), websocket.MessageBinary, part); err != nil {
			if s.closed.Load() {
				return n, net.ErrClosed
			}
			return n, inner(err)
		}
		n += len(part)
	}
	return n, nil
}

// Close tells the other end that nothing follows, if that can be told at once, and ends what waits in Read and Write.
func (s *stream) Close() error {
	if s.closed.Swap(true) {
		return net.ErrClosed
	}
	// The library would wait 5 s for the word to go out, and 5 s for the answer.
	_ = s.wire.SetWriteDeadline(time.Now().Add(closeGrace))
	_ = s.wire.SetReadDeadline(time.Unix(1, 0))
	_ = s.ws.Close(websocket.StatusNormalClosure, "")
	return nil
}

// readError says what ended the stream.
func (s *stream) readError(err error) error {
	var closing websocket.CloseError
	switch {
	case s.closed.Load():
		return net.ErrClosed
	case errors.As(err, &closing):
		switch closing.Code {
		case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
			return io.EOF
		}
		return fmt.Errorf("the other end closed the WebSocket with status %d: %q", closing.Code, closing.Reason)
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF // a connection that ended without a word
	}
	return inner(err)
}

// inner returns what went wrong, without the steps of the library on the way to it.
func inner(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op
	}
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}

// LocalAddr is that of the TCP connection.
func (s *stream) LocalAddr() net.Addr { return addr{s.wire.LocalAddr(), s.scheme} }

// RemoteAddr is that of the TCP connection: of a proxy, where there is one between.
func (s *stream) RemoteAddr() net.Addr { return addr{s.wire.RemoteAddr(), s.scheme} }

func (s *stream) SetDeadline(t time.Time) error      { return s.wire.SetDeadline(t) }
func (s *stream) SetReadDeadline(t time.Time) error  { return s.wire.SetReadDeadline(t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.wire.SetWriteDeadline(t) }

// An addr is the address of a TCP connection, and says what is in it.
type addr struct {
	net.Addr
	scheme string // ws or wss
}

func (a addr) Network() string { return a.scheme }

// bounded calls f, which uses conn, until ctx is done.
func bounded(ctx context.Context, conn net.Conn, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := f()
	switch {
	case stop():
		return err
	case err == nil: // a deadline set a moment too late would end the connection later
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ctx.Err(), err)
}
