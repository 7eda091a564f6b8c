package relay

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = d.Close() })
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

func reader(t *testing.T, c *net.TCPConn) *Reader {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return NewReader(raw)
}

// Every byte of a stream comes, in its order, until the end.
func TestStream(t *testing.T) {
	near, far := pair(t)
	want := make([]byte, 3<<20)
	_, _ = rand.Read(want)
	sent := make(chan error, 1)
	go func() {
		_, err := near.Write(want)
		sent <- errors.Join(err, near.CloseWrite())
	}()
	var got bytes.Buffer
	if err := reader(t, far).Stream(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got %d bytes, %v, want %d", got.Len(), err, len(want))
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// Who waits for bytes holds no block, and is woken by Close.
func TestNoBlockWhileIdle(t *testing.T) {
	near, far := pair(t)
	r := reader(t, far)
	waits := make(chan struct{}, 8)
	try := r.try
	r.try = func(fd uintptr) bool {
		done := try(fd)
		if !done && r.block == nil {
			waits <- struct{}{}
		}
		return done
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Stream(io.Discard) }()
	select {
	case <-waits:
	case <-time.After(20 * time.Second):
		t.Fatal("a block is held while nothing is there")
	}
	_ = near.SetDeadline(time.Now())
	_ = far.Close()
	if err := <-ended; err == nil {
		t.Error("closed, and no error")
	}
}

// A fault of who takes the bytes ends the stream.
func TestStreamWriteFault(t *testing.T) {
	near, far := pair(t)
	_, _ = near.Write([]byte("x"))
	r := reader(t, far)
	if err := r.Stream(faulty{}); !errors.Is(err, io.ErrClosedPipe) || r.block != nil {
		t.Errorf("got %v, block held %v", err, r.block != nil)
	}
}

type faulty struct{}

func (faulty) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// What is quiet for too long is ended, once, and not before.
func TestAfterQuiet(t *testing.T) {
	var last atomic.Int64
	start := time.Now()
	touch := func() { last.Store(int64(time.Since(start))) }
	quiet := func() time.Duration { return time.Since(start) - time.Duration(last.Load()) }
	ended := make(chan struct{}, 2)
	stop := AfterQuiet(200*time.Millisecond, quiet, func() { ended <- struct{}{} })
	defer stop()
	for time.Since(start) < 600*time.Millisecond {
		touch()
		time.Sleep(5 * time.Millisecond)
		if len(ended) > 0 && quiet() < 200*time.Millisecond {
			t.Fatal("ended though it was not quiet")
		}
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("not ended")
	}
}
