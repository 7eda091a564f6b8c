package connectip

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	quicgo "github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"ferry/internal/carrier"
	"ferry/internal/carrier/quic"
	"ferry/internal/identity"
)

// ask3 makes a request by HTTP/3, which is that of Ferry's own client but for what change does to it, and returns the answer. The
// connection is closed then.
func ask3(t testing.TB, e carrier.Endpoint, change func(*http.Request)) (status int, page string) {
	t.Helper()
	raw, status, page := request3Of(t, e, change)
	_ = raw.Close()
	return status, page
}

// request3Of is ask3 that leaves the connection open until the test ends.
func request3Of(t testing.TB, e carrier.Endpoint, change func(*http.Request)) (_ *quic.Raw, status int, page string) {
	t.Helper()
	raw, err := quic.DialRaw(t.Context(), e, nil, tls3(outer(e)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	status, page = requestOn(t, raw.Conn, true, e, change)
	return raw, status, page
}

// requestOn makes the request of ask3 on a connection.
func requestOn(t testing.TB, conn *quicgo.Conn, datagrams bool, e carrier.Endpoint, change func(*http.Request)) (status int, page string) {
	t.Helper()
	c := (&http3.Transport{EnableDatagrams: datagrams}).NewClientConn(conn)
	<-c.ReceivedSettings()
	s, err := c.OpenRequestStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := &http.Request{Method: http.MethodConnect, Proto: Token, Host: hostPort(e), Header: header(), URL: &url.URL{Scheme: "https", Host: hostPort(e), Path: Path}}
	change(r)
	if err := s.SendRequestHeader(r.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	a, err := s.ReadResponse()
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	if a.StatusCode != http.StatusOK { // what is granted has no end
		b, _ = io.ReadAll(a.Body)
	}
	return a.StatusCode, string(b)
}

// TestNoDatagrams: a client that takes no QUIC datagrams is told so, instead of losing its connection with the first packet for it.
func TestNoDatagrams(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"a stock client": func(r *http.Request) { r.Header.Del(headerFerry) },
		"Ferry's own":    func(*http.Request) {},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, Gate{Anybody: true})
			e := g.endpoint()
			conn, err := quicgo.DialAddr(t.Context(), hostPort(e), tls3(outer(e)), &quicgo.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseWithError(0, "")
			if status, page := requestOn(t, conn, false, e, change); status != http.StatusNotImplemented || !strings.Contains(page, "datagrams") {
				t.Errorf("got %d: %s", status, page)
			}
		})
	}
}

// settings3 is what a gateway opens its control stream with: it takes extended CONNECT and datagrams (RFC 9114, RFC 9220, RFC 9297).
var settings3 = []byte{0, 4, 4, 8, 1, 0x33, 1}

// An attempt ends with its context also where the other end takes no byte of the request, and that is longer than what the library takes without.
func TestDialNoWindow(t *testing.T) {
	l, err := quicgo.ListenAddr("127.0.0.1:0", tls3(identity.NewKey().Outer()), &quicgo.Config{InitialStreamReceiveWindow: 1, EnableDatagrams: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan error, 1)
	go func() { // ends with the listener
		conn, err := l.Accept(t.Context())
		if err == nil {
			var s *quicgo.SendStream
			if s, err = conn.OpenUniStream(); err == nil {
				_, err = s.Write(settings3)
			}
		}
		asked <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	e := endpointOf(l.Addr().(*net.UDPAddr).AddrPort())
	raw, err := quic.DialRaw(ctx, e, nil, tls3(outer(e)))
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the attempt
		_, err := dial3(ctx, raw, strings.Repeat("x.", 2000)+"example")
		done <- err
	}()
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits for ever")
		_ = raw.Close()
		<-done
	}
}
