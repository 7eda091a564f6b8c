package datagram

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/identity"
)

// A lopsided transport takes other datagrams than it sends, only a few at a time, and wants to know who is no stranger.
type lopsided struct {
	*memory
	takes int
	few   int // 0: all
	sent  []int
	crowd bool
	told  []string
}

func (l *lopsided) Takes(Addr) int    { return l.takes }
func (l *lopsided) Crowded(Addr) bool { return l.crowd }
func (l *lopsided) Come(a Addr)       { l.tell("come", a) }
func (l *lopsided) Proven(a Addr)     { l.tell("proven", a) }
func (l *lopsided) Left(a Addr)       { l.tell("left", a) }

func (l *lopsided) tell(what string, a Addr) {
	l.told = append(l.told, what+" "+a.Remote.String())
}

func (l *lopsided) Send(b []byte, lens []int, to Addr, wait bool) (int, error) {
	if l.few > 0 && !wait {
		lens = lens[:min(len(lens), l.few)]
	}
	l.sent = append(l.sent, lens...)
	return l.memory.Send(b, lens, to, wait)
}

// small connects over datagrams of 120 bytes up and 900 down.
func small(t *testing.T, x *network, c Config, few int, crowd bool) (client, gateway *Link, up, down *lopsided) {
	t.Helper()
	down = &lopsided{memory: x.open(gatewayAt, 900), takes: 120, crowd: crowd}
	up = &lopsided{memory: x.open(clientAt, 120), takes: 900, few: few}
	key := identity.NewKey()
	l := Listen(down, c)
	t.Cleanup(func() { _ = l.Close() })
	come := make(chan *Link, 1)
	go func() { // ends with the handshake
		defer close(come)
		if p, err := l.Accept(); err == nil {
			if link, _, _, err := p.Handshake(t.Context(), key.Server(everybody)); err == nil {
				come <- link
			}
		}
	}()
	client, err := Dial(t.Context(), up, Addr{Remote: netip.MustParseAddrPort(gatewayAt)}, identity.NewKey().Client(identity.Tunnel, key.Public().Pin()))
	if err != nil {
		t.Fatal(err)
	}
	gateway, ok := <-come
	if !ok {
		t.Fatal("the gateway has no connection")
	}
	t.Cleanup(func() { _, _ = client.Close(), gateway.Close() })
	return client, gateway, up, down
}

// Each end sends what the other one takes, which is told that it knows the client.
func TestLopsided(t *testing.T) {
	for _, tt := range []struct {
		name  string
		c     Config
		loss  float64
		limit time.Duration
		most  int // datagrams of the client
		crowd bool
		want  bool // a cookie is
	}{
		{"a transport that proves addresses", Config{Proven: true}, 0, 65 * time.Millisecond, 45, false, false},
		{"one that proves addresses, and knows too many", Config{Proven: true}, 0, 65 * time.Millisecond, 45, true, false},
		{"one that does not", Config{}, 0, 110 * time.Millisecond, 45, false, false},
		{"one that does not, and knows too many", Config{}, 0, 2 * time.Second, 80, true, true},
		{"with a cookie", Config{Cookies: -1}, 0, 2 * time.Second, 80, false, true},
		{"5 % are lost", Config{Proven: true}, 0.05, 2 * time.Second, 100, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newNetwork()
				x.change(lossy(rand.New(rand.NewPCG(3, 4)), tt.loss, 0, 10*time.Millisecond, 0))
				start := time.Now()
				client, gateway, up, down := small(t, x, tt.c, 0, tt.crowd)
				took := time.Since(start)
				t.Logf("%v, %d datagrams up, %d down", took, len(up.sent), len(down.sent))
				if took > tt.limit || len(up.sent) > tt.most {
					t.Errorf("the handshake took %v and %d datagrams, want %v and %d", took, len(up.sent), tt.limit, tt.most)
				}
				const header = Overhead + 12
				if client.Max() != 120-header || gateway.Max() != 900-header {
					t.Errorf("items of %d and %d bytes", client.Max(), gateway.Max())
				}
				if got := client.cookie != nil; got != tt.want {
					t.Errorf("a cookie was shown: %v, want %v", got, tt.want)
				}
				sums := map[string]int{}
				for name, sent := range map[string][]int{"up": up.sent, "down": down.sent} {
					for _, n := range sent {
						sums[name] += n
					}
				}
				if !tt.c.Proven && tt.loss == 0 && sums["down"] > sums["up"] {
					t.Errorf("%d bytes up, %d down", sums["up"], sums["down"])
				}
				_, _ = client.Close(), gateway.Close()
				if want := []string{"come " + clientAt, "proven " + clientAt, "left " + clientAt}; !slices.Equal(down.told, want) || len(up.told) > 0 {
					t.Errorf("the transports were told %v and %v, want %v", down.told, up.told, want)
				}
			})
		})
	}
}

// What a transport has no room for is sent a moment later, each once, however many small datagrams it takes.
func TestNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newNetwork()
		x.change(lossy(rand.New(rand.NewPCG(3, 4)), 0, 0, 10*time.Millisecond, 0))
		client, gateway, up, _ := small(t, x, Config{Proven: true}, 8, false)
		atGateway := drain(gateway)
		atClient := drain(client)
		var want []byte
		for i := 0; len(want) < 50<<10; i++ {
			want = append(want, hello(i)...)
		}
		before, start := len(up.sent), time.Now()
		if err := client.Write(want, nil); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if len(atGateway.got()) == len(want) {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		took, sent := time.Since(start), len(up.sent)-before
		t.Logf("%v, %d datagrams", took, sent)
		if got := atGateway.got(); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes have come, want %d", len(got), len(want))
		}
		if least := len(want)/75 + 1; took > 4*time.Second || sent > 2*least {
			t.Errorf("it took %v and %d datagrams, of which %d are needed", took, sent, least)
		}
		_, _ = client.Close(), gateway.Close()
		<-atGateway.done
		<-atClient.done
	})
}

// Segments are split where they are too long now, and nothing is lost or moved by that.
func TestSplit(t *testing.T) {
	var s sending
	data := make([]byte, 1000)
	for i := range data {
		data[i] = byte(i)
	}
	s.add(data, 300, time.Now())
	s.split(70)
	next, n := uint64(0), 0
	for _, g := range s.segments {
		if g.offset != next || len(g.data) == 0 || len(g.data) > 70 || !bytes.Equal(g.data, data[next:g.end()]) {
			t.Errorf("a segment of %d bytes at %d, want it at %d", len(g.data), g.offset, next)
		}
		next, n = g.end(), n+1
	}
	s.add(data[:10], 70, time.Now())
	if next != 1000 || n != 3*5+2 || s.next != 1010 || !bytes.Equal(s.segments[n-1].data[:30], data[970:]) {
		t.Errorf("%d segments, up to %d", n, next)
	}
}

// The error of a transport is that of its connections.
func TestTransportError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(&failing{memory: newNetwork().open(clientAt, 1000)})
		l := newLink(e, 1, 1, Addr{Remote: netip.MustParseAddrPort(gatewayAt)})
		e.add(l)
		e.run()
		if err := l.failure(); err != errStranger {
			t.Errorf("got %v, want %v", err, errStranger)
		}
	})
}

// Who accepts hears of the end of a transport, whether or not somebody closes the listener.
func TestTransportEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Listen(&failing{memory: newNetwork().open(gatewayAt, 1000)}, Config{})
		if _, err := l.Accept(); err != net.ErrClosed {
			t.Errorf("got %v, want %v", err, net.ErrClosed)
		}
		_ = l.Close()
	})
}

// A failing transport receives nothing but an error.
type failing struct{ *memory }

func (failing) Receive([]*Chunk) (int, error) { return 0, errStranger }
