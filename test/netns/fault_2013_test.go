package netns

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"ferry/internal/client"
	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// A server2013 does what the C server of 2013 does: it sends each reply twice, which is the request with
// other addresses, and gives back keepalives. That one takes what one read returns for one packet, and
// loses what was coalesced; this one counts such reads and passes all on. It keeps every byte that came.
type server2013 struct {
	l net.Listener
	// answer returns the bytes that the n-th connection (from 0) gets for an address request.
	answer func(n int, request []byte, addr netip.Addr) []byte

	mu        sync.Mutex
	clients   map[netip.Addr]net.Conn
	streams   []*bytes.Buffer // by connection
	coalesced int             // reads that did not return one whole packet
}

// twice is the answer of the C server.
func twice(_ int, request []byte, addr netip.Addr) []byte {
	b := slices.Concat(request[:12], []byte{0, 0, 0, 0}, addr.AsSlice())
	return slices.Concat(b, b)
}

func newServer2013(t *testing.T, ns *lab.Namespace, answer func(int, []byte, netip.Addr) []byte) *server2013 {
	t.Helper()
	s := &server2013{answer: answer, clients: map[netip.Addr]net.Conn{}}
	err := ns.Do(func() (err error) {
		s.l, err = net.Listen("tcp4", ":2002")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { // ends with the listener
		for n := 0; ; n++ {
			conn, err := s.l.Accept()
			if err != nil {
				return
			}
			stream := new(bytes.Buffer)
			s.mu.Lock()
			s.streams = append(s.streams, stream)
			s.mu.Unlock()
			t.Cleanup(func() { _ = conn.Close() })
			serving.Go(func() { s.serve(n, conn, stream) })
		}
	})
	t.Cleanup(func() { _ = s.l.Close() })
	return s
}

// serve reads until the connection ends.
func (s *server2013) serve(n int, conn net.Conn, stream *bytes.Buffer) {
	defer conn.Close()
	var rest []byte
	for b := make([]byte, 65536); ; {
		size, err := conn.Read(b)
		if err != nil {
			return
		}
		rest = append(rest, b[:size]...)
		s.mu.Lock()
		stream.Write(b[:size])
		packets := 0
		for ; len(rest) > 0; packets++ {
			length := itemLen(rest)
			if length == 0 || length > len(rest) {
				break
			}
			s.packet(n, conn, rest[:length])
			rest = rest[length:]
		}
		if packets != 1 || len(rest) > 0 {
			s.coalesced++
		}
		s.mu.Unlock()
	}
}

// packet treats a packet. The caller holds mu.
func (s *server2013) packet(n int, conn net.Conn, b []byte) {
	src, dst := rawvpn.Src(b), rawvpn.Dst(b)
	switch {
	case isKeepalive(b):
		_, _ = conn.Write(b)
	case dst.IsUnspecified():
		addr := src
		if src.IsUnspecified() {
			addr = netip.AddrFrom4([4]byte{10, 0, 254, byte(254 - len(s.clients))})
		}
		s.clients[addr] = conn
		_, _ = conn.Write(s.answer(n, b, addr))
	case s.clients[dst] != nil:
		_, _ = s.clients[dst].Write(b)
	}
}

func isKeepalive(b []byte) bool {
	return bytes.Equal(b[12:20], bytes.Repeat([]byte{255}, 8))
}

// stream returns what came on the n-th connection.
func (s *server2013) stream(n int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n >= len(s.streams) {
		return nil
	}
	return slices.Clone(s.streams[n].Bytes())
}

// itemLen returns the length of what a client has sent, as protocol-2013 says; 0 while that can not be
// told, or never can.
func itemLen(b []byte) int {
	switch {
	case len(b) < 20:
		return 0
	case b[0]>>4 == 6:
		return 40 + int(binary.BigEndian.Uint16(b[4:]))
	case isKeepalive(b), rawvpn.Dst(b).IsUnspecified():
		return 20
	case b[0]>>4 == 4:
		return int(binary.BigEndian.Uint16(b[2:]))
	}
	return 0
}

// items cuts a stream. What is left over at its end is on its way.
func items(t *testing.T, b []byte) (all [][]byte) {
	t.Helper()
	for {
		n := itemLen(b)
		if n > len(b) || n == 0 {
			if len(b) > 1500 {
				t.Errorf("%d bytes without an end begin with % x", len(b), b[:20])
			}
			return all
		}
		all = append(all, b[:n])
		b = b[n:]
	}
}

// TestServer2013 has two vpncli with a server of 2013 between them (exam C).
func TestServer2013(t *testing.T) {
	t.Parallel()
	const size = 3 << 20 // bytes
	n := newNetwork(t)
	s := newServer2013(t, n.gw, twice)
	file := filepath.Join(t.TempDir(), "vpncli.toml")
	writeFile(t, file, "keepalive = '300ms'\n")
	one := newClient(t, n.c1, "-s", gatewayC1, "--config", file)
	e := one.event(client.EventConnected, 0)
	if e.Address.String() != "10.0.254.254" || e.Prefix.String() != "10.0.0.0/16" || e.Protocol != "2013" || e.MTU != 1500 {
		t.Fatalf("got %+v, want 10.0.254.254 of 10.0.0.0/16, MTU 1500, protocol 2013", e)
	}
	two := newClient(t, n.c2, "-s", gatewayC2, "-a", "10.0.3.4", "--config", file)
	if got := two.waitConnected(); got != "10.0.3.4" {
		t.Fatalf("got %s, want 10.0.3.4", got)
	}
	for range 5 { // one after the other, so that each packet must come by itself
		ping(t, n.c1, "10.0.3.4", 1)
		ping(t, n.c2, "10.0.254.254", 1)
	}
	s.mu.Lock()
	if s.coalesced > 0 {
		t.Errorf("%d packets were lost for a server that takes one read for one packet", s.coalesced)
	}
	s.mu.Unlock()
	transfer(t, n.c1, n.c2, "10.0.3.4", size, patience) // in super-packets, as the kernel hands them over

	for i := range 2 {
		keepalives := func() (count int) {
			for _, item := range items(t, s.stream(i)) {
				if isKeepalive(item) {
					count++
				}
			}
			return count
		}
		seen := keepalives()
		until(t, patience, "keepalives come", func() bool { return keepalives() >= seen+3 })
		full := check2013(t, s.stream(i))
		t.Logf("client %d: %d packets of full length", i, full)
		if i == 0 && full < size/1500 {
			t.Errorf("%d packets of full length, want those of %d bytes", full, size)
		}
	}
	for _, d := range []*device{one, two} {
		if lost := d.Count(`"event":"lost"`); lost > 0 {
			t.Errorf("%s has lost its connection %d times", d.ns.Name, lost)
		}
	}
}

// check2013 checks that a 2013 server can understand all that a client has sent, and returns how many
// packets were as long as they may be, or nearly.
func check2013(t *testing.T, stream []byte) (full int) {
	t.Helper()
	for i, item := range items(t, stream) {
		switch {
		case isKeepalive(item):
		case rawvpn.Dst(item).IsUnspecified():
			if i > 0 {
				t.Errorf("item %d is a request", i)
			}
		case item[0]>>4 != 4 || len(item) > 1500:
			t.Errorf("item %d: %d bytes, begins with % x", i, len(item), item[:20])
		default:
			if err := rawvpn.Intact(item); err != nil {
				t.Errorf("item %d: %v: % x", i, err, item[:40])
			}
			if len(item) > 1400 {
				full++
			}
		}
	}
	return full
}

// TestReflection has servers that give a request back as it came: that is no address. What comes later
// is (exam C).
func TestReflection(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		args        []string
		want        string
		connections int // until there is an address
		answer      func(n int, request []byte, addr netip.Addr) []byte
	}{
		{"and then an address", nil, "10.0.254.254", 1, func(n int, request []byte, addr netip.Addr) []byte {
			return slices.Concat(request, request, twice(n, request, addr))
		}},
		{"of a static request", []string{"-a", "10.0.3.4"}, "10.0.3.4", 2, func(n int, request []byte, addr netip.Addr) []byte {
			if n == 0 {
				return request
			}
			return twice(n, request, addr)
		}},
		{"another address than was asked for", []string{"-a", "10.0.3.4"}, "10.0.3.4", 2, func(n int, request []byte, addr netip.Addr) []byte {
			if n == 0 {
				addr = netip.MustParseAddr("10.0.3.5")
			}
			return twice(n, request, addr)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNetwork(t)
			s := newServer2013(t, n.gw, test.answer)
			d := newClient(t, n.c1, append([]string{"-s", gatewayC1}, test.args...)...)
			if got := d.waitConnected(); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if s.stream(test.connections-1) == nil || s.stream(test.connections) != nil {
				t.Errorf("connected %d times, want %d", len(s.streams), test.connections)
			}
			if got := run(t, n.c1, "ip -4 -brief address show dev ferry0"); !bytes.Contains([]byte(got), []byte(test.want+"/16")) {
				t.Errorf("got interface %q, want %s", got, test.want)
			}
		})
	}
}

// TestSmuggle2013 puts what a kernel would never send on the TUN of a client, with a server that keeps
// every byte: nothing of it gets there, what is in order does.
// exam: M9
func TestSmuggle2013(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	s := newServer2013(t, n.gw, twice)
	newClient(t, n.c1, "-s", gatewayC1).waitConnected()
	own, ones := netip.MustParseAddr("10.0.254.254"), netip.MustParseAddr("255.255.255.255")
	zero, other := netip.IPv4Unspecified(), netip.MustParseAddr("10.0.3.4")
	from, to := netip.AddrPortFrom(own, 1), netip.AddrPortFrom(other, 2)
	changed := func(f func(ip []byte)) []byte {
		b := rawvpn.Datagram(from, to, []byte("smuggled"))
		f(b)
		return b
	}
	solicitation := append([]byte("\x60\x00\x00\x00\x00\x08\x3a\xff\xfe\x80"), make([]byte, 38)...)
	for _, b := range [][]byte{
		changed(func(b []byte) { b[3] += 20 }),
		changed(func(b []byte) { b[3] -= 4 }),
		changed(func(b []byte) { b[2], b[3] = 0xff, 0xff }),
		changed(func(b []byte) { b[2], b[3] = 0, 0 }),
		changed(func(b []byte) { b[0] = 0x44 }),
		changed(func(b []byte) { b[0] = 0x4f }),
		rawvpn.IPv4(own, zero, rawvpn.UDP, make([]byte, 8)),
		rawvpn.IPv4(zero, zero, rawvpn.UDP, make([]byte, 8)),
		rawvpn.IPv4(other, zero, rawvpn.UDP, nil),
		rawvpn.IPv4(ones, ones, rawvpn.UDP, make([]byte, 8)),
		rawvpn.Keepalive(0),
		rawvpn.Control(anyAddr, anyAddr),
		solicitation,
	} {
		sendRaw(t, n.c1, "ferry0", b)
	}
	good := rawvpn.Datagram(from, to, []byte("in order"))
	sendRaw(t, n.c1, "ferry0", good)
	until(t, patience, "the good packet comes", func() bool { return bytes.Contains(s.stream(0), []byte("in order")) })
	stream := s.stream(0)
	for i, item := range items(t, stream) {
		if want := fmt.Sprintf("% x", good); i > 0 && fmt.Sprintf("% x", item) != want {
			t.Errorf("item %d: got % x, want %s", i, item, want)
		}
	}
	if bytes.Contains(stream, []byte("smuggled")) {
		t.Errorf("got % x", stream)
	}
}
