package netstack

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// deaf makes the client hear nothing, and returns what ends that.
func (c *client) deaf() (hear func()) {
	c.through.Store(new(func([]byte) []byte { return nil }))
	return func() { c.through.Store(nil) }
}

// ordered reads n bytes, each of which is the one before and one more.
func ordered(t *testing.T, r io.Reader, n int) {
	t.Helper()
	b := make([]byte, n)
	if n, err := io.ReadFull(r, b); err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	for i := range b {
		if b[i] != byte(i) {
			t.Fatalf("byte %d is %d", i, b[i])
		}
	}
}

// Bytes that come one at a time for clients that acknowledge nothing take no more memory than four times what is counted. When they are heard of again, all goes on.
func TestDribble(t *testing.T) {
	const conns, n = 4, 3000
	c := newClient(t, Config{})
	begin, done := make(chan struct{}), make(chan struct{})
	var writing sync.WaitGroup
	writing.Add(conns)
	port := listen(t, func(x *net.TCPConn) {
		<-begin
		for i := range n {
			_, _ = x.Write([]byte{byte(i)}) // without the algorithm of Nagle, which Go turns off
			time.Sleep(50 * time.Microsecond)
		}
		writing.Done()
		<-done
	})
	defer close(done)
	var all []net.Conn
	for range conns {
		all = append(all, c.mustDial(port))
	}
	until(t, "all are connected", func() bool { return c.exit.Stats().Conns == conns })
	before := heap()
	hear := c.deaf()
	close(begin)
	writing.Wait()
	if now, held := heap(), uint64(c.exit.Stats().Held); now > before+4*held {
		t.Errorf("the heap has %d KiB more, and %d are counted", (now-before)>>10, held>>10)
	}
	hear()
	for _, x := range all {
		_ = x.SetDeadline(time.Now().Add(patience))
		ordered(t, x, n)
	}
}

// reached returns both ends of a connection of the gateway to the client.
func (c *client) reached() (far, near net.Conn) {
	c.t.Helper()
	l, err := c.Listen(80)
	if err != nil {
		c.t.Fatal(err)
	}
	defer l.Close()
	if far, err = c.exit.Dial(c.t.Context(), "tcp", netip.AddrPortFrom(here, 80)); err != nil {
		c.t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _, _ = far.Close(), near.Close() })
	return far, near
}

// So it is with what the gateway itself writes.
func TestDribbleOfOurs(t *testing.T) {
	c := newClient(t, Config{})
	x, near := c.reached()
	hear := c.deaf()
	_ = x.SetWriteDeadline(time.Now().Add(time.Second))
	n, most := 0, firstWindow/segmentCost+2
	for ; n < 2*most; n++ {
		if _, err := x.Write([]byte{byte(n)}); isTimeout(err) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n > most || n < most/2 {
		t.Errorf("%d writes of a byte wait, want %d at most", n, most)
	}
	hear()
	_ = x.SetWriteDeadline(time.Now().Add(patience))
	rest := make([]byte, 300_000)
	for i := range rest {
		rest[i] = byte(n + i)
	}
	failed := make(chan error, 1)
	go func() { _, err := x.Write(rest); failed <- err }()
	_ = near.SetDeadline(time.Now().Add(patience))
	ordered(t, near, n+len(rest))
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

// What short writes take that wait stays counted while windows are made smaller, and no longer.
func TestDribbleCounts(t *testing.T) {
	const n = 50
	c := newClient(t, Config{})
	x, _ := c.reached()
	w := &x.(*Conn).windows
	trimmed := func() int {
		w.trim(time.Now().Add(2*unused).UnixNano(), leastWindow)
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.send
	}
	hear := c.deaf()
	for i := range n {
		if _, err := x.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if send := trimmed(); send < n*segmentCost || send == firstWindow {
		t.Errorf("%d bytes are counted", send)
	}
	hear()
	until(t, "the window is the least", func() bool { return trimmed() == leastWindow })
}

// Short messages that are acknowledged wait for nothing: one that waits for its successor or a timer takes 40 ms, and so many more than patience.
func TestShortMessages(t *testing.T) {
	c := newClient(t, Config{})
	x := c.mustDial(listen(t, echo))
	b := make([]byte, 100)
	for range 500 {
		if _, err := x.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(x, b); err != nil {
			t.Fatal(err)
		}
	}
}
