package router

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/packet"
	"ferry/internal/policy"
	"ferry/internal/proto"
)

// sink is a port's other side; it keeps what it is sent.
type sink struct {
	runs [][]byte
}

func (s *sink) Send(run []byte) (int, Reason) {
	s.runs = append(s.runs, bytes.Clone(run))
	return 0, None
}

func (s *sink) all() []byte { return bytes.Join(s.runs, nil) }

// world is a gateway with clients A and B (extended) and L (2013), and a site behind A.
type world struct {
	table         *Switch
	exit, a, b, l *Port
	out           map[*Port]*sink
	all           Counters
}

var (
	pool    = netip.MustParsePrefix("10.0.0.0/16")
	gateway = netip.MustParseAddr("10.0.0.1")
	site    = netip.MustParsePrefix("192.168.7.0/24")
)

const addrA, addrB, addrL = "10.0.254.254", "10.0.254.253", "10.0.254.252"

func newWorld(t *testing.T, isolate bool) *world {
	t.Helper()
	w := &world{out: map[*Port]*sink{}}
	port := func(id uint64, c Caps) *Port {
		s := new(sink)
		p := NewPort(id, c, s)
		w.out[p] = s
		return p
	}
	w.exit = port(0, Caps{Super: true, USO: true, Exit: true})
	w.a = port(1, Caps{Super: true, USO: true, MTU: 1500})
	w.b = port(2, Caps{Super: true, MTU: 1500})
	w.l = port(3, Caps{MTU: 1500})
	var err error
	w.table, err = NewSwitch(SwitchConfig{
		Pool: pool, Gateway: gateway, Exit: w.exit, Isolate: isolate,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.table.SetSites(map[netip.Prefix]netip.Addr{site: netip.MustParseAddr(addrA)}); err != nil {
		t.Fatal(err)
	}
	w.table.Bind(w.a, netip.MustParseAddr(addrA))
	w.table.Bind(w.b, netip.MustParseAddr(addrB))
	w.table.Bind(w.l, netip.MustParseAddr(addrL))
	return w
}

func (w *world) forwarder(from *Port) *Forwarder {
	return NewForwarder(w.table, from, &w.all, gateway)
}

// udp returns an IPv4 packet of n bytes with a right header checksum.
func udp(n int, src, dst string, dontFragment bool) []byte {
	b := make([]byte, n)
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	if dontFragment {
		b[6] = 0x40
	}
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
	binary.BigEndian.PutUint16(b[24:], uint16(n-20))
	return b
}

func frame(o packet.Offload, ip []byte) []byte {
	b := make([]byte, proto.DataHeaderLen, proto.DataHeaderLen+len(ip))
	proto.PutDataHeader(b, len(ip))
	o.Put(b[proto.FrameHeaderLen:])
	return append(b, ip...)
}

// TestRoute has exam S1, S3, S4 and S5 as a matrix: who may send what to whom.
// exam: S1, S3, S4, S5, R10
func TestRoute(t *testing.T) {
	w := newWorld(t, false)
	w.table.SetEgress(
		[]policy.Target{{Prefix: netip.MustParsePrefix("192.168.0.1/32")}},
		[]policy.Target{{Prefix: netip.MustParsePrefix("192.168.0.0/16")}, {Prefix: netip.MustParsePrefix("192.0.2.0/24"), Port: 25}})
	stranger := NewPort(9, Caps{}, new(sink))
	tests := []struct {
		name     string
		from     *Port
		src, dst string
		to       *Port
		why      Reason
	}{
		{"client to client", w.a, addrA, addrB, w.b, None},
		{"client to gateway", w.a, addrA, "10.0.0.1", w.exit, None},
		{"client to the Internet", w.a, addrA, "192.0.2.1", w.exit, None},
		{"gateway to client", w.exit, "10.0.0.1", addrA, w.a, None},
		{"the Internet to client", w.exit, "192.0.2.1", addrA, w.a, None},
		{"site to client", w.a, "192.168.7.9", addrB, w.b, None},
		{"client to site", w.b, addrB, "192.168.7.9", w.a, None},
		{"the Internet to site", w.exit, "192.0.2.1", "192.168.7.9", w.a, None},

		{"source of another client", w.a, addrB, "10.0.0.1", nil, DropSource},
		{"source of the gateway", w.a, "10.0.0.1", addrB, nil, DropSource},
		{"source of another's site", w.b, "192.168.7.9", "10.0.0.1", nil, DropSource},
		{"source in the LAN", w.a, "192.168.101.1", "10.0.0.1", nil, DropSource},
		{"source on the Internet", w.a, "8.8.8.8", "10.0.0.1", nil, DropSource},
		{"source 0", w.a, "0.1.2.3", "10.0.0.1", nil, DropMartian},
		{"source loopback", w.a, "127.0.0.1", "10.0.0.1", nil, DropMartian},
		{"source multicast", w.a, "224.0.0.1", "10.0.0.1", nil, DropMartian},
		{"source -1", w.a, "255.255.255.255", "10.0.0.1", nil, DropMartian},
		{"no address yet", stranger, addrA, "10.0.0.1", nil, DropNoAddress},
		{"source of a client from outside", w.exit, addrA, addrB, nil, DropSource},
		{"source 0 from outside, to a 2013 client", w.exit, "0.0.0.0", addrL, nil, DropMartian},

		{"address nobody holds", w.a, addrA, "10.0.7.7", nil, DropUnassigned},
		{"address nobody holds, from outside", w.exit, "10.0.0.1", "10.0.7.7", nil, DropUnassigned},
		{"pool's network address", w.a, addrA, "10.0.0.0", nil, DropMulticast},
		{"pool's broadcast address", w.a, addrA, "10.0.255.255", nil, DropMulticast},
		{"limited broadcast", w.a, addrA, "255.255.255.255", nil, DropMulticast},
		{"multicast", w.a, addrA, "224.0.0.251", nil, DropMulticast},
		{"to itself", w.a, addrA, addrA, nil, DropHairpin},
		{"own site", w.a, addrA, "192.168.7.9", nil, DropHairpin},
		{"loopback", w.a, addrA, "127.0.0.1", nil, DropDenied},
		{"metadata service", w.a, addrA, "169.254.169.254", nil, DropDenied},
		{"reserved", w.a, addrA, "240.0.0.1", nil, DropDenied},
		{"destination 0", w.a, addrA, "0.0.0.1", nil, DropMartian},
		{"denied by policy", w.a, addrA, "192.168.0.2", nil, DropDenied},
		{"allowed by policy", w.a, addrA, "192.168.0.1", w.exit, None},
		{"from outside to outside", w.exit, "192.0.2.1", "192.0.2.2", nil, DropNoRoute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			to, why := w.table.Route(tt.from, packet.IPv4(udp(28, tt.src, tt.dst, false)))
			if to != tt.to || why != tt.why {
				t.Errorf("got port %v, reason %s; want %v, %s", to, why, tt.to, tt.why)
			}
		})
	}
}

// exam: S4
func TestIsolate(t *testing.T) {
	w := newWorld(t, true)
	for _, tt := range []struct {
		src, dst string
		from     *Port
		why      Reason
	}{
		{addrA, addrB, w.a, DropIsolated},
		{addrA, "10.0.0.1", w.a, None},
		{"10.0.0.1", addrB, w.exit, None},
	} {
		if _, why := w.table.Route(tt.from, packet.IPv4(udp(28, tt.src, tt.dst, false))); why != tt.why {
			t.Errorf("%s to %s: got %s, want %s", tt.src, tt.dst, why, tt.why)
		}
	}
}

// Who has proven nothing reaches nobody who has, neither does a site, and the other way round.
// exam: C7
func TestGuests(t *testing.T) {
	for _, mix := range []bool{false, true} {
		w := newWorld(t, false)
		w.table.mix.Store(mix)
		w.l.Guest = true
		want := DropIsolated
		if mix {
			want = None
		}
		for _, tt := range []struct {
			src, dst string
			from     *Port
			why      Reason
		}{
			{addrL, addrA, w.l, want},
			{addrA, addrL, w.a, want},
			{addrL, "192.168.7.9", w.l, want},
			{"192.168.7.9", addrL, w.a, want},
			{addrA, addrB, w.a, None},
			{addrL, "10.0.0.1", w.l, None},
			{addrL, "192.0.2.1", w.l, None},
			{"10.0.0.1", addrL, w.exit, None},
		} {
			if _, why := w.table.Route(tt.from, packet.IPv4(udp(28, tt.src, tt.dst, false))); why != tt.why {
				t.Errorf("mix %v, %s to %s: got %s, want %s", mix, tt.src, tt.dst, why, tt.why)
			}
		}
	}
}

// Sites come and go while packets are routed.
func TestSetSites(t *testing.T) {
	w := newWorld(t, false)
	route := func() *Port {
		to, _ := w.table.Route(w.exit, packet.IPv4(udp(28, "192.0.2.1", "192.168.7.9", false)))
		return to
	}
	if err := w.table.SetSites(map[netip.Prefix]netip.Addr{site: netip.MustParseAddr(addrB)}); err != nil || route() != w.b {
		t.Errorf("%v, or the site is not behind B", err)
	}
	for a, want := range map[string]bool{addrA: true, "192.168.7.9": true, "192.168.8.9": false} {
		if got := w.table.Behind(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: behind a client %v, want %v", a, got, want)
		}
	}
	for a, want := range map[string]string{addrA: addrA, "192.168.7.9": addrB, "192.168.8.9": "192.168.8.9"} {
		if got := w.table.Owner(netip.MustParseAddr(a)); got.String() != want {
			t.Errorf("%s belongs to %s, want %s", a, got, want)
		}
	}
	for prefix, via := range map[string]string{"10.0.0.0/8": addrA, "192.168.8.0/24": "10.1.0.7"} {
		if err := w.table.SetSites(map[netip.Prefix]netip.Addr{netip.MustParsePrefix(prefix): netip.MustParseAddr(via)}); err == nil || route() != w.b {
			t.Errorf("%s via %s: no error, or it took effect", prefix, via)
		}
	}
	if err := w.table.SetSites(nil); err != nil || route() != nil {
		t.Errorf("%v, or the site is still there", err)
	}
}

// An address that another connection has taken over stays with that one.
func TestUnbindAfterTakeover(t *testing.T) {
	w := newWorld(t, false)
	w.table.Bind(w.b, netip.MustParseAddr(addrA))
	w.table.Unbind(w.a)
	if to, _ := w.table.Route(w.exit, packet.IPv4(udp(28, "10.0.0.1", addrA, false))); to != w.b {
		t.Errorf("got %v, want the port that took the address over", to)
	}
	if to, why := w.table.Route(w.exit, packet.IPv4(udp(28, "10.0.0.1", addrB, false))); to != nil {
		t.Errorf("the address given up still leads to %v, %s", to, why)
	}
}

// Frames for one destination that stand back to back leave as one run, the very bytes that came.
func TestRunsAreCollected(t *testing.T) {
	w := newWorld(t, false)
	var buf []byte
	var ends []int
	for _, dst := range []string{addrB, addrB, "10.0.0.1", addrB} {
		buf = append(buf, frame(packet.Offload{}, udp(100, addrA, dst, true))...)
		ends = append(ends, len(buf))
	}
	f := w.forwarder(w.a)
	start := 0
	for _, end := range ends {
		f.Frame(buf, start, end)
		start = end
	}
	f.Flush()
	got := w.out[w.b].runs
	if len(got) != 2 || !bytes.Equal(got[0], buf[:ends[1]]) || !bytes.Equal(got[1], buf[ends[2]:]) {
		t.Errorf("got %d runs for B, want 2", len(got))
	}
	if got := w.out[w.exit].runs; len(got) != 1 || !bytes.Equal(got[0], buf[ends[1]:ends[2]]) {
		t.Errorf("got %d runs for the exit, want 1", len(got))
	}
	if s := w.a.Stats(); s.Packets != 4 || s.Bytes != 400 {
		t.Errorf("counted %d packets, %d bytes; want 4, 400", s.Packets, s.Bytes)
	}
}

// Bare packets of a 2013 client become data frames in place, and frames for it bare packets.
func TestTranslation(t *testing.T) {
	w := newWorld(t, false)
	one, two := udp(60, addrL, addrB, true), udp(70, addrL, addrB, true)
	buf := append(make([]byte, 16), one...)
	buf = append(buf, two...)
	f := w.forwarder(w.l)
	f.Packet(buf, 16, 76)
	f.Packet(buf, 76, 146)
	f.Flush()
	want := append(frame(packet.Offload{}, one), frame(packet.Offload{}, two)...)
	if got := w.out[w.b].all(); !bytes.Equal(got, want) {
		t.Errorf("frames: got %x, want %x", got, want)
	}

	back := frame(packet.Offload{}, udp(60, addrB, addrL, true))
	f = w.forwarder(w.b)
	f.Frame(back, 0, len(back))
	f.Flush()
	if got := w.out[w.l].all(); !bytes.Equal(got, back[proto.DataHeaderLen:]) {
		t.Errorf("bare packet: got %x, want %x", got, back[proto.DataHeaderLen:])
	}
}

// tcpSuper returns a TCP super-packet with n bytes of payload.
func tcpSuper(n, mss int, src, dst string) (packet.Offload, []byte) {
	b := udp(40+n, src, dst, true)
	b[9] = 6
	b[32] = 5 << 4
	binary.BigEndian.PutUint16(b[10:], 0)
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20], 0))
	return packet.Offload{Flags: 1, GSOType: 1, HdrLen: 40, GSOSize: uint16(mss), CsumStart: 20, CsumOffset: 16}, b
}

func TestSuperPackets(t *testing.T) {
	w := newWorld(t, false)
	o, ip := tcpSuper(60_000, 1460, addrA, addrB)
	f := w.forwarder(w.a)
	b := frame(o, ip)
	f.Frame(b, 0, len(b))
	f.Flush()
	if got := w.out[w.b].all(); !bytes.Equal(got, b) {
		t.Error("a super-packet for a peer that takes them did not go whole")
	}

	o, ip = tcpSuper(60_000, 1460, addrA, addrL)
	b = frame(o, ip)
	f.Frame(b, 0, len(b))
	f.Flush()
	total, n := 0, 0
	for rest := w.out[w.l].all(); len(rest) > 0; n++ {
		size := packet.IPv4(rest).TotalLen()
		if size > 1500 {
			t.Fatalf("segment of %d bytes for a 2013 client", size)
		}
		if packet.Checksum(rest[:20], 0) != 0 {
			t.Fatal("wrong header checksum")
		}
		total += size - 40
		rest = rest[size:]
	}
	if total != 60_000 || n != 42 {
		t.Errorf("got %d bytes in %d segments, want 60000 in 42", total, n)
	}
}

// A packet larger than the MTU of its destination.
// exam: F13
func TestTooBig(t *testing.T) {
	w := newWorld(t, false)
	f := w.forwarder(w.a)
	b := frame(packet.Offload{}, udp(4000, addrA, addrB, true))
	f.Frame(b, 0, len(b))
	f.Flush()
	if got := w.out[w.b].all(); len(got) != 0 {
		t.Errorf("%d bytes went on", len(got))
	}
	icmp := packet.IPv4(w.out[w.a].all())
	if len(icmp) < 28 || icmp.Protocol() != 1 || icmp[20] != 3 || icmp[21] != 4 || binary.BigEndian.Uint16(icmp[26:]) != 1500 {
		t.Fatalf("got %x, want fragmentation needed with MTU 1500", []byte(icmp))
	}
	if icmp.Src() != gateway || icmp.Dst().String() != addrA {
		t.Errorf("ICMP from %s to %s", icmp.Src(), icmp.Dst())
	}

	b = frame(packet.Offload{}, udp(4000, addrA, addrB, false))
	f.Frame(b, 0, len(b))
	f.Flush()
	payload := 0
	for rest := w.out[w.b].all(); len(rest) > 0; {
		size := packet.IPv4(rest).TotalLen()
		if size > 1500 {
			t.Fatalf("fragment of %d bytes", size)
		}
		payload += size - 20
		rest = rest[size:]
	}
	if payload != 3980 {
		t.Errorf("got %d bytes in fragments, want 3980", payload)
	}
	if n := w.a.Stats().Drops["too_big"]; n != 1 {
		t.Errorf("too_big counted %d times, want 1", n)
	}

	// An ICMP error for the exit has to come in a data frame.
	f = w.forwarder(w.exit)
	b = frame(packet.Offload{}, udp(4000, "192.0.2.1", addrB, true))
	f.Frame(b, 0, len(b))
	f.Flush()
	got := w.out[w.exit].all()
	if len(got) < proto.DataHeaderLen || proto.DataLen(got) != len(got) {
		t.Fatalf("got %x, want a data frame", got)
	}
	// Its source must not be the gateway's own address, which its kernel would call a martian.
	if icmp := packet.IPv4(got[proto.DataHeaderLen:]); icmp.Src().String() != addrB {
		t.Errorf("ICMP for the exit comes from %s", icmp.Src())
	}
}

// A client that sends what is too big all the time hears so ten times a second.
func TestErrorsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, false)
		f := w.forwarder(w.a)
		b := frame(packet.Offload{}, udp(4000, addrA, addrB, true))
		for range 3 {
			for range 1000 {
				f.Frame(bytes.Clone(b), 0, len(b))
				f.Flush()
			}
			time.Sleep(time.Second)
		}
		heard := len(w.out[w.a].runs)
		if n := w.a.Stats().Drops["too_big"]; n != 3000 || heard != 30 {
			t.Errorf("too_big counted %d times, want 3000; heard of %d, want 30", n, heard)
		}
	})
}

func TestMalformedIsCounted(t *testing.T) {
	w := newWorld(t, false)
	f := w.forwarder(w.a)
	good := udp(60, addrA, addrB, true)
	for name, b := range map[string][]byte{
		"length":  frame(packet.Offload{}, append(bytes.Clone(good), 0)),
		"header":  frame(packet.Offload{}, func() []byte { b := bytes.Clone(good); b[0] = 0x44; return b }()),
		"offload": frame(packet.Offload{Flags: 1, CsumStart: 60, CsumOffset: 16}, good),
	} {
		before := w.a.Stats().Drops[name]
		f.Frame(b, 0, len(b))
		f.Flush()
		if got := w.a.Stats().Drops[name]; got != before+1 {
			t.Errorf("%s: counted %v", name, w.a.Stats().Drops)
		}
	}
	if got := w.out[w.b].all(); len(got) != 0 {
		t.Errorf("%d bytes went on", len(got))
	}
}

// What a local process with a raw socket may not put into the stream.
// exam: M9
func TestUplink(t *testing.T) {
	exit, server := NewPort(0, Caps{Exit: true}, new(sink)), NewPort(1, Caps{}, new(sink))
	u := NewUplink(exit)
	route := func(from *Port, src, dst string) Reason {
		_, why := u.Route(from, packet.IPv4(udp(28, src, dst, false)))
		return why
	}
	if why := route(exit, addrA, addrB); why != DropNotConnected {
		t.Errorf("without a gateway: got %s", why)
	}
	u.Connect(server)
	for _, tt := range []struct {
		from     *Port
		src, dst string
		why      Reason
	}{
		{exit, addrA, addrB, None},
		{server, addrB, addrA, None},
		{exit, addrA, "0.0.0.0", DropMartian},
		{exit, "0.0.0.0", "0.0.0.0", DropMartian},
		{exit, "255.255.255.255", "255.255.255.255", DropMartian},
		{exit, addrA, "255.255.255.255", DropMulticast},
		{exit, addrA, "224.0.0.22", DropMulticast},
		{server, "127.0.0.1", addrA, DropMartian},
		{server, addrB, "127.0.0.1", DropMartian},
	} {
		if why := route(tt.from, tt.src, tt.dst); why != tt.why {
			t.Errorf("%s to %s: got %s, want %s", tt.src, tt.dst, why, tt.why)
		}
	}
}

func TestForwardAllocatesNothing(t *testing.T) {
	w := newWorld(t, false)
	discard := NewPort(2, Caps{Super: true, MTU: 1500}, discard{})
	w.table.Bind(discard, netip.MustParseAddr(addrB))
	f := w.forwarder(w.a)
	b := frame(packet.Offload{}, udp(100, addrA, addrB, true))
	if n := testing.AllocsPerRun(100, func() { f.Frame(b, 0, len(b)); f.Flush() }); n != 0 {
		t.Errorf("got %v allocations per packet, want 0", n)
	}
}

type discard struct{}

func (discard) Send([]byte) (int, Reason) { return 0, None }

func BenchmarkForward(b *testing.B) {
	t := new(testing.T)
	w := newWorld(t, false)
	to := NewPort(2, Caps{Super: true, MTU: 1500}, discard{})
	w.table.Bind(to, netip.MustParseAddr(addrB))
	f := w.forwarder(w.a)
	one := frame(packet.Offload{}, udp(64, addrA, addrB, true))
	buf := bytes.Repeat(one, 32)
	b.SetBytes(64)
	b.ReportAllocs()
	for b.Loop() {
		for i := 0; i < len(buf); i += len(one) {
			f.Frame(buf, i, i+len(one))
		}
		f.Flush()
	}
}

// A rule by port looks at the first fragment of a packet; the others show none, and are nothing without it.
func TestEgressByPort(t *testing.T) {
	rules := policy.Egress(
		[]policy.Target{{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Port: 53}},
		[]policy.Target{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Port: 25}, {Prefix: netip.MustParsePrefix("198.51.100.0/24")}})
	open, closed := rules[netip.MustParsePrefix("192.0.2.0/24")], rules[netip.MustParsePrefix("198.51.100.0/24")]
	ip := func(port uint16, offset uint16, protocol byte) packet.IPv4 {
		b := udp(100, addrA, addrB, false)
		binary.BigEndian.PutUint16(b[22:], port)
		binary.BigEndian.PutUint16(b[6:], offset)
		b[9] = protocol
		return b
	}
	for _, tt := range []struct {
		name         string
		ip           packet.IPv4
		open, closed bool
	}{
		{"the port", ip(25, 0, policy.TCP), false, false},
		{"another one", ip(53, 0, policy.UDP), true, true},
		{"none of both", ip(80, 0, policy.TCP), true, false},
		{"a fragment that is not the first", ip(25, 7, policy.UDP), true, true},
		{"what has no ports", ip(25, 0, 1), true, false},
		{"too short for ports", ip(25, 0, policy.TCP)[:22], true, false},
	} {
		if got := [2]bool{passes(open, tt.ip), passes(closed, tt.ip)}; got != [2]bool{tt.open, tt.closed} {
			t.Errorf("%s: %v, want %t and %t", tt.name, got, tt.open, tt.closed)
		}
	}
}
