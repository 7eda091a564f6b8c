package gvproxy

import (
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

// inside serves clients, and returns where.
func (l *lab) inside() (addr string) {
	l.t.Helper()
	at, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	l.run(Inside(at), l.api.Inside())
	addr = at.Addr().String()
	l.base = "http://" + addr
	return addr
}

// From inside a client exposes ports of its own address, and nothing else.
func TestInside(t *testing.T) {
	l := newLab(t)
	l.inside()
	as := func(client string) {
		d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
		tr := &http.Transport{DialContext: d.DialContext}
		t.Cleanup(tr.CloseIdleConnections)
		l.c = &http.Client{Transport: tr}
	}
	port := l.echo(clients[0])
	near := freePort(t)
	expose := fmt.Sprintf(`{"local":"127.0.0.1:%d","remote":":%d"}`, near, port)
	const path = "/services/forwarder/"
	as("127.0.0.9")
	l.want("POST", path+"expose", expose, "403 only clients")
	l.want("GET", path+"all", "", "403 only clients")
	as("127.0.0.2")
	l.want("POST", path+"expose", expose, "200 ")
	if got := says(t, "tcp4", fmt.Sprintf("127.0.0.1:%d", near), "you"); got != "hello you" {
		t.Errorf("got %q", got)
	}
	mine := fmt.Sprintf(`200 [{"local":"127.0.0.1:%d","remote":"127.0.0.2:%d","protocol":"tcp"}]`, near, port)
	l.want("GET", path+"all", "", mine)
	for _, body := range []string{
		`{"local":":7001","remote":"127.0.0.3:80"}`, `{"local":":1023","remote":":80"}`, `{"local":":0","remote":":80"}`,
		`{"local":"/tmp/x","remote":"tcp://127.0.0.2:80","protocol":"unix"}`, `{"local":":7001","remote":":80","protocol":"UNIX"}`,
		`{"local":"/tmp/x","remote":"ssh-tunnel://u@127.0.0.2/s?key=/etc/shadow","protocol":"unix"}`,
	} {
		l.want("POST", path+"expose", body, "403 ")
	}
	for _, other := range []string{"/leases", "/stats", "/cam", "/services/dns/all", "/tunnel?ip=127.0.0.3&port=1", "/connect"} {
		l.want("POST", other, "", "404 ")
	}
	as("127.0.0.3")
	l.want("GET", path+"all", "", "200 []")
	l.want("POST", path+"expose", fmt.Sprintf(`{"local":"127.0.0.1:%d","remote":":1"}`, near), "500 proxy already running")
	l.want("POST", path+"unexpose", fmt.Sprintf(`{"local":"127.0.0.1:%d"}`, near), "500 proxy not found")
	for range maxInside {
		l.want("POST", path+"expose", fmt.Sprintf(`{"local":"127.0.0.1:%d","remote":":1"}`, freePort(t)), "200 ")
	}
	l.want("POST", path+"expose", fmt.Sprintf(`{"local":"127.0.0.1:%d","remote":":1"}`, freePort(t)), "500 you have exposed as many")
	as("127.0.0.2")
	var more []int
	for range maxAllInside - maxInside - 1 {
		more = append(more, freePort(t))
		l.want("POST", path+"expose", fmt.Sprintf(`{"local":"127.0.0.1:%d","remote":":1"}`, more[len(more)-1]), "200 ")
	}
	as("127.0.0.4")
	l.want("POST", path+"expose", fmt.Sprintf(`{"local":"127.0.0.1:%d","remote":":1"}`, freePort(t)), "500 clients have exposed as many")
	as("127.0.0.2")
	for _, port := range more {
		l.want("POST", path+"unexpose", fmt.Sprintf(`{"local":"127.0.0.1:%d"}`, port), "200 ")
	}
	l.want("GET", path+"all", "", mine)
	l.want("POST", path+"unexpose", fmt.Sprintf(`{"local":"127.0.0.1:%d"}`, near), "200 ")
	l.want("GET", path+"all", "", "200 []")
}

// One client that holds connections keeps no other away.
func TestInsideIsForAll(t *testing.T) {
	l := newLab(t)
	at := l.inside()
	as := func(client string) *net.Dialer {
		return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}, Timeout: 5 * time.Second}
	}
	for range 2 * maxConns {
		conn, err := as("127.0.0.2").Dial("tcp4", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	tr := &http.Transport{DialContext: as("127.0.0.3").DialContext}
	defer tr.CloseIdleConnections()
	l.c = &http.Client{Transport: tr, Timeout: timeout / 2}
	l.want("GET", "/services/forwarder/all", "", "200 []")
	if n := l.api.Counts()["forbidden"]; n != 2*maxConns-maxEach {
		t.Errorf("%d were refused", n)
	}
}

// What an operator has removed by other means can be exposed anew.
func TestRemovedOtherwise(t *testing.T) {
	l := newLab(t)
	body := fmt.Sprintf(`{"local":"127.0.0.1:%d","remote":"127.0.0.2:80"}`, freePort(t))
	for range 2 {
		l.want("POST", "/services/forwarder/expose", body, "200 ")
		if err := l.Remove(l.table.List()[0].Bound.String()); err != nil {
			t.Fatal(err)
		}
		l.want("GET", "/services/forwarder/all", "", "200 []")
	}
}
