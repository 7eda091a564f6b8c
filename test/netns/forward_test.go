package netns

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/internal/api"
	"ferry/test/lab"
)

// Published ports, with the programs as they are: a host of the LAN, which knows nothing of the tunnel, reaches a device behind it
// by ports of the gateway. With the exit of the kernel their sockets come from ferry-netadmin, and they have rights below 1024; with
// that of a user they come from vpnsrv.
//
//	lan -- tcp :80, udp :53 -- gw == tunnel == c1: cam1
func TestForward(t *testing.T) {
	t.Parallel()
	for exit, ports := range map[string]struct{ tcp, udp string }{"kernel": {"80", "53"}, "user": {"8080", "5353"}} {
		t.Run(exit, func(t *testing.T) {
			t.Parallel()
			n := newSecure(t, "--exit", exit)
			state := n.join(n.c1, "cam1")
			web := serveWeb(t, n.c1)
			names := serveEcho(t, n.c1)
			// The configuration says before the start where a unix socket may be.
			path := filepath.Join(openDir(t), "x.sock")
			newSettings(t, n).add(fmt.Sprintf("[forwards]\n\"unix://%s\" = \"cam1:%d\"\n", path, web))
			stop(t, n.srv)
			n.startGateway(n.args...)
			cam := newClient(t, n.c1, "--state", state)
			addr := cam.waitConnected()

			out := n.vpnsrv(fmt.Sprintf("forward add tcp://:%s %s:%d", ports.tcp, addr, web))
			if want := fmt.Sprintf("tcp://:%s -> %s:%d\n", ports.tcp, addr, web); out != want {
				t.Errorf("got %q, want %q", out, want)
			}
			out = n.vpnsrv(fmt.Sprintf("forward add tcp://:%s+ cam1:%d --json", ports.tcp, listenSum(t, n.c1)))
			var sums api.Forward
			if err := json.Unmarshal([]byte(out), &sums); err != nil || sums.Bound == "" || sums.Bound == "tcp://:"+ports.tcp {
				t.Fatalf("got %s, %v", out, err)
			}
			n.vpnsrv(fmt.Sprintf("forward add udp://:%s cam1:%d", ports.udp, names))
			if out, err := n.gw.Run(fmt.Sprintf("%s/vpnsrv forward add tcp://:0 127.0.0.1:22 --state %s", bin, n.state)); err == nil || !strings.Contains(err.Error(), "no client") {
				t.Errorf("a forward to the loopback: %s, %v", out, err)
			}

			check := func() {
				t.Helper()
				if got := fetch(t, n.lan, "tcp", "198.51.100.1:"+ports.tcp); got != "hello from cam1" {
					t.Errorf("got %q", got)
				}
				if got := fetch(t, n.gw, "unix", path); got != "hello from cam1" {
					t.Errorf("unix: got %q", got)
				}
				checkSum(t, n.lan, "198.51.100.1"+strings.TrimPrefix(sums.Bound, "tcp://"))
				checkEcho(t, n.lan, "198.51.100.1:"+ports.udp)
			}
			check()

			// Nobody listens: a reset, and no silence.
			n.vpnsrv("forward add tcp://:9000 cam1:9")
			if err := reached(n.lan, "198.51.100.1:9000"); err == nil || !strings.Contains(err.Error(), syscall.ECONNRESET.Error()) {
				t.Errorf("got %v, want a reset", err)
			}
			n.vpnsrv("forward remove tcp://:9000")
			if err := reached(n.lan, "198.51.100.1:9000"); err == nil || !strings.Contains(err.Error(), syscall.ECONNREFUSED.Error()) {
				t.Errorf("got %v, want nobody to listen any more", err)
			}

			// A restart keeps what was added, with its ports, and leaves no dead socket.
			before := n.vpnsrv("forward list --json")
			stop(t, n.srv)
			if _, err := n.gw.Run("test ! -e " + path); err != nil {
				t.Error("the unix socket was left")
			}
			n.startGateway(n.args...)
			cam.event("connected", 1)
			check()
			if got := bounds(t, n.vpnsrv("forward list --json")); got != bounds(t, before) {
				t.Errorf("got %s, want %s", got, bounds(t, before))
			}
		})
	}
}

// openDir makes a directory in which any user can make files.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ferry-forward-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// bounds are where forwards listen and lead to.
func bounds(t *testing.T, text string) (all string) {
	t.Helper()
	var list []api.Forward
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		all += f.Bound + " " + f.To + " " + f.Err + "\n"
	}
	return all
}

// serveWeb serves HTTP until the test ends.
func serveWeb(t *testing.T, ns *lab.Namespace) int {
	t.Helper()
	port, _ := serveWebAt(t, ns, "0.0.0.0:0")
	return port
}

// serveEcho answers datagrams until the test ends.
func serveEcho(t *testing.T, ns *lab.Namespace) int {
	t.Helper()
	var l *net.UDPConn
	err := ns.Do(func() (err error) {
		l, err = net.ListenUDP("udp4", nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { // ends with the socket
		b := make([]byte, 1<<16)
		for {
			n, from, err := l.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = l.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	return l.LocalAddr().(*net.UDPAddr).Port
}

// fetch gets a page.
func fetch(t *testing.T, ns *lab.Namespace, network, addr string) string {
	t.Helper()
	text, err := fetchErr(ns, network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// fetchErr is fetch for what may fail.
func fetchErr(ns *lab.Namespace, network, addr string) (string, error) {
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
		err = ns.Do(func() (err error) {
			conn, err = net.DialTimeout(network, addr, patience)
			return err
		})
		return conn, err
	}}}
	r, err := c.Get("http://cam1/")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

// checkSum sends bytes, ends that direction, and reads their sum.
func checkSum(t *testing.T, ns *lab.Namespace, addr string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	var number int
	_, _ = fmt.Sscan(port, &number)
	conn := dial(t, ns, host, number)
	_ = conn.SetDeadline(time.Now().Add(patience))
	var seed [32]byte
	b := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8(seed).Read(b)
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	want := sha256.Sum256(b)
	if got, err := io.ReadAll(conn); err != nil || string(got) != string(want[:]) {
		t.Errorf("got %x, %v, want %x", got, err, want)
	}
}

// checkEcho sends datagrams of several lengths, which have to come back as they are.
func checkEcho(t *testing.T, ns *lab.Namespace, addr string) {
	t.Helper()
	var conn net.Conn
	err := ns.Do(func() (err error) {
		conn, err = net.Dial("udp4", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := make([]byte, 1<<16)
	for _, size := range []int{1, 33, 1200} {
		got := -1
		for try := 0; try < 10 && got != size; try++ {
			_, _ = conn.Write(b[:size])
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if n, err := conn.Read(b); err == nil {
				got = n
			}
		}
		if got != size {
			t.Errorf("sent %d bytes, got %d", size, got)
		}
	}
}

// reached tries to read from a port.
func reached(ns *lab.Namespace, addr string) error {
	return ns.Do(func() error {
		conn, err := net.DialTimeout("tcp4", addr, patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = conn.Read(make([]byte, 1))
		return err
	})
}
