package udp

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/datagram"
	"ferry/internal/identity"
)

func everybody(identity.Protocol, identity.Public) error { return nil }

// endpointOf returns what to dial to reach a listener.
func endpointOf(a net.Addr) carrier.Endpoint {
	ap := netip.MustParseAddrPort(a.String())
	host := ap.Addr()
	if host.IsUnspecified() {
		host = netip.MustParseAddr("127.0.0.1")
	}
	return carrier.Endpoint{Scheme: "udp", Host: host.String(), Port: uint32(ap.Port())}
}

// listen serves a loopback address on any port.
func listen(t testing.TB, host string, c datagram.Config) *Listener {
	t.Helper()
	l, err := ListenConfig(t.Context(), carrier.Endpoint{Scheme: "udp", Host: host}, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// serveOne takes one client.
func serveOne(ctx context.Context, l *Listener, c *tls.Config) (carrier.Link, error) {
	p, err := l.Accept()
	if err != nil {
		return nil, err
	}
	link, _, _, err := p.Handshake(ctx, c)
	if err != nil {
		return nil, err
	}
	return link, nil
}

// pair returns the two ends of a connection.
func pair(t testing.TB, host string) (client, gateway carrier.Link) {
	t.Helper()
	g, d := identity.NewKey(), identity.NewKey()
	l := listen(t, host, datagram.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	type result struct {
		link carrier.Link
		err  error
	}
	served := make(chan result, 1)
	go func() {
		link, err := serveOne(ctx, l, g.Server(everybody))
		served <- result{link, err}
	}()
	client, err := Dial(ctx, endpointOf(l.Addr()), nil, d.Client(identity.Tunnel, g.Public().Pin()))
	r := <-served
	if err != nil || r.err != nil {
		t.Fatal(err, r.err)
	}
	t.Cleanup(func() { _, _ = client.Close(), r.link.Close() })
	return client, r.link
}

func TestHandshake(t *testing.T) {
	for _, host := range []string{"", "127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			client, gateway := pair(t, host)
			if client.RemoteAddr().Network() != "udp" || gateway.RemoteAddr().Network() != "udp" {
				t.Error(client.RemoteAddr().Network(), gateway.RemoteAddr().Network())
			}
			want := 1428
			if host == "::1" {
				want = 1408
			}
			if client.Max() != want || gateway.Max() != want {
				t.Errorf("max %d and %d, want %d", client.Max(), gateway.Max(), want)
			}
		})
	}
}
