package vm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"
)

// TestWithoutClient boots two machines in which there is nothing of Ferry but the probe. Their network cards are plugged into a vpnsrv that
// has no rights, each in the manner of one version of QEMU:
//
//	one  -netdev stream --qemu+unix-->  vpnsrv --exit user  <--qemu+tcp--  -netdev socket  two
//	     probe check tcp://10.0.9.2:7     |            |                   probe echo tcp://10.0.9.2:7, :8, :9
//	                                      |            +-- tcp://127.0.0.1:... is two's port 8
//	       a web server of this host <----+            +-- tcp:// -- vpncli --user --socks5
//
// They get the addresses that are reserved for their MACs, by DHCP, find their own names and that of the web server, download from it through the
// gateway, and reach each other; this host reaches the second one by a published port, and by a vpncli.
func TestWithoutClient(t *testing.T) {
	kernel := needKernel(t)
	files := build(t, "../../cmd/vpnsrv", "../../cmd/vpncli", "./probe")
	server, client, probe := files[0], files[1], files[2]
	dir := t.TempDir()
	socket, config := filepath.Join(dir, "qemu.sock"), filepath.Join(dir, "vpnsrv.toml")
	port, published, clients, socks := freePort(t), freePort(t), freePort(t), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	web, sum := serveFile(t)
	settings := fmt.Sprintf(`exit = "user"
listen = ["tcp://127.0.0.1:%[5]d"]
l2_listen = ["qemu+tcp://127.0.0.1:%[2]d", "qemu+unix://%[3]s"]
state = "%[1]s/state"
nameserver = true
push_domains = ["site.example"]
[reserved]
52-54-00-00-00-01 = "10.0.9.1"
52-54-00-00-00-02 = "10.0.9.2"
[dns_zones."site.example"]
files = "192.0.2.1"
[alias]
"192.0.2.1" = "127.0.0.1"
[forwards]
"tcp://127.0.0.1:%[4]d" = "10.0.9.2:8"
`, dir, port, socket, published, clients)
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, "unix", socket, server, "--config", config)
	serve(t, "tcp", socks, client, "--config=", "--user", "-s", fmt.Sprintf("tcp://127.0.0.1:%d", clients), "--state", dir+"/client", "--socks5", socks)
	var all sync.WaitGroup
	for _, m := range []struct{ mac, network, addr, traffic string }{
		{"52:54:00:00:00:01", "stream,server=off,addr.type=unix,addr.path=" + socket, "10.0.9.1", "probe check tcp://10.0.9.2:7 2000000"},
		{"52:54:00:00:00:02", fmt.Sprintf("socket,connect=127.0.0.1:%d", port), "10.0.9.2", "serve 7 8 9"},
	} {
		all.Go(func() {
			name := strings.ReplaceAll(m.mac, ":", "-") + ".ferry.internal"
			text := fmt.Sprintf("addr=%s itself=%s files=http://files:%d sum=%s\ntraffic() { %s; }\n%s", m.addr, name, web, sum, m.traffic, script(t, "without_client.sh"))
			succeed(t, kernel, &Machine{Script: text, Files: []string{probe}, Modules: []string{"virtio_net", "af_packet"}, Network: m.network, MAC: m.mac}, 2*oneMachine)
		})
	}
	proxied, err := proxy.SOCKS5("tcp", socks, nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct {
		name   string
		dialer proxy.Dialer
		addr   string
	}{
		{"by the published port", proxy.Direct, fmt.Sprintf("127.0.0.1:%d", published)},
		{"by vpncli", proxied, "10.0.9.2:9"},
	} {
		all.Go(func() {
			if err := echoed(way.dialer, way.addr); err != nil {
				t.Errorf("the second machine, %s: %v", way.name, err)
			}
		})
	}
	all.Wait()
}

// serveFile is a web server on 127.0.0.1 with one file, and the SHA-256 of that.
func serveFile(t *testing.T) (port int, sum string) {
	t.Helper()
	file := make([]byte, 3_000_000)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(file)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(file) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).Port, fmt.Sprintf("%x", sha256.Sum256(file))
}

// echoed sends 500 kB to addr, as soon as somebody answers there, and wants them back.
func echoed(d proxy.Dialer, addr string) error {
	sent := make([]byte, 500_000)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(sent)
	var err error
	for end := time.Now().Add(oneMachine); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var back []byte
		if back, err = exchange(d, addr, sent); err == nil {
			if !bytes.Equal(back, sent) {
				return errors.New("other bytes came back")
			}
			return nil
		}
	}
	return err
}

// exchange sends to addr, while it reads as many bytes.
func exchange(d proxy.Dialer, addr string, sent []byte) ([]byte, error) {
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(oneMachine))
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		written <- err
	}()
	back := make([]byte, len(sent))
	_, err = io.ReadFull(conn, back)
	if err != nil {
		conn.Close() // so that Write ends
	}
	return back, errors.Join(err, <-written)
}

// freePort returns a port of TCP that nobody has at the moment.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// serve runs a program until the test ends, which has to work with status 0, and returns when somebody listens at addr.
func serve(t *testing.T, network, addr string, args ...string) {
	t.Helper()
	var log strings.Builder
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("%s: %v\n%s", filepath.Base(args[0]), err, log.String())
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial(network, addr); err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("nobody listens at %s", addr)
		}
	}
}
