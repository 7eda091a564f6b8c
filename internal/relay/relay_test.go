package relay

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
	return NewReader(raw, Size)
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
	synctest.Test(t, func(t *testing.T) {
		const idle = time.Minute
		last := time.Now()
		var ended atomic.Int32
		var mu sync.Mutex
		quiet := func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return time.Since(last)
		}
		stop := AfterQuiet(idle, quiet, func() { ended.Add(1) })
		for range 100 {
			time.Sleep(idle - time.Second)
			mu.Lock()
			last = time.Now()
			mu.Unlock()
		}
		time.Sleep(idle - time.Nanosecond)
		if synctest.Wait(); ended.Load() != 0 {
			t.Error("ended before its time")
		}
		time.Sleep(time.Hour)
		if synctest.Wait(); ended.Load() != 1 {
			t.Errorf("ended %d times, want once", ended.Load())
		}
		stop()
		stop = AfterQuiet(idle, quiet, func() { t.Error("ended after stop") })
		stop()
		time.Sleep(time.Hour)
	})
}

// Who was stopped for longer than idle reads what has come meanwhile before it ends anything.
func TestAfterQuietStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = time.Minute
		last := time.Now().Add(-2 * idle) // so it seems to the timer that is due when the process goes on
		var mu sync.Mutex
		var ended atomic.Int32
		stop := AfterQuiet(idle, func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			was := last
			last = time.Now() // and then it is read
			return time.Since(was)
		}, func() { ended.Add(1) })
		defer stop()
		time.Sleep(10 * idle)
		if synctest.Wait(); ended.Load() != 0 {
			t.Error("ended what is not quiet")
		}
	})
}
