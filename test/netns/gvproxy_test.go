package netns

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/test/lab"
)

// Of gvproxy's address plan.
const (
	gvGateway = "192.168.127.1"
	gvDevice  = "192.168.127.2"
	gvHost    = "192.168.127.254"
	gvMAC     = "5a:94:ef:e4:0c:ee"
)

// peerProgram returns the path of a program that scripts/deps.sh installs.
func peerProgram(t *testing.T, variable, name string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		path, _ = filepath.Abs("../../bin/peers/" + name)
	}
	if _, err := os.Stat(path); err != nil {
		unable(t, fmt.Errorf("%w: scripts/deps.sh test installs it, or set %s", err, variable))
	}
	return path
}

// overUnix is a client of HTTP over a unix socket. network namespaces do not part those.
func overUnix(t *testing.T, socket string) *http.Client {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// ask returns status and body.
func ask(t *testing.T, c *http.Client, method, url, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return "no answer: " + err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSuffix(string(b), "\n"))
}

// serveIn answers each connection to an address in a namespace with a text.
func serveIn(t *testing.T, ns *lab.Namespace, addr, text string) {
	t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp4", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, text)
			_ = conn.Close()
		}
	}()
}

// hears connects from a namespace and returns all that comes.
func hears(ns *lab.Namespace, addr string) (text string, err error) {
	err = ns.Do(func() error {
		conn, err := net.DialTimeout("tcp4", addr, patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		b, err := io.ReadAll(conn)
		text = string(b)
		return err
	})
	return text, err
}

// A listening program of notifications.
type notified struct {
	mu    sync.Mutex
	lines []string
}

func listenNotifications(t *testing.T, path string) *notified {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o777) // vpnsrv is another user
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	n := &notified{}
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			_ = conn.Close()
			n.mu.Lock()
			n.lines = append(n.lines, strings.TrimSpace(line))
			n.mu.Unlock()
		}
	}()
	return n
}

func (n *notified) has(t *testing.T, line string) {
	t.Helper()
	until(t, patience, line, func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, l := range n.lines {
			if l == line {
				return true
			}
		}
		return false
	})
}

// gvforwarder starts the stock one, with a client of DHCP that is busybox's, and waits for its lease.
func gvforwarder(t *testing.T, ns *lab.Namespace, socket string, args ...string) (p *lab.Proc, lease string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"udhcpc": "#!/bin/sh\nexec busybox udhcpc \"$@\" -n -O mtu -s " + dir + "/script\n", "script": leaseScript} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	command := append([]string{"env", "PATH=" + dir + ":" + os.Getenv("PATH"), peerProgram(t, "GVFORWARDER", "vm"), "-url", "unix://" + socket, "-iface", "tap0", "-stop-if-exist", "none0"}, args...)
	p, err := ns.Start(command...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	line, err := p.Await("router=", 0, patience)
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Output())
	}
	return p, strings.TrimSpace(line)
}

// TestGvforwarder has the stock gvforwarder at /connect of a gateway without rights: what podman machine and crc start in their guests.
//
//	c1 [tap0] gvforwarder --- POST /connect --- vpnsrv --profile gvproxy, user nobody [sockets] --- lan, and 127.0.0.1 of gw
func TestGvforwarder(t *testing.T) {
	t.Parallel()
	peerProgram(t, "GVFORWARDER", "vm")
	dir, err := os.MkdirTemp("", "ferry-gvproxy-") // user nobody can not reach into that of the test
	if err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		err = errors.Join(os.Chown(dir, 65534, 65534), os.Chmod(dir, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "gv.sock")
	program := listenNotifications(t, filepath.Join(dir, "notify.sock"))
	n := newUserGateway(t, "--profile", "gvproxy", "--gvproxy-listen", "unix://"+socket, "--gvproxy-inside", "--notification", "unix://"+filepath.Join(dir, "notify.sock"))
	program.has(t, `{"notification_type":"ready"}`)
	machine, lease := gvforwarder(t, n.c1, socket)
	if want := gvDevice + "/24 router=" + gvGateway + " mtu=1500 dns=" + gvGateway; !strings.HasPrefix(lease, want) {
		t.Errorf("lease %q, want %q", lease, want)
	}
	program.has(t, `{"notification_type":"connection_established","mac_address":"`+gvMAC+`","address":"`+gvDevice+`","name":"5a-94-ef-e4-0c-ee"}`)

	body := strings.Repeat("ferry", 400_000)
	serveIn(t, n.lan, lanHost+":80", body)
	if got, err := hears(n.c1, lanHost+":80"); got != body {
		t.Errorf("downloaded %d bytes, %v, want %d", len(got), err, len(body))
	}
	serveIn(t, n.gw, "127.0.0.1:7070", "the host's own")
	if got, err := hears(n.c1, gvHost+":7070"); got != "the host's own" {
		t.Errorf("host alias: %q, %v", got, err)
	}
	ping(t, n.c1, gvHost, 2)
	ping(t, n.c1, gvGateway, 2)
	resolves(t, n.c1, "host.containers.internal", gvHost)
	resolves(t, n.c1, "Gateway.Docker.Internal", gvGateway)

	c := overUnix(t, socket)
	const api = "http://unix"
	serveIn(t, n.c1, gvDevice+":80", "the machine's")
	serveIn(t, n.c1, gvDevice+":22", "SSH-2.0-none\r\n")
	if got := ask(t, c, "POST", api+"/services/forwarder/expose", `{"local":"127.0.0.1:8080","remote":"`+gvDevice+`:80"}`); got != "200 " {
		t.Errorf("expose: %s", got)
	}
	for addr, want := range map[string]string{"127.0.0.1:8080": "the machine's", "127.0.0.1:2222": "SSH-2.0-none\r\n"} {
		if got, err := hears(n.gw, addr); got != want {
			t.Errorf("%s: %q, %v, want %q", addr, got, err, want)
		}
	}
	if got := ask(t, c, "GET", api+"/cam", ""); !strings.HasPrefix(got, `200 {"`+gvMAC+`":`) {
		t.Errorf("/cam: %s", got)
	}
	var stats struct{ BytesSent, BytesReceived int }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(ask(t, c, "GET", api+"/stats", ""), "200 ")), &stats); err != nil || stats.BytesSent < len(body) || stats.BytesReceived == 0 {
		t.Errorf("/stats: %+v, %v", stats, err)
	}
	clientsExposeThemselves(t, n)

	machine.Kill()
	program.has(t, `{"notification_type":"connection_closed","mac_address":"`+gvMAC+`","address":"`+gvDevice+`","name":"5a-94-ef-e4-0c-ee"}`)
}

// resolves asks the gateway for the address of a name.
func resolves(t *testing.T, ns *lab.Namespace, name, want string) {
	t.Helper()
	var got []string
	err := ns.Do(func() (err error) {
		conn, err := net.DialTimeout("udp4", gvGateway+":53", patience)
		if err != nil {
			return err
		}
		once := make(chan net.Conn, 1) // made in this namespace, for the resolver has threads of its own
		once <- conn
		r := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			select {
			case c := <-once:
				return c, nil
			default:
				return nil, errors.New("asked once already")
			}
		}}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		all, err := r.LookupNetIP(ctx, "ip4", name+".")
		for _, a := range all {
			got = append(got, a.String())
		}
		return err
	})
	if len(got) != 1 || got[0] != want {
		t.Errorf("%s: got %v, %v, want %s", name, got, err, want)
	}
}

// clientsExposeThemselves asks from inside, as the machine.
func clientsExposeThemselves(t *testing.T, n *network) {
	t.Helper()
	curl := func(path, body string) string {
		cmd := exec.Command("curl", "-s", "-m", "15", "-w", " %{http_code}", "http://"+gvGateway+path)
		if body != "" {
			cmd.Args = append(cmd.Args, "-d", body)
		}
		out, err := n.c1.Output(cmd)
		if err != nil {
			t.Errorf("%s %s: %v", path, body, err)
		}
		return out
	}
	for _, tt := range []struct{ path, body, want string }{
		{"/services/forwarder/expose", `{"local":":8081","remote":":80"}`, " 200"},
		{"/services/forwarder/expose", `{"local":":8081","remote":":80"}`, "proxy already running\n 500"},
		{"/services/forwarder/expose", `{"local":":8082","remote":"192.168.127.3:80"}`, " 403"},
		{"/services/forwarder/expose", `{"local":":8082","remote":"192.168.127.254:80"}`, " 403"},
		{"/services/forwarder/expose", `{"local":":81","remote":":80"}`, " 403"},
		{"/services/forwarder/expose", `{"local":"/tmp/x","remote":"tcp://192.168.127.2:80","protocol":"unix"}`, " 403"},
		{"/services/forwarder/unexpose", `{"local":"127.0.0.1:8080"}`, "proxy not found\n 500"},
		{"/services/forwarder/all", "", `[{"local":":8081","remote":"192.168.127.2:80","protocol":"tcp"}]` + "\n 200"},
		{"/stats", "", "404 page not found\n 404"},
		{"/services/dns/add", `{"Name":"x."}`, "404 page not found\n 404"},
		{"/connect", "x", "404 page not found\n 404"},
		{"/tunnel?ip=127.0.0.1&port=22", "x", "404 page not found\n 404"},
	} {
		if got := curl(tt.path, tt.body); !strings.HasSuffix(got, tt.want) {
			t.Errorf("from inside %s %s: %q, want %q", tt.path, tt.body, got, tt.want)
		}
	}
	if got, err := hears(n.gw, "192.168.101.1:8081"); got != "the machine's" {
		t.Errorf("exposed from inside: %q, %v", got, err)
	}
	if got := curl("/services/forwarder/unexpose", `{"local":":8081"}`); got != " 200" {
		t.Errorf("unexposed from inside: %q", got)
	}
	if got, err := hears(n.gw, "192.168.101.1:8081"); err == nil {
		t.Errorf("it is unexposed, and says %q", got)
	}
}

// TestGvforwarderOfKernel is the same at a gateway with a TUN, whose sockets come from the process with the rights: ports, paths, keys and notifications work when vpnsrv
// itself may do nothing any more.
func TestGvforwarderOfKernel(t *testing.T) {
	t.Parallel()
	peerProgram(t, "GVFORWARDER", "vm")
	dir, err := os.MkdirTemp("", "ferry-gvproxy-")
	if err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	socket, notify, key := filepath.Join(dir, "gv.sock"), filepath.Join(dir, "notify.sock"), filepath.Join(dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	file := filepath.Join(dir, "vpnsrv.toml")
	if err := os.WriteFile(file, []byte(fmt.Sprintf("gvproxy_keys = [%q]\nnat = true\n", key)), 0o644); err != nil {
		t.Fatal(err)
	}
	program := listenNotifications(t, notify)
	n := newGateway(t, "--config", file, "--profile", "gvproxy", "--exit", "kernel", "--gvproxy-listen", "unix://"+socket, "--gvproxy-inside", "--notification", "unix://"+notify)
	program.has(t, `{"notification_type":"ready"}`)
	_, lease := gvforwarder(t, n.c1, socket)
	if want := gvDevice + "/24 router=" + gvGateway; !strings.HasPrefix(lease, want) {
		t.Errorf("lease %q, want %q", lease, want)
	}
	program.has(t, `{"notification_type":"connection_established","mac_address":"`+gvMAC+`","address":"`+gvDevice+`","name":"5a-94-ef-e4-0c-ee"}`)
	serveIn(t, n.lan, lanHost+":80", "the network's")
	if got, err := hears(n.c1, lanHost+":80"); got != "the network's" {
		t.Errorf("%q, %v", got, err)
	}
	resolves(t, n.c1, "host.containers.internal", gvGateway)
	serveIn(t, n.c1, gvDevice+":80", "the machine's")
	c := overUnix(t, socket)
	path := filepath.Join(dir, "x.sock")
	for _, tt := range []struct{ local, remote, want string }{
		{"127.0.0.1:8080", gvDevice + ":80", "200 "},
		{"127.0.0.1:8080", gvDevice + ":81", "500 proxy already running"},
		{":2002", gvDevice + ":81", "500 listen tcp :2002: bind: address already in use"},
		{path, "tcp://" + gvDevice + ":80", "200 "},
		{path + "2", "ssh-tunnel://core@" + gvDevice + "/s?secure=false&key=" + key, "200 "},
		{path + "3", "ssh-tunnel://core@" + gvDevice + "/s?secure=false&key=" + file, "500 failed to parse identity"},
	} {
		protocol := "tcp"
		if strings.HasPrefix(tt.local, "/") {
			protocol = "unix"
		}
		body := fmt.Sprintf(`{"local":%q,"remote":%q,"protocol":%q}`, tt.local, tt.remote, protocol)
		if got := ask(t, c, "POST", "http://unix/services/forwarder/expose", body); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: got %s, want %s", body, got, tt.want)
		}
	}
	if got, err := hears(n.gw, "127.0.0.1:8080"); got != "the machine's" {
		t.Errorf("exposed: %q, %v", got, err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(conn); string(b) != "the machine's" {
		t.Errorf("exposed by a socket: %q, %v", b, err)
	}
	tunnel, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.Close()
	_ = tunnel.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(tunnel, "POST /tunnel?ip="+gvDevice+"&port=80 HTTP/1.1\r\nHost: x\r\n\r\n")
	if b, err := io.ReadAll(tunnel); string(b) != "OKthe machine's" {
		t.Errorf("tunnel: %q, %v", b, err)
	}
	clientsExposeThemselves(t, n)
	stop(t, n.srv)
	for _, left := range []string{socket, path, path + "2"} {
		if _, err := os.Stat(left); err == nil {
			t.Errorf("%s is left", left)
		}
	}
}
