package gateway

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"ferry/internal/carrier"
)

// at is an entrance that is only somewhere.
type at struct{ entrance }

func (at) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv6unspecified, Port: 443} }

type atLoopback struct{ entrance }

func (atLoopback) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

// Devices are told by what they can reach the gateway, each way once, and of nothing that is for somebody else.
func TestAnnounced(t *testing.T) {
	withKey(t, func(l *lab) error {
		listening := func(scheme string, allow carrier.Modes, e entrance) *listener {
			return &listener{entrance: e, allow: allow, at: carrier.Endpoint{Scheme: scheme, Port: 443}}
		}
		l.settle() // until it serves
		before := l.g.listeners
		defer func() { l.g.listeners = before }()
		l.g.listeners = []*listener{
			listening("ssh", carrier.TLS, at{}),
			listening("udp", carrier.TLS, at{}),
			listening("tcp", carrier.TLS|carrier.Web, at{}),
			listening("tcp", carrier.Plain, at{}),
			listening("ws", carrier.TLS|carrier.Web, atLoopback{}),
			listening("vsock", carrier.TLS, at{}),
			{entrance: at{}, allow: carrier.TLS, at: carrier.Endpoint{Scheme: "dns", Host: "192.0.2.1", Port: 5353, Path: "/t.example.org"}},
			listening("icmp", carrier.TLS, at{}),
		}
		l.g.protect([]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("127.0.0.1")})
		if got, want := l.g.servers(), []string{"tcp://192.0.2.1:443", "udp://192.0.2.1:443", "icmp://192.0.2.1", "dns://t.example.org"}; !slices.Equal(got, want) {
			t.Errorf("an invitation names %v, want %v", got, want)
		}
		if got, want := l.g.carriers(), []string{"ssh://:443", "udp://:443", "tcp://:443", "wss://:443/ferry", "dns://t.example.org:5353", "icmp://"}; !slices.Equal(got, want) {
			t.Errorf("devices are told of %v, want %v", got, want)
		}
		return nil
	})
}
