package netadmin

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"ferry/internal/forward"
	"ferry/internal/hostnet"
)

// A gateway gets sockets that listen, and that connect to what is behind its interface; unix sockets only where it was said, and nothing is
// removed there but what was made here.
func TestForward(t *testing.T) {
	ip(t, "link set lo up")
	dir := t.TempDir()
	addr := netip.MustParsePrefix("10.7.0.1/16")
	c := begin(t, Rules{Addr: addr, Routes: routes("192.168.9.0/24"), Forward: true, Sockets: []string{dir}})
	n := forward.Lent{From: c}
	anywhere := netip.Addr{}
	if _, err := c.DialSocket("udp", anywhere, netip.MustParseAddrPort("10.7.0.9:9")); err == nil {
		t.Error("there is no interface yet, and a socket was made")
	}
	open(t, c)
	if err := c.Apply(hostnet.State{Addr: addr, MTU: 1300, Routes: routes("192.168.9.0/24")}); err != nil {
		t.Fatal(err)
	}
	for what, to := range map[string]string{"loopback": "127.0.0.1:22", "metadata": "169.254.169.254:80", "beyond": "192.0.2.1:80", "itself": "10.7.0.1:80", "IPv6": "[::1]:80"} {
		if f, err := c.DialSocket("tcp", anywhere, netip.MustParseAddrPort(to)); err == nil {
			_ = f.Close()
			t.Errorf("%s: nothing keeps it from connecting to %s", what, to)
		}
	}
	for _, to := range []string{"10.7.0.9:9", "192.168.9.9:9"} {
		conn, err := n.Dial(t.Context(), "udp", addr.Addr(), to)
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.RemoteAddr().String(); got != to {
			t.Errorf("connected to %s, want %s", got, to)
		}
		_ = conn.Close()
	}
	if _, err := c.ListenSocket("ip", "127.0.0.1"); err == nil {
		t.Error("a raw socket listens")
	}
	testAccept(t, n, "tcp", "127.0.0.1:80") // below 1024, too
	path := filepath.Join(dir, "x.sock")
	testAccept(t, n, "unix", path)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket was left: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"a path of elsewhere": second(c.ListenSocket("unix", filepath.Join(t.TempDir(), "x.sock"))),
		"a path with dots":    second(c.ListenSocket("unix", dir+"/../x.sock")),
		"a file":              second(c.ListenSocket("unix", file)),
		"removing a file":     c.RemoveSocket(file),
	} {
		if err == nil {
			t.Errorf("%s: nothing keeps it from that", what)
		}
	}
	if _, err := os.Lstat(file); err != nil {
		t.Error(err)
	}
	if _, err := c.ListenSocket("unix", filepath.Join("/", "x.sock")); !errors.Is(err, syscall.EACCES) {
		t.Errorf("got %v, want the cause to be known here", err)
	}
}

func testAccept(t *testing.T, n forward.Lent, network, address string) {
	t.Helper()
	l, err := n.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = io.WriteString(conn, "hello")
			_ = conn.Close()
		}
	}()
	conn, err := net.DialTimeout(network, address, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if b, err := io.ReadAll(conn); err != nil || string(b) != "hello" {
		t.Errorf("%s: got %q, %v", network, b, err)
	}
}

// A program that publishes nothing gets no such socket.
func TestNoForward(t *testing.T) {
	c := begin(t, Rules{})
	open(t, c)
	for what, err := range map[string]error{
		"listening":  second(c.ListenSocket("tcp", "127.0.0.1:0")),
		"connecting": second(c.DialSocket("tcp", netip.Addr{}, netip.MustParseAddrPort("10.1.0.9:9"))),
	} {
		if err == nil {
			t.Errorf("%s: nothing keeps it from that", what)
		}
	}
}
