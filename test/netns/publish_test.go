package netns

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ferry/internal/api"
	"ferry/internal/publish"
	"ferry/test/lab"
)

// Services that publish themselves, with the programs as they are: what listens on a device gets a port of the gateway's host, and loses it when it ends.
//
//	lan -- tcp, udp ports of publish_host -- gw == tunnel == c1: cam1 -- 0.0.0.0, and by a relay 127.0.0.1; without an interface both by relays
func TestPublish(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name, exit string
		device     []string
		what       string
		program    string
	}{
		{"kernel", "kernel", nil, "auto,loopback,names", "netns.test"},
		{"user", "user", nil, "auto,loopback,names", "netns.test"},
		{"device of a user", "kernel", []string{"--user"}, "auto,loopback", ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			dir := openDir(t)
			n := newSecureFile(t, "publish_host = \"0.0.0.0\"", "--exit", x.exit, "--publish", "cam1", "--publish-dir", dir)
			state := n.join(n.c1, "cam1")
			everywhere, _ := serveWebAt(t, n.c1, "0.0.0.0:0")
			inside, end := serveWebAt(t, n.c1, "127.0.0.1:0")
			echo := serveEcho(t, n.c1)
			file := filepath.Join(t.TempDir(), "vpncli.toml")
			writeFile(t, file, fmt.Sprintf("publish = \"%s,udp:%d\"\npublish_debounce = \"400ms\"\n", x.what, echo))
			args := append([]string{"--state", state, "--config", file}, x.device...)
			cam := newClient(t, n.c1, args...)
			addr := cam.waitConnected()

			before := awaitServices(t, n, 3)
			check := func() {
				t.Helper()
				for _, p := range awaitServices(t, n, 3) {
					at := fmt.Sprintf("198.51.100.1:%d", p.HostPort)
					switch int(p.GuestPort) {
					case everywhere, inside:
						if got := fetch(t, n.lan, "tcp", at); got != "hello from cam1" {
							t.Errorf("%d: got %q", p.GuestPort, got)
						}
					case echo:
						checkEcho(t, n.lan, at)
					default:
						t.Errorf("nobody serves %+v", p)
					}
					if was := before[p.GuestPort]; was.HostPort != p.HostPort || p.ClientName != "cam1" || p.Name != x.program {
						t.Errorf("got %+v, want it as %+v, of the program %q", p, was, x.program)
					}
				}
			}
			check()
			lines := strings.Split(string(readFile(t, filepath.Join(dir, publish.BridgesFile))), "\n")
			if want := fmt.Sprintf("%s,ipv4,tcp,127.0.0.1,%d,%d", cmp.Or(x.program, "unknown"), inside, before[uint16(inside)].HostPort); len(lines) != 5 || !strings.Contains(strings.Join(lines, "\n"), want) {
				t.Errorf("%s: got %q, want a line %q", publish.BridgesFile, lines, want)
			}
			if info, err := os.Stat(filepath.Join(dir, publish.EndpointsFile)); err != nil || info.Mode().Perm() != 0o644 {
				t.Errorf("%s: got %v, %v", publish.EndpointsFile, info, err)
			}
			if out := run(t, n.c1, bin+"/vpncli status"); !strings.Contains(out, fmt.Sprintf("tcp 127.0.0.1:%d", inside)) {
				t.Errorf("status of the device: got %s", out)
			}

			// The device is killed: nothing is closed, and all is as before when it is back.
			cam.Kill()
			cam = newClient(t, n.c1, args...)
			cam.waitConnected()
			since := before[uint16(everywhere)].Since
			until(t, patience, "the device has announced again", func() bool {
				text, err := fetchErr(n.lan, "tcp", fmt.Sprintf("198.51.100.1:%d", before[uint16(inside)].HostPort))
				return err == nil && text == "hello from cam1"
			})
			check()
			if again := awaitServices(t, n, 3)[uint16(everywhere)].Since; !again.Equal(since) {
				t.Errorf("the port was opened at %s and again at %s", since, again)
			}

			// The gateway is started anew: the same ports (penguin#313).
			stop(t, n.srv)
			n.startSecure(n.args...)
			check()

			// One ends: its port goes with it.
			end()
			gone := before[uint16(inside)].HostPort
			awaitServices(t, n, 2)
			if err := reached(n.lan, fmt.Sprintf("198.51.100.1:%d", gone)); err == nil || !strings.Contains(err.Error(), syscall.ECONNREFUSED.Error()) {
				t.Errorf("got %v, want nobody to listen any more", err)
			}
			for _, name := range publish.Files() {
				if text := string(readFile(t, filepath.Join(dir, name))); strings.Contains(text, fmt.Sprint(gone)) {
					t.Errorf("%s has the port still: %s", name, text)
				}
			}

			// Who is not named is told nothing, and counted.
			stranger := newClient(t, n.c2, "--state", n.join(n.c2, "cam2"), "--config", file)
			serveWebAt(t, n.c2, "0.0.0.0:0")
			stranger.waitConnected()
			until(t, patience, "the refusal is counted", func() bool { return strings.Contains(n.vpnsrv("status"), "publish_who") })
			awaitServices(t, n, 2)
			if at := fmt.Sprintf("%s:%d", addr, everywhere); fetch(t, n.c2, "tcp", at) != "hello from cam1" { // also by a relay
				t.Errorf("another client does not reach %s", at)
			}

			// With a goodbye all is gone at once.
			stop(t, cam.Proc)
			awaitServices(t, n, 0)
		})
	}
}

// serveWebAt serves HTTP on an address until the test ends, or end is called.
func serveWebAt(t *testing.T, ns *lab.Namespace, addr string) (port int, end func()) {
	t.Helper()
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp4", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello from cam1") })}
	go func() { _ = s.Serve(l) }() // until Close
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().(*net.TCPAddr).Port, func() { _ = s.Close() }
}

// awaitServices waits until so many are published, and returns them by the port that they have on the device.
func awaitServices(t *testing.T, n *network, want int) map[uint16]api.Published {
	t.Helper()
	var all []api.Published
	until(t, patience, fmt.Sprintf("%d services are published", want), func() bool {
		all = nil
		if err := json.Unmarshal([]byte(n.vpnsrv("published --json")), &all); err != nil {
			t.Fatal(err)
		}
		return len(all) == want
	})
	found := map[uint16]api.Published{}
	for _, p := range all {
		found[p.GuestPort] = p
	}
	return found
}
