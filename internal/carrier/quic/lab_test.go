package quic

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/netsock"
	"ferry/internal/identity"
	"ferry/internal/proto"
)

// patience is how long a test waits for what should come at once: the machine may be busy.
const patience = 20 * time.Second

func everybody(identity.Protocol, identity.Public) error { return nil }

// A gateway is a listener for a test, with its key.
type gateway struct {
	*Listener
	key   identity.Key
	links chan *Link
	errs  chan error // of handshakes

	mu  sync.Mutex
	all []*Link // closed at the end
}

func (g *gateway) endpoint() carrier.Endpoint { return endpointOf(g.Addr().(Addr).AddrPort()) }

func endpointOf(a netip.AddrPort) carrier.Endpoint {
	return carrier.Endpoint{Scheme: "quic", Host: a.Addr().String(), Port: uint32(a.Port())}
}

// newGateway listens on loopback and makes the handshakes of all who come.
func newGateway(t testing.TB, key identity.Key, at string, admit func(identity.Protocol, identity.Public) error) *gateway {
	t.Helper()
	e := endpointOf(netip.MustParseAddrPort(at))
	l, err := Listen(t.Context(), e, key.Server(admit))
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{Listener: l, key: key, links: make(chan *Link, 8), errs: make(chan error, 8)}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	all.Go(func() {
		for {
			p, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { g.shake(ctx, p) })
		}
	})
	t.Cleanup(func() {
		g.Close()
		cancel()
		all.Wait()
		for _, l := range g.all {
			l.Close()
		}
	})
	return g
}

func (g *gateway) shake(ctx context.Context, p *Pending) {
	l, _, _, err := p.Handshake(ctx)
	if err != nil {
		g.errs <- err
		return
	}
	g.mu.Lock()
	g.all = append(g.all, l.(*Link))
	g.mu.Unlock()
	g.links <- l.(*Link)
}

func dialTest(t testing.TB, e carrier.Endpoint, gateway identity.Pin) (*Link, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := Dial(ctx, e, nil, identity.NewKey().Client(identity.Tunnel, gateway))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { l.Close() })
	return l.(*Link), nil
}

// pairBy returns two connected links; the client's packets take the way that between returns.
func pairBy(t testing.TB, between func(gateway netip.AddrPort) netip.AddrPort) (client, server *Link) {
	t.Helper()
	g := newGateway(t, identity.NewKey(), "127.0.0.1:0", everybody)
	client, err := dialTest(t, endpointOf(between(g.Addr().(Addr).AddrPort())), g.key.Public().Pin())
	if err != nil {
		t.Fatal(err)
	}
	select {
	case server = <-g.links:
	case err := <-g.errs:
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	// The client speaks first.
	write(t, client, request())
	if got := read(t, server, proto.ControlLen); string(got) != string(request()) {
		t.Fatalf("got %x", got)
	}
	return client, server
}

func pair(t testing.TB) (client, server *Link) {
	t.Helper()
	return pairBy(t, func(g netip.AddrPort) netip.AddrPort { return g })
}

func request() []byte {
	return proto.AppendRequest(nil, proto.Request{Extended: true, Features: proto.FeatureSuper})
}

// frame returns a data frame of n bytes in all, which begins with a mark.
func frame(n int, mark uint32) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(uint32(i)*mark + mark>>8)
	}
	proto.PutBareHeader(b, n-proto.DataHeaderLen)
	if n >= proto.DataHeaderLen+4 {
		binary.BigEndian.PutUint32(b[proto.DataHeaderLen:], mark)
	}
	return b
}

func write(t testing.TB, l *Link, b []byte) {
	t.Helper()
	if err := l.Write(b, nil); err != nil {
		t.Fatal(err)
	}
}

// read reads until so many bytes have come, without number frames.
func read(t testing.TB, l *Link, n int) (got []byte) {
	t.Helper()
	watch := time.AfterFunc(patience, func() { l.Close() })
	defer watch.Stop()
	for len(got) < n {
		for _, item := range readItems(t, l) {
			if item[0] != 0x8d {
				got = append(got, item...)
			}
		}
	}
	return got
}

// readItems returns the items of one Fill.
func readItems(t testing.TB, l *Link) (items [][]byte) {
	t.Helper()
	buf, start, end, err := l.Fill()
	if err != nil {
		t.Fatal(err)
	}
	if start < carrier.Headroom {
		t.Fatalf("%d bytes before the first item", start)
	}
	f := proto.Framer{FromServer: !l.server, Extended: true}
	for i := start; i < end; {
		_, n, err := f.Next(buf[i:end])
		if err != nil || n == 0 {
			t.Fatalf("no whole item at byte %d of %d: %v", i-start, end-start, err)
		}
		items = append(items, append([]byte(nil), buf[i:i+n]...))
		i += n
	}
	clear(buf[start-carrier.Headroom : start])
	l.Consume(end - start)
	return items
}

// noGoroutines fails a test that leaves any of this package or the library.
func noGoroutines(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		deadline := time.Now().Add(patience)
		for {
			buf := make([]byte, 1<<20)
			stacks := string(buf[:runtime.Stack(buf, true)])
			left := ""
			for s := range strings.SplitSeq(stacks, "\n\n") {
				if strings.Contains(s, "quic-go") || strings.Contains(s, "carrier/quic.") && !strings.Contains(s, "testing.tRunner") {
					left += s + "\n\n"
				}
			}
			if left == "" {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("goroutines are left:\n%s", left)
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

// A relay carries datagrams between a client and a gateway, as a NAT does: the gateway sees the relay's address.
type relay struct {
	gateway netip.AddrPort
	loss    float64 // of what goes either way

	in *net.UDPConn // where the client sends to

	mu      sync.Mutex
	out     *net.UDPConn // where the gateway sends to
	client  netip.AddrPort
	random  *rand.Rand
	retries int // of the gateway (RFC 9000, section 17.2.5)

	all sync.WaitGroup
}

func newRelay(t testing.TB, gateway netip.AddrPort, loss float64) *relay {
	t.Helper()
	r := &relay{gateway: gateway, loss: loss, random: rand.New(rand.NewPCG(1, 2)), in: loopback(t)}
	r.rebind(t)
	r.all.Go(func() {
		b := make([]byte, 2048)
		for {
			n, from, err := r.in.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.client = from
			if !r.lost() {
				_, _ = r.out.WriteToUDPAddrPort(b[:n], r.gateway)
			}
			r.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		r.in.Close()
		r.mu.Lock()
		r.out.Close()
		r.mu.Unlock()
		r.all.Wait()
	})
	return r
}

func loopback(t testing.TB) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadBuffer(netsock.BufferSize)
	return c
}

func (r *relay) addr() netip.AddrPort { return r.in.LocalAddr().(*net.UDPAddr).AddrPort() }

// lost decides about a datagram. The caller holds mu.
func (r *relay) lost() bool {
	return r.random.Float64() < r.loss
}

// rebind gives the relay another address towards the gateway. What comes to the one before is lost.
func (r *relay) rebind(t testing.TB) {
	t.Helper()
	out := loopback(t)
	r.mu.Lock()
	before := r.out
	r.out = out
	r.mu.Unlock()
	if before != nil {
		before.Close()
	}
	r.all.Go(func() {
		b := make([]byte, 2048)
		for {
			n, err := out.Read(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			if b[0]&0xf0 == 0xf0 {
				r.retries++
			}
			if !r.lost() && r.client.IsValid() {
				_, _ = r.in.WriteToUDPAddrPort(b[:n], r.client)
			}
			r.mu.Unlock()
		}
	})
}
