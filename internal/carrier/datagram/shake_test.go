package datagram

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"ferry/internal/identity"
	"ferry/internal/proto"
)

func hello(i int) []byte {
	return proto.AppendHello(nil, proto.HelloMessage{Name: fmt.Sprint("item ", i)})
}

// Whatever a network does, short of losing all: the handshake succeeds, and what must not be lost comes in order, both ways.
// exam: F8
func TestLossyNetwork(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		loss := rapid.Float64Range(0, 0.3).Draw(rt, "loss")
		twice := rapid.Float64Range(0, 0.5).Draw(rt, "twice")
		jitter := time.Duration(rapid.IntRange(0, 50).Draw(rt, "jitter")) * time.Millisecond
		count := rapid.IntRange(1, 300).Draw(rt, "items")
		var failed string
		synctest.Test(t, func(t *testing.T) {
			x := newLab(t, Config{})
			defer x.close()
			x.change(lossy(rand.New(rand.NewPCG(seed, 1)), loss, twice, 10*time.Millisecond, jitter))
			client, gateway := x.connect(clientAt)
			atClient, atGateway := drain(client), drain(gateway)
			var want []byte
			for i := range count {
				want = append(want, hello(i)...)
				if err := client.Write(hello(i), nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := gateway.Write(want, nil); err != nil {
				t.Fatal(err)
			}
			for range 1200 {
				if len(atGateway.got()) == len(want) && len(atClient.got()) == len(want) {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			if got := atGateway.got(); !bytes.Equal(got, want) {
				failed = fmt.Sprintf("at the gateway: %d bytes, want %d; %v", len(got), len(want), gateway.failure())
			}
			if got := atClient.got(); !bytes.Equal(got, want) {
				failed = fmt.Sprintf("at the client: %d bytes, want %d; %v", len(got), len(want), client.failure())
			}
			synctest.Wait()
			_, _ = client.Close(), gateway.Close()
			<-atClient.done
			<-atGateway.done
		})
		if failed != "" {
			rt.Fatal(failed)
		}
	})
}

// Without loss the handshake takes one round trip, and an item is there half a one later.
func TestRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		x.change(lossy(rand.New(rand.NewPCG(1, 1)), 0, 0, 10*time.Millisecond, 0))
		start := time.Now()
		client, gateway := x.connect(clientAt)
		defer client.Close()
		defer gateway.Close()
		defer gateway.Release()
		defer client.Release()
		if err := client.Write(hello(0), nil); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := gateway.Fill(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 41*time.Millisecond {
			t.Errorf("the first item took %v, want 40ms: two round trips", took)
		}
		synctest.Wait()
		if n := client.levels[levelData].sending.bytes; n == 0 {
			t.Error("acknowledged before it was read")
		}
	})
}

// Packets that overtake each other cost no timeout.
func TestReordered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		delay := 20 * time.Millisecond
		x.change(func(netip.AddrPort, netip.AddrPort, []byte) []time.Duration {
			delay -= time.Millisecond
			return []time.Duration{delay}
		})
		start := time.Now()
		client, gateway := x.connect(clientAt)
		if took := time.Since(start); took > 60*time.Millisecond { // three ways of 20
			t.Errorf("it took %v", took)
		}
		_, _ = client.Close(), gateway.Close()
	})
}

// A client that does not hear that the gateway is done asks until it does.
func TestUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		plain := x.fate
		x.change(func(from, to netip.AddrPort, p []byte) []time.Duration {
			if from.String() == gatewayAt && !isLong(p) {
				return nil
			}
			return plain(from, to, p)
		})
		client, gateway := x.connect(clientAt)
		a, b := drain(client), drain(gateway)
		time.Sleep(2 * time.Second)
		x.change(plain)
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := errors.Join(client.failure(), gateway.failure()); err != nil || !client.shaken {
			t.Errorf("%v; the client knows: %v", err, client.shaken)
		}
		_, _ = client.Close(), gateway.Close()
		<-a.done
		<-b.done
	})
}

// The ids of a handshake are part of it.
func TestForeignParameters(t *testing.T) {
	l := newLink(newEndpoint(new(wire)), 7, 5, Addr{Remote: netip.MustParseAddrPort(clientAt)})
	for _, tt := range []struct {
		p  parameters
		ok bool
	}{
		{parameters{id: 5, max: 1300}, true}, {parameters{id: 6, max: 1300}, false}, {parameters{id: 5, max: smallestMax - 1}, false},
	} {
		if err := l.told(appendParameters(tt.p)); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt.p, err)
		}
	}
	if l.told([]byte{1, 2}) == nil || l.max != 1300 {
		t.Errorf("max %d", l.max)
	}
}

// Before the client has answered, the gateway sends no more than came: whatever is lost, and also to one who never answers.
// exam: R15
func TestAmplification(t *testing.T) {
	for _, seed := range []uint64{0, 1, 2, 3, 4, 5, 6, 7} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newLab(t, Config{})
				defer x.close()
				r := rand.New(rand.NewPCG(seed, 1))
				from, sent := netip.MustParseAddrPort(clientAt), netip.MustParseAddrPort(gatewayAt)
				came := 0
				x.change(func(a, _ netip.AddrPort, p []byte) []time.Duration {
					if a == from {
						if seed > 0 && r.IntN(2) == 0 {
							return nil
						}
						came += len(p)
						return []time.Duration{time.Millisecond}
					}
					if x.network.sent[sent] > came {
						t.Errorf("%d bytes were sent for %d", x.network.sent[sent], came)
					}
					return nil // the client hears nothing
				})
				if _, err := x.dial(clientAt, identity.NewKey(), x.gateway.Public().Pin()); err == nil {
					t.Error("connected")
				}
				if x.by(gatewayAt) == 0 {
					t.Error("the gateway has sent nothing")
				}
			})
		})
	}
}

// Once there is a crowd, who comes has to show a cookie; a wrong one is of no use.
func TestCookies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{Cookies: 3, Handshakes: 8})
		defer x.close()
		forge := func(i int) { // a hello from somebody else's address
			p := appendLong(nil, longHeader{kind: typeInitial, id: uint64(i + 1)})
			p = append(p, make([]byte, smallest-len(p))...)
			x.arrive(netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), uint16(i+1)), netip.MustParseAddrPort(gatewayAt), p)
		}
		for i := range 100 {
			forge(i)
		}
		synctest.Wait()
		if n := x.listener.open.Load(); n != 3 {
			t.Errorf("%d handshakes are open, want 3", n)
		}
		client, gateway := x.connect(clientAt)
		if !gateway.path.proven || client.cookie == nil {
			t.Error("no cookie was wanted")
		}
		p := appendLong(nil, longHeader{kind: typeCookie, id: 4242, cookie: client.cookie})
		x.arrive(client.e.t.(*memory).at, netip.MustParseAddrPort(gatewayAt), append(p, make([]byte, smallest)...))
		synctest.Wait()
		if got := x.listener.Drops()["cookie"]; got != 1 {
			t.Errorf("%d wrong cookies were counted, want 1: %v", got, x.listener.Drops())
		}

		time.Sleep(cookieLife + 2*time.Second)
		p = appendLong(nil, longHeader{kind: typeCookie, id: client.client, cookie: client.cookie})
		x.arrive(netip.MustParseAddrPort(clientAt), netip.MustParseAddrPort(gatewayAt), append(p, make([]byte, smallest)...))
		x.change(func(netip.AddrPort, netip.AddrPort, []byte) []time.Duration { return nil })
		synctest.Wait()
		_, _ = client.Close(), gateway.Close()
		x.arrive(netip.MustParseAddrPort(clientAt), netip.MustParseAddrPort(gatewayAt), append(p, make([]byte, smallest)...))
		synctest.Wait()
		if got := x.listener.Drops()["cookie"]; got != 2 {
			t.Errorf("an old cookie is taken: %v", x.listener.Drops())
		}
	})
}

// However many come with good cookies, there is an end.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &lab{network: newNetwork(), t: t, gateway: identity.NewKey()}
		l := Listen(x.open(gatewayAt, 1472), Config{Cookies: 2, Handshakes: 5})
		for i := range 20 {
			from := Addr{Remote: netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("203.0.113.%d", i)), 5)}
			p := appendLong(nil, longHeader{kind: typeCookie, id: uint64(i + 1), cookie: l.cookie(uint64(i+1), from, l.now())})
			x.arrive(from.Remote, netip.MustParseAddrPort(gatewayAt), append(p, make([]byte, smallest)...))
		}
		synctest.Wait()
		if n, drops := l.open.Load(), l.Drops()["crowd"]; n != 5 || drops != 15 {
			t.Errorf("%d are open and %d were turned away, want 5 and 15", n, drops)
		}
		for range 5 {
			p, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			p.Close()
		}
		if n := l.open.Load(); n != 0 || len(l.e.links) != 0 || len(l.e.shakes) != 0 {
			t.Errorf("%d are open, %d and %d are known; want none", n, len(l.e.links), len(l.e.shakes))
		}
		_ = l.Close()
		if _, err := l.Accept(); err == nil {
			t.Error("a closed listener accepts")
		}
	})
}

func TestWrongKeys(t *testing.T) {
	device := identity.NewKey()
	t.Run("the gateway's", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			x := newLab(t, Config{})
			defer x.close()
			_, err := x.dial(clientAt, device, identity.NewKey().Public().Pin())
			if !errors.Is(err, identity.ErrWrongKey) || !errors.Is(err, ErrHandshake) {
				t.Errorf("client: got %v, want %v", err, identity.ErrWrongKey)
			}
			if err := <-x.errs; !errors.Is(err, tls.AlertError(42)) {
				t.Errorf("gateway: got %v, want the alert bad_certificate", err)
			}
		})
	})
	t.Run("the device's", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			x := newLab(t, Config{})
			defer x.close()
			x.server = x.gateway.Server(func(identity.Protocol, identity.Public) error { return errStranger })
			client, err := x.dial(clientAt, device, x.gateway.Public().Pin())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if _, _, _, err = client.Fill(); !errors.Is(err, tls.AlertError(42)) {
				t.Errorf("client: got %v, want the alert bad_certificate", err)
			}
			if err := <-x.errs; !errors.Is(err, errStranger) {
				t.Errorf("gateway: got %v, want %v", err, errStranger)
			}
			if len(x.listener.e.links) != 0 || x.listener.open.Load() != 0 {
				t.Error("something is left")
			}
		})
	})
	t.Run("no common protocol", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			x := newLab(t, Config{})
			defer x.close()
			x.server.NextProtos = []string{"other"}
			if _, err := x.dial(clientAt, device, x.gateway.Public().Pin()); !errors.Is(err, tls.AlertError(120)) {
				t.Errorf("got %v, want the alert no_application_protocol", err)
			}
		})
	})
}

// A gateway that was restarted says so at the first packet; what a stranger says does not count.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		client, _ := x.connect(clientAt)
		s := drain(client)
		synctest.Wait()
		x.change(func(netip.AddrPort, netip.AddrPort, []byte) []time.Duration { return nil }) // it has no time to say anything
		x.close()
		x.change(lossy(rand.New(rand.NewPCG(1, 1)), 0, 0, 10*time.Millisecond, 0))
		x.serve(Config{})
		x.listener.Answer(x.server)
		defer x.close()
		x.arrive(netip.MustParseAddrPort(gatewayAt), netip.MustParseAddrPort(clientAt), appendFixed(nil, typeUnknown, client.peer, make([]byte, tokenLen)))
		synctest.Wait()
		if err := client.failure(); err != nil {
			t.Fatalf("a stranger has ended the connection: %v", err)
		}
		sent := x.by(gatewayAt)
		start := time.Now()
		if _, err := client.TryWrite(proto.AppendPing(nil, []byte{1})); err != nil {
			t.Fatal(err)
		}
		if err := s.end(t); err != ErrLost || time.Since(start) > 21*time.Millisecond {
			t.Errorf("got %v after %v, want %v after a round trip", err, time.Since(start), ErrLost)
		}
		if n := x.by(gatewayAt) - sent; n != lostLen {
			t.Errorf("the gateway has sent %d bytes, want %d", n, lostLen)
		}
		_ = client.Close()
	})
}
