package udp

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"sync"
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

// To an address that is not proven goes no more than came from it: to what is no packet, to one that nobody can read, and to clients
// that say hello and never answer.
// exam: R15
func TestAmplification(t *testing.T) {
	key := identity.NewKey()
	l := listen(t, "127.0.0.1", datagram.Config{Cookies: 3})
	l.Answer(key.Server(everybody))
	var serving sync.WaitGroup
	defer serving.Wait()
	defer l.Close()
	serving.Go(func() {
		for {
			p, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if _, _, _, err := p.Handshake(ctx, key.Server(everybody)); err == nil {
					t.Error("a handshake without an answer")
				}
			})
		}
	})
	var strangers sync.WaitGroup // side by side: the gateway says again what is not answered, after a second and after three
	for name, first := range map[string][][]byte{
		"no packet":          {[]byte("GET / HTTP/1.1\r\n\r\n"), {0}, make([]byte, 1400)},
		"of no connection":   {make([]byte, 40), make([]byte, 60), bytes.Repeat([]byte{7}, 1000)},
		"a broken seal":      {append([]byte{0x80, 1}, make([]byte, 1300)...), append([]byte{0x82, 1}, make([]byte, 1300)...), append([]byte{0x81, 1}, make([]byte, 100)...)},
		"hello":              hellos(t, key.Public().Pin(), 1),
		"a crowd says hello": hellos(t, key.Public().Pin(), 10),
	} {
		strangers.Go(func() {
			sent, received, err := says(l.Addr().String(), first, 4*time.Second)
			if err != nil || received > sent || strings.HasSuffix(name, "hello") && received == 0 {
				t.Errorf("%s: %d bytes were answered to %d, %v", name, received, sent, err)
			}
		})
	}
	strangers.Wait()
}

// says sends datagrams from one socket, and counts what comes in a while.
func says(to string, all [][]byte, patience time.Duration) (sent, received int, err error) {
	conn, err := net.Dial("udp4", to)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	for _, b := range all {
		n, err := conn.Write(b)
		if sent += n; err != nil {
			return sent, 0, err
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	for b := make([]byte, 2000); ; {
		n, err := conn.Read(b)
		if err != nil {
			return sent, received, nil
		}
		received += n
	}
}

// hellos returns what clients that hear nothing say first: two datagrams each.
func hellos(t *testing.T, gateway identity.Pin, count int) (all [][]byte) {
	t.Helper()
	hole, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	_ = hole.SetReadDeadline(time.Now().Add(20 * time.Second))
	ctx, cancel := context.WithCancel(t.Context())
	var dialing sync.WaitGroup
	defer dialing.Wait()
	defer cancel()
	for range count {
		dialing.Go(func() {
			_, _ = Dial(ctx, endpointOf(hole.LocalAddr()), nil, identity.NewKey().Client(identity.Tunnel, gateway))
		})
	}
	for came := map[netip.AddrPort]int{}; len(all) < 2*count; {
		b := make([]byte, 2000)
		n, from, err := hole.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatal(err)
		}
		if came[from]++; came[from] <= 2 {
			all = append(all, b[:n])
		}
	}
	return all
}
