package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/test/service"
)

// patience is how long anything may take on a busy machine.
const patience = 20 * time.Second

// TestMain proves that no goroutine is left.
func TestMain(m *testing.M) {
	code := m.Run()
	for deadline := time.Now().Add(patience); code == 0; time.Sleep(time.Millisecond) {
		b := make([]byte, 1<<20)
		left := string(b[:runtime.Stack(b, true)])
		if !strings.Contains(left, "ferry/internal/forward.(") {
			break
		}
		if time.Now().After(deadline) {
			println(left)
			code = 1
		}
	}
	os.Exit(code)
}

// serve is a client of the gateway: it serves connections with f, each on a goroutine, until the test ends.
func serve(t *testing.T, f func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	return service.TCP(t, "127.0.0.1:0", f)
}

// open opens a forward until the test ends.
func open(t *testing.T, from string, to string, c Config) *Forward {
	t.Helper()
	spec, err := Parse(from, to)
	if err != nil {
		t.Fatal(err)
	}
	c.setDefaults()
	f, err := Open(t.Context(), &c, spec, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// dial connects to a forward.
func dial(t *testing.T, f *Forward) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp4", f.Bound().address(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// wantReset connects to a forward that resets.
func wantReset(t *testing.T, f *Forward) {
	t.Helper()
	c, err := net.DialTimeout("tcp4", f.Bound().address(), patience)
	if err == nil {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not so: " + what)
		}
	}
}

// A strange network has connections that are no sockets of the kernel, as those of package netstack.
type strange struct{ Sockets }

func (n strange) Dial(ctx context.Context, network string, from netip.Addr, to string) (net.Conn, error) {
	c, err := n.Sockets.Dial(ctx, network, from, to)
	if err != nil {
		return nil, err
	}
	if t, ok := c.(*net.TCPConn); ok {
		return strangeStream{strangeConn{c, t.WriteTo}, t}, nil
	}
	return strangeConn{c, writeTo{c}.WriteTo}, nil
}

// A strangeConn hides what a socket of the kernel has.
type strangeConn struct {
	net.Conn
	writeTo func(io.Writer) (int64, error)
}

func (c strangeConn) WriteTo(w io.Writer) (int64, error) { return c.writeTo(w) }

type strangeStream struct {
	strangeConn
	t *net.TCPConn
}

func (c strangeStream) CloseWrite() error     { return c.t.CloseWrite() }
func (c strangeStream) SetLinger(n int) error { return c.t.SetLinger(n) }

// writeTo copies datagrams.
type writeTo struct{ c net.Conn }

func (w writeTo) WriteTo(to io.Writer) (sum int64, err error) {
	b := make([]byte, 1<<16)
	for {
		n, err := w.c.Read(b)
		if err != nil {
			return sum, err
		}
		if _, err := to.Write(b[:n]); err != nil {
			return sum, err
		}
		sum += int64(n)
	}
}
