package connectip

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"

	quicgo "github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"ferry/internal/carrier/quic"
)

// All that concerns the library's interface is in this file.

const (
	scheme3 = "connect-ip"
	// tooLong is longer than any datagram that the library sends, bytes.
	tooLong = 16 << 10
)

// tls3 returns the configuration of the outer TLS for HTTP/3.
func tls3(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos, c.MinVersion = []string{http3.NextProtoH3}, tls.VersionTLS13
	return c
}

// A tunnel3 is a request by HTTP/3 that was granted: a stream and datagrams.
type tunnel3 struct {
	raw     *quic.Raw
	stream  stream3
	serving sync.WaitGroup // a gateway's: the library's goroutine for the connection
}

// A stream3 is what both ends of the library have.
type stream3 interface {
	io.ReadWriteCloser
	CancelRead(quicgo.StreamErrorCode)
	ReceiveDatagram(context.Context) ([]byte, error)
	StreamID() quicgo.StreamID
}

// datagrams tells whether the other end takes any.
func (t *tunnel3) datagrams() bool { return t.raw.Conn.ConnectionState().SupportsDatagrams.Remote }

// prefix appends what a datagram of a context begins with.
func (t *tunnel3) prefix(b []byte, context uint64) []byte {
	return appendVarint(appendVarint(b, uint64(t.stream.StreamID())/4), context)
}

// send sends a QUIC datagram, and waits while 32 are queued. One that is longer than what fits now is not sent: then it returns
// that length, and no error. The library copies b.
func (t *tunnel3) send(b []byte) (limit int, err error) {
	if err = t.raw.Conn.SendDatagram(b); err == nil {
		return 0, nil
	}
	if long := new(quicgo.DatagramTooLargeError); errors.As(err, &long) {
		return int(long.MaxDatagramPayloadSize), nil
	}
	return 0, t.meaning(err)
}

// filler is tried to be sent, to hear how long a datagram may be. Nobody writes to it.
var filler [tooLong]byte

// limit returns the length of the longest datagram that fits into a packet now.
func (t *tunnel3) limit() int {
	limit, _ := t.send(filler[:])
	return limit
}

// receive waits for a datagram, from its context on. It belongs to the caller.
func (t *tunnel3) receive() ([]byte, error) {
	d, err := t.stream.ReceiveDatagram(t.raw.Conn.Context())
	return d, t.meaning(err)
}

func (t *tunnel3) Read(b []byte) (int, error) {
	n, err := t.stream.Read(b)
	return n, t.meaning(err)
}

// meaning says in words of package net why a tunnel has ended: the stream's end is the end of all.
func (t *tunnel3) meaning(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	select {
	case <-t.raw.Ended():
		return t.raw.Cause()
	default:
		return io.EOF // the stream alone was reset
	}
}

// closing says that this end closes, and waits until the other one says so, or ends the connection.
func (t *tunnel3) closing() {
	_ = t.stream.Close()
	var b [64]byte
	for {
		if _, err := t.stream.Read(b[:]); err != nil {
			return
		}
	}
}

// close ends the connection, and waits for the library.
func (t *tunnel3) close() {
	_ = t.raw.CloseWith(quicgo.ApplicationErrorCode(http3.ErrCodeNoError))
	t.serving.Wait()
}

func (t *tunnel3) remote() net.Addr { return addrOf(t.raw.RemoteAddr(), scheme3) }

// dial3 asks for a tunnel on a connection, until ctx is done. The connection ends with it, or with an error.
func dial3(ctx context.Context, raw *quic.Raw, host string) (t *tunnel3, err error) {
	defer func() {
		if err != nil {
			_ = raw.CloseWith(quicgo.ApplicationErrorCode(http3.ErrCodeNoError))
		}
	}()
	c := (&http3.Transport{EnableDatagrams: true, MaxResponseHeaderBytes: maxHead}).NewClientConn(raw.Conn)
	select {
	case <-c.ReceivedSettings():
	case <-raw.Ended():
		return nil, raw.Cause()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s := c.Settings(); !s.EnableDatagrams || !s.EnableExtendedConnect {
		return nil, errors.New("a web server that proxies nothing: is this the address of a gateway?")
	}
	stream, err := c.OpenRequestStream(ctx)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { // also a wait for the other end to take more
		stream.CancelWrite(quicgo.StreamErrorCode(http3.ErrCodeRequestCanceled))
		stream.CancelRead(quicgo.StreamErrorCode(http3.ErrCodeRequestCanceled))
	})()
	r := (&http.Request{
		Method: http.MethodConnect, Proto: Token, Host: host, Header: header(),
		URL: &url.URL{Scheme: "https", Host: host, Path: Path},
	}).WithContext(ctx)
	var answer *http.Response
	if err = stream.SendRequestHeader(r); err == nil {
		answer, err = stream.ReadResponse()
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	if err = checkAnswer(answer, http.StatusOK); err != nil {
		return nil, err
	}
	return &tunnel3{raw: raw, stream: stream}, nil
}

// header returns that of Ferry's own requests, and of the answers to them.
func header() http.Header {
	return http.Header{headerCapsules: {"?1"}, headerFerry: {strconv.Itoa(contextFerry)}}
}

// A visit3 is a connection of a stranger until its request is answered. One goroutine answers.
type visit3 struct {
	taken    atomic.Bool
	requests chan request3 // capacity 1: sent to once, by the library's goroutine
	answered chan struct{} // closed when that may go on
}

type request3 struct {
	w http.ResponseWriter
	r *http.Request
}

// serve3 lets the library serve a connection, until that ends.
func serve3(raw *quic.Raw) (*visit3, *tunnel3) {
	v := &visit3{requests: make(chan request3, 1), answered: make(chan struct{})}
	t := &tunnel3{raw: raw}
	s := &http3.Server{EnableDatagrams: true, MaxHeaderBytes: maxHead, Handler: v}
	t.serving.Go(func() { _ = s.ServeQUICConn(raw.Conn) })
	return v, t
}

// ServeHTTP hands the first request to who waits for it.
func (v *visit3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if v.taken.Swap(true) {
		http.Error(w, "one request to a connection: open another one", http.StatusServiceUnavailable)
		return
	}
	v.requests <- request3{w, r}
	<-v.answered
}

// refuse answers why not.
func (q request3) refuse(why *refusal) { http.Error(q.w, why.what, why.status) }

// grant answers that the tunnel is there, and takes its stream.
func (q request3) grant() (stream3, error) {
	h := q.w.Header()
	h.Set(headerCapsules, "?1")
	if ours(q.r) {
		h.Set(headerFerry, strconv.Itoa(contextFerry))
	}
	q.w.WriteHeader(http.StatusOK)
	s, err := q.w.(http3.HTTPStreamer).HTTPStream()
	if err != nil {
		return nil, fmt.Errorf("take over the stream: %w", err)
	}
	return s, nil
}
