package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"
)

const patience = 10 * time.Second

// A socketHalf stands in for a connection in the tunnel: it is one of the kernel's.
type socketHalf struct{ *net.TCPConn }

func (h socketHalf) Join(program *net.TCPConn, first []byte) {
	defer program.Close()
	defer h.TCPConn.Close()
	_, _ = h.Write(first)
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(h.TCPConn, program); _ = h.CloseWrite() })
	both.Go(func() { _, _ = io.Copy(program, h.TCPConn); _ = program.CloseWrite() })
	both.Wait()
}

func direct(ctx context.Context, address string) (Half, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return socketHalf{c.(*net.TCPConn)}, nil
}

// serve serves a proxy until the test ends, and returns where.
func serve(t *testing.T, f func(context.Context, net.Listener) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func socks(t *testing.T) string {
	return serve(t, func(ctx context.Context, l net.Listener) error {
		return ServeSOCKS(ctx, l, direct, nil, new(Counts), slog.New(slog.DiscardHandler))
	})
}

func web(t *testing.T) string {
	return serve(t, func(ctx context.Context, l net.Listener) error {
		return ServeHTTP(ctx, l, direct, new(net.Dialer).DialContext, new(Counts), slog.New(slog.DiscardHandler))
	})
}

// echo returns where a server is that sends back what it reads, and ends when that ends.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	return l.Addr().String()
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A client of another maker passes bytes both ways, by address and by name, and the end of each direction.
func TestSOCKS(t *testing.T) {
	at, server := socks(t), echo(t)
	d, err := proxy.SOCKS5("tcp", at, nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(server)
	for _, address := range []string{server, "localhost:" + port} {
		c, err := d.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		want := bytes.Repeat([]byte("ferry"), 100_000)
		go func() {
			_, _ = c.Write(want)
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d of %d bytes, %v", address, len(got), len(want), err)
		}
		_ = c.Close()
	}
}

// What is wrong is told in the words of RFC 1928, and what is no SOCKS5 gets no answer.
func TestSOCKSAnswers(t *testing.T) {
	at := socks(t)
	refused := closedPort(t)
	var host [4]byte
	var port int
	if _, err := fmt.Sscanf(refused, "%d.%d.%d.%d:%d", &host[0], &host[1], &host[2], &host[3], &port); err != nil {
		t.Fatal(err)
	}
	to := string(host[:]) + string([]byte{byte(port >> 8), byte(port)})
	for _, tt := range []struct{ name, send, want string }{
		{"refused", "\x05\x01\x00\x05\x01\x00\x01" + to, "\x05\x00\x05\x05"},
		{"a name of no bytes", "\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50", "\x05\x00\x05"},
		{"BIND", "\x05\x01\x00\x05\x02\x00\x01" + to, "\x05\x00\x05\x07"},
		{"UDP ASSOCIATE", "\x05\x01\x00\x05\x03\x00\x01" + to, "\x05\x00\x05\x07"},
		{"unknown address", "\x05\x01\x00\x05\x01\x00\x02" + to, "\x05\x00\x05\x08"},
		{"a proof only", "\x05\x01\x02", "\x05\xff"},
		{"several methods", "\x05\x03\x02\x01\x00\x05\x01\x00\x01" + to, "\x05\x00\x05\x05"},
		{"SOCKS4", "\x04\x01" + to[4:] + to[:4] + "\x00", ""},
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", ""},
		{"half a greeting", "\x05\x05\x00", ""},
		{"nothing", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			_, _ = c.Write([]byte(tt.send))
			_ = c.(*net.TCPConn).CloseWrite()
			got, _ := io.ReadAll(c)
			if !strings.HasPrefix(string(got), tt.want) || tt.want == "" && len(got) > 0 {
				t.Errorf("got %x, want %x", got, tt.want)
			}
		})
	}
}

func FuzzHello(f *testing.F) {
	for _, seed := range []string{"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x01\x00\x05\x01\x00\x03\x04host\x00\x50", "\x05\x02\x00\x02\x05\x01\x00\x04" + strings.Repeat("\x00", 15) + "\x01\x00\x50"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, address, reply := hello(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), io.Discard})
		if address != "" && reply != repOK {
			t.Errorf("%q and %d", address, reply)
		}
		if address == "" {
			return
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	})
}

// A stock client fetches through the proxy, by CONNECT and by a whole URL.
func TestHTTP(t *testing.T) {
	at := web(t)
	via := &url.URL{Scheme: "http", Host: at}
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello "+r.Host) })
	for _, server := range []*httptest.Server{httptest.NewServer(hello), httptest.NewTLSServer(hello)} {
		defer server.Close()
		transport := server.Client().Transport.(*http.Transport).Clone()
		transport.Proxy = http.ProxyURL(via)
		answer, err := (&http.Client{Transport: transport, Timeout: patience}).Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if want := "hello " + strings.TrimPrefix(strings.TrimPrefix(server.URL, "https://"), "http://"); err != nil || string(body) != want {
			t.Errorf("%s: got %q, %v", server.URL, body, err)
		}
		transport.CloseIdleConnections()
	}
}

// What comes in the same segment as the request for a tunnel is part of what goes through it.
func TestPipelined(t *testing.T) {
	c, err := net.Dial("tcp", web(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	server := echo(t)
	_, _ = c.Write([]byte("CONNECT " + server + " HTTP/1.1\r\nHost: " + server + "\r\n\r\nearly"))
	_ = c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.HasSuffix(got, []byte("\r\n\r\nearly")) || !bytes.HasPrefix(got, []byte("HTTP/1.1 200 ")) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestHTTPAnswers(t *testing.T) {
	at, closed := web(t), closedPort(t)
	for request, want := range map[string]string{
		"CONNECT " + closed + " HTTP/1.1\r\nHost: " + closed + "\r\n\r\n":                          "HTTP/1.1 502 ",
		"GET http://" + closed + "/ HTTP/1.1\r\nHost: " + closed + "\r\nConnection: close\r\n\r\n": "HTTP/1.1 502 ",
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":                                   "HTTP/1.1 400 ",
		"CONNECT nowhere HTTP/1.1\r\nHost: nowhere\r\n\r\n":                                        "HTTP/1.1 502 ",
	} {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write([]byte(request))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
			t.Errorf("%q: got %q, %v", request, got, err)
		}
		_ = c.Close()
	}
}

func TestReplies(t *testing.T) {
	for err, want := range map[error]byte{
		syscall.ECONNREFUSED: repRefused, syscall.EHOSTUNREACH: repHostUnreachable, syscall.ENETUNREACH: repNetUnreachable, syscall.ETIMEDOUT: repExpired,
		context.DeadlineExceeded: repExpired, errors.New("x"): repFailure, error(&net.DNSError{}): repHostUnreachable,
	} {
		if got := replyTo(fmt.Errorf("dial: %w", err)); got != want {
			t.Errorf("%v: got %d, want %d", err, got, want)
		}
	}
}

// A place that fails after longer than a program may take to name it is told as what it is.
func TestSOCKSLate(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s")
	}
	t.Parallel()
	at := serve(t, func(ctx context.Context, l net.Listener) error {
		return ServeSOCKS(ctx, l, func(context.Context, string) (Half, error) {
			time.Sleep(helloTime + 200*time.Millisecond)
			return nil, syscall.ETIMEDOUT
		}, nil, new(Counts), slog.New(slog.DiscardHandler))
	})
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(helloTime + patience))
	_, _ = c.Write([]byte("\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50"))
	if got, _ := io.ReadAll(c); !strings.HasPrefix(string(got), "\x05\x00\x05\x06") {
		t.Errorf("got %x", got)
	}
}

// There is room for so many programs, whatever they do, and again when some have left.
func TestMany(t *testing.T) {
	for name, at := range map[string]string{"socks": socks(t), "http": web(t)} {
		t.Run(name, func(t *testing.T) {
			all := make([]net.Conn, maxConns)
			for i := range all {
				all[i] = mustDial(t, at)
			}
			if !isClosed(t, mustDial(t, at)) {
				t.Error("one more than there is room for is in")
			}
			for _, c := range all[:10] {
				_ = c.Close()
			}
			for end := time.Now().Add(patience); isClosed(t, mustDial(t, at)); {
				if time.Now().After(end) {
					t.Fatal("no room again")
				}
			}
		})
	}
}

// A connection that was upgraded, as of a WebSocket, counts until it ends, and ends with the proxy.
func TestUpgraded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n"))
		_, _ = io.Copy(conn, conn)
	}))
	defer server.Close()
	at := web(t)
	all := make([]net.Conn, maxConns)
	for i := range all {
		all[i] = mustDial(t, at)
		_ = all[i].SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(all[i], "GET %s/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n", server.URL)
	}
	for i, c := range all {
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("connection %d: %v, %v", i, answer, err)
		}
	}
	if !isClosed(t, mustDial(t, at)) {
		t.Error("one more than there is room for is in")
	}
	for _, c := range all[:10] {
		_ = c.Close()
	}
	for end := time.Now().Add(patience); isClosed(t, mustDial(t, at)); {
		if time.Now().After(end) {
			t.Fatal("no room again")
		}
	}
}

func mustDial(t *testing.T, at string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// isClosed tells whether the other end of a connection has closed it.
func isClosed(t *testing.T, c net.Conn) bool {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return !errors.Is(err, os.ErrDeadlineExceeded)
}
