package gvproxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/api/gvproxy/endpoint"
	"ferry/internal/forward"
	"ferry/internal/nameserver"
)

// A lab is the API of a gateway whose clients are 127.0.0.2 to 127.0.0.4: real sockets, and real published ports.
type lab struct {
	t      *testing.T
	api    *API
	table  *forward.Table
	zones  nameserver.Zones
	plugs  *Plugs
	socket string
	c      *http.Client
	base   string
	slow   atomic.Bool // Check takes its time
}

var clients = []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.4")}

func (l *lab) List() (own, others []forward.Status) { return l.table.List(), nil }
func (l *lab) Add(s forward.Spec) (forward.Status, error) {
	return l.table.Add(s, 0, false, false)
}
func (l *lab) Remove(from string) error { _, err := l.table.Remove(from); return err }
func (l *lab) RemoveOther(string) error { return forward.ErrUnknown }
func (l *lab) All() []nameserver.Zone   { return l.zones.All() }
func (l *lab) Leases() map[string]string {
	return map[string]string{"127.0.0.2": "5a:94:ef:e4:0c:ee"}
}
func (l *lab) Machines() map[string]uint64 { return map[string]uint64{} }
func (l *lab) Stats() map[string]any       { return map[string]any{"BytesSent": 7} }
func (l *lab) Check(a netip.Addr) error {
	if l.slow.Load() {
		time.Sleep(20 * time.Millisecond)
	}
	if !slices.Contains(clients, a) {
		return fmt.Errorf("%s is no client", a)
	}
	return nil
}

func (l *lab) Present(a netip.Addr) bool { return slices.Contains(clients, a) }

func (l *lab) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp4", to.String())
}

type names struct{ *lab }

func (n names) Add(z nameserver.Zone) error { return n.zones.Add(z) }

// newLab serves the API, with /connect, on a unix socket.
func newLab(t *testing.T, change ...func(*Config)) *lab {
	l := &lab{t: t, socket: filepath.Join(t.TempDir(), "gv.sock"), base: "http://unix"}
	l.table = forward.NewTable(t.Context(), forward.Config{Check: func(to forward.Target) error { return l.Check(to.Addr) }})
	t.Cleanup(l.table.Close)
	c := Config{Ports: l, Clients: l, Names: names{l}, OpenKey: os.Open}
	for _, f := range change {
		f(&c)
	}
	l.api = New(c)
	l.plugs = l.serve("unix://"+l.socket, true)
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.socket)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	l.c = &http.Client{Transport: tr, Timeout: 20 * time.Second}
	return l
}

// serve serves at a URL until the test ends.
func (l *lab) serve(url string, machines bool) *Plugs {
	l.t.Helper()
	e, err := endpoint.Parse(url)
	if err != nil {
		l.t.Fatal(err)
	}
	at, err := Listen(l.t.Context(), e)
	if err != nil {
		l.t.Fatal(err)
	}
	p := at.Plugs()
	h := http.Handler(l.api.Services())
	if machines {
		h = l.api.Machines(p)
	}
	l.run(at, h)
	return p
}

func (l *lab) run(at *Listener, h http.Handler) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.api.Serve(ctx, at, h) }()
	l.t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				l.t.Error(err)
			}
		case <-time.After(20 * time.Second):
			l.t.Error("Serve has not ended")
		}
	})
}

// ask returns status and body.
func (l *lab) ask(method, path, body string) string {
	l.t.Helper()
	req, err := http.NewRequestWithContext(l.t.Context(), method, l.base+path, strings.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	resp, err := l.c.Do(req)
	if err != nil {
		return "no answer: " + err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSuffix(string(b), "\n"))
}

func (l *lab) want(method, path, body, want string) {
	l.t.Helper()
	if got := l.ask(method, path, body); !strings.HasPrefix(got, want) {
		l.t.Errorf("%s %s %s:\n got %s\nwant %s", method, path, body, got, want)
	}
}

// dial connects to the API as a program that does not speak HTTP for long.
func (l *lab) dial(first string) (net.Conn, *bufio.Reader) {
	l.t.Helper()
	conn, err := net.Dial("unix", l.socket)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, first); err != nil {
		l.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// echo returns what comes, behind a word, on a port of a client.
func (l *lab) echo(client netip.Addr) (port uint16) {
	l.t.Helper()
	server, err := net.Listen("tcp4", netip.AddrPortFrom(client, 0).String())
	if err != nil {
		l.t.Fatal(err)
	}
	var all sync.WaitGroup
	l.t.Cleanup(func() { _ = server.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				_, _ = io.WriteString(conn, "hello ")
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	return server.Addr().(*net.TCPAddr).AddrPort().Port()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// says connects, says something, ends its direction and returns all that comes back.
func says(t *testing.T, network, addr, text string) string {
	t.Helper()
	conn, err := net.DialTimeout(network, addr, 20*time.Second)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, text)
	_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	b, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestExpose(t *testing.T) {
	l := newLab(t)
	far, near := l.echo(clients[0]), freePort(t)
	local := fmt.Sprintf("127.0.0.1:%d", near)
	body := fmt.Sprintf(`{"local":%q,"remote":"127.0.0.2:%d"}`, local, far)
	l.want("GET", "/services/forwarder/all", "", "200 []")
	l.want("POST", "/services/forwarder/expose", body, "200 ")
	l.want("POST", "/services/forwarder/expose", body, "500 proxy already running")
	l.want("POST", "/services/forwarder/expose", strings.Replace(body, "127.0.0.1", "localhost", 1), "500 proxy already running") // the same port by another name
	l.want("GET", "/services/forwarder/all", "", fmt.Sprintf(`200 [{"local":%q,"remote":"127.0.0.2:%d","protocol":"tcp"}]`, local, far))
	if got := says(t, "tcp4", local, "world"); got != "hello world" {
		t.Errorf("got %q", got)
	}
	path := filepath.Join(t.TempDir(), "x.sock")
	l.want("POST", "/services/forwarder/expose", fmt.Sprintf(`{"local":%q,"remote":"tcp://127.0.0.2:%d","protocol":"unix"}`, path, far), "200 ")
	if got := says(t, "unix", path, "socket"); got != "hello socket" {
		t.Errorf("got %q", got)
	}
	l.want("GET", "/services/forwarder/all", "", fmt.Sprintf(`200 [{"local":%q,"remote":"tcp://127.0.0.2:%d","protocol":"unix"},{"local":%q`, path, far, local))
	l.want("POST", "/services/forwarder/unexpose", fmt.Sprintf(`{"local":%q,"protocol":"unix"}`, path), "200 ")
	l.want("POST", "/services/forwarder/unexpose", fmt.Sprintf(`{"local":%q}`, local), "200 ")
	l.want("POST", "/services/forwarder/unexpose", fmt.Sprintf(`{"local":%q}`, local), "500 proxy not found")
	l.want("GET", "/services/forwarder/all", "", "200 []")
	if got := says(t, "tcp4", local, ""); !strings.Contains(got, "refused") {
		t.Errorf("unexposed, and says %q", got)
	}
}

// A datagram is exposed, too.
func TestExposeUDP(t *testing.T) {
	l := newLab(t)
	far, err := net.ListenPacket("udp4", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	l.want("POST", "/services/forwarder/expose", fmt.Sprintf(`{"local":"127.0.0.1:0","remote":%q,"protocol":"udp"}`, far.LocalAddr()), "200 ")
	at := l.table.List()[0].Bound.Port
	near, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", at))
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	_, _ = near.Write([]byte("datagram"))
	b := make([]byte, 100)
	_ = far.SetDeadline(time.Now().Add(20 * time.Second))
	if n, _, err := far.ReadFrom(b); err != nil || string(b[:n]) != "datagram" {
		t.Errorf("got %q, %v", b[:n], err)
	}
	l.want("GET", "/services/forwarder/all", "", `200 [{"local":"127.0.0.1:0","remote":"127.0.0.2:`)
	l.want("POST", "/services/forwarder/unexpose", `{"local":"127.0.0.1:0","protocol":"udp"}`, "200 ")
}

// What is not exposed, in the words of gvproxy where it has some. Nothing is left of it.
func TestExposeRefused(t *testing.T) {
	l := newLab(t)
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for body, want := range map[string]string{
		`{`:                                   "400 unexpected EOF",
		`{"local":":7001","remote":"nohost"}`: "400 address nohost: missing port in address",
		`{"local":":7001","remote":":80"}`:    "400 address @: missing port in address",
		`{"local":":7001","remote":"127.0.0.2:99999"}`:                                    `500 strconv.ParseUint: parsing "99999": value out of range`,
		`{"local":":7001","remote":"[::1]:80"}`:                                           "500 invalid remote addr",
		`{"local":":7001","remote":"127.0.0.2:0"}`:                                        "400 ",
		`{"local":":7001","remote":"10.0.0.1:80"}`:                                        "500 10.0.0.1 is no client",
		`{"local":":7001","remote":"127.0.0.2:80","protocol":"bogus"}`:                    "500 unknown protocol bogus",
		`{"local":"7001","remote":"127.0.0.2:80"}`:                                        "500 listen tcp: address 7001: missing port in address",
		`{"local":"7001","remote":"127.0.0.2:80","protocol":"udp"}`:                       "500 address 7001: missing port in address",
		`{"local":":70010","remote":"127.0.0.2:80"}`:                                      "500 listen tcp: address 70010: invalid port",
		`{"local":"` + taken.Addr().String() + `","remote":"127.0.0.2:80"}`:               "500 listen tcp " + taken.Addr().String() + ": bind: address already in use",
		`{"local":"192.0.2.77:7001","remote":"127.0.0.2:80"}`:                             "500 listen tcp 192.0.2.77:7001: bind: cannot assign requested address",
		`{"local":"/nowhere/x.sock","remote":"tcp://127.0.0.2:80","protocol":"unix"}`:     "500 listen unix /nowhere/x.sock: bind: no such file or directory",
		`{"local":"x.sock","remote":"tcp://127.0.0.2:80","protocol":"unix"}`:              "500 ",
		`{"local":"/tmp/x?from=::/0","remote":"tcp://127.0.0.2:80","protocol":"unix"}`:    "500 ",
		`{"local":"/tmp/x","remote":"http://127.0.0.2:80","protocol":"unix"}`:             "500 remote protocol for unix forwarder is not implemented: http",
		`{"local":"/tmp/x","remote":"%zz","protocol":"unix"}`:                             "500 failed to parse remote uri :%zz : ",
		`{"local":"/tmp/x","remote":"ssh-tunnel://u@127.0.0.2/s","protocol":"unix"}`:      "500 key not provided for unix-ssh connection",
		`{"local":"/tmp/x","remote":"ssh-tunnel://u@127.0.0.2/?key=k","protocol":"unix"}`: "500 remote uri must contain a path to a socket file",
		`{"local":"\\\\.\\pipe\\x","remote":"tcp://127.0.0.2:80","protocol":"npipe"}`:     "500 npipe: named pipes are of Windows",
	} {
		l.want("POST", "/services/forwarder/expose", body, want)
	}
	l.want("GET", "/services/forwarder/expose", "", "400 post only")
	l.want("GET", "/services/forwarder/all", "", "200 []")
	if len(l.api.exposed) != 0 || len(l.table.List()) != 0 || l.api.Counts()["refused"] != 22 {
		t.Errorf("left: %v, %v; counted %v", l.api.exposed, l.table.List(), l.api.Counts())
	}
}

// gvproxy v0.8.9 panics in the handler: the answer is empty.
func TestHostnameRemotePanics(t *testing.T) {
	l := newLab(t)
	for _, protocol := range []string{"tcp", "udp"} {
		l.want("POST", "/services/forwarder/expose", `{"local":":7001","remote":"localhost:80","protocol":"`+protocol+`"}`, `400 "localhost:80": "localhost" is no IPv4 address`)
	}
	l.want("POST", "/services/forwarder/expose", `{"local":"/tmp/x","remote":"tcp://localhost:80","protocol":"unix"}`, "400 ")
	l.want("POST", "/tunnel?ip=localhost&port=80", "", "400 ")
}

// gvproxy v0.8.9 removes whatever is at the path.
func TestUnixExposeRemovesAFile(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	file, live, dead := filepath.Join(dir, "file"), filepath.Join(dir, "live"), filepath.Join(dir, "dead")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	_ = left.Close()
	for path, want := range map[string]string{file: "500 ", live: "500 ", dead: "200 "} {
		l.want("POST", "/services/forwarder/expose", fmt.Sprintf(`{"local":%q,"remote":"tcp://127.0.0.2:80","protocol":"unix"}`, path), want)
	}
	if b, err := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("the file has %q, %v", b, err)
	}
	if conn, err := net.Dial("unix", live); err != nil {
		t.Errorf("who listened there is gone: %v", err)
	} else {
		_ = conn.Close()
	}
}

func TestZones(t *testing.T) {
	l := newLab(t)
	l.want("GET", "/services/dns/all", "", "200 []")
	l.want("POST", "/services/dns/add", `{"name":"w.test.","Records":[{"Name":"a","IP":"10.0.0.1"},{"IP":"1.2.3.4","Regexp":"^w.*$"}]}`, "200 ")
	for range 2 { // gvproxy answers the same to what is there already
		l.want("POST", "/services/dns/add", `{"Name":"a.test.","DefaultIP":"10.0.0.9"}`, "200 ")
		l.want("POST", "/services/dns/add", `{"Name":"w.test.","Records":[{"Name":"a","IP":"10.0.0.2"}]}`, "200 ")
	}
	l.want("GET", "/services/dns/all", "", `200 [{"Name":"w.test.","Records":[{"Name":"a","IP":"10.0.0.2"},{"Name":"a","IP":"10.0.0.1"},{"Name":"","IP":"1.2.3.4","Regexp":"^w.*$"}],"DefaultIP":""},`+
		`{"Name":"a.test.","Records":null,"DefaultIP":"10.0.0.9"}]`)
	l.want("POST", "/services/dns/add", `{"Name":"x.test.","DefaultIP":"x"}`, "400 invalid IP address: x")
	l.want("POST", "/services/dns/add", `{"Name":""}`, "400 ")
	l.want("GET", "/services/dns/add", "", "400 post only")
	without := newLab(t, func(c *Config) { c.Names = nil })
	without.want("GET", "/services/dns/all", "", "500 this gateway is no name server")
	without.want("POST", "/services/dns/add", `{"Name":"x.test."}`, "500 this gateway is no name server")
}

func TestOthers(t *testing.T) {
	l := newLab(t)
	for _, path := range []string{"/leases", "/services/dhcp/leases"} {
		l.want("GET", path, "", `200 {"127.0.0.2":"5a:94:ef:e4:0c:ee"}`)
	}
	l.want("GET", "/cam", "", "200 {}")
	l.want("PUT", "/stats", "", `200 {"BytesSent":7}`) // any verb
	l.want("GET", "/debug/pprof/", "", "404 404 page not found")
	l.want("GET", "/services/nothing", "", "404 404 page not found")
	l.want("POST", "/tunnel", "", "500 ip is mandatory")
	l.want("POST", "/tunnel?ip=127.0.0.2&port=99999", "", `500 strconv.ParseUint: parsing "99999": value out of range`)
	l.want("POST", "/tunnel?ip=127.0.0.9&port=80", "", "400 127.0.0.9 is no client")
}

// A page in a browser speaks to nobody here; a program that names no host does.
func TestForbidden(t *testing.T) {
	l := newLab(t)
	at, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := newListener(at)
	open.names = true
	l.run(open, l.api.Services())
	for head, want := range map[string]string{
		"Host: evil.example":                       "403",
		"Host: evil.example:80":                    "403",
		"Host: 127.0.0.1\r\nOrigin: http://a.test": "403",
		"Host: 127.0.0.1":                          "200",
		"Host: [::1]:80":                           "200",
		"Host: localhost:80":                       "200",
		"Host: gateway.containers.internal":        "200",
		"Host: ":                                   "200",
	} {
		got := says(t, "tcp", at.Addr().String(), "GET /cam HTTP/1.1\r\n"+head+"\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 "+want) {
			t.Errorf("%q: got %q, want %s", head, got, want)
		}
	}
	if n := l.api.Counts()["forbidden"]; n != 3 {
		t.Errorf("counted %d", n)
	}
}

// Headers, bodies and connections are bounded, and who speaks slowly holds up nobody.
func TestBounds(t *testing.T) {
	l := newLab(t)
	if got := says(t, "unix", l.socket, "GET /cam HTTP/1.1\r\nHost: x\r\nA: "+strings.Repeat("a", 100<<10)+"\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 431") && !strings.Contains(got, "reset") {
		t.Errorf("100 KiB of headers: %.60q", got)
	}
	l.want("POST", "/services/dns/add", `{"Name":"`+strings.Repeat("a", 2<<20)+`"}`, "400 http: request body too large")
	for range maxConns - 2 { // idle ones
		l.dial("GET")
	}
	l.want("GET", "/cam", "", "200 {}")
}
