package forward

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"ferry/internal/relay"
	"ferry/test/service"
)

// answer is a client of the gateway that answers each datagram with as many as f returns.
func answer(t *testing.T, f func([]byte) [][]byte) string {
	t.Helper()
	return service.UDP(t, f).String()
}

func dialUDP(t *testing.T, f *Forward) net.Conn {
	t.Helper()
	c, err := net.Dial("udp4", f.Bound().address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// exchange sends b until it comes back: on a busy machine a datagram may be lost. Replies to others are passed over.
func exchange(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	reply := make([]byte, 1<<16)
	for range 20 {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		for {
			n, err := c.Read(reply)
			switch {
			case err == nil && bytes.Equal(reply[:n], b):
				return
			case errors.Is(err, os.ErrDeadlineExceeded):
			case err != nil:
				t.Fatal(err)
			default:
				continue
			}
			break
		}
	}
	t.Fatalf("%d bytes did not come back as they were", len(b))
}

// vpnguin bug 2.5-1 and -3: replies are padded to 8192 bytes, and longer datagrams cut. Here each keeps its length.
func TestVpnguinUDPLengths(t *testing.T) {
	for name, network := range networks {
		t.Run(name, func(t *testing.T) {
			c := dialUDP(t, open(t, "udp://127.0.0.1:0", answer(t, service.Same), Config{Network: network}))
			for _, n := range []int{1, 0, 7, 1472, 8191, 8192, 8193, 65507} {
				exchange(t, c, random(n))
			}
		})
	}
}

// vpnguin bug 2.5-2: a datagram without a reply stalls its source, and a second reply comes late. Here they are independent.
func TestVpnguinUDPLockStep(t *testing.T) {
	c := dialUDP(t, open(t, "udp://127.0.0.1:0", answer(t, func(b []byte) [][]byte {
		if b[0] == 'n' {
			return nil
		}
		return [][]byte{b, append([]byte("second "), b...)}
	}), Config{}))
	_, _ = c.Write([]byte("nothing"))
	exchange(t, c, []byte("two"))
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != "second two" {
		t.Errorf("got %q, %v", b[:n], err)
	}
}

// vpnguin bug 2.5-4: flows never expire. Here they do, and the source may come again.
func TestVpnguinUDPIdle(t *testing.T) {
	f := open(t, "udp://127.0.0.1:0", answer(t, service.Same), Config{FlowIdle: 100 * time.Millisecond})
	c := dialUDP(t, f)
	exchange(t, c, []byte("x"))
	eventually(t, "the flow has ended", func() bool { return f.Stats().Live == 0 })
	exchange(t, c, []byte("x"))
	if got := f.Stats().Total; got < 2 {
		t.Errorf("%d flows, want another one", got)
	}
}

// When there is no room, the flow ends whose source was silent for longest.
func TestUDPBound(t *testing.T) {
	f := open(t, "udp://127.0.0.1:0", answer(t, service.Same), Config{Flows: 2})
	first, second, third := dialUDP(t, f), dialUDP(t, f), dialUDP(t, f)
	exchange(t, first, []byte("1"))
	exchange(t, second, []byte("2"))
	exchange(t, first, []byte("1")) // so second is the one
	exchange(t, third, []byte("3"))
	if s := f.Stats(); s.Live != 2 || s.Total != 3 {
		t.Fatalf("got %+v", s)
	}
	exchange(t, first, []byte("1"))
	if got := f.Stats().Total; got != 3 {
		t.Errorf("the flow of the source that spoke was ended")
	}
	exchange(t, second, []byte("2"))
	if s := f.Stats(); s.Live != 2 || s.Total != 4 {
		t.Errorf("got %+v", s)
	}
}

// A reply comes from the address that was asked, also where the socket has all of them: 127.0.0.2 would be answered from 127.0.0.1 else.
func TestUDPReplySource(t *testing.T) {
	for _, host := range []string{"0.0.0.0", ""} {
		f := open(t, "udp://"+host+":0", answer(t, service.Same), Config{})
		at := f.Bound()
		c, err := net.Dial("udp4", "127.0.0.2:"+portOf(at))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		exchange(t, c, []byte("x"))
	}
}

func portOf(e Entrance) string {
	_, p, _ := net.SplitHostPort(e.address())
	return p
}

// A client that comes to listen only later is reached then.
func TestUDPRefusedFirst(t *testing.T) {
	l, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := l.LocalAddr().(*net.UDPAddr)
	_ = l.Close()
	f := open(t, "udp://127.0.0.1:0", at.String(), Config{})
	c := dialUDP(t, f)
	for range 3 {
		_, _ = c.Write([]byte("nobody"))
	}
	eventually(t, "all were handed on", func() bool { return f.Stats().Up == 3*uint64(len("nobody")) })
	if l, err = net.ListenUDP("udp4", at); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, _ = c.Write([]byte("now"))
	_ = l.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 10)
	if n, err := l.Read(b); err != nil || string(b[:n]) != "now" {
		t.Errorf("got %q, %v", b[:n], err)
	}
	if s := f.Stats(); s.Total != 1 {
		t.Errorf("a refusal has ended the flow: %+v", s)
	}
}

// A slowNetwork looks names up for as long as told.
type slowNetwork struct {
	Sockets
	found chan string // where the name is; sent to by the test
}

func (n slowNetwork) Dial(ctx context.Context, network string, from netip.Addr, _ string) (net.Conn, error) {
	select {
	case at := <-n.found:
		return n.Sockets.Dial(ctx, network, from, at)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// While a name is looked up nobody waits for it: the first datagrams of each source are sent when it is found, and those beyond are counted.
func TestUDPSlowName(t *testing.T) {
	network := slowNetwork{found: make(chan string)}
	f := open(t, "udp://127.0.0.1:0", "service.example:53", Config{Network: network})
	one, two := dialUDP(t, f), dialUDP(t, f)
	for i := range relay.MaxEarly + 2 {
		_, _ = one.Write([]byte{byte(i)})
	}
	_, _ = two.Write([]byte("two"))
	eventually(t, "there are two flows, and two datagrams too many", func() bool { s := f.Stats(); return s.Live == 2 && s.Full == 2 })
	at := answer(t, service.Same)
	network.found <- at
	network.found <- at
	b := make([]byte, 10)
	for i := range relay.MaxEarly {
		if n, err := one.Read(b); err != nil || n != 1 || b[0] != byte(i) {
			t.Fatalf("got %x, %v, want %d", b[:n], err, i)
		}
	}
	if n, err := two.Read(b); err != nil || string(b[:n]) != "two" {
		t.Errorf("got %q, %v", b[:n], err)
	}
	exchange(t, one, []byte("later"))
}
