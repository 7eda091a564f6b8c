package connectip

import (
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/quic-go/quic-go/http3"

	"ferry/internal/carrier"
	"ferry/internal/carrier/quic"
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
	c := (&http3.Transport{EnableDatagrams: true}).NewClientConn(raw.Conn)
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
	return raw, a.StatusCode, string(b)
}
