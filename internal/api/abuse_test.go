package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener of pipes, which need no real time.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error { close(p); return nil }
func (pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "pipe"} }

// Who sends slowly has 10 s in total, wherever he is in his request.
// exam: H3, R2
func TestSlowRequests(t *testing.T) {
	const start = "POST /v1/peers HTTP/1.1\r\nHost: ferry\r\n"
	for name, tt := range map[string]struct{ at, slowly string }{
		"silence":         {"", ""},
		"headers":         {"", start + strings.Repeat("X: y\r\n", 20)},
		"body":            {start + "Content-Length: 1000\r\n\r\n", strings.Repeat(" ", 1000)},
		"chunks":          {start + "Transfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\n \r\n", 100)},
		"between the two": {"GET /v1/peers HTTP/1.1\r\nHost: ferry\r\n\r\n", "GET /v1/peers HTTP/1.1\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				conns, done := make(pipes), make(chan error, 1)
				h := Handle(func(error) int { return 400 }, func(_ *http.Request, p Peer) (Peer, error) { return p, nil })
				go func() { done <- Serve(ctx, conns, h, slog.New(slog.DiscardHandler)) }()
				a, b := net.Pipe()
				conns <- b
				began := time.Now()
				go func() { // ends with the connection
					if _, err := io.WriteString(a, tt.at); err != nil {
						return
					}
					for i := range len(tt.slowly) {
						time.Sleep(5 * time.Second)
						if _, err := io.WriteString(a, tt.slowly[i:i+1]); err != nil {
							return
						}
					}
				}()
				_, err := io.Copy(io.Discard, a)
				if took := time.Since(began); took > timeout+time.Second || err != nil {
					t.Errorf("closed after %s, %v; want %s", took, err, timeout)
				}
				a.Close()
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				time.Sleep(time.Minute) // whoever wrote has seen the end
			})
		})
	}
}

// endless is a body of 1 GiB that counts what of it was taken.
type endless struct {
	left  int
	taken atomic.Int64 // the client may go on to read it beside the answer
}

func (e *endless) Read(b []byte) (int, error) {
	n := min(len(b), e.left)
	if n == 0 {
		return 0, io.EOF
	}
	for i := range b[:n] {
		b[i] = ' ' // which JSON may begin with
	}
	e.left -= n
	e.taken.Add(int64(n))
	return n, nil
}

// A body of 1 GiB is taken up to 1 MiB, with a length before it and without; 10,000 headers are not.
// exam: H3, R14
func TestHugeRequests(t *testing.T) {
	dir := start(t)
	c := NewClient(dir)
	for _, length := range []int64{1 << 30, -1} {
		body := &endless{left: 1 << 30}
		r, err := http.NewRequest(http.MethodPost, "http://"+Host+"/v1/peers", body)
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = length
		answer, err := c.http.Do(r)
		if err == nil {
			if answer.Body.Close(); answer.StatusCode != 400 {
				t.Errorf("length %d: status %d", length, answer.StatusCode)
			}
		}
		if n := body.taken.Load(); n > 8*maxBody { // what stands in buffers was not read
			t.Errorf("length %d: %d bytes were taken", length, n)
		}
	}
	for what, request := range map[string]string{
		"10,000 headers":   "GET /v1/status HTTP/1.1\nHost: ferry\n" + strings.Repeat("X: y\n", 10_000) + "\n",
		"one huge header":  "GET /v1/status HTTP/1.1\nHost: ferry\nX: " + strings.Repeat("y", 1<<20) + "\n\n",
		"one huge path":    "GET /" + strings.Repeat("y", 1<<20) + " HTTP/1.1\nHost: ferry\n\n",
		"HTTP/2":           "PRI * HTTP/2.0\n\nSM\n\n",
		"a TLS hello":      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n",
		"two lengths":      "POST /v1/peers HTTP/1.1\nHost: ferry\nContent-Length: 2\nContent-Length: 3\n\n{}",
		"a length below 0": "POST /v1/peers HTTP/1.1\nHost: ferry\nContent-Length: -1\n\n{}",
		"two hosts":        "GET /v1/status HTTP/1.1\nHost: ferry\nHost: evil.example\n\n",
	} {
		if status, body := do(t, dir, request); status < 400 || status > 505 {
			t.Errorf("%s: got %d, %.100q", what, status, body)
		}
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// A thousand at once: each gets its answer or the end of its connection, and afterwards all is as before.
// exam: H3
func TestParallelRequests(t *testing.T) {
	dir := start(t)
	const parallel = 1000
	results := make(chan error, parallel)
	for range parallel {
		go func() {
			_, err := NewClient(dir).Status(t.Context())
			results <- err
		}()
	}
	failed := 0
	for range parallel {
		if err := <-results; err != nil && !errors.Is(err, context.DeadlineExceeded) {
			failed++
		}
	}
	if failed == parallel {
		t.Errorf("%d of %d failed", failed, parallel)
	}
	if _, err := NewClient(dir).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// FuzzRequest sends bytes as they are: each gets an answer of HTTP or none, and the next request is served.
func FuzzRequest(f *testing.F) {
	for _, text := range []string{
		"GET /v1/status HTTP/1.1\r\nHost: ferry\r\n\r\n",
		"POST /v1/peers HTTP/1.1\r\nHost: ferry\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"DELETE /v1/peers/a%2fb HTTP/1.0\r\nHost: ferry\r\nConnection: close\r\n\r\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			conns, done := make(pipes), make(chan error, 1)
			h := Handle(func(error) int { return 400 }, func(_ *http.Request, p Peer) (Peer, error) { return p, nil })
			go func() { done <- Serve(ctx, conns, h, slog.New(slog.DiscardHandler)) }()
			for _, request := range []string{string(b), "POST / HTTP/1.1\r\nHost: ferry\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"} {
				a, end := net.Pipe()
				conns <- end
				go func() { _, _ = io.WriteString(a, request) }() // ends with the connection
				all, _ := io.ReadAll(a)
				a.Close()
				if len(all) > 0 && !strings.HasPrefix(string(all), "HTTP/1.") {
					t.Errorf("answer %q", all)
				}
				if request != string(b) && !strings.HasPrefix(string(all), "HTTP/1.1 200 ") {
					t.Errorf("the next request: %q", all)
				}
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	})
}

// FuzzBodies decodes what an operator may send, of each kind.
func FuzzBodies(f *testing.F) {
	f.Add([]byte(`{"name":"cam1","key":"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=","addresses":["10.0.3.7"],"routes":["192.168.7.0/24"]}`))
	f.Add([]byte(`{"disabled":true}`))
	f.Add([]byte(`{"name":"cam1","ttl":1e308,"servers":[""]}`))
	kinds := []http.HandlerFunc{decoder[Peer](), decoder[Change](), decoder[Invite]()}
	f.Fuzz(func(t *testing.T, b []byte) {
		for i, h := range kinds {
			r, err := http.NewRequest(http.MethodPost, "http://ferry/", strings.NewReader(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			w := &answer{header: http.Header{}}
			if h(w, r); w.status != 0 && w.status != 400 {
				t.Errorf("kind %d, %q: status %d", i, b, w.status)
			}
		}
	})
}

// decoder answers with what it was asked.
func decoder[T any]() http.HandlerFunc {
	return Handle(func(error) int { return 400 }, func(_ *http.Request, v T) (string, error) { return fmt.Sprint(v), nil })
}
