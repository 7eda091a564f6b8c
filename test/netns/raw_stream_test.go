package netns

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"ferry/internal/gateway/settings"
	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// tap returns a function that reads the next packet which the gateway has written to vpn0.
func tap(t *testing.T, ns *lab.Namespace) func() []byte {
	t.Helper()
	fd := -1
	err := ns.Do(func() error {
		dev, err := net.InterfaceByName("vpn0")
		if err != nil {
			return err
		}
		const allIP = 0x0008 // ETH_P_IP, in network order
		fd, err = syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, allIP)
		if err != nil {
			return err
		}
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<20)
		_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 5})
		return syscall.Bind(fd, &syscall.SockaddrLinklayer{Protocol: allIP, Ifindex: dev.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	return func() []byte {
		t.Helper()
		for b := make([]byte, 65535); ; {
			n, from, err := syscall.Recvfrom(fd, b, 0)
			if err != nil {
				t.Fatalf("waiting for a packet on vpn0: %v", err)
			}
			if from.(*syscall.SockaddrLinklayer).Pkttype == syscall.PACKET_HOST {
				return b[:n]
			}
		}
	}
}

// corpus returns what a good client could send, with packets to other among it, and those packets.
func corpus(c *rawvpn.Client, other netip.Addr, random *rand.Rand) (stream []byte, packets [][]byte) {
	packet := func(size int) {
		payload := make([]byte, size)
		for i := range payload {
			payload[i] = byte(random.Uint32())
		}
		from, to := netip.AddrPortFrom(c.Lease.Addr, 4000), netip.AddrPortFrom(other, 4000)
		ip := rawvpn.Datagram(from, to, payload)
		packets = append(packets, ip)
		stream = append(stream, c.Wrap(ip)...)
	}
	solicitation := make([]byte, 48)
	copy(solicitation, "\x60\x00\x00\x00\x00\x08\x3a\xff\xfe\x80")
	packet(0)
	packet(1)
	stream = append(stream, rawvpn.Keepalive(0x4545)...)
	packet(1472) // with 28 bytes of headers the MTU
	packet(20)
	stream = append(stream, solicitation...)
	packet(577)
	stream = append(stream, rawvpn.Control(anyAddr, anyAddr)...) // again, though it has an address
	packet(8)
	if c.Lease.Features != 0 {
		stream = append(stream, rawvpn.Frame(0x84, []byte("ping"))...)
		stream = append(stream, rawvpn.Frame(0x80, make([]byte, 300))...) // of a later version
		plain := rawvpn.Datagram(netip.AddrPortFrom(c.Lease.Addr, 1), netip.AddrPortFrom(other, 2), make([]byte, 99))
		packets = append(packets, plain)
		stream = append(stream, plain...) // bare, which is allowed too
	}
	for range 5 {
		packet(random.IntN(1473))
	}
	return stream, packets
}

// splits are the ways in which a stream is cut into writes.
var splits = []struct {
	name string
	next func(random *rand.Rand, rest int) int
}{
	{"whole", func(_ *rand.Rand, rest int) int { return rest }},
	{"byte by byte", func(*rand.Rand, int) int { return 1 }},
	{"small pieces", func(r *rand.Rand, _ int) int { return 1 + r.IntN(40) }},
	{"large pieces", func(r *rand.Rand, _ int) int { return 1 + r.IntN(3000) }},
}

// TestSplits sends streams in pieces over real TCP: the same packets arrive, at another client and at
// the TUN.
// exam: M2
func TestSplits(t *testing.T) {
	t.Parallel()
	n := newRawGateway(t)
	other := n.joinRaw(rawvpn.Ask{Features: rawvpn.All})
	read := tap(t, n.gw)
	for _, who := range []struct {
		name string
		ask  rawvpn.Ask
	}{{"2013", rawvpn.Ask{}}, {"extended", rawvpn.Ask{Features: rawvpn.All}}} {
		c := n.joinRaw(who.ask)
		for i, split := range splits {
			t.Run(who.name+", "+split.name, func(t *testing.T) {
				random := rand.New(rand.NewPCG(1, uint64(i)))
				stream, want := corpus(c, other.Lease.Addr, random)
				toTUN, wantTUN := corpus(c, gatewayAddr, random)
				for rest := append(stream, toTUN...); len(rest) > 0; {
					k := min(split.next(random, len(rest)), len(rest))
					send(t, c, rest[:k])
					rest = rest[k:]
				}
				for i, want := range want {
					if item, err := other.ReadItem(); err != nil || !bytes.Equal(item.Packet, want) {
						t.Fatalf("packet %d at the other client: got % x, %v, want % x", i, item.Packet, err, want)
					}
				}
				for i, want := range wantTUN {
					if got := read(); !bytes.Equal(got, want) {
						t.Fatalf("packet %d at vpn0: got % x, want % x", i, got, want)
					}
				}
				if _, err := c.Fence(); err != nil { // and what it was told itself
					t.Error(err)
				}
			})
		}
	}
	n.alive()
}

// controls are control packets with all that "can be anything" in them.
func controls(control []byte) (all [][]byte) {
	random := rand.New(rand.NewPCG(3, 3))
	for _, length := range []uint16{0, 20, 1500, 65535} {
		b := slices.Clone(control)
		binary.BigEndian.PutUint16(b[2:], length)
		all = append(all, slices.Clone(b))
		b[1], b[8], b[9] = byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())
		binary.BigEndian.PutUint32(b[4:], random.Uint32()&^0xffff0000) // an offer needs its magic
		binary.BigEndian.PutUint16(b[10:], uint16(random.Uint32()))
		all = append(all, slices.Clone(b))
		b[0] = 0x46 // exam M8
		all = append(all, slices.Clone(b))
		b[0] = 0x40
		all = append(all, b)
	}
	return all
}

// TestControl sends control packets with garbage in the free fields: 20 bytes are taken, one answer
// comes, the same packet.
// exam: M3, M8
func TestControl(t *testing.T) {
	t.Parallel()
	n := newRawGateway(t)
	other := n.joinRaw(rawvpn.Ask{})
	static := netip.MustParseAddr("10.0.3.4")
	ones := netip.MustParseAddr("255.255.255.255")
	check := func(c *rawvpn.Client, control, want []byte) {
		t.Helper()
		packet := rawvpn.Datagram(netip.AddrPortFrom(netip.AddrFrom4([4]byte(want[16:20])), 1), netip.AddrPortFrom(other.Lease.Addr, 2), []byte("behind"))
		if want[12] == 255 {
			packet = rawvpn.Datagram(netip.AddrPortFrom(c.Lease.Addr, 1), netip.AddrPortFrom(other.Lease.Addr, 2), []byte("behind"))
		}
		send(t, c, slices.Concat(control, packet))
		items, err := c.Fence()
		if err != nil || len(items) != 1 || !bytes.Equal(items[0].Raw, want) {
			t.Fatalf("% x: got %v, %v, want % x", control, items, err, want)
		}
		if item, err := other.ReadItem(); err != nil || !bytes.Equal(item.Packet, packet) {
			t.Fatalf("% x: the packet behind it: got % x, %v", control, item.Packet, err)
		}
	}
	joined := n.joinRaw(rawvpn.Ask{})
	for _, b := range controls(rawvpn.Control(ones, ones)) {
		check(joined, b, b)
	}
	for _, version := range []byte{0x05, 0x55, 0xf5} { // even the version of a keepalive
		b := rawvpn.Keepalive(1)
		b[0] = version
		check(joined, b, b)
	}
	for _, b := range controls(rawvpn.Control(anyAddr, anyAddr)) {
		want := slices.Concat(b[:16], joined.Lease.Addr.AsSlice())
		check(joined, b, want) // asks again
	}
	for _, b := range controls(rawvpn.Control(static, anyAddr)) {
		c := n.dialRaw()
		check(c, b, slices.Concat(b[:12], []byte{0, 0, 0, 0}, static.AsSlice()))
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		until(t, patience, "the address is free", func() bool { return n.report().counts["pool.live"] == 2 })
	}
	n.alive()
}

// TestMalformed sends what is no packet: the connection ends, the reason is counted, and nothing gets
// to the TUN.
// exam: M4
func TestMalformed(t *testing.T) {
	t.Parallel()
	n := newRawGateway(t)
	good := rawvpn.Echo(netip.MustParseAddr("10.0.254.254"), gatewayAddr, 1, 1, make([]byte, 56))
	changed := func(first byte, total uint16) []byte {
		b := slices.Clone(good)
		b[0] = first
		binary.BigEndian.PutUint16(b[2:], total)
		return b
	}
	for _, test := range []struct {
		name, cause string
		extended    bool
		b           []byte
	}{
		{"header length 0", "bad_header", false, changed(0x40, 84)},
		{"header length 4", "bad_header", false, changed(0x41, 84)},
		{"header length 8", "bad_header", false, changed(0x42, 84)},
		{"header length 12", "bad_header", false, changed(0x43, 84)},
		{"header length 16", "bad_header", true, changed(0x44, 84)},
		{"header length 60 of 59", "bad_header", false, changed(0x4f, 59)},
		{"header length 24 of 20", "bad_header", true, changed(0x46, 20)},
		{"total length 0", "bad_header", false, changed(0x45, 0)},
		{"total length 19", "bad_header", true, changed(0x45, 19)},
		{"version 0", "not_ip", false, changed(0x05, 84)},
		{"version 5", "not_ip", false, changed(0x55, 84)},
		{"version 15", "not_ip", true, changed(0xf5, 84)},
		{"a frame of a client without extensions", "not_ip", false, rawvpn.DataFrame(good)},
		{"TLS", "not_ip", false, []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 any random bytes")},
		{"data frame without a packet", "bad_frame", true, rawvpn.Frame(0x81, make([]byte, 10))},
		{"data frame too long", "bad_frame", true, []byte{0x81, 0x01, 0x00, 0x0a}},
		{"ping too long", "bad_frame", true, rawvpn.Frame(0x84, make([]byte, 2049))},
		{"hello too long", "bad_frame", true, rawvpn.Frame(0x83, make([]byte, 4097))},
		{"hello that nobody asked for", "bad_message", true, rawvpn.Frame(0x83, nil)},
	} {
		t.Run(test.name, func(t *testing.T) {
			var ask rawvpn.Ask
			if test.extended {
				ask.Features = rawvpn.Super // without goodbye frames
			}
			c := n.joinRaw(ask)
			before := n.report()
			n.nothingIn(test.name, func() {
				send(t, c, test.b)
				closes(t, c, test.name, 0, 2*time.Second)
				n.counted(before, "closed", test.cause, 1)
			})
		})
	}
	n.alive()
}

// TestContradictions sends frames with packets that are not what the frame says: they are dropped and
// counted, nothing gets to the TUN, and the stream goes on.
// exam: M4
func TestContradictions(t *testing.T) {
	t.Parallel()
	n := newRawGateway(t)
	c := n.joinRaw(rawvpn.Ask{Features: rawvpn.All})
	good := rawvpn.Echo(c.Lease.Addr, gatewayAddr, 1, 1, make([]byte, 56))
	frame := func(offload string, change func(ip []byte)) []byte {
		ip := slices.Clone(good)
		change(ip)
		return rawvpn.Frame(0x81, append([]byte(offload), ip...))
	}
	none := string(make([]byte, 10))
	for _, test := range []struct {
		name, reason string
		b            []byte
	}{
		{"shorter than the frame", "length", frame(none, func(ip []byte) { ip[3]-- })},
		{"longer than the frame", "length", frame(none, func(ip []byte) { ip[3]++ })},
		{"header length 16", "header", frame(none, func(ip []byte) { ip[0] = 0x44 })},
		{"version 0", "header", frame(none, func(ip []byte) { ip[0] = 0x05 })},
		{"ping of death", "header", frame(none, func(ip []byte) { ip[6], ip[7] = 0x1f, 0xff })},
		{"checksum behind the packet", "offload", frame("\x01\x00\x00\x00\x00\x00\x14\x00\x70\x00", func([]byte) {})},
		{"segments without a checksum", "offload", frame("\x00\x01\x28\x00\xb4\x05\x00\x00\x00\x00", func([]byte) {})},
		{"segments of ICMP", "offload", frame("\x01\x01\x28\x00\x40\x00\x14\x00\x02\x00", func([]byte) {})},
		{"unknown flag", "offload", frame("\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00", func([]byte) {})},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := n.report()
			n.nothingIn(test.name, func() {
				send(t, c, test.b)
				quiet(t, c, test.name)
				n.counted(before, "drops", test.reason, 1)
			})
		})
	}
	if _, err := c.Ping(gatewayAddr); err != nil {
		t.Error(err)
	}
	n.alive()
}

// TestIPv6 sends IPv6 packets: framed by their own length, never taken for an address request, counted,
// and the stream goes on.
// exam: M6
func TestIPv6(t *testing.T) {
	t.Parallel()
	n := newRawGateway(t)
	packet := func(payload int, src string) []byte {
		b := make([]byte, 40+payload)
		b[0], b[6], b[7] = 0x60, 58, 255
		binary.BigEndian.PutUint16(b[4:], uint16(payload))
		copy(b[8:], netip.MustParseAddr(src).AsSlice())
		copy(b[24:], netip.MustParseAddr("ff02::2").AsSlice())
		return b
	}
	all := map[string][]byte{
		"router solicitation":              append(packet(8, "fe80::1"), 133, 0, 0, 0),
		"source with zeros, no payload":    packet(0, "fe80::1"),
		"all zeros where IPv4 has its own": packet(0, "::"),
		"like a keepalive":                 packet(0, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
		"longest":                          packet(65535, "fe80::1"),
	}
	all["router solicitation"] = all["router solicitation"][:48]
	for name, b := range all {
		for _, extended := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, extended %t", name, extended), func(t *testing.T) {
				ask := rawvpn.Ask{}
				if extended {
					ask.Features = rawvpn.All
				}
				c := n.dialRaw()
				before := n.report()
				n.nothingIn(name, func() {
					send(t, c, b) // before it has an address, as the C client does
					quiet(t, c, "without an address")
					if err := c.Join(ask); err != nil {
						t.Fatal(err)
					}
					send(t, c, slices.Concat(b, b))
					if len(b) <= 65535 { // more does not fit into a frame
						b = c.Wrap(b)
					}
					send(t, c, b)
					quiet(t, c, "with an address")
				})
				n.counted(before, "drops", "ipv6", 4)
				if _, err := c.Ping(gatewayAddr); err != nil {
					t.Error(err)
				}
				_ = c.Close()
			})
		}
	}
	n.alive()
}

// TestUnfinished has many connections on which a packet of 65,535 bytes begins and never ends.
// exam: M5
func TestUnfinished(t *testing.T) {
	const (
		count = 1000
		limit = settings.DefaultDeadline
		slack = 16 << 20 // bytes; read buffers that the collector has not taken back yet
	)
	n := newRawGateway(t, "join_timeout = '1m'") // which would be over at the same time
	n.alive()
	header := rawvpn.Echo(netip.MustParseAddr("10.0.254.254"), gatewayAddr, 1, 1, nil)
	binary.BigEndian.PutUint16(header[2:], 65535)
	for _, test := range []struct {
		name string
		b    []byte
		most int // bytes of memory for each
	}{
		{"header alone", header, 16 << 10},
		// The collector lets the heap double before it runs.
		{"nearly all", append(slices.Clone(header), make([]byte, 60<<10)...), 2*64<<10 + 16<<10},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, memory := n.report(), rss(t, n.srv)
			all := n.dialMany(count)
			began := time.Now()
			for _, c := range all {
				send(t, c, test.b)
			}
			sent := time.Since(began)
			grown := math.MaxInt // what is held is the least: the rest waits for the collector
			for i := range 5 {   // until just before the deadline
				n.report()
				if i >= 2 { // all has come
					grown = min(grown, rss(t, n.srv)-memory)
				}
			}
			for _, c := range all {
				closes(t, c, test.name, 0, limit+2*time.Second)
			}
			if took := time.Since(began); took < limit-100*time.Millisecond || took > sent+limit+2*time.Second {
				t.Errorf("closed after %s, want %s", took, limit)
			}
			n.counted(before, "closed", "frame_timeout", count)
			t.Logf("%d KiB for each of %d", grown/count>>10, count)
			if limit := count*test.most + slack; grown > limit {
				t.Errorf("memory has grown by %d bytes, want %d at most", grown, limit)
			}
		})
	}
	n.alive()
}
