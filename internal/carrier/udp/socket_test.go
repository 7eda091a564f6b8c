package udp

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	"ferry/internal/carrier/datagram"
	"ferry/internal/identity"
	"ferry/internal/proto"
)

// loopback returns two sockets that know each other's address.
func loopback(t testing.TB, host string) (a, b *socket, toB datagram.Addr) {
	t.Helper()
	at := netip.AddrPortFrom(netip.MustParseAddr(host), 0)
	var err error
	if a, err = bind(at); err != nil {
		t.Fatal(err)
	}
	if b, err = bind(at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b, datagram.Addr{Remote: netip.MustParseAddrPort(b.local.String())}
}

func chunks(n int) (c []*datagram.Chunk) {
	for range n {
		c = append(c, &datagram.Chunk{Data: make([]byte, datagram.LargeChunk)})
	}
	return c
}

// receive reads datagrams until there are count.
func receive(t *testing.T, s *socket, count int) (got [][]byte, from datagram.Addr) {
	t.Helper()
	in := chunks(4)
	for len(got) < count {
		n, err := s.Receive(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range in[:n] {
			from = c.From
			for i := 0; i < c.Len; i += c.Size {
				got = append(got, bytes.Clone(c.Data[i:min(i+c.Size, c.Len)]))
			}
		}
	}
	return got, from
}

// Datagrams of any lengths arrive as they were, whether or not the kernel cuts them.
func TestSend(t *testing.T) {
	for _, segments := range []bool{true, false} {
		for _, host := range []string{"127.0.0.1", "::1"} {
			t.Run(host, func(t *testing.T) {
				a, b, to := loopback(t, host)
				if !segments {
					a.segments.Store(false)
				}
				var lens []int
				for i := range 60 {
					lens = append(lens, []int{1400, 1400, 1400, 700, 33, 1400, 1472 - 20}[i%7])
				}
				lens = append(lens, slices.Repeat([]int{100}, 150)...)
				var all []byte
				var want [][]byte
				for i, l := range lens {
					p := bytes.Repeat([]byte{byte(i)}, l)
					want = append(want, p)
					all = append(all, p...)
				}
				for _, wait := range []bool{false, true} {
					if n, err := a.Send(all, lens, to, wait); n != len(lens) || err != nil {
						t.Fatalf("%d of %d were taken, %v", n, len(lens), err)
					}
					got, from := receive(t, b, len(want))
					if !slices.EqualFunc(got, want, bytes.Equal) {
						t.Error("they are not what was sent")
					}
					if from.Remote.String() != a.local.String() || from.Local.String() != host {
						t.Errorf("from %v at %v, want %v at %s", from.Remote, from.Local, a.local, host)
					}
				}
			})
		}
	}
}

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		lens        []int
		count, size int
	}{
		{[]int{5}, 1, 5},
		{[]int{5, 5, 5}, 3, 15},
		{[]int{5, 5, 3, 5}, 3, 13},
		{[]int{5, 6}, 1, 5},
		{slices.Repeat([]int{1}, 100), maxSegments, maxSegments},
		{slices.Repeat([]int{1472}, 60), maxMessage / 1472, maxMessage / 1472 * 1472},
	} {
		if count, size := run(tt.lens); count != tt.count || size != tt.size {
			t.Errorf("%v: got %d of %d bytes, want %d of %d", tt.lens[:min(5, len(tt.lens))], count, size, tt.count, tt.size)
		}
	}
}

// What is too long for the way is lost, and nothing else: it is never cut.
func TestTooLong(t *testing.T) {
	a, b, to := loopback(t, "127.0.0.1")
	all := make([]byte, 100+65536+100)
	if n, err := a.Send(all, []int{100, 65536, 100}, to, false); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if got, _ := receive(t, b, 2); len(got) != 2 || len(got[0]) != 100 || len(got[1]) != 100 {
		t.Errorf("got %d datagrams", len(got))
	}
	_ = a.Control(func(fd uintptr) {
		if v, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER); v != unix.IP_PMTUDISC_PROBE {
			t.Errorf("IP_MTU_DISCOVER is %d, %v: packets may be fragmented", v, err)
		}
	})
}

// An empty datagram is not the word that nobody is there.
func TestEmpty(t *testing.T) {
	_, b, to := loopback(t, "127.0.0.1")
	c, err := net.Dial("udp", to.Remote.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(nil); err != nil {
		t.Fatal(err)
	}
	in := chunks(1)
	if n, err := b.Receive(in); n != 1 || err != nil || in[0].Len == 0 || in[0].Size == 0 {
		t.Errorf("%d chunks, %v, of %d bytes", n, err, in[0].Len)
	}
}

// Sending and receiving allocate nothing.
func TestAllocations(t *testing.T) {
	a, b, to := loopback(t, "127.0.0.1")
	all, lens, in := make([]byte, 44*1472), slices.Repeat([]int{1472}, 44), chunks(8)
	n := testing.AllocsPerRun(100, func() {
		if _, err := a.Send(all, lens, to, false); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < len(all); {
			n, err := b.Receive(in)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range in[:n] {
				got += c.Len
			}
		}
	})
	if n > 8 { // of 44 datagrams: the race detector makes pools forget
		t.Errorf("%v allocations", n)
	}
}

// Close makes a reader return.
func TestCloseWhileReading(t *testing.T) {
	a, _, _ := loopback(t, "127.0.0.1")
	done := make(chan error)
	go func() {
		_, err := a.Receive(chunks(1))
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	_ = a.Close()
	if err := <-done; err != net.ErrClosed {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
	if _, err := a.Send([]byte{1}, []int{1}, datagram.Addr{Remote: netip.MustParseAddrPort("127.0.0.1:9")}, false); err != net.ErrClosed {
		t.Errorf("send: got %v, want %v", err, net.ErrClosed)
	}
}

// A gateway of many addresses answers from the one that it was spoken to.
func TestAnswersFromWhereItWasAsked(t *testing.T) {
	for _, listenAt := range []string{"", "0.0.0.0"} {
		t.Run(listenAt, func(t *testing.T) {
			g, l := identity.NewKey(), listen(t, listenAt, datagram.Config{})
			done := make(chan error, 1)
			go func() {
				link, err := serveOne(t.Context(), l, g.Server(everybody))
				if err == nil {
					t.Cleanup(func() { _ = link.Close() })
					err = link.Write(proto.AppendPing(nil, []byte("x")), nil)
				}
				done <- err
			}()
			e := endpointOf(l.Addr())
			e.Host = "127.9.8.7"
			client, err := Dial(t.Context(), e, nil, identity.NewKey().Client(identity.Tunnel, g.Public().Pin()))
			if err = errors.Join(err, <-done); err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if _, _, _, err := client.Fill(); err != nil {
				t.Fatal(err)
			}
			if got := netip.MustParseAddrPort(client.RemoteAddr().String()).Addr().String(); got != e.Host {
				t.Errorf("it answers from %s, want %s", got, e.Host)
			}
		})
	}
}

// A nat forwards between clients and a gateway, and forgets on demand.
type nat struct {
	inside *net.UDPConn
	to     *net.UDPAddr
	mu     sync.Mutex // guards what follows
	client *net.UDPAddr
	out    *net.UDPConn
	all    []*net.UDPConn
	wg     sync.WaitGroup
}

func newNAT(t *testing.T, to net.Addr) *nat {
	t.Helper()
	inside, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	n := &nat{inside: inside, to: to.(*net.UDPAddr)}
	n.rebind(t)
	n.wg.Go(func() {
		b := make([]byte, 2048)
		for {
			k, from, err := inside.ReadFromUDP(b)
			if err != nil {
				return
			}
			n.mu.Lock()
			n.client = from
			out := n.out
			n.mu.Unlock()
			_, _ = out.WriteToUDP(b[:k], n.to)
		}
	})
	t.Cleanup(func() {
		_ = inside.Close()
		for _, c := range n.all {
			_ = c.Close()
		}
		n.wg.Wait()
	})
	return n
}

// rebind goes on from another port; what comes to the one before is lost.
func (n *nat) rebind(t *testing.T) string {
	t.Helper()
	out, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	if n.out != nil {
		_ = n.out.Close()
	}
	n.out = out
	n.all = append(n.all, out)
	n.mu.Unlock()
	n.wg.Go(func() {
		b := make([]byte, 2048)
		for {
			k, _, err := out.ReadFromUDP(b)
			if err != nil {
				return
			}
			n.mu.Lock()
			client := n.client
			n.mu.Unlock()
			_, _ = n.inside.WriteToUDP(b[:k], client)
		}
	})
	return out.LocalAddr().String()
}

// A router that forgets the connection, and gives it another port, goes unnoticed.
func TestRebinding(t *testing.T) {
	g, l := identity.NewKey(), listen(t, "127.0.0.1", datagram.Config{})
	n := newNAT(t, l.Addr())
	served := make(chan carrier.Link, 1)
	go func() {
		link, err := serveOne(t.Context(), l, g.Server(everybody))
		if err != nil {
			t.Error(err)
		}
		served <- link
	}()
	client, err := Dial(t.Context(), endpointOf(n.inside.LocalAddr()), nil, identity.NewKey().Client(identity.Tunnel, g.Public().Pin()))
	if err != nil {
		t.Fatal(err)
	}
	gateway := <-served
	defer client.Close()
	defer gateway.Close()
	var echoed atomic.Int64
	var loops sync.WaitGroup
	loops.Go(func() { // the gateway answers pings
		for {
			buf, start, end, err := gateway.Fill()
			if err != nil {
				return
			}
			for b := buf[start:end]; len(b) > 0; b = b[proto.ItemLen(b):] {
				_ = gateway.Write(proto.AppendPong(nil, b[:proto.ItemLen(b)]), nil)
			}
			gateway.Consume(end - start)
		}
	})
	loops.Go(func() {
		for {
			_, start, end, err := client.Fill()
			if err != nil {
				return
			}
			echoed.Add(int64(end - start))
			client.Consume(end - start)
		}
	})
	ask := func() {
		t.Helper()
		before := echoed.Load()
		for range 100 {
			if err := client.Write(proto.AppendPing(nil, make([]byte, 100)), nil); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				if echoed.Load() > before {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
		t.Fatal("no answer")
	}
	ask()
	for range 3 {
		at := n.rebind(t)
		ask()
		if got := gateway.RemoteAddr().String(); got != at {
			t.Errorf("the gateway sends to %s, want %s", got, at)
		}
	}
	_, _ = client.Close(), gateway.Close()
	loops.Wait()
}

// opener gives out sockets as the process with the rights does.
type opener struct{ asked []string }

func (o *opener) Socket(network, address string) (*os.File, error) {
	o.asked = append(o.asked, network+" "+address)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return os.NewFile(uintptr(fd), "marked"), err
}

func (o *opener) Connect(string) (net.Conn, error) { return nil, errors.ErrUnsupported }

func TestOpener(t *testing.T) {
	g, l := identity.NewKey(), listen(t, "127.0.0.1", datagram.Config{})
	done := make(chan error, 1)
	go func() {
		_, err := serveOne(t.Context(), l, g.Server(everybody))
		done <- err
	}()
	o := new(opener)
	client, err := Dial(t.Context(), endpointOf(l.Addr()), o, identity.NewKey().Client(identity.Tunnel, g.Public().Pin()))
	if err = errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	want := "udp4 " + l.Addr().String()
	if len(o.asked) == 0 || slices.ContainsFunc(o.asked, func(s string) bool { return s != want }) {
		t.Errorf("asked for %q, want %q", o.asked, want)
	}
}

// Errors say what to do.
func TestErrors(t *testing.T) {
	l := listen(t, "127.0.0.1", datagram.Config{})
	e := endpointOf(l.Addr())
	if _, err := Listen(t.Context(), e); err == nil || !strings.Contains(err.Error(), "ss -lnup") {
		t.Errorf("a port that is taken: %v", err)
	}
	if _, err := Listen(t.Context(), carrier.Endpoint{Scheme: "udp", Host: "192.0.2.1", Port: 2002}); err == nil || !strings.Contains(err.Error(), "ip addr") {
		t.Errorf("an address of somebody else: %v", err)
	}
	_ = l.Close()
	key := identity.NewKey()
	for _, host := range []string{"127.0.0.1", "::1"} {
		start := time.Now()
		e.Host = host
		_, err := Dial(t.Context(), e, nil, key.Client(identity.Tunnel, key.Public().Pin()))
		if !errors.Is(err, datagram.ErrRefused) || !strings.Contains(err.Error(), "vpnsrv") || time.Since(start) > 5*time.Second {
			t.Errorf("nobody there: %v after %v", err, time.Since(start))
		}
	}
	silent, err := bind(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, endpointOf(silent.Local()), nil, key.Client(identity.Tunnel, key.Public().Pin())); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody answers: %v", err)
	}
	if _, err := Dial(t.Context(), carrier.Endpoint{Scheme: "udp", Host: "name.invalid", Port: 1}, nil, nil); err == nil || !strings.Contains(err.Error(), "name.invalid") {
		t.Errorf("no such name: %v", err)
	}
}
