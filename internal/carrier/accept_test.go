package carrier

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A poor listener has connections, and then no descriptors for a while.
type poor struct {
	net.Listener
	next chan any // error or net.Conn
	done chan struct{}
	once sync.Once
}

func (p *poor) Accept() (net.Conn, error) {
	select {
	case x := <-p.next:
		if err, ok := x.(error); ok {
			return nil, err
		}
		return x.(net.Conn), nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *poor) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *poor) Addr() net.Addr { return &net.UnixAddr{Name: "poor", Net: "unix"} }

// Who is out of descriptors pauses, longer each time up to a second, and begins anew with the next connection; a listener that somebody else closed is an error.
func TestAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &poor{next: make(chan any), done: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		got, ended := make(chan net.Conn, 1), make(chan error)
		go func() { ended <- Accept(ctx, p, slog.New(slog.DiscardHandler), func(c net.Conn) { got <- c }) }()
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		for range 2 {
			began := time.Now()
			for range 10 {
				p.next <- syscall.EMFILE
			}
			p.next <- a
			if <-got != a {
				t.Error("another connection came")
			}
			if d := time.Since(began); d < 3*time.Second || d > 4*time.Second { // 5, 10, 20 ... 640 ms, and 2 s
				t.Errorf("ten failures took %s", d)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("at the end: %v", err)
		}
		q := &poor{next: make(chan any), done: make(chan struct{})}
		close(q.done)
		if err := Accept(t.Context(), &closed{q}, slog.New(slog.DiscardHandler), func(net.Conn) {}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed by somebody else: %v", err)
		}
	})
}

// closed is a listener that was closed already.
type closed struct{ *poor }

func (closed) Close() error { return nil }

// Who comes in the moment of the end keeps no listener open, and no socket in the file system.
func TestAcceptAtTheEnd(t *testing.T) {
	for range 100 {
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := Accept(ctx, &last{l, cancel}, slog.New(slog.DiscardHandler), func(net.Conn) {}); err != nil {
			t.Error(err)
		}
		_ = conn.Close()
		if conn, err := net.Dial("unix", path); err == nil {
			_ = conn.Close()
			t.Fatal("it listens still")
		}
	}
}

// A last listener is told to end when somebody comes.
type last struct {
	net.Listener
	end context.CancelFunc
}

func (l *last) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	l.end()
	return conn, err
}
