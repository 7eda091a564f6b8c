package penguin

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/internal/penguin/wire"
)

// answerer answers with n bytes, as soon as it has heard m, and closes.
func answerer(m int, answer []byte) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		if _, err := io.ReadFull(c, make([]byte, m)); err == nil {
			_, _ = c.Write(answer)
		}
	}
}

// Bug 2.5.6 of the original: the first end of file ends both directions, and what was under way is lost. Whatever carries vsock, both directions arrive whole, and
// the end of the service's is passed on without delay.
func TestBugHalfClose(t *testing.T) {
	for _, d := range dialects {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			question, answer := random(1<<20), random(1<<20)
			b := newLab(t, d)
			b.guest(t, GuestConfig{})
			b.host(t, HostConfig{})
			at := b.published(t, "tcp", service(t, "127.0.0.1:0", answerer(len(question), answer)), ",127.0.0.1:0,")
			start := time.Now()
			got, err := ask(t, at, question)
			if err != nil || !bytes.Equal(got, answer) {
				t.Errorf("got %d bytes of %d, %v", len(got), len(answer), err)
			}
			if took := time.Since(start); took > holdBack {
				t.Errorf("the end came after %s", took)
			}
		})
	}
}

// A service that answers only when it has seen the end hears of it behind a hypervisor that has no half-close, too, if late; then the answer is lost there, but the client is told.
// Where there is one, it has its answer at once.
func TestEndOfClient(t *testing.T) {
	for _, d := range dialects {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			heard := make(chan int, 1)
			b := newLab(t, d)
			b.guest(t, GuestConfig{})
			b.host(t, HostConfig{HoldBack: 50 * time.Millisecond})
			at := b.published(t, "tcp", service(t, "127.0.0.1:0", func(c *net.TCPConn) {
				all, err := io.ReadAll(c)
				if err != nil {
					t.Error(err)
				}
				heard <- len(all)
				_, _ = c.Write([]byte("answer"))
			}), "")
			got, _ := ask(t, at, random(1000))
			if n := <-heard; n != 1000 {
				t.Errorf("the service has heard %d bytes", n)
			}
			if d.Halves && string(got) != "answer" {
				t.Errorf("got %q", got)
			}
		})
	}
}

// Over AF_VSOCK, which has a half-close, nothing is held back.
func TestHalfCloseAtOnce(t *testing.T) {
	if !(Transport{CID: 3}).passesHalves() || (Transport{Path: "/v"}).passesHalves() {
		t.Fatal("hypervisors have a half-close, and the kernel has none")
	}
	host, guest := socketPair(t)
	g := &guestStream{conn: host}
	if err := g.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := guest.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v", err)
	}
}

func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), other.Close() })
	_ = other.SetDeadline(time.Now().Add(patience))
	return c.(*net.UnixConn), other.(*net.UnixConn)
}

// The host sends what the original sends, byte for byte, and nothing before the hypervisor has answered.
func TestHostWire(t *testing.T) {
	for _, d := range dialects[:2] {
		b := newLab(t, d)
		got := make(chan string, 1)
		l, err := net.Listen("unix", b.path+"_1234")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			all := make([]byte, 31+5)
			_, err = io.ReadFull(c, all)
			got <- fmt.Sprintf("%x %v", all, err)
			_, _ = c.Write([]byte("world"))
		}()
		b.host(t, HostConfig{})
		at := b.published(t, "tcp", "192.0.2.1:80", ",192.0.2.1:0,")
		reply, err := ask(t, at, []byte("hello"))
		if err != nil || string(reply) != "world" {
			t.Errorf("%s: got %q, %v", d.Name, reply, err)
		}
		want := "001d" + "00000000" + "00000000c00002015000" + "00000000" + "00000000c00002010000" + "00" + hex.EncodeToString([]byte("hello")) + " <nil>"
		if g := <-got; g != want {
			t.Errorf("%s: got %s, want\n%s", d.Name, g, want)
		}
	}
}

// The guest takes what hosts of the original send, also those of before 2025-02 and 2026-06, with payload right behind the request.
func TestGuestWire(t *testing.T) {
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	address := service(t, "127.0.0.1:0", func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	port := strings.Split(address, ":")[1]
	for _, dst := range []string{"127.0.0.1:", "0.0.0.0:"} { // all is this machine
		whole := request(t, dst+port, 0)
		for _, n := range []int{29, 28, 18} {
			r := append([]byte{0, byte(n)}, whole[2:2+n]...)
			c := b.connect(t, 1234, append(r, "hello"...))
			_ = c.CloseWrite()
			if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
				t.Errorf("%s, %d bytes: got %q, %v", dst, n, got, err)
			}
		}
	}
}

func TestDestination(t *testing.T) {
	a := netip.MustParseAddrPort
	for _, test := range []struct{ dst, src, wantDst, wantSrc netip.AddrPort }{
		{a("0.0.0.0:80"), a("0.0.0.0:0"), a("127.0.0.1:80"), netip.AddrPort{}},
		{a("[::]:80"), a("[::]:0"), a("[::1]:80"), netip.AddrPort{}},
		{a("[::ffff:0.0.0.0]:80"), netip.AddrPort{}, a("127.0.0.1:80"), netip.AddrPort{}},
		{a("192.0.2.1:80"), a("10.0.0.1:0"), a("192.0.2.1:80"), a("10.0.0.1:0")},
		{a("192.0.2.1:80"), a("0.0.0.0:99"), a("192.0.2.1:80"), a("0.0.0.0:99")},
	} {
		if dst, src := destination(wire.Request{Dst: test.dst, Src: test.src}); dst != test.wantDst || src != test.wantSrc {
			t.Errorf("%s from %s: got %s from %s", test.dst, test.src, dst, src)
		}
	}
}

// Bug 2.5.8: the guest tells a host that a service was not reached by a reset, and the host its client.
func TestRefused(t *testing.T) {
	b := newLab(t, dialects[2])
	b.guest(t, GuestConfig{Max: 2})
	b.host(t, HostConfig{})
	at := b.published(t, "tcp", freePort(t, "tcp").String(), "")
	c := dial(t, "tcp", at)
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("something was read")
	}
	b.await(t, "reason=dial")
	for name, r := range map[string][]byte{
		"no request":       {0, 4, 9, 9, 9, 9},
		"for another port": {0, 0x10, 2, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 'w', 'a', 'n', '0'},
		"too long":         {0xff, 0xff},
	} {
		c := b.connect(t, 1234, r)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	b.await(t, "reason=request")
	for range 4 { // two that were refused before may still leave
		b.connect(t, 1234, nil)
	}
	if _, err := b.connect(t, 1234, nil).Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("one too many: got %v", err)
	}
	b.await(t, "reason=full")
}

// The guest connects from the address that the host says.
func TestSourceAddress(t *testing.T) {
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	b.host(t, HostConfig{})
	who := service(t, "127.0.0.1:0", func(c *net.TCPConn) { _, _ = io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String()) })
	for src, want := range map[string]string{",127.0.0.9:0,": "127.0.0.9", ",0.0.0.0:0": "127.0.0.1", "": "127.0.0.1"} {
		if got, err := ask(t, b.published(t, "tcp", who, src), nil); string(got) != want || err != nil {
			t.Errorf("%q: got %q, %v", src, got, err)
		}
	}
	c := dial(t, "tcp", b.published(t, "tcp", who, ",192.0.2.99:0,")) // not of this machine
	if got, _ := io.ReadAll(c); len(got) > 0 {
		t.Errorf("got %q", got)
	}
}

func TestIPv6(t *testing.T) {
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	b.host(t, HostConfig{})
	address := service(t, "[::1]:0", func(c *net.TCPConn) { _, _ = io.WriteString(c, "six") })
	port := address[strings.LastIndexByte(address, ':'):]
	for _, to := range []string{"[::1]" + port, "[::]" + port} {
		if got, err := ask(t, b.published(t, "tcp", to, ""), nil); string(got) != "six" || err != nil {
			t.Errorf("%s: got %q, %v", to, got, err)
		}
	}
}

// Silence is that of who speaks: while the other end does not take what was said, nothing is cut off. A client that has ended its half reads late; a service that has
// ended its half does.
func TestSlowReadersLoseNothing(t *testing.T) {
	const size, pause, patient = 16 << 20, 4500 * time.Millisecond, 1500 * time.Millisecond // who is starved of the processor is silent, too
	for _, d := range dialects {
		t.Run(d.Name+"/client", func(t *testing.T) {
			t.Parallel()
			b := newLab(t, d)
			b.guest(t, GuestConfig{RestTime: patient})
			b.host(t, HostConfig{HoldBack: patient})
			c := dial(t, "tcp", b.published(t, "tcp", service(t, "127.0.0.1:0", answerer(4, make([]byte, size))), "")).(*net.TCPConn)
			_, _ = c.Write([]byte("what"))
			_ = c.CloseWrite()
			time.Sleep(pause) // as a client that is busy
			if got, err := io.ReadAll(c); len(got) != size || err != nil {
				t.Errorf("the client has %d bytes of %d, %v", len(got), size, err)
			}
		})
		t.Run(d.Name+"/service", func(t *testing.T) {
			t.Parallel()
			b := newLab(t, d)
			b.guest(t, GuestConfig{RestTime: patient})
			b.host(t, HostConfig{HoldBack: patient})
			heard := make(chan int, 1)
			c := dial(t, "tcp", b.published(t, "tcp", service(t, "127.0.0.1:0", func(c *net.TCPConn) {
				_ = c.CloseWrite()
				time.Sleep(pause)
				n, _ := io.ReadFull(c, make([]byte, size))
				heard <- n
			}), "")).(*net.TCPConn)
			if _, err := c.Write(make([]byte, size)); err != nil {
				t.Error(err)
			}
			if n := <-heard; n != size {
				t.Errorf("the service has %d bytes of %d", n, size)
			}
		})
	}
}
