package penguin

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/penguin/wire"
)

func newUDPLab(t *testing.T) *lab {
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	b.host(t, HostConfig{})
	return b
}

// Bug 2.5.1: every reply is padded to 8192 bytes.
func TestBugPaddedReplies(t *testing.T) {
	b := newUDPLab(t)
	c := dial(t, "udp", b.published(t, "udp", packets(t, echoes), ",0.0.0.0:0,"))
	for _, n := range []int{0, 1, 1472, 8191, 8192} {
		question := random(n)
		if got := exchange(t, c, question); !bytes.Equal(got, question) {
			t.Errorf("%d bytes came back as %d", n, len(got))
		}
	}
}

// Bug 2.5.2: the guest sends one datagram and waits for one reply. Here one without a reply holds nothing up, and two replies come at once.
func TestBugLockStep(t *testing.T) {
	b := newUDPLab(t)
	at := packets(t, func(q []byte) [][]byte {
		switch string(q) {
		case "silence":
			return nil
		case "two":
			return [][]byte{[]byte("one"), []byte("other")}
		}
		return [][]byte{q}
	})
	c := dial(t, "udp", b.published(t, "udp", at, ""))
	for range 3 {
		if _, err := c.Write([]byte("silence")); err != nil {
			t.Fatal(err)
		}
	}
	first := exchange(t, c, []byte("two"))
	second := exchange(t, c, []byte("echo"))
	if string(first) != "one" || string(second) != "other" {
		t.Errorf("got %q and %q", first, second)
	}
}

// Bug 2.5.2: a port where nobody listens hangs the flow. It goes on when somebody does.
func TestBugUnreachable(t *testing.T) {
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	nobody := freePort(t, "udp")
	g := b.connect(t, 1234, request(t, nobody.String(), wire.UDP))
	frame := wire.AppendFrame(nil, []byte("hello"))
	for range 3 {
		if _, err := g.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	_ = g.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // for the kernel's answers
	if _, err := g.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	l, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(nobody))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := g.Write(frame); err != nil {
		t.Fatal(err)
	}
	_ = l.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, 100)
	if n, _, err := l.ReadFrom(got); err != nil || string(got[:n]) != "hello" {
		t.Errorf("got %q, %v", got[:n], err)
	}
}

// Bug 2.5.3: a datagram of more than 8192 bytes ends the flow in the guest. A host drops it and says so; a guest takes it, and drops such replies, which the
// original's host could not read.
func TestBugLongDatagrams(t *testing.T) {
	b := newUDPLab(t)
	var longest atomic.Int64
	at := packets(t, func(q []byte) [][]byte {
		longest.Store(max(longest.Load(), int64(len(q))))
		return [][]byte{q}
	})
	c := dial(t, "udp", b.published(t, "udp", at, ""))
	if _, err := c.Write(random(8193)); err != nil {
		t.Fatal(err)
	}
	if got := exchange(t, c, []byte("after")); string(got) != "after" || longest.Load() != 5 {
		t.Errorf("got %q; the longest that came had %d bytes", got, longest.Load())
	}
	g := b.connect(t, 1234, request(t, at, wire.UDP))
	for _, n := range []int{9000, 60000} {
		if _, err := g.Write(wire.AppendFrame(nil, random(n))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.Write(wire.AppendFrame(nil, []byte("after"))); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 7)
	if _, err := io.ReadFull(g, reply); err != nil || string(reply) != "\x00\x05after" || longest.Load() != 60000 {
		t.Errorf("got %q, %v; the longest that came had %d bytes", reply, err, longest.Load())
	}
}

// Bug 2.5.4: after a restart of the guest the addresses of old clients are dead.
func TestBugGuestRestart(t *testing.T) {
	b := newLab(t, dialects[0])
	stop := b.guest(t, GuestConfig{})
	b.host(t, HostConfig{})
	c := dial(t, "udp", b.published(t, "udp", packets(t, echoes), ""))
	if got := exchange(t, c, []byte("before")); string(got) != "before" {
		t.Fatalf("got %q", got)
	}
	stop()
	b.guest(t, GuestConfig{})
	reply := make([]byte, 100)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		_, _ = c.Write([]byte("after"))
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, err := c.Read(reply); err == nil && string(reply[:n]) == "after" {
			return
		}
	}
	t.Error("the client is dead")
}

// Bug 2.5.4: flows end when they are idle, and there are only so many.
func TestFlowsEnd(t *testing.T) {
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	b.host(t, HostConfig{FlowIdle: 100 * time.Millisecond})
	var from atomic.Value
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		q := make([]byte, 100)
		for {
			n, addr, err := c.ReadFrom(q)
			if err != nil {
				return
			}
			from.Store(addr.String())
			_, _ = c.WriteTo(q[:n], addr)
		}
	}()
	client := dial(t, "udp", b.published(t, "udp", c.LocalAddr().String(), ""))
	exchange(t, client, []byte("x"))
	was := from.Load()
	eventually(t, "a new flow has another socket in the guest", func() bool {
		time.Sleep(150 * time.Millisecond) // longer than idle
		exchange(t, client, []byte("x"))
		return from.Load() != was
	})
}

// What the guest reads and writes is what the original's does.
func TestDatagramWire(t *testing.T) {
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	g := b.connect(t, 1234, request(t, packets(t, echoes), wire.UDP))
	bytesOf := func(s string) []byte { x, _ := hex.DecodeString(s); return x }
	for _, piece := range []string{"00", "03", "61", "6263" + "0000" + "0001", "64"} { // in any pieces
		if _, err := g.Write(bytesOf(piece)); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 5+2+3)
	if _, err := io.ReadFull(g, got); err != nil || fmt.Sprintf("%x", got) != "0003616263"+"0000"+"000164" {
		t.Errorf("got %x, %v", got, err)
	}
}

// A guest that does not read holds up nobody: what has no room is dropped, and what was written in part is finished.
func TestFrameWriter(t *testing.T) {
	host, guest := socketPair(t)
	var dropped atomic.Uint64
	w := frameWriter{dropped: &dropped}
	payload := random(60_000)
	for range maxPending + 1 { // before there is a connection
		w.write(payload)
	}
	if lost := dropped.Load(); lost != 1 {
		t.Fatalf("%d were dropped", lost)
	}
	if !w.attach(host) {
		t.Fatal("not attached")
	}
	pause, again, read := make(chan struct{}), make(chan struct{}), make(chan int)
	go func() {
		n := 0
		_ = readFrames(guest, func(b []byte) error {
			if !bytes.Equal(b, payload) {
				t.Errorf("got %d other bytes", len(b))
			}
			if n++; n == maxPending {
				close(pause)
				<-again
			}
			return nil
		})
		read <- n
	}()
	<-pause
	w.work.Wait()
	const frames = 200
	for range frames {
		w.write(payload)
	}
	lost := dropped.Load()
	if lost <= 1 || lost >= frames {
		t.Errorf("%d of %d were dropped", lost, frames)
	}
	close(again)
	w.work.Wait()
	w.close()
	if n := <-read; n != maxPending+1+frames-int(lost) {
		t.Errorf("%d frames came, %d were dropped", n, lost)
	}
}

// Nothing is allocated for a datagram.
func TestFrameWriterAllocates(t *testing.T) {
	host, guest := socketPair(t)
	w := frameWriter{dropped: new(atomic.Uint64)}
	if !w.attach(host) {
		t.Fatal("not attached")
	}
	defer w.close()
	go func() { _, _ = io.Copy(io.Discard, guest) }()
	payload := random(100)
	if n := testing.AllocsPerRun(200, func() { w.write(payload) }); n > 0.5 {
		t.Errorf("%v allocations for each", n)
	}
}

// What a host sends in the smallest pieces costs no more than its length: nothing is copied, or allocated, anew with each.
func TestFramesInPieces(t *testing.T) {
	frame := wire.AppendFrame(nil, random(60_000))
	pieces := func() {
		var rest []byte
		n := 0
		for i := range frame {
			var err error
			if rest, err = eachFrame(rest, frame[i:i+1], func(b []byte) error { n += len(b); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if n != 60_000 || rest != nil {
			t.Fatalf("got %d bytes, %d are left", n, len(rest))
		}
	}
	if n := testing.AllocsPerRun(1, pieces); n > 100 {
		t.Errorf("%v allocations", n)
	}
}

// Datagrams of many sources, which nobody proves, for a guest that hangs wait in a bounded memory, and it is free again when the flows have ended.
func TestFlowsAreBounded(t *testing.T) {
	h := newHost(HostConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := &network{h: h, ctx: ctx, p: wire.Publication{Transport: wire.UDP, Guest: netip.MustParseAddrPort("127.0.0.1:9")}}
	payload := make([]byte, wire.MaxDatagram)
	const flows = 500
	var all []net.Conn
	waiting := 0
	for range flows {
		c, err := n.Dial(ctx, "udp", netip.Addr{}, "")
		if err != nil {
			t.Fatal(err)
		}
		for range maxPending {
			_, _ = c.Write(payload)
		}
		for _, b := range c.(*flow).w.pending {
			waiting += len(b)
		}
		all = append(all, c)
	}
	if waiting < maxWaiting/4 || waiting > maxWaiting || waiting != h.waiting.Used() {
		t.Errorf("%d bytes wait, of %d that may; %d are counted", waiting, maxWaiting, h.waiting.Used())
	}
	if h.dropped.Load() == 0 {
		t.Error("nothing was dropped")
	}
	for _, c := range all {
		_ = c.Close()
	}
	if n := h.waiting.Used(); n != 0 {
		t.Errorf("%d bytes are counted still", n)
	}
}

// Hosts of the original end no flow, and whoever sends datagrams makes some: they leave room for TCP, and for other flows.
func TestFlowsLeaveRoom(t *testing.T) {
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{Max: 8})
	at := packets(t, echoes)
	flow := func() *net.UnixConn { return b.connect(t, 1234, request(t, at, wire.UDP)) }
	say := func(c *net.UnixConn) error {
		_, _ = c.Write(wire.AppendFrame(nil, []byte("x")))
		_, err := io.ReadFull(c, make([]byte, 3))
		return err
	}
	first := flow()
	var others []*net.UnixConn
	for range 12 {
		c := flow()
		others = append(others, c)
		for _, c := range []*net.UnixConn{first, c} { // the first one goes on all the time
			if err := say(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := say(others[0]); err == nil {
		t.Error("a flow that was silent for longest did not give way")
	}
	b.await(t, "gives way")
	to := service(t, "127.0.0.1:0", func(c *net.TCPConn) { _, _ = c.Write([]byte("hello")) })
	if got, err := io.ReadAll(b.connect(t, 1234, request(t, to, wire.TCP))); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
