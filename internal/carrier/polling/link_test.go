package polling

import (
	"context"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/carriertest"
	"ferry/internal/carrier/datagram"
	"ferry/internal/identity"
)

func everybody(identity.Protocol, identity.Public) error { return nil }

// links returns both ends of a connection over a medium.
func links(t testing.TB, m *medium, c Config, d datagram.Config) (client, gateway *datagram.Link) {
	t.Helper()
	k, s := transports(t, m, c)
	return connect(t, k, s, d)
}

// connect makes the connection of both ends of a medium.
func connect(t testing.TB, k *Client, s *Server[uint32], d datagram.Config) (client, gateway *datagram.Link) {
	t.Helper()
	key := identity.NewKey()
	listener := datagram.Listen(s, d)
	t.Cleanup(func() { _ = listener.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	type result struct {
		l   *datagram.Link
		err error
	}
	come := make(chan result, 1)
	go func() { // ends with the handshake
		p, err := listener.Accept()
		if err != nil {
			come <- result{nil, err}
			return
		}
		l, _, _, err := p.Handshake(ctx, key.Server(everybody))
		come <- result{l, err}
	}()
	client, err := datagram.Dial(ctx, k, gatewayAt, identity.NewKey().Client(identity.Tunnel, key.Public().Pin()))
	if err != nil {
		t.Fatal(err)
	}
	r := <-come
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() {
		for _, l := range []*datagram.Link{client, r.l} {
			l.Release()
			_ = l.Close()
		}
	})
	return client, r.l
}

// TestLink: what is made of questions and answers is a link as any other.
func TestLink(t *testing.T) {
	for name, m := range map[string]func() *medium{
		"icmp": func() *medium { return newMedium(1440, 1440, 0, 0) },
		"dns":  func() *medium { return newMedium(120, 900, 0, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) {
				return links(t, m(), Config{Bound: name == "dns", Polls: 64}, datagram.Config{Proven: name == "dns"})
			})
		})
	}
}

// TestHandshake: over mediums of all sizes, with losses.
func TestHandshake(t *testing.T) {
	icmp := Config{Polls: 256, Hold: 12 * time.Second}
	dns := Config{Bound: true}
	for _, tt := range []struct {
		name     string
		up, down int
		c        Config
		d        datagram.Config
		loss     float64
		within   time.Duration
		most     int // questions
	}{
		{"icmp", 1440, 1440, icmp, datagram.Config{}, 0, 100 * time.Millisecond, 20},
		{"icmp, 5 % are lost", 1440, 1440, icmp, datagram.Config{}, 0.05, 2 * time.Second, 60},
		{"dns", 120, 900, dns, datagram.Config{Proven: true}, 0, 300 * time.Millisecond, 60},
		{"dns, and the gateway wants proof", 120, 900, dns, datagram.Config{}, 0, 2 * time.Second, 100},
		{"dns, 5 % are lost", 120, 900, dns, datagram.Config{Proven: true}, 0.05, 3 * time.Second, 150},
		{"dns, small", 90, 900, dns, datagram.Config{Proven: true}, 0, 500 * time.Millisecond, 90},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMedium(tt.up, tt.down, 10*time.Millisecond, tt.loss)
				start := time.Now()
				client, gateway := links(t, m, tt.c, tt.d)
				took := time.Since(start)
				t.Logf("%v, %d questions, %d of them polls; at most %d open; up %d, down %d", took, m.asked, m.polls, m.most, client.Max(), gateway.Max())
				if took > tt.within || m.asked > tt.most {
					t.Errorf("the handshake took %v and %d questions, want %v and %d", took, m.asked, tt.within, tt.most)
				}
				if up, down := client.Max(), gateway.Max(); up != tt.up-datagram.Overhead-12 || down != tt.down-datagram.Overhead-12 {
					t.Errorf("items of %d and %d bytes", up, down)
				}
			})
		})
	}
}

// reads counts the bytes of items that come by a link, until it ends.
func reads(reading *sync.WaitGroup, l *datagram.Link) *atomic.Int64 {
	n := new(atomic.Int64)
	reading.Go(func() {
		for {
			_, start, end, err := l.Fill()
			if err != nil {
				return
			}
			n.Add(int64(end - start))
			l.Consume(end - start)
		}
	})
	return n
}

// A client that moves, as behind a NAT that gives it another port each time, takes the place of one client at the gateway, and goes on.
func TestMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(1440, 1440, 10*time.Millisecond, 0)
		at := clientAt.Remote
		m.from = func() netip.AddrPort { return at }
		k, s := transports(t, m, Config{Polls: 1024, Hold: 12 * time.Second})
		client, gateway := connect(t, k, s, datagram.Config{})
		var reading sync.WaitGroup
		up, down := reads(&reading, gateway), reads(&reading, client)
		for i := range uint16(10) {
			m.mu.Lock()
			at = netip.AddrPortFrom(at.Addr(), 2000+i)
			m.mu.Unlock()
			exchange(t, client, gateway)
		}
		same(t, up, down)
		s.mu.Lock()
		n := len(s.clients) - s.strangers
		s.mu.Unlock()
		if n != 1 {
			t.Errorf("%d clients are known", n)
		}
		_, _ = client.Close(), gateway.Close()
		reading.Wait()
	})
}

// A connection that has ended holds no questions any more, whichever end it was, and its last word is heard.
func TestCloseGivesBack(t *testing.T) {
	for _, byClient := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := newMedium(1440, 1440, 10*time.Millisecond, 0)
			k, s := transports(t, m, Config{Polls: 1024, Hold: 12 * time.Second})
			client, gateway := connect(t, k, s, datagram.Config{})
			held := func() (places, questions int) {
				synctest.Wait()
				s.mu.Lock()
				defer s.mu.Unlock()
				for _, c := range s.clients {
					places += c.links
					questions += len(c.holding.ring)
				}
				return places, questions
			}
			if places, questions := held(); places != 1 || questions == 0 {
				t.Errorf("before: %d places, %d questions", places, questions)
			}
			first, other := gateway, client
			if byClient {
				first, other = client, gateway
			}
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			if _, _, _, err := other.Fill(); err != io.EOF && !byClient { // the test's medium ends with the client
				t.Errorf("the other end has %v, want %v", err, io.EOF)
			}
			_ = other.Close()
			if places, questions := held(); places != 0 || questions > strangerHeld {
				t.Errorf("behind the end: %d places, %d questions", places, questions)
			}
			time.Sleep(forgotten + 2*time.Second)
			synctest.Wait()
			if s.mu.Lock(); len(s.clients) != 0 {
				t.Errorf("%d clients are known", len(s.clients))
			}
			s.mu.Unlock()
		})
	}
}

// Questions with invented addresses keep nobody from a connection, nor from moving to another address.
func TestFlood(t *testing.T) {
	for _, tt := range []struct {
		name     string
		up, down int
		c        Config
		d        datagram.Config
	}{
		{"icmp", 1440, 1440, Config{Polls: 1024, Hold: 12 * time.Second, Strangers: 64}, datagram.Config{}},
		{"dns", 120, 900, Config{Bound: true, Polls: 32, Strangers: 64}, datagram.Config{Proven: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMedium(tt.up, tt.down, 10*time.Millisecond, 0)
				at := clientAt.Remote
				m.from = func() netip.AddrPort { return at }
				k, s := transports(t, m, tt.c)
				stop := make(chan struct{})
				var flood, reading sync.WaitGroup
				flood.Go(func() { strangers(m, stop) })
				time.Sleep(50 * time.Millisecond)
				start := time.Now()
				client, gateway := connect(t, k, s, tt.d)
				if took := time.Since(start); took > time.Second {
					t.Errorf("the handshake took %v", took)
				}
				up, down := reads(&reading, gateway), reads(&reading, client)
				if tt.name == "icmp" {
					m.mu.Lock()
					at = netip.AddrPortFrom(at.Addr(), 4711)
					m.mu.Unlock()
				}
				exchange(t, client, gateway)
				same(t, up, down)
				close(stop)
				flood.Wait()
				_, _ = client.Close(), gateway.Close()
				reading.Wait()
				time.Sleep(forgotten + 2*time.Second)
				if s.mu.Lock(); len(s.clients) != 0 || s.strangers != 0 {
					t.Errorf("%d clients are known, %d of them strangers", len(s.clients), s.strangers)
				}
				s.mu.Unlock()
			})
		})
	}
}

// strangers ask from an address of their own each, 50 in a millisecond, until stop is closed.
func strangers(m *medium, stop <-chan struct{}) {
	for i := uint32(0); ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
		}
		for j := range byte(50) {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), j}), 1)
			put(m.questions, Question[uint32]{From: from, Seen: from, Number: i, Back: i})
		}
	}
}

// exchange sends a packet by each of the links, a second apart.
func exchange(t *testing.T, links ...*datagram.Link) {
	t.Helper()
	packet := make([]byte, 80)
	packet[0], packet[3] = 0x45, 80
	for _, l := range links {
		if err := l.Write(packet, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
	}
}

// same fails unless as many bytes came up as down, and some did.
func same(t *testing.T, up, down *atomic.Int64) {
	t.Helper()
	if up.Load() == 0 || up.Load() != down.Load() {
		t.Errorf("%d bytes came up, and %d down", up.Load(), down.Load())
	}
}
