package connectip

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"ferry/internal/carrier"
	"ferry/internal/carrier/datagram"
	"ferry/internal/carrier/quic"
	"ferry/internal/carrier/ws"
)

// Dial connects to an endpoint connect-ip://host:port by HTTP/3 and makes the handshake of c inside, until ctx is done. The sockets
// are those of the opener. Whether the gateway takes the key is known only when the first items have come.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c *tls.Config) (carrier.Link, error) {
	raw, err := quic.DialRaw(ctx, e, o, tls3(outer(e)))
	if err != nil {
		return nil, err
	}
	t, err := dial3(ctx, raw, hostPort(e))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", e, err)
	}
	way := newTransport(t)
	l, err := datagram.Dial(ctx, way, way.peer, c)
	if err != nil {
		_ = way.Close()
		return nil, fmt.Errorf("dial %s: %w", e, err)
	}
	return &Link{Link: l, way: way}, nil
}

// DialStream connects to an endpoint connect-ip+h1://host:port by HTTP/1.1 over TLS, through the proxy that the environment names,
// if there is one, and returns the byte stream in the capsules. The sockets are those of the opener.
func DialStream(ctx context.Context, e carrier.Endpoint, o carrier.Opener) (net.Conn, error) {
	return ws.DialHTTP(ctx, e, o, ws.Options{}, func(conn net.Conn) (net.Conn, error) {
		r := &http.Request{Method: http.MethodGet, Host: hostPort(e), URL: &url.URL{Path: Path}, Header: header()}
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", Token)
		if err := r.Write(conn); err != nil {
			return nil, err
		}
		s := newStream(conn)
		head := &io.LimitedReader{R: s.in.br, N: maxHead}
		answer, err := http.ReadResponse(bufio.NewReaderSize(oneByOne{head}, 16), r)
		if err != nil {
			return nil, err
		}
		return s, checkAnswer(answer, http.StatusSwitchingProtocols)
	})
}

// oneByOne is a reader of which nothing is read ahead.
type oneByOne struct{ io.Reader }

func (o oneByOne) Read(b []byte) (int, error) { return o.Reader.Read(b[:min(len(b), 1)]) }

// outer is the TLS around HTTP. Nobody is proven by it (see the rules of the package).
func outer(e carrier.Endpoint) *tls.Config {
	return &tls.Config{ServerName: e.Host, InsecureSkipVerify: true}
}

func hostPort(e carrier.Endpoint) string { return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))) }

// checkAnswer says what an answer to a request of Ferry's means to who named the endpoint.
func checkAnswer(a *http.Response, want int) error {
	switch {
	case a.StatusCode == want && a.Header.Get(headerFerry) == strconv.Itoa(contextFerry):
		return nil
	case a.StatusCode == want:
		return errors.New("a proxy of IP that is no gateway of Ferry's: check the address")
	}
	what := fmt.Sprintf("the answer is %d %s", a.StatusCode, http.StatusText(a.StatusCode))
	switch a.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("%s: nothing proxies IP there: is vpnsrv as old as this, and does the reverse proxy hand on %s?", what, Path)
	case http.StatusForbidden:
		return fmt.Errorf("%s: the gateway takes no devices with a key there: ask its operator for another listener", what)
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("%s: the reverse proxy reaches no gateway: is vpnsrv running?", what)
	}
	return fmt.Errorf("%s: is this the address of a gateway?", what)
}
