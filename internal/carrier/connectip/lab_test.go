package connectip

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/carriertest"
	"ferry/internal/carrier/ws"
	"ferry/internal/identity"
)

// patience is how long a test waits for what should come at once: the machine may be busy.
const patience = 20 * time.Second

func everybody(identity.Protocol, identity.Public) error { return nil }

// An arrived client is what a gateway's handshake has returned.
type arrived struct {
	link     carrier.Link
	protocol identity.Protocol
	key      identity.Public
	err      error
}

// A gateway is a listener for a test.
type gateway struct {
	*Listener
	key     identity.Key
	arrived chan arrived
}

// newGateway listens on loopback and answers all who come as a gate says, whose TLS is that of a new key.
func newGateway(t testing.TB, g Gate) *gateway {
	t.Helper()
	key := identity.NewKey()
	if g.TLS == nil {
		g.TLS = key.Server(everybody)
	}
	l, err := Listen(t.Context(), carrier.Endpoint{Scheme: "connect-ip", Host: "127.0.0.1"}, key.Outer())
	if err != nil {
		t.Fatal(err)
	}
	gw := &gateway{l, key, make(chan arrived, 8)}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			p, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				link, protocol, key, err := p.Handshake(ctx, g)
				gw.arrived <- arrived{link, protocol, key, err}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		all.Wait()
		close(gw.arrived)
		for a := range gw.arrived {
			if a.link != nil {
				_ = a.link.Close()
			}
		}
	})
	return gw
}

func (g *gateway) endpoint() carrier.Endpoint {
	return endpointOf(g.Addr().(Addr).AddrPort())
}

func endpointOf(at netip.AddrPort) carrier.Endpoint {
	return carrier.Endpoint{Scheme: "connect-ip", Host: at.Addr().String(), Port: uint32(at.Port())}
}

// next waits for what has become of the next client.
func (g *gateway) next(t testing.TB) arrived {
	t.Helper()
	a := await(t, g.arrived)
	if a.link != nil {
		t.Cleanup(func() { _ = a.link.Close() })
	}
	return a
}

// pair returns both ends of a connection of Ferry's own.
func pair(t testing.TB) (client, gateway carrier.Link) {
	t.Helper()
	g := newGateway(t, Gate{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err := Dial(ctx, g.endpoint(), nil, identity.NewKey().Client(identity.Tunnel, g.key.Public().Pin()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	a := g.next(t)
	if a.err != nil {
		t.Fatal(a.err)
	}
	return client, a.link
}

func TestLink(t *testing.T) {
	t.Run("connect-ip", func(t *testing.T) {
		carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) { return pair(t) })
	})
	t.Run("connect-ip+h1", func(t *testing.T) {
		carriertest.TestLink(t, func(t testing.TB) (client, gateway carrier.Link) {
			a, b := streams(t)
			return carrier.NewStream(a), carrier.NewStream(b)
		})
	})
}

// newGateway1 listens for HTTP/1.1 over TLS on loopback, and answers all who come as a gate says.
func newGateway1(t testing.TB, g Gate) (carrier.Endpoint, <-chan Guest) {
	t.Helper()
	key := identity.NewKey()
	if g.TLS == nil {
		g.TLS = key.Server(everybody)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	guests := make(chan Guest, 8)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			all.Go(func() {
				var guest Guest
				_, err := ws.AcceptTLS(t.Context(), conn, "/ferry", key.Outer(), ws.Takers{Token: func(conn net.Conn, r *http.Request) (_ net.Conn, err error) {
					guest, err = Accept(conn, r, g)
					return guest.Inside, err
				}})
				if err != nil {
					_ = conn.Close()
					return
				}
				guests <- guest
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	at := l.Addr().(*net.TCPAddr)
	return carrier.Endpoint{Scheme: "connect-ip+h1", Host: "127.0.0.1", Port: uint32(at.Port)}, guests
}

// streams returns both ends of a stream of bytes of Ferry's own.
func streams(t testing.TB) (client, gateway net.Conn) {
	t.Helper()
	e, guests := newGateway1(t, Gate{})
	client, err := DialStream(t.Context(), e, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client, await(t, guests).Inside
}

// await waits for what should come at once.
func await[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("nobody came")
	}
	return v
}
