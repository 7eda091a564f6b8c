package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// used returns how many bytes the connections of the device hold.
func (c *client) used() int { return c.conns.memory.budget.Used() }

// What connections of a device hold is counted from their SYN until they have ended: of those that it dials, for itself and for a socket, and of those that
// it accepts.
func TestDeviceCounts(t *testing.T) {
	c := newClient(t, Config{})
	to := netip.AddrPortFrom(outside, listen(t, echo)).String()
	l, err := c.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, program := pair(t)
	for name, open := range map[string]func() (end func()){
		"dialled": func() func() {
			x, err := c.Local.Dial(t.Context(), "tcp", to)
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = x.Close() }
		},
		"refused": func() func() {
			if _, err := c.Local.Dial(t.Context(), "tcp", gateway.String()+":9"); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("got %v", err)
			}
			h, err := c.Connect(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = h.Close() }
		},
		"joined": func() func() {
			h, err := c.Connect(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			joined := make(chan struct{})
			go func() { h.Join(socket, []byte("x")); close(joined) }()
			if _, err := io.ReadFull(program, make([]byte, 1)); err != nil {
				t.Error(err)
			}
			return func() { _ = program.Close(); <-joined }
		},
		"accepted": func() func() {
			far, err := c.exit.Dial(t.Context(), "tcp", netip.AddrPortFrom(here, uint16(l.Addr().(*net.TCPAddr).Port)))
			if err != nil {
				t.Fatal(err)
			}
			near, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			return func() { _, _ = far.Close(), near.Close() }
		},
	} {
		end := open()
		if n := c.used(); n < 2*leastWindow {
			t.Errorf("%s: %d bytes are counted", name, n)
		}
		end()
		until(t, name+": nothing is counted any more", func() bool { return c.used() == 0 })
	}
}

// pair returns two ends of a connection on loopback.
func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr)); err != nil {
		t.Fatal(err)
	}
	if b, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	_ = b.SetDeadline(time.Now().Add(patience))
	return a, b
}

// Where connections of a device hold all that they may, a new one is refused, and counted; one that comes is reset. When there is memory again, they are taken.
func TestDeviceIsFull(t *testing.T) {
	c := newClient(t, Config{})
	port := listen(t, echo)
	to := netip.AddrPortFrom(outside, port).String()
	c.conns.memory.budget.Add(deviceMemory)
	for name, connect := range map[string]func(context.Context) error{
		"Dial":    func(ctx context.Context) error { _, err := c.Local.Dial(ctx, "tcp", to); return err },
		"Connect": func(ctx context.Context) error { _, err := c.Connect(ctx, to); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := connect(ctx); !errors.Is(err, syscall.ENOBUFS) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	l, err := c.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() { // ends with the listener
		x, _ := l.Accept()
		accepted <- x
	}()
	at := netip.AddrPortFrom(here, uint16(l.Addr().(*net.TCPAddr).Port))
	far, err := c.exit.Dial(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	_ = far.SetDeadline(time.Now().Add(patience))
	if _, err := far.Read(make([]byte, 1)); err == nil || isTimeout(err) || errors.Is(err, io.EOF) {
		t.Errorf("who connects hears %v", err)
	}
	if n := c.Refused()["memory"]; n != 3 {
		t.Errorf("%d are counted, want 3", n)
	}
	c.conns.memory.budget.Add(-deviceMemory)
	x, err := c.Local.Dial(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	_ = x.Close()
	far, err = c.exit.Dial(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if near := <-accepted; near == nil {
		t.Error("it is not accepted")
	} else {
		_ = near.Close()
	}
}

// Connections of a device that nobody reads are reset where there is no memory for more, and counted.
func TestDeviceStalls(t *testing.T) {
	const conns, each = 40, 4 << 20
	c := newClient(t, Config{})
	port := listen(t, func(x *net.TCPConn) { _, _ = x.Write(make([]byte, 2*each)); _, _ = io.Copy(io.Discard, x) })
	c.conns.memory.budget.Add(deviceMemory - 4<<20)
	defer c.conns.memory.budget.Add(4<<20 - deviceMemory)
	for i := range conns {
		x, err := c.Local.Dial(t.Context(), "tcp", netip.AddrPortFrom(outside, port).String())
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer x.Close()
	}
	until(t, "who stalls is reset", func() bool { return c.Refused()["stalled"] > 0 })
	if n := c.used(); n > deviceMemory {
		t.Errorf("%d bytes are held", n)
	}
}

// A neighbour's connections count, too.
func TestNeighbourCounts(t *testing.T) {
	a, b := newNeighbours(t)
	used := a.conns.memory.budget.Used
	l, err := gonet.ListenTCP(b.stack, tcpip.FullAddress{NIC: nic, Addr: toStack(b.addr), Port: 80}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x, err := a.Dial(t.Context(), netip.AddrPortFrom(b.addr, 80))
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if n := used(); n < 2*leastWindow {
		t.Errorf("%d bytes are counted", n)
	}
	_, _ = x.Close(), far.Close()
	until(t, "nothing is counted any more", func() bool { return used() == 0 })
	a.conns.memory.budget.Add(neighbourMemory)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.Dial(ctx, netip.AddrPortFrom(b.addr, 80)); !errors.Is(err, syscall.ENOBUFS) {
		t.Errorf("got %v", err)
	}
}
