package netns

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"ferry/internal/client"
	"ferry/test/lab"
)

// A forwarding is a device with a forward of each kind.
type forwarding struct {
	*device
	path string // of its unix socket, which leads to the web server of lan
	tun  string
	as   string // what makes a command one of its user
}

// newForwarding starts vpncli in c1: as root with an interface, or as nobody without one.
func newForwarding(t *testing.T, n *network, user bool) *forwarding {
	t.Helper()
	dir := openDir(t)
	f := &forwarding{path: filepath.Join(dir, "near.sock"), tun: "ferry0"}
	service := filepath.Join(dir, "service.sock")
	serveUnix(t, service)
	command := []string{filepath.Join(bin, "vpncli")}
	if user {
		f.tun, f.as = "user", nobody
		command = append(strings.Fields(f.as), append(command, "--user")...)
	}
	lan := lanHost + ":"
	command = append(command, "--config=", "--json", "-s", gatewayC1, "--state", filepath.Join(dir, "state"),
		"-L", "8080:"+lan+strconv.Itoa(serveWeb(t, n.lan)),
		"-L", "127.0.0.2:8080+:"+lan+strconv.Itoa(listenSum(t, n.lan)),
		"-L", "udp:5353:"+lan+strconv.Itoa(serveEcho(t, n.lan)),
		"-L", f.path+":"+lan+strconv.Itoa(serveWeb(t, n.lan)),
		"-L", "9000:"+lan+"9",
		"-R", fmt.Sprintf("80:localhost:%d", serveWeb(t, n.c1)),
		"-R", fmt.Sprintf("*:0:127.0.0.1:%d", listenSum(t, n.c1)),
		"-R", fmt.Sprintf("udp:53:127.0.0.1:%d", serveEcho(t, n.c1)),
		"-R", "8001:"+service,
		"-R", "8002:127.0.0.1:9",
		"-R", "8003:"+service+"?from=10.0.0.1,10.9.0.1", // the gateway alone
	)
	f.device = &device{start(t, n.c1, command...), t, n.c1}
	return f
}

// serveUnix serves HTTP on a path that everybody may connect to, until the test ends.
func serveUnix(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello from a path")) })}
	go func() { _ = s.Serve(l) }() // until Close
	t.Cleanup(func() { _ = s.Close() })
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
}

// check uses all forwards, where the events behind the first skip ones say that they are: those of -L in c1, those of -R from the gateway and from c2. It
// returns the port that was found for one of -R.
func (f *forwarding) check(n *network, addr string, local []client.Event, remote []client.Event) string {
	t := f.t
	t.Helper()
	bound := func(e client.Event) string {
		_, at, _ := strings.Cut(e.Forward.Bound, "://")
		return at
	}
	if got := bound(local[0]); got != "127.0.0.1:8080" {
		t.Errorf("-L 8080: bound to %s", got)
	}
	if got := fetch(t, n.c1, "tcp", bound(local[0])); got != "hello from cam1" {
		t.Errorf("-L: got %q", got)
	}
	checkSum(t, n.c1, bound(local[1]))
	checkEcho(t, n.c1, bound(local[2]))
	if got := fetch(t, n.c1, "unix", f.path); got != "hello from cam1" {
		t.Errorf("-L, unix: got %q", got)
	}
	if err := reached(n.c1, bound(local[4])); err == nil || !strings.Contains(err.Error(), syscall.ECONNRESET.Error()) {
		t.Errorf("-L to where nobody listens: %v, want a reset", err)
	}
	for _, from := range []*lab.Namespace{n.gw, n.c2} {
		if got := bound(remote[0]); got != addr+":80" {
			t.Errorf("-R 80: bound to %s", got)
		}
		if got := fetch(t, from, "tcp", bound(remote[0])); got != "hello from cam1" {
			t.Errorf("-R: got %q", got)
		}
		checkSum(t, from, bound(remote[1]))
		checkEcho(t, from, bound(remote[2]))
		if got := fetch(t, from, "tcp", bound(remote[3])); got != "hello from a path" {
			t.Errorf("-R, unix: got %q", got)
		}
		if err := reached(from, bound(remote[4])); err == nil || !strings.Contains(err.Error(), syscall.ECONNRESET.Error()) {
			t.Errorf("-R to where nobody listens: %v, want a reset", err)
		}
	}
	alone := addr + ":8003"
	if got := fetch(t, n.gw, "tcp", alone); got != "hello from a path" {
		t.Errorf("-R for the gateway alone: got %q", got)
	}
	if err := reached(n.c2, alone); err == nil || !strings.Contains(err.Error(), syscall.ECONNRESET.Error()) {
		t.Errorf("-R for the gateway alone, from a client: %v, want a reset", err)
	}
	_, port, _ := net.SplitHostPort(bound(remote[1]))
	return port
}

// forwards waits for the events of all forwards of a side, after the first skip ones.
func (f *forwarding) forwards(side string, skip int) (all []client.Event) {
	f.t.Helper()
	count := 5
	if side == client.SideRemote {
		count = 6
	}
	for i := range count {
		line := await(f.t, f.Proc, fmt.Sprintf(`"event":"forward","forward":{"side":%q`, side), skip+i)
		var e client.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			f.t.Fatalf("%s: %v", line, err)
		}
		if e.Forward.Err != "" {
			f.t.Errorf("%+v", e.Forward)
		}
		all = append(all, e)
	}
	return all
}

// TestClientForward has forwards of a device, as ssh has them behind -L and -R: with an interface, and of a user without rights. They go on when the
// gateway was away, and when it gives another address.
//
//	c1: program --> -L of vpncli == tunnel == gw -- lan
//	c1: service <-- vpncli == tunnel == -R on the address of c1 <-- gw, c2
func TestClientForward(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"kernel", "user"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			if os.Getuid() != 0 || !mapsEverybody() {
				t.Skip("a user namespace has no other user to become")
			}
			n := newGateway(t, "--nat", "--push-route", "198.51.100.0/24")
			before := hostState(t, n.c1)
			other := newClient(t, n.c2, "-s", gatewayC2)
			other.waitConnected()
			f := newForwarding(t, n, kind == "user")
			addr := f.waitConnected()
			local, remote := f.forwards(client.SideLocal, 0), f.forwards(client.SideRemote, 0)
			port := f.check(n, addr, local, remote)

			stop(t, n.srv)
			n.startGateway(n.args...)
			f.event(client.EventConnected, 1)
			other.event(client.EventConnected, 1)
			f.check(n, addr, local, remote) // the listeners have not gone

			stop(t, n.srv)
			n.state = filepath.Join(t.TempDir(), "state")
			n.startGateway(append(n.args, "--pool", "10.9.0.0/24")...)
			again := f.event(client.EventConnected, 2).Address.String()
			other.event(client.EventConnected, 2)
			if again == addr {
				t.Fatal("the address is the same")
			}
			if got := f.check(n, again, local, f.forwards(client.SideRemote, 6)); got != port {
				t.Errorf("-R has port %s with the other address, and had %s", got, port)
			}
			status := run(t, n.c1, f.as+filepath.Join(bin, "vpncli")+" status --tun "+f.tun)
			for _, want := range []string{"-L tcp://127.0.0.1:8080 -> " + lanHost, "-R tcp://" + again + ":80 -> localhost:", "3 failed", ":8003?from=10.0.0.1,10.9.0.1 -> unix://"} {
				if !strings.Contains(status, want) {
					t.Errorf("status has no %q:\n%s", want, status)
				}
			}
			stop(t, f.Proc)
			if _, err := os.Lstat(f.path); err == nil {
				t.Error("the unix socket was left")
			}
			equalState(t, n.c1, before)
		})
	}
}

// TestForwardThroughTunnel has a device that takes no routes of its gateway, and so would find what a forward leads to beside the tunnel. Another vpncli can
// not have its port.
func TestForwardThroughTunnel(t *testing.T) {
	t.Parallel()
	n := newGateway(t, "--nat", "--push-route", "198.51.100.0/24")
	var l net.Listener
	if err := n.lan.Do(func() (err error) { l, err = net.Listen("tcp4", ":80"); return err }); err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.RemoteAddr)) })}
	go func() { _ = s.Serve(l) }() // until Close
	t.Cleanup(func() { _ = s.Close() })
	newClient(t, n.c1, "-s", gatewayC1, "--accept-routes=false", "-L", "8080:"+lanHost+":80").waitConnected()
	if got := fetch(t, n.c1, "tcp", lanHost+":80"); !strings.HasPrefix(got, "192.168.101.2:") {
		t.Errorf("lan sees %s come beside the tunnel", got)
	}
	if got := fetch(t, n.c1, "tcp", "127.0.0.1:8080"); !strings.HasPrefix(got, "198.51.100.1:") {
		t.Errorf("lan sees %s come by the forward, want the gateway", got)
	}

	second := start(t, n.c1, filepath.Join(bin, "vpncli"), "--config=", "--user", "-s", gatewayC1, "--state", t.TempDir(), "-L", "8080:"+lanHost+":80")
	if status, err := second.Wait(patience); err != nil || status != 1 || second.Count("vpncli: forward tcp://127.0.0.1:8080: the port is in use") != 1 {
		t.Errorf("a port that is taken: status %d, %v\n%s", status, err, second.Output())
	}
}
