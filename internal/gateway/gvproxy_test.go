package gateway

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"ferry/internal/api"
)

// asked returns status and body of a request of gvproxy's API that came from an address.
func asked(h http.Handler, from, path, body string) string {
	r := httptest.NewRequest("POST", "/services/forwarder/"+path, strings.NewReader(body))
	r.RemoteAddr = from + ":9"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return fmt.Sprintf("%d %s", w.Code, strings.TrimSpace(w.Body.String()))
}

// What an operator publishes where a client had exposed something is the operator's: the client neither sees nor ends it.
func TestClientEndsForwardOfOperator(t *testing.T) {
	g, end := forwarding(t, Config{StateDir: t.TempDir()})
	defer end()
	port := greet(t)
	inside, outside := g.gvproxy.Inside(), g.gvproxy.Services()
	const client = "10.0.3.4"
	want := func(h http.Handler, path, body, want string) {
		t.Helper()
		if got := asked(h, client, path, body); !strings.HasPrefix(got, want) {
			t.Errorf("%s %s: got %s, want %s", path, body, got, want)
		}
	}
	local := "127.0.0.1:" + free(t)
	want(inside, "expose", `{"local":"`+local+`","remote":":`+port+`"}`, "200 ")
	if _, err := g.removeForward("tcp://" + local); err != nil {
		t.Fatal(err)
	}
	f, err := g.addForward(api.Publish{From: "tcp://" + local, To: "10.0.0.9:" + port})
	if err != nil {
		t.Fatal(err)
	}
	want(inside, "all", "", "200 []")
	want(inside, "unexpose", `{"local":"`+local+`"}`, "500 proxy not found")
	if got := fetch(t, f); got != "hello" {
		t.Errorf("got %q", got)
	}
	want(inside, "expose", `{"local":"`+local+`","remote":":`+port+`"}`, "500 proxy already running")
	want(outside, "all", "", `200 [{"local":"`+local+`","remote":"10.0.0.9:`+port+`","protocol":"tcp"}]`)
	want(outside, "unexpose", `{"local":"`+local+`"}`, "200 ")
	if all := g.listForwards(); len(all) != 0 {
		t.Errorf("left: %+v", all)
	}
}

// free returns a port of 127.0.0.1 that nobody has.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
