package ws

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
)

// exchangeHello sends bytes to an echo and wants them back.
func exchangeHello(t *testing.T, conn net.Conn) {
	t.Helper()
	got := make([]byte, 5)
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err := conn.Write([]byte("hello"))
	if _, readErr := io.ReadFull(conn, got); err != nil || readErr != nil || string(got) != "hello" {
		t.Errorf("got %q, %v, %v", got, err, readErr)
	}
}

// refused wants an error of Dial with words in it, on one line and without the password of any proxy.
func refused(t *testing.T, e carrier.Endpoint, p Options, words string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := Dial(ctx, e, nil, p)
	if err == nil {
		_ = conn.Close()
		t.Fatalf("no error; want %q", words)
	}
	if !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "sesame") {
		t.Errorf("got %q, want %q", err, words)
	}
	return err
}

// A proxy is one in a test: where it listens, and what it was asked for.
type proxyServer struct {
	addr  *net.TCPAddr
	asked chan string // host:port, with the name and password that came with it before an @
}

// pipe carries bytes between two connections until one ends.
func pipe(a net.Conn, fromA io.Reader, b net.Conn) {
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(b, fromA); _ = b.Close() })
	both.Go(func() { _, _ = io.Copy(a, b); _ = a.Close() })
	both.Wait()
}

// httpProxy connects everybody who knows the password to one address.
func httpProxy(t *testing.T, to string, pair string) proxyServer {
	p := proxyServer{asked: make(chan string, 10)}
	p.addr = listen(t, func(conn net.Conn) {
		br := bufio.NewReader(conn)
		r, err := http.ReadRequest(br)
		if err != nil || r.Method != http.MethodConnect {
			t.Errorf("the proxy was asked %v, %v", r, err)
			return
		}
		came := ""
		if auth, ok := strings.CutPrefix(r.Header.Get("Proxy-Authorization"), "Basic "); ok {
			b, _ := base64.StdEncoding.DecodeString(auth)
			came = string(b) + "@"
		}
		p.asked <- came + r.RequestURI
		if pair != "" && came != pair+"@" {
			_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n")
			return
		}
		out, err := net.Dial("tcp", to)
		if err != nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
		pipe(conn, br, out)
	})
	return p
}

// socksProxy is the same with SOCKS5: RFC 1928 and 1929.
func socksProxy(t *testing.T, to string, pair string) proxyServer {
	p := proxyServer{asked: make(chan string, 10)}
	p.addr = listen(t, func(conn net.Conn) {
		br := bufio.NewReader(conn)
		field := func() string { // with its length in one byte before it
			n, _ := br.ReadByte()
			b := make([]byte, n)
			_, _ = io.ReadFull(br, b)
			return string(b)
		}
		came := ""
		_, _ = br.ReadByte() // version
		methods := field()
		if pair != "" && strings.Contains(methods, "\x02") {
			_, _ = conn.Write([]byte{5, 2})
			_, _ = br.ReadByte()
			user, password := field(), field()
			came = user + ":" + password + "@"
			status := byte(0)
			if came != pair+"@" {
				status = 1
			}
			_, _ = conn.Write([]byte{1, status})
		} else if pair != "" {
			_, _ = conn.Write([]byte{5, 0xff})
			return
		} else {
			_, _ = conn.Write([]byte{5, 0})
		}
		var head [4]byte
		if _, err := io.ReadFull(br, head[:]); err != nil {
			return
		}
		host := ""
		switch head[3] {
		case 1:
			var ip [4]byte
			_, _ = io.ReadFull(br, ip[:])
			host = net.IP(ip[:]).String()
		case 3:
			host = field()
		}
		var port [2]byte
		_, _ = io.ReadFull(br, port[:])
		p.asked <- fmt.Sprintf("%s%s:%d", came, host, int(port[0])<<8|int(port[1]))
		out, err := net.Dial("tcp", to)
		if err != nil {
			_, _ = conn.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
			return
		}
		_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		pipe(conn, br, out)
	})
	return p
}

// nobody is an address where nothing listens.
func nobody(t *testing.T) *net.TCPAddr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr)
}

func TestProxies(t *testing.T) {
	kinds := map[string]func(t *testing.T, to, pair string) proxyServer{"http": httpProxy, "socks5": socksProxy}
	for kind, start := range kinds {
		for _, scheme := range []string{"ws", "wss"} {
			for _, pair := range []string{"", "ali:open sesame@:/"} {
				t.Run(kind+" "+scheme+" "+pair, func(t *testing.T) {
					p := start(t, hostPort(gateway(t, scheme, echo)), pair)
					u := url.URL{Scheme: kind, Host: p.addr.String()}
					want := "gateway.example.org:8443"
					if pair != "" {
						user, password, _ := strings.Cut(pair, ":")
						u.User = url.UserPassword(user, password)
						want = pair + "@" + want
					}
					// A name that nobody here can look up: the proxy does.
					e := carrier.Endpoint{Scheme: scheme, Host: "gateway.example.org", Port: 8443, Path: "/ferry"}
					conn := mustDial(t, e, Options{Proxy: u.String()})
					exchangeHello(t, conn)
					if got := <-p.asked; got != want {
						t.Errorf("the proxy was asked for %q, want %q", got, want)
					}
					if got := conn.RemoteAddr().String(); got != p.addr.String() {
						t.Errorf("the address is %s, not the proxy's", got)
					}
				})
			}
		}
	}
}

func TestProxyErrors(t *testing.T) {
	e := endpoint("ws", nobody(t))
	closed := nobody(t).String()
	auth := httpProxy(t, hostPort(e), "ali:open sesame").addr.String()
	open := httpProxy(t, hostPort(e), "").addr.String()
	socks := socksProxy(t, hostPort(e), "ali:sesame").addr.String()
	socksOpen := socksProxy(t, hostPort(e), "").addr.String()
	early := listen(t, func(conn net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\nSSH-2.0")
	}).String()
	silent := listen(t, func(conn net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(conn)) }).String()
	tests := []struct{ proxy, words string }{
		{"http://" + auth, "the proxy wants a user name and password: write http://user:password@host:port"},
		{"http://ali:sesame@" + auth, "takes another user name and password"},
		{"http://" + open, "502 Bad Gateway"},
		{"http://" + closed, "nothing listens there"},
		{"http://" + early, "is it an HTTP proxy?"},
		{"http://" + silent, "closed instead of an answer"},
		{"socks5://" + socks, "no acceptable authentication methods"},
		{"socks5://ali:no%20sesame@" + socks, "username/password authentication failed"},
		{"socks5://" + socksOpen, "connection refused"},
		{"socks5://" + closed, "nothing listens there"},
		{"socks4://" + closed, "write http:// or socks5://"},
		{"http://", "write http:// or socks5://"},
		{"ali:sesame@" + open, "write http:// or socks5://"},
		{"http://ali:sesame@ho st", "write http:// or socks5://"},
	}
	for _, tt := range tests {
		t.Run(tt.proxy, func(t *testing.T) { refused(t, e, Options{Proxy: tt.proxy}, tt.words) })
	}
}

func TestEnvironment(t *testing.T) {
	ws := carrier.Endpoint{Scheme: "ws", Host: "gateway.example.org", Port: 80}
	wss := carrier.Endpoint{Scheme: "wss", Host: "gateway.example.org", Port: 443}
	tests := []struct {
		name   string
		env    string // NAME=value, separated by spaces
		option string
		e      carrier.Endpoint
		want   string
	}{
		{"nothing", "", "", wss, ""},
		{"for wss", "HTTPS_PROXY=http://a HTTP_PROXY=http://b", "", wss, "http://a"},
		{"for ws", "HTTPS_PROXY=http://a HTTP_PROXY=http://b", "", ws, "http://b"},
		{"small letters", "https_proxy=http://a", "", wss, "http://a"},
		{"for all", "ALL_PROXY=socks5://c", "", wss, "socks5://c"},
		{"for all and more", "HTTPS_PROXY=http://a all_proxy=socks5://c", "", wss, "http://a"},
		{"for all the others", "HTTPS_PROXY=http://a all_proxy=socks5://c", "", ws, "socks5://c"},
		{"without a scheme", "HTTPS_PROXY=a:8080", "", wss, "http://a:8080"},
		{"not for this host", "HTTPS_PROXY=http://a NO_PROXY=x.org,example.org", "", wss, ""},
		{"not for this port", "ALL_PROXY=http://a no_proxy=gateway.example.org:443", "", wss, ""},
		{"not for another port", "ALL_PROXY=http://a no_proxy=gateway.example.org:444", "", wss, "http://a"},
		{"not for this machine", "HTTPS_PROXY=http://a", "", carrier.Endpoint{Scheme: "wss", Host: "127.0.0.1", Port: 1}, ""},
		{"by option", "HTTPS_PROXY=http://a NO_PROXY=*", "http://b:1", wss, "http://b:1"},
		{"none by option", "HTTPS_PROXY=http://a", Direct, wss, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"} {
				t.Setenv(name, "")
				t.Setenv(strings.ToLower(name), "")
			}
			for pair := range strings.FieldsSeq(tt.env) {
				name, value, _ := strings.Cut(pair, "=")
				t.Setenv(name, value)
			}
			u, err := Options{Proxy: tt.option}.proxy(tt.e)
			got := ""
			if u != nil {
				got = u.String()
			}
			if got != tt.want || err != nil {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
	t.Run("dial", func(t *testing.T) {
		p := httpProxy(t, hostPort(gateway(t, "wss", echo)), "")
		t.Setenv("HTTPS_PROXY", "http://"+p.addr.String())
		t.Setenv("https_proxy", "")
		t.Setenv("NO_PROXY", "")
		t.Setenv("no_proxy", "")
		exchangeHello(t, mustDial(t, carrier.Endpoint{Scheme: "wss", Host: "gateway.example.org", Port: 443, Path: "/ferry"}, Options{}))
		<-p.asked
	})
}

// reverseProxy stands before a gateway, as nginx does.
func reverseProxy(t *testing.T, scheme, to string, change func(http.Header)) carrier.Endpoint {
	t.Helper()
	transport := &http.Transport{}
	h := &httputil.ReverseProxy{Transport: transport, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: to})
		r.SetXForwarded()
		change(r.Out.Header)
	}}
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if scheme == "wss" {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() { s.Close(); transport.CloseIdleConnections() })
	return endpoint(scheme, s.Listener.Addr().(*net.TCPAddr))
}

func TestReverseProxy(t *testing.T) {
	for _, scheme := range []string{"ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			come, done := make(chan net.Conn), make(chan struct{})
			behind := gateway(t, "ws", func(s net.Conn) { come <- s; <-done })
			e := reverseProxy(t, scheme, hostPort(behind), func(http.Header) {})
			t.Cleanup(func() { close(done) })
			a := mustDial(t, e, Options{Proxy: Direct})
			b := <-come
			talk(t, a, b, 1<<20)
			if got := b.RemoteAddr(); got.Network() != "ws" || got.String() == a.LocalAddr().String() {
				t.Errorf("the gateway sees %s %s, which is what was forwarded and not the proxy", got.Network(), got)
			}
			_ = a.Close()
			if _, err := b.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("then %v", err)
			}
		})
	}
	strip := func(h http.Header) { h.Del("Upgrade"); h.Del("Connection") }
	refused(t, reverseProxy(t, "ws", hostPort(gateway(t, "ws", echo)), strip), Options{Proxy: Direct}, "does the reverse proxy hand on the headers Upgrade")
	refused(t, reverseProxy(t, "ws", nobody(t).String(), func(http.Header) {}), Options{Proxy: Direct}, "reaches no gateway")
}

// says answers each request in the same way.
func says(t *testing.T, answer string) carrier.Endpoint {
	return endpoint("ws", listen(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, answer)
		}
	}))
}

func TestDialErrors(t *testing.T) {
	elsewhere := gateway(t, "ws", echo)
	elsewhere.Path = "/"
	plain := gateway(t, "ws", echo)
	plain.Scheme = "wss"
	const accepted = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	tests := []struct {
		name  string
		e     carrier.Endpoint
		words string
	}{
		{"nobody", endpoint("wss", nobody(t)), "nothing listens there"},
		{"another path", elsewhere, "nothing is at /: check the path"},
		{"no TLS", plain, "is it ws://?"},
		{"moved", says(t, "HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"), "301 Moved Permanently"},
		{"closed", says(t, ""), "closed instead of an answer"},
		{"other protocol", says(t, "SSH-2.0-OpenSSH\r\n\r\n"), "malformed HTTP"},
		{"endless head", says(t, "HTTP/1.1 200 OK\r\n"+strings.Repeat("A: b\r\n", 10_000)), "closed instead of an answer"},
		{"no accept", says(t, accepted+"\r\n"), "invalid Sec-WebSocket-Accept"},
		{"a page", says(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), "200 OK instead of a WebSocket"},
		{"not there", endpoint("ws", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}), "dial ws://127.0.0.1:1/ferry"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { refused(t, tt.e, Options{Proxy: Direct}, tt.words) })
	}
}

// Who answers that messages will be compressed, which nobody has offered him, is not spoken to.
// exam: R14
func TestCompressionRefused(t *testing.T) {
	e := endpoint("ws", listen(t, func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		if got := r.Header.Get("Sec-WebSocket-Extensions"); got != "" {
			t.Errorf("extensions are offered: %s", got)
		}
		a := &answer{conn: conn, wire: &wire{Conn: conn}, header: make(http.Header)}
		a.upgrade()
		a.header.Set("Sec-WebSocket-Extensions", "permessage-deflate")
		a.header.Set("Sec-WebSocket-Accept", acceptKey(r.Header.Get("Sec-WebSocket-Key")))
		a.WriteHeader(http.StatusSwitchingProtocols)
	}))
	refused(t, e, Options{Proxy: Direct}, "extension")
}

// FuzzUpgrade: whatever is answered to a request for a WebSocket, nobody is spoken to who can not have read it.
// exam: M14
func FuzzUpgrade(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 4611686018427387904\r\n\r\nhi"))
	f.Add([]byte("HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\nhi"))
	f.Add([]byte("HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n"))
	f.Add([]byte("SSH-2.0-OpenSSH\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		conn, err := upgrade(t.Context(), carrier.Endpoint{Scheme: "ws", Host: "x", Port: 80, Path: "/ferry"}, &script{Reader: bytes.NewReader(answer)})
		if err == nil {
			_ = conn.Close()
			t.Errorf("a WebSocket with who can not know the key")
		}
	})
}

// However far it has come, Dial ends with its context.
func TestDialEndsWithContext(t *testing.T) {
	hole := listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	for _, p := range []Options{{Direct}, {"http://" + hole.String()}, {"socks5://" + hole.String()}} {
		for _, scheme := range []string{"ws", "wss"} {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			begin := time.Now()
			_, err := Dial(ctx, endpoint(scheme, hole), nil, p)
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) > patience {
				t.Errorf("%s by %s: %v after %s", scheme, p.Proxy, err, time.Since(begin))
			}
			cancel()
		}
	}
}

// An opener that counts.
type opener struct {
	mu      sync.Mutex
	sockets []string
}

func (o *opener) Socket(network, address string) (*os.File, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sockets = append(o.sockets, network+" "+address)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

func (*opener) Connect(string) (net.Conn, error) { return nil, syscall.ENOSYS }

// The one socket that there is, to the gateway or to the proxy, is the opener's.
func TestOpener(t *testing.T) {
	e := gateway(t, "wss", echo)
	hp, sp := httpProxy(t, hostPort(e), ""), socksProxy(t, hostPort(e), "")
	for proxy, want := range map[string]string{
		Direct:                         hostPort(e),
		"http://" + hp.addr.String():   hp.addr.String(),
		"socks5://" + sp.addr.String(): sp.addr.String(),
	} {
		o := &opener{}
		conn, err := Dial(t.Context(), e, o, Options{Proxy: proxy})
		if err != nil {
			t.Fatal(err)
		}
		exchangeHello(t, conn)
		_ = conn.Close()
		if got := strings.Join(o.sockets, ", "); got != "tcp4 "+want {
			t.Errorf("%s: sockets were made for %q, want %q", proxy, got, want)
		}
	}
}

// acceptKey is how a server shows that it has understood: RFC 6455, section 4.2.2.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// A name that is not there is told from a name server that is not.
func TestExplainNames(t *testing.T) {
	for found, words := range map[bool]string{true: "was not found: check it", false: "is a name server reachable?"} {
		err := explain(&net.DNSError{Name: "gateway.example.org", IsNotFound: found})
		if !strings.Contains(err.Error(), words) {
			t.Errorf("got %v, want %q", err, words)
		}
	}
}

// Where it is known where the host is, that is dialled, and asked for the name: a reverse proxy has several.
func TestKnownAddress(t *testing.T) {
	asked := make(chan string, 1)
	e := reverseProxy(t, "ws", hostPort(gateway(t, "ws", echo)), func(h http.Header) { asked <- h.Get("X-Forwarded-Host") })
	e.At, e.Host = netip.MustParseAddr(e.Host), "gateway.invalid"
	conn, err := Dial(t.Context(), e, nil, Options{Proxy: Direct})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if got := <-asked; got != hostPort(e) {
		t.Errorf("asked for %q, want %q", got, hostPort(e))
	}
}
