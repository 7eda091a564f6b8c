package dns

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/carriertest"
	"ferry/internal/carrier/datagram"
	"ferry/internal/identity"
)

// listen serves t.example.org on this machine, until the test ends.
func listen(t testing.TB, host string) (*datagram.Listener, carrier.Endpoint) {
	t.Helper()
	e := carrier.Endpoint{Scheme: "dns", Host: host, Path: "/t.example.org"}
	l, err := Listen(t.Context(), e)
	for range 20 {
		if !errors.Is(err, syscall.EADDRINUSE) { // a port that is free for UDP may be taken for TCP
			break
		}
		l, err = Listen(t.Context(), e)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	e.Port = uint32(l.Addr().(addr).at.Port())
	if host == "" {
		e.Host = "127.0.0.1"
	}
	return l, e
}

// pair connects a client to a gateway. without returns the name servers of the client's host.
func pair(t testing.TB, l *datagram.Listener, e carrier.Endpoint, own ...netip.Addr) (client, gateway carrier.Link) {
	t.Helper()
	g, d := identity.NewKey(), identity.NewKey()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	type result struct {
		link carrier.Link
		err  error
	}
	served := make(chan result, 1)
	go func() {
		p, err := l.Accept()
		if err != nil {
			served <- result{nil, err}
			return
		}
		link, _, _, err := p.Handshake(ctx, g.Server(func(identity.Protocol, identity.Public) error { return nil }))
		served <- result{link, err}
	}()
	client, err := Dial(ctx, e, nil, d.Client(identity.Tunnel, g.Public().Pin()), func() []netip.Addr { return own })
	if err != nil {
		_ = l.Close()
	}
	r := <-served
	if err != nil || r.err != nil {
		t.Fatal(err, r.err)
	}
	t.Cleanup(func() { _, _ = client.Close(), r.link.Close() })
	return client, r.link
}

func TestLink(t *testing.T) {
	carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) {
		l, e := listen(t, "127.0.0.1")
		return pair(t, l, e)
	})
}

func TestHandshake(t *testing.T) {
	for _, host := range []string{"", "127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			l, e := listen(t, host)
			began := time.Now()
			client, gateway := pair(t, l, e)
			t.Log("connected within", time.Since(began))
			if client.RemoteAddr().Network() != "dns" || gateway.RemoteAddr().Network() != "dns" {
				t.Error(client.RemoteAddr().Network(), gateway.RemoteAddr().Network())
			}
			if client.Max() != 137-32-12 || gateway.Max() != maxDown-32-12 {
				t.Errorf("max %d and %d", client.Max(), gateway.Max())
			}
			from, ok := gateway.RemoteAddr().(interface{ AddrPort() netip.AddrPort })
			if !ok || !from.AddrPort().Addr().IsLoopback() {
				t.Errorf("the gateway takes the client for %v", gateway.RemoteAddr())
			}
		})
	}
}

// Packets need no new memory, at either end.
func TestLinkAllocations(t *testing.T) {
	l, e := listen(t, "127.0.0.1")
	client, gateway := pair(t, l, e)
	up, down := numbered(1, 80)[0], numbered(1, 800)[0]
	move := func(from, to carrier.Link, p []byte) {
		if err := from.Write(p, nil); err != nil {
			t.Fatal(err)
		}
		_, start, end, err := to.Fill()
		if err != nil {
			t.Fatal(err)
		}
		to.Consume(end - start)
	}
	n := testing.AllocsPerRun(500, func() {
		move(client, gateway, up)
		move(gateway, client, down)
	})
	most := 1.0
	if poolsForget() {
		most = 32
	}
	if n > most {
		t.Errorf("%v allocations for a packet each way", n)
	}
}

// poolsForget tells whether pools forget on purpose, as they do under the race detector.
func poolsForget() bool {
	var p sync.Pool
	for range 100 {
		p.Put(new(int))
		if p.Get() == nil {
			return true
		}
	}
	return false
}

// BenchmarkLink is what a packet each way costs both ends, by loopback.
func BenchmarkLink(b *testing.B) {
	l, e := listen(b, "127.0.0.1")
	client, gateway := pair(b, l, e)
	down := numbered(1, 840)[0]
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range b.N {
			if gateway.Write(down, nil) != nil {
				return
			}
		}
	}()
	b.SetBytes(int64(len(down)))
	b.ReportAllocs()
	b.ResetTimer()
	late := time.AfterFunc(30*time.Second, func() { _ = client.Close() })
	defer late.Stop()
	for n := 0; n < b.N*len(down)*9/10; {
		_, start, end, err := client.Fill()
		if err != nil {
			b.Fatal(err)
		}
		n += end - start
		client.Consume(end - start)
	}
	_ = gateway.Close()
	<-done
}
