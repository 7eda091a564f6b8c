package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/internal/addrpool"
	"ferry/internal/api"
	"ferry/internal/api/gvproxy"
	"ferry/internal/identity"
	"ferry/internal/router"
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
	g.table.Bind(router.NewPort(1, router.Caps{}, newMemory()), netip.MustParseAddr(client))
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

// What a client has exposed does not lead to who gets its address next.
func TestExposedPortLeadsToSuccessor(t *testing.T) {
	g, end := forwarding(t, Config{StateDir: t.TempDir(), Key: identity.NewKey()})
	defer end()
	h := g.gvproxy.Inside()
	port := router.NewPort(1, router.Caps{}, newMemory())
	exposed := func() int { return len(g.exposed.List()) }
	expose := func(client netip.Addr) string {
		return asked(h, client.String(), "expose", `{"local":"127.0.0.1:`+free(t)+`","remote":":80"}`)
	}
	client := netip.MustParseAddr("10.0.200.4")
	if _, err := g.leases.grant(t.Context(), addrpool.Request{Owner: 1, Static: client, Token: addrpool.Token{1}}); err != nil {
		t.Fatal(err)
	}
	g.table.Bind(port, client)
	if got := expose(client); got != "200 " || exposed() != 1 {
		t.Fatalf("got %s, %d", got, exposed())
	}
	g.table.Unbind(port)
	g.leases.release(1, true)
	if exposed() != 1 {
		t.Error("it may come back, and its port is closed")
	}
	g.leases.expire(time.Now().Add(g.c().IdleTimeout + time.Second))
	if exposed() != 0 {
		t.Error("another may get its address, and its port is open")
	}
	if got := expose(client); got != "500 the client has left" || exposed() != 0 {
		t.Errorf("who has left exposes: %s", got)
	}

	d, err := g.addPeer(api.Peer{Name: "cam7", Key: identity.NewKey().Public().String()})
	if err != nil {
		t.Fatal(err)
	}
	g.table.Bind(port, d.Addresses[0])
	if got := expose(d.Addresses[0]); got != "200 " || exposed() != 1 {
		t.Fatalf("got %s, %d", got, exposed())
	}
	if _, err := g.removePeer("cam7"); err != nil {
		t.Fatal(err)
	}
	if exposed() != 0 {
		t.Error("the device is removed, and its port is open")
	}
}

// A client that comes by another connection, before the gateway has noticed that the old one is dead, is not told of as gone.
func TestNotifiedOfTheLatest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n.sock")
	program, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	g, end := forwarding(t, Config{StateDir: t.TempDir(), Notification: "unix://" + path})
	defer end()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.notifier.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	lease := addrpool.Lease{Addr: netip.MustParseAddr("10.0.3.4")}
	again := router.NewPort(2, router.Caps{}, nil)
	g.notify(gvproxy.Established, standIn(lease.Addr), lease)
	g.table.Bind(again, lease.Addr) // by another connection
	g.notify(gvproxy.Established, standIn(lease.Addr), lease)
	g.notify(gvproxy.Closed, standIn(lease.Addr), lease) // the first one
	g.table.Unbind(again)
	lease.Name = "again"
	g.notify(gvproxy.Closed, standIn(lease.Addr), lease)
	for _, want := range []string{gvproxy.Established, gvproxy.Established, lease.Name} {
		_ = program.(*net.UnixListener).SetDeadline(time.Now().Add(10 * time.Second))
		conn, err := program.Accept()
		if err != nil {
			t.Fatal(err)
		}
		line, _ := io.ReadAll(conn)
		conn.Close()
		if !strings.Contains(string(line), `"`+want+`"`) {
			t.Errorf("got %s, want %s", line, want)
		}
	}
	if n := g.notifier.Counts()["notifications_dropped"]; n != 0 {
		t.Errorf("%d were dropped", n)
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
