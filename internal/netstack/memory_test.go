package netstack

import (
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// The stack tells nobody how much memory what it has received takes; it is read where it stands.
func TestReceiveUsed(t *testing.T) {
	if !usedKnown {
		t.Fatal("tcp.Endpoint of this gVisor has no rcvMemUsed of 4 bytes: what has come to a connection is not counted any more")
	}
	c := newClient(t, Config{})
	l, err := c.exit.ListenTCP(80)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x, err := dial(t.Context(), c.stack, "tcp", here, netip.AddrPortFrom(gateway, 80), firstWindow)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	const n = 10_000
	if _, err := x.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	until(t, "the bytes are counted", func() bool {
		return slices.ContainsFunc(c.exit.stack.RegisteredEndpoints(), func(ep stack.TransportEndpoint) bool {
			used := receiveUsed(ep.(tcpip.Endpoint))
			return used >= n && used < 4*n
		})
	})
}

// windows returns those of the only connection.
func (c *client) windows() (w *windows) {
	c.t.Helper()
	until(c.t, "there is a connection", func() bool {
		c.exit.conns.mu.Lock()
		defer c.exit.conns.mu.Unlock()
		if s := c.exit.conns.all.of[here]; s != nil {
			w = &s.all[0].windows
		}
		return w != nil
	})
	return w
}

// until waits for something, at most patience.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not come to this: %s", what)
		}
	}
}

// Connections of which neither end takes what comes hold no more than they may, all together; a newcomer has a window all the same, for who has held
// most for longest is reset.
func TestStalledConnections(t *testing.T) {
	const (
		limit, conns = 8 << 20, 400
		each         = 192 << 10 // bytes each way, which 400 do not have in 8 MiB
		around       = 40 << 10  // memory for the ends of one: the client's stack and goroutines are of this process, too
	)
	c := newClient(t, Config{Memory: limit, ClientDials: conns})
	small := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 4 << 10, Max: 4 << 10}
	alike := tcpip.TCPSendBufferSizeRangeOption(small)
	for _, o := range []tcpip.SettableTransportProtocolOption{&small, &alike} {
		if err := c.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			t.Fatal(err)
		}
	}
	bytes := make([]byte, each)
	done := make(chan struct{})
	stalls := listen(t, func(x *net.TCPConn) { // takes nothing
		_ = x.SetReadBuffer(4 << 10)
		_, _ = x.Write(bytes)
		<-done
	})
	echoes := listen(t, echo)
	before := heap()
	var most uint64
	look := func() {
		now := heap()
		most = max(most, now-min(now, before))
	}
	var writing sync.WaitGroup
	defer writing.Wait()
	defer close(done)
	for i := range conns {
		x, err := c.connect(stalls, patience)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer func() { _ = x.SetDeadline(time.Unix(1, 0)); _ = x.Close() }()
		writing.Go(func() { _, _ = x.Write(bytes) })
		if i%100 == 99 {
			look()
		}
	}
	until(t, "who stalls is reset until a sixteenth is left", func() bool { return c.exit.Stats().Held < limit-limit/16 })
	look()
	s := c.exit.Stats()
	t.Logf("%d connections hold %d KiB, the heap has %d KiB more, %d were reset, %d refused", s.Conns, s.Held>>10, most>>10, s.Stalled, s.Memory)
	if s.Stalled == 0 {
		t.Error("nobody was reset")
	}
	if most > limit+conns*around {
		t.Errorf("the heap has %d bytes more, and should not have more than %d", most, limit+conns*around)
	}
	moving(t, c, echoes)
}

// moving wants a connection that moves to have more than a share of what is free (here little more than the least window), or it would crawl over a way that
// takes its time.
func moving(t *testing.T, c *client, echoes uint16) {
	t.Helper()
	x := c.mustDial(echoes)
	defer x.Close()
	_ = x.SetDeadline(time.Now().Add(4 * patience))
	sent := random(1 << 20)
	go func() { _, _ = x.Write(sent) }()
	got := make([]byte, len(sent))
	var w *windows
	var receive, send int // the most of each: what has come up may be long ago when the last byte comes down, and its window was taken back
	for n := 0; n < len(got); {
		more, err := x.Read(got[n:])
		if n += more; err != nil {
			t.Fatalf("%d of %d bytes came back, %v", n, len(sent), err)
		}
		if w == nil {
			c.exit.conns.mu.Lock()
			all := c.exit.conns.all.of[here].all
			w = &all[slices.IndexFunc(all, func(x *conn) bool { return x.to.Port() == echoes })].windows
			c.exit.conns.mu.Unlock()
		}
		w.mu.Lock()
		receive, send = max(receive, w.receive), max(send, w.send)
		w.mu.Unlock()
	}
	if !slices.Equal(got, sent) {
		t.Error("what came back is not what was sent")
	}
	if least := 2 * leastWindow; receive < least || send < least {
		t.Errorf("who moves had windows of at most %d and %d bytes, want %d", receive, send, least)
	}
}

// A connection that is alone has its whole window both ways, and gives back what it does not need; what waits in it stays counted.
func TestWindows(t *testing.T) {
	c := newClient(t, Config{})
	full := make(chan struct{})
	x := c.mustDial(listen(t, func(x *net.TCPConn) {
		_, _ = io.CopyN(x, x, 16<<20)
		_, _ = x.Write(make([]byte, 8<<20)) // which nobody reads
		<-full
	}))
	_ = x.SetDeadline(time.Now().Add(6 * patience))
	sent := random(16 << 20)
	go func() { _, _ = x.Write(sent) }()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(x, got); err != nil || !slices.Equal(got, sent) {
		t.Fatal("it did not come back", err)
	}
	defer close(full)
	w := c.windows()
	sizes := func() (receive, send int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.receive, w.send
	}
	if receive, send := sizes(); receive != maxWindow || send != maxWindow {
		t.Errorf("windows of %d and %d bytes, want %d", receive, send, maxWindow)
	}
	until(t, "the window to the client is full", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.blocks > 0
	})
	later := time.Now().Add(2 * unused).UnixNano()
	if !w.trim(later, leastWindow) {
		t.Error("nothing waits")
	}
	receive, send := sizes()
	if receive != leastWindow || send < maxWindow/2 {
		t.Errorf("windows of %d and %d bytes, want %d and what waits", receive, send, leastWindow)
	}
	if held := c.exit.Stats().Held; held < receive+send || held > receive+send+2<<16 {
		t.Errorf("%d bytes are held", held)
	}
	_ = x.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(x, make([]byte, 8<<20)); err != nil {
		t.Error(err)
	}
	until(t, "the windows are the least, for all has come", func() bool {
		stuck := w.trim(time.Now().Add(2*unused).UnixNano(), leastWindow)
		receive, send := sizes()
		return !stuck && receive == leastWindow && send == leastWindow
	})
}

// What waits when the other end has said all that it had stays counted: the stack does not tell that any more.
func TestEnded(t *testing.T) {
	c := newClient(t, Config{})
	x := c.mustDial(listen(t, func(x *net.TCPConn) {
		_, _ = io.CopyN(x, x, 6<<20)
		_, _ = x.Write(make([]byte, 900<<10))
		_ = x.CloseWrite()
		_, _ = io.Copy(io.Discard, x)
	}))
	go func() { _, _ = x.Write(make([]byte, 6<<20)) }()
	if _, err := io.ReadFull(x, make([]byte, 6<<20)); err != nil {
		t.Fatal(err)
	}
	w := c.windows()
	until(t, "the end is there", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.ended
	})
	if !w.trim(time.Now().Add(2*unused).UnixNano(), leastWindow) {
		t.Error("nothing waits")
	}
	w.mu.Lock()
	send := w.send
	w.mu.Unlock()
	if send < 64<<10 {
		t.Errorf("%d bytes are counted", send)
	}
	if got, err := io.ReadAll(x); err != nil || len(got) != 900<<10 {
		t.Errorf("%d bytes came, %v", len(got), err)
	}
}

// What a client has sent and nobody takes stays counted, too, though its window is made smaller.
func TestUnread(t *testing.T) {
	c := newClient(t, Config{})
	done := make(chan struct{})
	x := c.mustDial(listen(t, func(x *net.TCPConn) { _ = x.SetReadBuffer(4 << 10); <-done }))
	var writing sync.WaitGroup
	defer writing.Wait()
	defer close(done)
	defer x.Close()
	writing.Go(func() { _, _ = x.Write(make([]byte, 32<<20)) })
	w := c.windows()
	until(t, "the window from the client is full", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.blocks > 0 && receiveUsed(w.in) >= w.receive/2
	})
	waits := receiveUsed(w.in)
	if !w.trim(time.Now().Add(2*unused).UnixNano(), leastWindow) {
		t.Error("nothing waits")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.receive < waits || waits < firstWindow/2 {
		t.Errorf("%d bytes are counted where %d wait", w.receive, waits)
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
