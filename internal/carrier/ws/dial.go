package ws

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"

	"github.com/coder/websocket"

	"ferry/internal/carrier"
)

// Options are what a device can be told about its way out.
type Options struct {
	// Proxy is the URL of a proxy, http:// or socks5://[user:password@]host[:port]. Empty: the one that the environment
	// names for the endpoint (HTTPS_PROXY for wss, HTTP_PROXY for ws, else ALL_PROXY; not for hosts in NO_PROXY); Direct: none.
	Proxy string
}

// Direct as Options.Proxy stands for no proxy, whatever the environment says.
const Direct = "direct"

// Dial connects to an endpoint ws://host:port/path or wss://host:port/path, through a proxy if there is one, and returns the
// byte stream of the WebSocket. The sockets are those of the opener. A proxy looks the host up itself.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener, p Options) (net.Conn, error) {
	return DialHTTP(ctx, e, o, p, func(conn net.Conn) (net.Conn, error) { return upgrade(ctx, e, conn) })
}

// DialHTTP is Dial for another protocol that HTTP/1.1 is upgraded to. upgrade gets a connection on which nothing was said
// yet, behind the handshake of TLS unless the endpoint is ws://, and returns what becomes of it.
func DialHTTP(ctx context.Context, e carrier.Endpoint, o carrier.Opener, p Options, upgrade func(net.Conn) (net.Conn, error)) (net.Conn, error) {
	s, err := dial(ctx, e, carrier.TCPDialer(o), p, upgrade)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", e, err)
	}
	return s, nil
}

func dial(ctx context.Context, e carrier.Endpoint, d *net.Dialer, p Options, upgrade func(net.Conn) (net.Conn, error)) (net.Conn, error) {
	proxy, err := p.proxy(e)
	if err != nil {
		return nil, err
	}
	conn, err := connect(ctx, e, d, proxy)
	if err != nil {
		return nil, err
	}
	var s net.Conn
	err = bounded(ctx, conn, func() (err error) {
		wrapped := carrier.Paced(conn)
		if e.Scheme != "ws" {
			t := tls.Client(wrapped, outer(e))
			if err := t.HandshakeContext(ctx); err != nil {
				return explain(err)
			}
			wrapped = t
		}
		if s, err = upgrade(wrapped); err != nil {
			return explain(err)
		}
		return nil
	})
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

// outer is the TLS around the WebSocket. The name is for a reverse proxy that serves several; nobody is
// proven by it (see the rules of the package).
func outer(e carrier.Endpoint) *tls.Config {
	return &tls.Config{ServerName: e.Host, NextProtos: []string{"http/1.1"}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
}

// upgrade asks for the WebSocket on a connection.
func upgrade(ctx context.Context, e carrier.Endpoint, conn net.Conn) (net.Conn, error) {
	w := &wire{Conn: conn}
	asked := &exchange{wire: w}
	c, answer, err := websocket.Dial(ctx, e.String(), &websocket.DialOptions{
		HTTPClient:      &http.Client{Transport: asked, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		CompressionMode: websocket.CompressionDisabled,
	})
	switch {
	case err == nil:
		return newStream(c, w, e.Scheme), nil
	case answer == nil || answer.StatusCode == http.StatusSwitchingProtocols:
		return nil, explain(inner(err))
	}
	return nil, explainStatus(answer.StatusCode, e)
}

func explainStatus(status int, e carrier.Endpoint) error {
	what := fmt.Sprintf("the answer is %d %s instead of a WebSocket", status, http.StatusText(status))
	switch status {
	case http.StatusNotFound:
		return fmt.Errorf("%s: nothing is at %s: check the path, and that the reverse proxy hands it on", what, e.Path)
	case http.StatusUpgradeRequired, http.StatusBadRequest:
		return fmt.Errorf("%s: does the reverse proxy hand on the headers Upgrade and Connection?", what)
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("%s: the reverse proxy reaches no gateway: is vpnsrv running?", what)
	}
	return fmt.Errorf("%s: is this the address of a gateway?", what)
}

// explain says what an error of connecting means to who named the endpoint.
func explain(err error) error {
	var dns *net.DNSError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &dns) && !dns.IsNotFound:
		return fmt.Errorf("the name %s can not be looked up: is a name server reachable? An address needs none: %w", dns.Name, err)
	case errors.As(err, &dns):
		return fmt.Errorf("the name %s was not found: check it, or use an address: %w", dns.Name, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing listens there: %w", err)
	case errors.As(err, &record):
		return fmt.Errorf("the other end speaks no TLS there: is it ws://?: %w", err)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the connection was closed instead of an answer: is this the address of a gateway?")
	}
	return err
}

// An exchange is one request and its answer on a connection, whose bytes behind the answer are the WebSocket's.
// package http's own Transport would keep two goroutines for it.
type exchange struct{ wire *wire }

var _ http.RoundTripper = (*exchange)(nil)

func (x *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Write(x.wire.Conn); err != nil {
		return nil, err
	}
	answer, early, err := readAnswer(x.wire.Conn, r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusSwitchingProtocols {
		x.wire.early = early
		answer.Body = x.wire
	}
	return answer, nil
}

// readAnswer reads the head of the answer to a request, and returns what came with it from behind the head.
func readAnswer(conn net.Conn, r *http.Request) (*http.Response, []byte, error) {
	br := bufio.NewReader(io.LimitReader(conn, maxHead))
	answer, err := http.ReadResponse(br, r)
	if err != nil {
		return nil, nil, err
	}
	early, err := br.Peek(br.Buffered())
	return answer, early, err
}
