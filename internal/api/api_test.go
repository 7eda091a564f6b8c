package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/durable"
)

var errMissing = errors.New("no such peer")

// start serves one route of each kind in a directory, until the test ends.
func start(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	state, err := durable.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	status := func(err error) int {
		if errors.Is(err, errMissing) {
			return http.StatusNotFound
		}
		return http.StatusBadRequest
	}
	mux := http.NewServeMux()
	mux.Handle("GET /v1/status", Handle(status, func(*http.Request, struct{}) (Status, error) { return Status{Version: "7"}, nil }))
	mux.Handle("POST /v1/peers", Handle(status, func(_ *http.Request, p Peer) (Peer, error) { return p, nil }))
	mux.Handle("DELETE /v1/peers/{name}", Handle(status, func(r *http.Request, _ struct{}) (Peer, error) {
		if name := r.PathValue("name"); name != "a/b c" {
			return Peer{Name: name}, errMissing
		}
		return Peer{Name: "found"}, nil
	}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, mux, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(filepath.Join(dir, SocketName)); err == nil {
			t.Error("the socket is left behind")
		}
	})
	return dir
}

// exam: H1
func TestClient(t *testing.T) {
	dir := start(t)
	c := NewClient(dir)
	if s, err := c.Status(t.Context()); err != nil || s.Version != "7" {
		t.Errorf("got %+v, %v", s, err)
	}
	if p, err := c.AddPeer(t.Context(), Peer{Name: "cam1", Key: "k"}); err != nil || p.Name != "cam1" || p.Key != "k" {
		t.Errorf("got %+v, %v", p, err)
	}
	if p, err := c.RemovePeer(t.Context(), "a/b c"); err != nil || p.Name != "found" {
		t.Errorf("a name with everything in it: got %+v, %v", p, err)
	}
	if _, err := c.RemovePeer(t.Context(), "x"); err == nil || err.Error() != errMissing.Error() {
		t.Errorf("got %v, want %v", err, errMissing)
	}
	if info, err := os.Stat(filepath.Join(dir, SocketName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := NewClient(t.TempDir()).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "no gateway is running") {
		t.Errorf("no gateway: got %v", err)
	}
}

// do sends a request as it is, and returns the answer.
func do(t *testing.T, dir, request string) (status int, body string) {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(dir, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	go func() { _, _ = io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")) }() // ends with the connection
	all, err := io.ReadAll(conn)
	if err != nil && len(all) == 0 {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(string(all), "\r\n\r\n")
	for _, word := range strings.Fields(head)[1:2] {
		for _, c := range word {
			status = 10*status + int(c-'0')
		}
	}
	return status, body
}

// Were the mode of the socket wrong, the kernel would still name who is at its other end.
// exam: S15, H1
func TestOtherUser(t *testing.T) {
	if dir := os.Getenv("FERRY_ASK"); dir != "" { // this is the other user
		conn, err := net.Dial("unix", filepath.Join(dir, SocketName))
		if err == nil {
			_, _ = io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: ferry\r\nConnection: close\r\n\r\n")
			all, _ := io.ReadAll(conn)
			fmt.Printf("answer %q\n", all)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	dir := start(t)
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err == nil && info.Mode().Perm()&0o055 != 0o055 {
			if err := os.Chmod(d, info.Mode().Perm()|0o055); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(filepath.Join(dir, SocketName), 0o666); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "test")
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(program, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]bool{0: true, 65534: false} {
		cmd := exec.Command(program, "-test.run=^TestOtherUser$", "-test.v")
		cmd.Env, cmd.Dir = append(os.Environ(), "FERRY_ASK="+dir), "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "answer ") || strings.Contains(string(out), "200 OK") != want {
			t.Errorf("user %d: %v, %s; want an answer: %v", uid, err, out, want)
		}
	}
}

// What a browser was led to send, and what is too much, is refused.
// exam: H1, H2, H3
func TestAbuse(t *testing.T) {
	dir := start(t)
	const end = "\nConnection: close\n\n"
	big := strings.Repeat("x", maxBody+100)
	tests := []struct {
		name, request string
		status        int
	}{
		{"as it should be", "GET /v1/status HTTP/1.1\nHost: ferry" + end, 200},
		{"another host", "GET /v1/status HTTP/1.1\nHost: evil.example" + end, 403},
		{"localhost", "GET /v1/status HTTP/1.1\nHost: localhost" + end, 403},
		{"no host", "GET /v1/status HTTP/1.0\n\n", 403},
		{"an origin", "GET /v1/status HTTP/1.1\nHost: ferry\nOrigin: http://ferry" + end, 403},
		{"no such route", "GET /v1/secrets HTTP/1.1\nHost: ferry" + end, 404},
		{"another method", "PUT /v1/status HTTP/1.1\nHost: ferry" + end, 405},
		{"no JSON", "POST /v1/peers HTTP/1.1\nHost: ferry\nContent-Length: 1\nConnection: close\n\nx", 400},
		{"unknown field", "POST /v1/peers HTTP/1.1\nHost: ferry\nContent-Length: 10\nConnection: close\n\n{\"root\": 1}", 400},
		{"a long body", "POST /v1/peers HTTP/1.1\nHost: ferry\nContent-Length: 9999999\nConnection: close\n\n{\"name\": \"" + big, 400},
		{"long headers", "GET /v1/status HTTP/1.1\nHost: ferry\nX: " + strings.Repeat("x", 20_000) + end, 431},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if status, body := do(t, dir, tt.request); status != tt.status {
				t.Errorf("got %d, %.100s; want %d", status, body, tt.status)
			}
		})
	}
}

// What everybody may read is read by an address, and not by a name that a web page has chosen.
// exam: H1
func TestOpen(t *testing.T) {
	l, err := ListenOpen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	go func() { done <- ServeOpen(ctx, l, h, slog.New(slog.DiscardHandler)) }()
	for name, want := range map[string]int{"": 200, "localhost": 200, "[::1]:9": 200, "evil.example": 403, "evil.example:80": 403, "ferry": 403} {
		r, err := http.NewRequest(http.MethodGet, "http://"+l.Addr().String()+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = name
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("host %q: got %d, want %d", name, answer.StatusCode, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A hundred connections that say nothing keep nobody out for long, and cost 64.
// exam: H3
func TestSilentConnections(t *testing.T) {
	dir := start(t)
	var all []net.Conn
	for range 100 {
		conn, err := net.Dial("unix", filepath.Join(dir, SocketName))
		if err != nil {
			break // the backlog is full
		}
		all = append(all, conn)
	}
	for _, conn := range all {
		conn.Close()
	}
	if _, err := NewClient(dir).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// Connections are taken in at a bounded rate, and none is lost.
// exam: H3
func TestAcceptRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const all = maxConns + maxRate // of a second
		conns := make(pipes)
		l := bounded(conns)
		go func() { // ends with the last one
			for range all {
				_, there := net.Pipe()
				conns <- there
			}
		}()
		began := time.Now()
		for range all {
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
		}
		if took := time.Since(began).Round(10 * time.Millisecond); took != time.Second {
			t.Errorf("%d connections took %s", all, took)
		}
	})
}

type answer struct {
	header http.Header
	status int
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(b []byte) (int, error) { return len(b), nil }
func (a *answer) WriteHeader(status int)      { a.status = status }
