package unix

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"ferry/internal/carrier"
)

// hypervisor answers one CONNECT on a socket and then carries bytes like the dialect it fakes.
func hypervisor(t *testing.T, answer func(port string) string) carrier.Endpoint {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vm.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		line, _ := r.ReadString('\n')
		port, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "CONNECT ")
		if r.Buffered() > 0 {
			t.Errorf("%d bytes came before the answer", r.Buffered())
		}
		if !ok {
			t.Errorf("got %q", line)
		}
		_, _ = io.WriteString(conn, answer(port))
		_, _ = io.Copy(conn, r)
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return carrier.Endpoint{Scheme: "unix", Path: path, HybridPort: 2002}
}

func TestDialects(t *testing.T) {
	for name, answer := range map[string]func(string) string{
		"guest's port":      func(port string) string { return "OK " + port + "\n" },
		"a port of its own": func(string) string { return "OK 1073741824\n" },
		"with bytes behind": func(string) string { return "OK 1\nhello" },
	} {
		t.Run(name, func(t *testing.T) {
			want := "world"
			if name == "with bytes behind" {
				want = "helloworld"
			}
			conn, err := Dial(t.Context(), hypervisor(t, answer), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "world"); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for name, answer := range map[string]string{
		"closed":     "",
		"no number":  "OK \n",
		"not OK":     "ERR 1\n",
		"a word":     "OK 1x\n",
		"no line":    strings.Repeat("O", 100),
		"an error":   "Permission denied\n",
		"OK missing": "2002\n",
	} {
		t.Run(name, func(t *testing.T) {
			e := hypervisor(t, func(string) string { return answer })
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if conn, err := Dial(ctx, e, nil); err == nil {
				conn.Close()
				t.Error("no error")
			}
		})
	}
}

// The answer may come in the moment in which ctx ends: either there is an error, or the connection works.
func TestDialEndsOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	cancels := make(chan context.CancelFunc)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for cancel := range cancels {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 64))
			_, _ = io.WriteString(conn, "OK 1\n")
			cancel()
		}
	}()
	t.Cleanup(func() { close(cancels); l.Close(); <-done })
	for range 3000 {
		ctx, cancel := context.WithCancel(t.Context())
		cancels <- cancel
		conn, err := Dial(ctx, carrier.Endpoint{Scheme: "unix", Path: path, HybridPort: 1}, nil)
		if err != nil {
			continue
		}
		runtime.Gosched() // whoever would set a deadline now has the chance
		if _, err := conn.Write([]byte("x")); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection was returned without error, and each write times out")
		}
		conn.Close()
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	e := carrier.Endpoint{Scheme: "unix", Path: path}
	l, err := Listen(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), e); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a socket in use: got %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as if the process had been killed
	l.Close()
	if l, err = Listen(t.Context(), e); err != nil {
		t.Fatalf("a dead socket: %v", err)
	}
	l.Close()

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), e); err == nil {
		t.Error("a file was taken for a dead socket")
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file is gone")
	}
}
