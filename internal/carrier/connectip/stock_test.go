package connectip

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	stock "github.com/quic-go/connect-ip-go"
	"github.com/quic-go/quic-go"
	"github.com/yosida95/uritemplate/v3"

	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/proto"
)

var errUnknown = errors.New("a key that nobody has added")

// dialStock comes as a client of connect-ip-go, with a certificate of a key; zero: none.
func dialStock(t testing.TB, g *gateway, key identity.Key) (*stock.Conn, *http.Response, error) {
	t.Helper()
	c := &tls.Config{NextProtos: []string{"h3"}, InsecureSkipVerify: true}
	if !key.IsZero() {
		b := key.PEM()
		own, err := tls.X509KeyPair(b, b)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{own}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	r, err := stock.NewRequest(ctx, uritemplate.MustNew("https://"+hostPort(g.endpoint())+Path))
	if err != nil {
		t.Fatal(err)
	}
	tr := stock.Transport{TLSClientConfig: c, QUICConfig: &quic.Config{EnableDatagrams: true, InitialPacketSize: 1350}}
	conn, answer, err := tr.Dial(r)
	if err == nil {
		late := time.AfterFunc(patience, func() { _ = conn.Close() }) // who waits for nothing fails
		t.Cleanup(func() { late.Stop(); _ = conn.Close() })
	}
	return conn, answer, err
}

// TestWho: a key that the gateway knows comes in with it, none where anybody may, and nobody else.
// exam: A1
func TestWho(t *testing.T) {
	known, strange := identity.NewKey(), identity.NewKey()
	admit := func(key identity.Public) error {
		if key != known.Public() {
			return errUnknown
		}
		return nil
	}
	for _, tt := range []struct {
		name   string
		key    identity.Key
		gate   Gate
		status int
		want   identity.Public
		err    error
	}{
		{"known", known, Gate{Admit: admit}, 200, known.Public(), nil},
		{"known, and anybody may", known, Gate{Admit: admit, Anybody: true}, 200, known.Public(), nil},
		{"unknown", strange, Gate{Admit: admit}, 403, identity.Public{}, errUnknown},
		{"unknown, and anybody may", strange, Gate{Admit: admit, Anybody: true}, 403, identity.Public{}, errUnknown},
		{"none", identity.Key{}, Gate{Admit: admit}, 403, identity.Public{}, ErrRequest},
		{"none, and anybody may", identity.Key{}, Gate{Admit: admit, Anybody: true}, 200, identity.Public{}, nil},
		{"a gateway without keys", known, Gate{}, 403, identity.Public{}, ErrRequest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t, tt.gate)
			_, answer, err := dialStock(t, g, tt.key)
			if answer == nil || answer.StatusCode != tt.status {
				t.Errorf("got %v, %v, want status %d", answer, err, tt.status)
			}
			a := g.next(t)
			if a.key != tt.want || !errors.Is(a.err, tt.err) {
				t.Errorf("the gateway has %s, %v; want %s, %v", a.key, a.err, tt.want, tt.err)
			}
		})
	}
}

// granter answers all requests of a link as a gateway does, until it ends: static ones of one address alone. What else comes goes
// to packets.
func granter(t testing.TB, l carrier.Link, static netip.Addr) (packets <-chan []byte) {
	t.Helper()
	got := make(chan []byte, 64)
	var reading sync.WaitGroup
	reading.Go(func() {
		has := netip.MustParseAddr("10.0.0.7")
		for {
			buf, start, end, err := l.Fill()
			if err != nil {
				return
			}
			for i := start; i < end; {
				k, n, err := proto.Framer{}.Next(buf[i:end])
				if err != nil || n == 0 {
					t.Errorf("no item: % x, %v", buf[i:end], err)
					return
				}
				if k == proto.KindRequest {
					if buf[i+12] != 0 && [4]byte(buf[i+12:]) == static.As4() {
						has = static
					}
					reply := append([]byte(nil), buf[i:i+n]...)
					clear(reply[12:16])
					copy(reply[16:], has.AsSlice())
					_ = l.Write(reply, nil)
				} else {
					got <- append([]byte(nil), buf[i:i+n]...)
				}
				i += n
			}
			l.Consume(end - start)
		}
	})
	t.Cleanup(func() { _ = l.Close(); reading.Wait() })
	return got
}

// TestStock: a client of connect-ip-go is given an address without a word, asks for others, is told the routes, and exchanges
// packets. It is told no other thing by the gateway that it does not understand.
func TestStock(t *testing.T) {
	g := newGateway(t, Gate{Anybody: true, Routes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}})
	conn, _, err := dialStock(t, g, identity.Key{})
	if err != nil {
		t.Fatal(err)
	}
	link := g.next(t).link
	if n := link.RemoteAddr().Network(); n != "connect-ip" {
		t.Errorf("it comes by %s", n)
	}
	packets := granter(t, link, netip.MustParseAddr("10.0.3.7"))

	given := func(want ...string) {
		t.Helper()
		got, err := conn.ReceiveAddressAssignment(t.Context())
		var texts []string
		for _, a := range got {
			texts = append(texts, fmt.Sprintf("%d %s", a.RequestID, a.IPPrefix))
		}
		if err != nil || strings.Join(texts, ", ") != strings.Join(want, ", ") {
			t.Fatalf("given %q, %v, want %q", texts, err, want)
		}
	}
	given("0 10.0.0.7/32")
	routes, err := conn.Routes(t.Context())
	if err != nil || len(routes) != 1 || routes[0].StartIP.String() != "10.0.0.0" || routes[0].EndIP.String() != "10.0.255.255" || routes[0].IPProtocol != 0 {
		t.Fatalf("routes %v, %v", routes, err)
	}
	for _, tt := range []struct{ ask, want string }{
		{"10.0.3.7/32", "1 10.0.3.7/32"},
		{"10.0.9.9/32", "2 0.0.0.0/32, 0 10.0.3.7/32"},
		{"0.0.0.0/32", "3 10.0.3.7/32"},
		{"::/128", "4 ::/128, 0 10.0.3.7/32"},
	} {
		if _, err := conn.RequestAddresses([]netip.Prefix{netip.MustParsePrefix(tt.ask)}); err != nil {
			t.Fatal(err)
		}
		given(tt.want)
	}

	own, other := netip.MustParseAddr("10.0.3.7"), netip.MustParseAddr("10.0.0.1")
	up := packetBetween(1000, own, other)
	if _, err := conn.WritePacket(bytes.Clone(up)); err != nil {
		t.Fatal(err)
	}
	if got := await(t, packets); len(got) != len(up) || got[8] != 63 {
		t.Errorf("up: %d bytes with TTL %d", len(got), got[8])
	}
	down := packetBetween(1000, other, own)
	dead := bytes.Clone(down)
	dead[8] = 1
	if err := link.Write(append(dead, down...), nil); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	if n, err := conn.ReadPacket(b); err != nil || n != len(down) || b[8] != 63 {
		t.Errorf("down: %d bytes with TTL %d, %v", n, b[8], err)
	}
	if max := link.Max(); max < 1100 || max > 1500 {
		t.Errorf("the longest packet has %d bytes", max)
	}
	_ = link.Close()
	if max := link.Max(); max < leastPacket {
		t.Errorf("behind the end the longest packet has %d bytes", max)
	}
	if err := link.Write(down[:100], nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a part of a packet: %v", err)
	}
	if _, err := conn.ReadPacket(b); err == nil {
		t.Error("the client does not hear that the gateway has gone")
	}
}

// TestStockEnds: a client that ends the session is missed at once.
func TestStockEnds(t *testing.T) {
	g := newGateway(t, Gate{Anybody: true})
	conn, _, err := dialStock(t, g, identity.Key{})
	if err != nil {
		t.Fatal(err)
	}
	link := g.next(t).link
	_ = conn.Close()
	for {
		if _, _, _, err := link.Fill(); err != nil {
			if err != io.EOF {
				t.Errorf("got %v, want EOF", err)
			}
			return
		}
	}
}

// What is no packet of IP never reaches the gateway: least of all a word of the 2013 protocol.
func TestStrange(t *testing.T) {
	ok := packetOf(100)
	long := packetOf(100)
	binary.BigEndian.PutUint16(long[2:], 101)
	control := func(src, dst uint32) []byte {
		b := make([]byte, 20)
		b[0] = 0x45
		binary.BigEndian.PutUint32(b[12:], src)
		binary.BigEndian.PutUint32(b[16:], dst)
		return b
	}
	s := &Stock{}
	s.in.Init()
	for name, d := range map[string][]byte{
		"nothing":               {},
		"no packet":             {contextIP},
		"a context of others":   append([]byte{4}, ok...),
		"a part of a context":   {0x40},
		"no version":            append([]byte{contextIP}, 0x15, 0, 0),
		"shorter than it says":  append([]byte{contextIP}, long...),
		"longer than it says":   append(append([]byte{contextIP}, ok...), 0),
		"two packets":           append(append([]byte{contextIP}, ok...), ok...),
		"an address request":    append([]byte{contextIP}, control(0, 0)...),
		"a static request":      append([]byte{contextIP}, control(0x0a000007, 0)...),
		"a keepalive":           append([]byte{contextIP}, control(0xffffffff, 0xffffffff)...),
		"an extension frame":    append([]byte{contextIP}, 0x86, 0, 0, 3, 1, 0, 0),
		"a part of IPv6":        append([]byte{contextIP}, 0x60, 0, 0, 0),
		"a header of 16 bytes":  append([]byte{contextIP, 0x44}, ok[1:]...),
		"a total length of 19":  append([]byte{contextIP}, append([]byte{0x45, 0, 0, 19}, ok[4:]...)...),
		"a control packet long": append([]byte{contextIP}, append(control(0, 0), 1, 2, 3)...),
	} {
		before := s.strange.Load()
		if s.datagram(d); s.strange.Load() != before+1 || s.in.Len() != 0 {
			t.Errorf("%s: taken", name)
		}
	}
	if s.datagram(append([]byte{contextIP}, ok...)); !bytes.Equal(waiting(s), ok) {
		t.Error("a packet was not taken")
	}
	s.in.Close()
}

// waiting returns a copy of what s has taken, nil if that is nothing, and takes it away.
func waiting(s *Stock) []byte {
	if s.in.Len() == 0 {
		return nil
	}
	b, end, err := s.in.Take()
	if err != nil {
		return nil
	}
	defer b.Release()
	return bytes.Clone(b[carrier.Headroom:end])
}

// FuzzDatagram: whatever comes, all that is handed on is whole packets of IP.
// exam: M14
func FuzzDatagram(f *testing.F) {
	f.Add(append([]byte{contextIP}, packetOf(40)...))
	f.Add([]byte{contextIP, 0x60, 0, 0, 0, 0, 0})
	f.Add(append([]byte{0x40, 0}, packetOf(20)...))
	f.Fuzz(func(t *testing.T, d []byte) {
		s := &Stock{}
		s.in.Init()
		s.datagram(d)
		item := waiting(s)
		if item == nil {
			return
		}
		if k, n, err := (proto.Framer{}).Next(item); err != nil || n != len(item) || k != proto.KindIPv4 && k != proto.KindIPv6 {
			t.Fatalf("% x: handed on as %d, %d of %d bytes, %v", d, k, n, len(item), err)
		}
		s.in.Close()
	})
}

// A client can ask for addresses only so often before it is answered.
func TestAsks(t *testing.T) {
	s := &Stock{}
	s.in.Init()
	ask := appendAddress(nil, address{1, netip.MustParsePrefix("0.0.0.0/32")})
	capsule := append(appendCapsuleHeader(nil, capsuleRequest, len(ask)), ask...)
	if err := s.readCapsules(bytes.NewReader(bytes.Repeat(capsule, maxAsks+1))); !errors.Is(err, errAsks) {
		t.Errorf("got %v", err)
	}
	for name, bad := range map[string][]byte{"nothing is asked for": {}, "an ID of 0": appendAddress(nil, address{0, netip.MustParsePrefix("0.0.0.0/32")}), "no address": {1, 7}} {
		capsule := append(appendCapsuleHeader(nil, capsuleRequest, len(bad)), bad...)
		if err := (&Stock{}).readCapsules(bytes.NewReader(capsule)); !errors.Is(err, errCapsule) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	s.in.Close()
}

// A client that says nothing has no more than the gateway's patience.
func TestSilent(t *testing.T) {
	key := identity.NewKey()
	l, err := Listen(t.Context(), carrier.Endpoint{Scheme: "connect-ip", Host: "127.0.0.1"}, key.Outer())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().(Addr).AddrPort()
	var dialing sync.WaitGroup
	defer dialing.Wait()
	dialing.Go(func() {
		q, err := quic.DialAddr(t.Context(), at.String(), &tls.Config{NextProtos: []string{"h3"}, InsecureSkipVerify: true}, &quic.Config{EnableDatagrams: true})
		if err != nil {
			t.Error(err)
			return
		}
		<-q.Context().Done()
	})
	p, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, _, _, err := p.Handshake(ctx, Gate{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestRequests3 has requests by HTTP/3 that are for something else.
func TestRequests3(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*http.Request)
		want   int
	}{
		{"another path", func(r *http.Request) { r.URL.Path = "/" }, 404},
		{"one target", func(r *http.Request) { r.URL.Path = "/.well-known/masque/ip/192.0.2.1/6/" }, 404},
		{"another protocol", func(r *http.Request) { r.Proto = "connect-udp" }, 501},
		{"a later version of Ferry", func(r *http.Request) { r.Header.Set(headerFerry, "4") }, 400},
		{"a page", func(r *http.Request) { r.Method, r.Proto = http.MethodGet, "HTTP/3.0" }, 501},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t, Gate{Anybody: true})
			status, page := ask3(t, g.endpoint(), tt.change)
			if status != tt.want || page == "" {
				t.Errorf("got %d, %q, want %d", status, page, tt.want)
			}
			if a := g.next(t); !errors.Is(a.err, ErrRequest) {
				t.Errorf("the gateway has %v", a.err)
			}
		})
	}
}
