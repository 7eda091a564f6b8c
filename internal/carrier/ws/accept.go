package ws

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
)

const (
	maxHead    = 8 << 10          // bytes of a request or of an answer, without a body
	askTime    = 10 * time.Second // for a request, with the TLS handshake before it
	answerTime = time.Second      // for an answer to go out
)

// Reasons to refuse a connection.
var (
	ErrRequest = errors.New("an HTTP request that asks for no WebSocket of ours")
	ErrTLS     = errors.New("the outer TLS handshake")
)

// A Taker answers a request for another protocol than WebSocket that HTTP/1.1 is upgraded to, and returns what becomes of the
// connection. r.TLS is the outer TLS, if there is one. An error was answered, too.
type Taker func(conn net.Conn, r *http.Request) (net.Conn, error)

// Takers are those for other protocols, by what the header Upgrade says, in lower case.
type Takers map[string]Taker

// Accept takes a connection that begins with an HTTP request, and returns the byte stream of the WebSocket that it asks for
// at a path. Anything else gets an HTTP answer and is ErrRequest, with what was wrong. It closes nothing; behind an error the
// connection is good for nothing but that.
func Accept(ctx context.Context, conn net.Conn, path string, others Takers) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	scheme := "ws"
	if _, ok := conn.(*tls.Conn); ok {
		scheme = "wss"
	}
	return accept(ctx, conn, path, scheme, others)
}

// AcceptTLS is Accept for a connection that begins with the handshake of TLS. c has the certificate, which nobody verifies.
func AcceptTLS(ctx context.Context, conn net.Conn, path string, c *tls.Config, others Takers) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c = c.Clone()
	c.NextProtos = []string{"http/1.1"}
	t := tls.Server(conn, c)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTLS, err)
	}
	s, err := accept(ctx, t, path, "wss", others)
	if err != nil {
		_ = t.SetWriteDeadline(time.Now().Add(answerTime))
		_ = t.CloseWrite()
		return nil, err
	}
	return s, nil
}

func accept(ctx context.Context, conn net.Conn, path, scheme string, others Takers) (net.Conn, error) {
	a := &answer{others: others, conn: conn, wire: &wire{Conn: conn}, header: make(http.Header)}
	var r *http.Request
	err := bounded(ctx, readSide{conn}, func() (err error) {
		if r, err = a.request(path); err != nil && ctx.Err() != nil {
			err = &refusal{http.StatusRequestTimeout, "not whole in time"}
		}
		return err
	})
	_ = conn.SetWriteDeadline(time.Now().Add(answerTime))
	if err != nil {
		a.refuse(err)
		return nil, err
	}
	if take := a.taker(r); take != nil {
		return a.hand(take, r)
	}
	c, err := websocket.Accept(a, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err == nil {
		err = a.err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, inner(err))
	}
	if err := conn.SetWriteDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return newStream(c, a.wire, scheme), nil
}

// readSide is a connection of which only reading is to end: the answer is to go out yet.
type readSide struct{ net.Conn }

func (r readSide) SetDeadline(t time.Time) error { return r.SetReadDeadline(t) }

// A refusal says what is wrong with a request, and with which status it is answered.
type refusal struct {
	status int
	what   string
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: %d: %s", ErrRequest, r.status, r.what) }
func (r *refusal) Unwrap() error { return ErrRequest }

// An answer is where the library finds the connection of a request, and says what becomes of it.
type answer struct {
	others Takers
	conn   net.Conn
	wire   *wire
	br     *bufio.Reader
	header http.Header
	err    error // in writing it
}

var (
	_ http.ResponseWriter = (*answer)(nil)
	_ http.Hijacker       = (*answer)(nil)
)

// request reads the head of the one request that there is, and checks what the library does not.
func (a *answer) request(path string) (*http.Request, error) {
	head := &io.LimitedReader{R: a.wire, N: maxHead}
	a.br = bufio.NewReader(head)
	r, err := http.ReadRequest(a.br)
	switch {
	case err != nil && head.N == 0:
		return nil, &refusal{http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("more than %d bytes", maxHead)}
	case err != nil:
		return nil, &refusal{http.StatusBadRequest, short(err.Error())}
	case r.ProtoMajor != 1:
		return nil, &refusal{http.StatusHTTPVersionNotSupported, r.Proto}
	case a.taker(r) != nil:
	case r.URL.Path != path:
		return nil, &refusal{http.StatusNotFound, short(r.URL.Path)}
	case r.ContentLength != 0:
		return nil, &refusal{http.StatusBadRequest, "a body"}
	case r.Header.Get("Sec-WebSocket-Version") != "13" || !r.ProtoAtLeast(1, 1):
		a.header.Set("Sec-WebSocket-Version", "13")
		a.upgrade()
		return nil, &refusal{http.StatusUpgradeRequired, "no WebSocket, or another version of it or of HTTP"}
	}
	return r, nil
}

// taker returns who answers a request for another protocol; nil: nobody does.
func (a *answer) taker(r *http.Request) Taker {
	return a.others[strings.ToLower(r.Header.Get("Upgrade"))]
}

// hand lets another protocol answer a request.
func (a *answer) hand(take Taker, r *http.Request) (net.Conn, error) {
	early, err := a.br.Peek(a.br.Buffered())
	if err != nil {
		return nil, err
	}
	if t, ok := a.conn.(*tls.Conn); ok {
		state := t.ConnectionState()
		r.TLS = &state
	}
	a.wire.early = early
	s, err := take(&ahead{Conn: a.conn, wire: a.wire}, r)
	if err != nil {
		return nil, err
	}
	return s, a.conn.SetWriteDeadline(time.Time{})
}

// An ahead is a connection of which some was read before.
type ahead struct {
	net.Conn
	wire *wire
}

func (a *ahead) Read(b []byte) (int, error) { return a.wire.Read(b) }

// short keeps what strangers write out of the log but for its beginning.
func short(s string) string { return strconv.Quote(s[:min(len(s), 64)]) }

// upgrade says what would be taken: RFC 9110, section 15.5.22.
func (a *answer) upgrade() {
	a.header.Set("Upgrade", "websocket")
	a.header.Set("Connection", "Upgrade")
}

func (a *answer) refuse(err error) {
	var r *refusal
	if errors.As(err, &r) {
		a.WriteHeader(r.status)
	}
}

func (a *answer) Header() http.Header { return a.header }

// Write takes what the library says about an error, which is for nobody: the page is that of the status.
func (a *answer) Write(b []byte) (int, error) { return len(b), nil }

func (a *answer) WriteHeader(status int) {
	var b bytes.Buffer
	text := http.StatusText(status)
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, text)
	page := ""
	if status != http.StatusSwitchingProtocols {
		page = text + "\n"
		a.header.Add("Connection", "close")
		a.header.Set("Content-Type", "text/plain; charset=utf-8")
		a.header.Set("Content-Length", strconv.Itoa(len(page)))
		a.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	_ = a.header.Write(&b) // into memory
	b.WriteString("\r\n" + page)
	_, a.err = a.conn.Write(b.Bytes())
}

func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return a.wire, bufio.NewReadWriter(a.br, bufio.NewWriter(a.wire)), nil
}
