package vtunnel

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/test/service"
)

const patience = 20 * time.Second

// A lab has a Server on a unix socket.
type lab struct {
	path   string
	server *Server
	out    *transcript // of the server
}

// A transcript is what a program has printed.
type transcript struct{ service.Transcript }

// await waits for a line.
func (t *transcript) await(tb testing.TB, line string) {
	tb.Helper()
	for end := time.Now().Add(patience); !strings.Contains(t.String(), line+"\n"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not printed: %q\n%s", line, t)
		}
	}
}

// background runs f until the test ends.
func background(t testing.TB, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("it does not stop")
		}
	})
}

// newServer starts a Server.
func newServer(t testing.TB, c ServerConfig) *lab {
	t.Helper()
	b := &lab{path: filepath.Join(t.TempDir(), "s"), out: new(transcript)}
	if c.Lines == nil {
		c.Lines = &Lines{To: b.out}
	}
	l, err := net.Listen("unix", b.path)
	if err != nil {
		t.Fatal(err)
	}
	b.server = NewServer(c)
	background(t, func(ctx context.Context) error { return b.server.Serve(ctx, l) })
	return b
}

func (b *lab) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", b.path)
}

// connect connects as a scripted client.
func (b *lab) connect(t testing.TB) *net.UnixConn {
	t.Helper()
	conn, err := b.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.UnixConn)
}

// newClient starts a Client for TCP, and returns where it listens.
func newClient(t testing.TB, c ClientConfig) (string, *transcript) {
	t.Helper()
	out := new(transcript)
	c.Lines = &Lines{To: out}
	l, err := ListenTCP(netip.MustParseAddr("127.0.0.1"), freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return NewClient(c).ServeTCP(ctx, l) })
	return l.Addr().String(), out
}

// newClientUDP is newClient for UDP.
func newClientUDP(t testing.TB, c ClientConfig) (string, *transcript) {
	t.Helper()
	out := new(transcript)
	c.Lines = &Lines{To: out}
	l, err := ListenUDP(netip.MustParseAddr("127.0.0.1"), freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return NewClient(c).ServeUDP(ctx, l) })
	return l.LocalAddr().String(), out
}

// freePort returns a port that nobody has at the moment.
func freePort(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return port(l.Addr())
}

func port(a net.Addr) uint16 { return netip.MustParseAddrPort(a.String()).Port() }

// destination starts a TCP server, for whose connections it calls f.
func destination(t testing.TB, f func(*net.TCPConn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				defer stop()
				f(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		all.Wait()
	})
	return port(l.Addr())
}

// echo is a destination that returns what comes, and ends when that does.
func echo(conn *net.TCPConn) {
	_, _ = io.Copy(conn, conn)
	_ = conn.CloseWrite()
}

// echoUDP is a destination of UDP which returns each datagram with a mark before and behind it.
func echoUDP(t testing.TB) uint16 {
	t.Helper()
	return service.UDP(t, func(b []byte) [][]byte { return [][]byte{fmt.Appendf(nil, "<%s>", b)} }).Port()
}

// original does what a client of the original does: the request in one write, one read, which has to return as many bytes as a reply
// has.
func original(conn net.Conn, line string) (reply, error) {
	if _, err := io.WriteString(conn, line); err != nil {
		return "", err
	}
	b := make([]byte, 1024)
	n, err := conn.Read(b)
	if err != nil {
		return "", err
	}
	if n != 4 && n != 5 {
		return "", fmt.Errorf("invalid notification size %d: %q", n, b[:n])
	}
	return reply(b[:n]), nil
}

// originalServer is a server of the original for one connection after the other: one read, a reply, and copies until either end is closed.
func originalServer(t testing.TB, coalesce string) *lab {
	t.Helper()
	b := &lab{path: filepath.Join(t.TempDir(), "s"), out: new(transcript)}
	l, err := net.Listen("unix", b.path)
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = l.Close() })
		defer stop()
		for {
			conn, err := l.Accept()
			if err != nil {
				return nil
			}
			b.serveOnce(conn, coalesce)
		}
	})
	return b
}

func (b *lab) serveOnce(conn net.Conn, coalesce string) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	line := make([]byte, 1024)
	n, err := conn.Read(line)
	if err != nil {
		return
	}
	fmt.Fprintf(b.out, "%s\n", line[:n])
	var auth, addr, proto string
	var port int
	switch got, _ := fmt.Sscanf(string(line[:n]), "%s %s %d %s", &auth, &addr, &port, &proto); {
	case got != 4:
		_, _ = io.WriteString(conn, "fail")
		return
	case auth != DefaultAuth:
		_, _ = io.WriteString(conn, "auth")
		return
	}
	dest, err := net.Dial(proto+"4", net.JoinHostPort(addr, strconv.Itoa(port)))
	if err != nil {
		_, _ = io.WriteString(conn, "error")
		return
	}
	defer dest.Close()
	if _, err := io.WriteString(conn, "ready"+coalesce); err != nil {
		return
	}
	_ = dest.SetDeadline(time.Now().Add(patience))
	ended := make(chan struct{}, 2)
	pass := func(to, from net.Conn) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 8192))
		ended <- struct{}{}
	}
	go pass(dest, conn)
	go pass(conn, dest)
	<-ended
	_ = conn.Close()
	_ = dest.Close()
	<-ended
}

// ask sends a line and expects it back.
func ask(t testing.TB, conn net.Conn, line string) {
	t.Helper()
	if _, err := fmt.Fprintf(conn, "%s\n", line); err != nil {
		t.Fatal(err)
	}
	got, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || got != line+"\n" {
		t.Fatalf("got %q, %v, want %q", got, err, line)
	}
}

// dialTCP connects an application to a Client.
func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}
