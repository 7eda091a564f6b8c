package datagram

import (
	"bytes"
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/identity"
)

// A wire hands what is sent to it to a connection at once.
type wire struct{ to *Link }

func (w *wire) Send(b []byte, lens []int, _ Addr, _ bool) (int, error) {
	if w.to != nil {
		c := newChunk(len(b))
		c.Len, c.Size = copy(c.Data, b), lens[0]
		c.From = w.to.path.at
		if !w.to.deliver(c) {
			c.free()
		}
	}
	return len(lens), nil
}

func (w *wire) Receive([]*Chunk) (int, error) { return 0, net.ErrClosed }
func (w *wire) Max(Addr) int                  { return 1472 }
func (w *wire) Name(a Addr) net.Addr          { return net.UDPAddrFromAddrPort(a.Remote) }
func (w *wire) Local() net.Addr               { return &net.UDPAddr{} }
func (w *wire) Close() error                  { return nil }

// wired returns two connections with keys, without a network between them.
func wired(t testing.TB, suite uint16) (a, b *Link) {
	t.Helper()
	wa, wb := new(wire), new(wire)
	at := Addr{Remote: netip.MustParseAddrPort(clientAt)}
	a, b = newLink(newEndpoint(wa), 1, 1, at), newLink(newEndpoint(wb), 2, 2, at)
	one, err := newSecret(suite, bytes.Repeat([]byte{1}, carrier.SuiteOf(suite).Hash().Size()))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []*Link{a, b} {
		l.limit.Store(queueBytes)
		l.complete, l.confirmed, l.shaken = true, true, true
		l.path.prove()
		l.pack.max = 1472
		l.peer = 3 - l.id
		if l.keyIn(levelData, one) != nil || l.keyOut(levelData, one) != nil {
			t.Fatal("no keys")
		}
	}
	wa.to, wb.to = b, a
	return a, b
}

// Moving items allocates nothing.
func TestAllocations(t *testing.T) {
	for _, id := range carrier.Suites() {
		a, b := wired(t, id)
		run := bytes.Repeat(packetOf(1400), 44)
		got := 0
		n := testing.AllocsPerRun(200, func() {
			if n, err := a.TryWrite(run); n != len(run) || err != nil {
				t.Fatal(n, err)
			}
			_, start, end, err := b.Fill()
			if err != nil {
				t.Fatal(err)
			}
			got += end - start
			b.Consume(end - start)
		})
		if n > 3 { // the race detector makes pools forget
			t.Errorf("%#x: %v allocations for 44 packets", id, n)
		}
		if got < 200*len(run) {
			t.Errorf("%d bytes have come", got)
		}
	}
}

// BenchmarkLink is what both ends cost together, without the network.
func BenchmarkLink(b *testing.B) {
	for _, id := range carrier.Suites() {
		b.Run(tls.CipherSuiteName(id), func(b *testing.B) {
			x, y := wired(b, id)
			run := bytes.Repeat(packetOf(1428), 44)
			b.SetBytes(int64(len(run)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = x.TryWrite(run)
				_, start, end, _ := y.Fill()
				y.Consume(end - start)
			}
		})
	}
}

// BenchmarkHandshake is what a connection costs both ends together.
func BenchmarkHandshake(b *testing.B) {
	x := newLab(b, Config{})
	defer x.close()
	x.change(func(netip.AddrPort, netip.AddrPort, []byte) []time.Duration { return []time.Duration{0} })
	key := identity.NewKey()
	for b.Loop() {
		client, err := x.dial(clientAt, key, x.gateway.Public().Pin())
		if err != nil {
			b.Fatal(err)
		}
		gateway := <-x.links
		_, _ = client.Close(), gateway.Close()
	}
}
