package ws

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// request is what a device asks, with lines changed: a line of edit takes the place of that with its first word; an
// empty one, of which only the first word is there, is left out.
func request(edit ...string) string {
	lines := []string{
		"GET /ferry HTTP/1.1",
		"Host: gateway.example.org",
		"Connection: Upgrade",
		"Upgrade: websocket",
		"Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
	}
	for _, e := range edit {
		name, rest, _ := strings.Cut(e, " ")
		found := false
		for i, line := range lines {
			if strings.HasPrefix(line, name+" ") {
				lines[i], found = e, true
			}
		}
		if !found {
			lines = append(lines, e)
		}
		if rest == "" {
			lines = deleteLine(lines, e)
		}
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

func deleteLine(lines []string, line string) (kept []string) {
	for _, l := range lines {
		if l != line {
			kept = append(kept, l)
		}
	}
	return kept
}

// ask sends bytes to Accept, through a socket, and returns what it says and what comes back.
func ask(t testing.TB, ctx context.Context, sent string) (answer *http.Response, rest string, err error) {
	t.Helper()
	result := make(chan error, 1)
	a := listen(t, func(conn net.Conn) {
		s, err := Accept(ctx, conn, "/ferry", nil)
		if err == nil {
			_ = s.Close()
		}
		result <- err
	})
	conn, err := net.Dial("tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, sent); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	answer, readErr := http.ReadResponse(br, nil)
	if readErr != nil {
		t.Fatalf("no answer: %v; %v", readErr, <-result)
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		page, _ := io.ReadAll(answer.Body)
		rest = string(page)
	}
	return answer, rest, <-result
}

// What asks for a WebSocket of ours gets one, and all else a page.
// exam: R14
func TestAccept(t *testing.T) {
	tests := []struct {
		name   string
		sent   string
		status int
	}{
		{"asks for it", request(), 101},
		{"tokens of many", request("Connection: keep-alive, Upgrade"), 101},
		{"with a query", request("GET /ferry?x=1 HTTP/1.1"), 101},
		{"absolute form", request("GET http://gateway.example.org/ferry HTTP/1.1"), 101},
		{"compression is offered", request("Sec-WebSocket-Extensions: permessage-deflate"), 101},
		{"by a proxy", request("X-Forwarded-For: 192.0.2.1"), 101},
		{"another path", request("GET / HTTP/1.1"), 404},
		{"path below", request("GET /ferry/x HTTP/1.1"), 404},
		{"no Upgrade", request("Upgrade:"), 426},
		{"upgrade to something else", request("Upgrade: h2c"), 426},
		{"no Connection", request("Connection:"), 426},
		{"a browser", "GET /ferry HTTP/1.1\r\nHost: x\r\n\r\n", 426},
		{"old version", request("Sec-WebSocket-Version: 8"), 426},
		{"no version", request("Sec-WebSocket-Version:"), 426},
		{"no key", request("Sec-WebSocket-Key:"), 400},
		{"short key", request("Sec-WebSocket-Key: AAAA"), 400},
		{"POST", request("GET POST /ferry HTTP/1.1"), 400},
		{"another method", strings.Replace(request(), "GET", "PUT", 1), 405},
		{"from a page of others", request("Origin: http://elsewhere.example.org"), 403},
		{"a body", request("Content-Length: 1073741824"), 400},
		{"a body in chunks", request("Transfer-Encoding: chunked"), 400},
		{"HTTP/1.0", request("GET /ferry HTTP/1.0"), 426},
		{"HTTP/3.0", request("GET /ferry HTTP/3.0"), 505},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		{"no HTTP", "hello\r\n\r\n", 400},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400},
		{"no host", request("Host:"), 101},
		{"huge header", request("X: " + strings.Repeat("x", maxHead)), 431},
		{"many headers", "GET /ferry HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", maxHead/6+1), 431},
		{"long line", "GET /" + strings.Repeat("x", maxHead), 431},
		{"pipelined junk", request("GET /x HTTP/1.1") + request() + "junk", 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answer, page, err := ask(t, t.Context(), tt.sent)
			if answer.StatusCode != tt.status {
				t.Fatalf("got %s, %v, want %d", answer.Status, err, tt.status)
			}
			if tt.status == http.StatusSwitchingProtocols {
				if err != nil || answer.Header.Get("Sec-WebSocket-Extensions") != "" {
					t.Errorf("%v; %v", err, answer.Header)
				}
				return
			}
			if !errors.Is(err, ErrRequest) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 300 {
				t.Errorf("the error is %v", err)
			}
			if page != http.StatusText(tt.status)+"\n" || !answer.Close {
				t.Errorf("page %q, close: %t", page, answer.Close)
			}
			if upgrade := answer.Header.Get("Upgrade"); (upgrade == "websocket") != (tt.status == http.StatusUpgradeRequired) {
				t.Errorf("%d with Upgrade: %q", tt.status, upgrade)
			}
			for name, value := range answer.Header {
				if strings.Contains(strings.ToLower(name+strings.Join(value, "")), "erry") {
					t.Errorf("the answer names us: %s: %s", name, value)
				}
			}
		})
	}
}

// Who sends his request slowly, or not at all, is answered and let go when the time is over.
func TestSlowRequest(t *testing.T) {
	for _, sent := range []string{"G", request()[:30], strings.TrimSuffix(request(), "\r\n")} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		answer, _, err := ask(t, ctx, sent)
		cancel()
		if answer.StatusCode != http.StatusRequestTimeout || !errors.Is(err, ErrRequest) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q: %s, %v", sent, answer.Status, err)
		}
	}
}

// A handshake of TLS that does not come ends in time too, as does one that is none.
func TestSlowTLS(t *testing.T) {
	for _, sent := range []string{"\x16", "\x16\x03\x01\x00\x05hello", "GET / HTTP/1.1\r\n\r\n"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		result := make(chan error, 1)
		c := certificate(t)
		a := listen(t, func(conn net.Conn) {
			_, err := AcceptTLS(ctx, conn, "/ferry", c, nil)
			result <- err
		})
		conn, err := net.Dial("tcp", a.String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, sent)
		if err := <-result; !errors.Is(err, ErrTLS) {
			t.Errorf("%q: %v", sent, err)
		}
		_ = conn.Close()
		cancel()
	}
}

// What a device sends together with its request is part of the stream.
func TestEarlyFrames(t *testing.T) {
	got := make(chan string, 1)
	e := gateway(t, "ws", func(s net.Conn) {
		b := make([]byte, 100)
		n, err := io.ReadFull(s, b[:5])
		if err != nil {
			t.Error(err)
		}
		got <- string(b[:n])
	})
	conn, err := net.Dial("tcp", hostPort(e))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write(append([]byte(request()), frame(fin|binaryFrame, 5, true, "hello")...))
	if s := <-got; s != "hello" {
		t.Errorf("got %q", s)
	}
}

// Whatever comes, Accept and the stream end, and the answer is one of HTTP.
// exam: M14
func FuzzAccept(f *testing.F) {
	f.Add([]byte(request()))
	f.Add(append([]byte(request()), frame(fin|binaryFrame, 5, true, "hello")...))
	f.Add(append([]byte(request()), frame(fin|text, 1<<40, true, "hello")...))
	f.Add(append([]byte(request()), frame(fin|closing, 2, true, "\x03\xe8")...))
	f.Add([]byte(request("Host:", "Connection: x", "Content-Length: 5") + "hello"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn := &script{Reader: bytes.NewReader(sent)}
		s, err := Accept(t.Context(), conn, "/ferry", nil)
		if err == nil {
			if n, readErr := io.Copy(io.Discard, s); n > int64(len(sent)) || readErr == nil && !bytes.Contains(sent, []byte("\x88")) {
				t.Errorf("%d bytes out of %d, %v", n, len(sent), readErr)
			}
			_ = s.Close()
		} else if !errors.Is(err, ErrRequest) {
			t.Errorf("error %v", err)
		}
		answer, readErr := http.ReadResponse(bufio.NewReader(&conn.back), nil)
		if readErr != nil || (answer.StatusCode == http.StatusSwitchingProtocols) != (err == nil) {
			t.Errorf("answer %v, %v; error %v", answer, readErr, err)
		}
	})
}

// A script is a connection that brings some bytes and then ends.
type script struct {
	*bytes.Reader
	net.Conn // nil: nothing else is asked
	back     bytes.Buffer
}

func (s *script) Read(b []byte) (int, error)     { return s.Reader.Read(b) }
func (s *script) Write(b []byte) (int, error)    { return s.back.Write(b) }
func (*script) Close() error                     { return nil }
func (*script) SetReadDeadline(time.Time) error  { return nil }
func (*script) SetWriteDeadline(time.Time) error { return nil }
