package ether

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"ferry/internal/packet"
)

var (
	guest   = MAC{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	other   = MAC{0x52, 0x54, 0, 0x12, 0x34, 0x57}
	gateway = netip.MustParseAddr("10.0.0.1")
	leased  = netip.MustParseAddr("10.0.254.254")
	peer    = netip.MustParseAddr("10.0.254.253")
	none    = netip.IPv4Unspecified()
)

func newPort() *Port {
	return NewPort(Config{
		Gateway: gateway, Pool: netip.MustParsePrefix("10.0.0.0/16"), MTU: 1500,
		DNS: []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("fd00::1")}, Domains: []string{"site.example", "lab."},
	})
}

// leasedPort is a port whose machine has its address.
func leasedPort(t testing.TB) *Port {
	t.Helper()
	p := newPort()
	if v, _ := p.In(question(guest, discover, nil)); v != Ask {
		t.Fatalf("DISCOVER: got verdict %d, want Ask", v)
	}
	p.Assign(leased)
	if v, _ := p.In(question(guest, request, func(m *message) { m.requested, m.server = leased, gateway })); v != Reply {
		t.Fatalf("REQUEST: got verdict %d, want Reply", v)
	}
	return p
}

func frame(to, from MAC, kind uint16, payload []byte) []byte {
	b := append(append([]byte(nil), to[:]...), from[:]...)
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}

// datagram is a frame with a UDP packet, from a machine to the gateway.
func datagram(from MAC, src, dst netip.Addr, n int) []byte {
	b := make([]byte, minIPv4+udpLen+n)
	b[0], b[8], b[9] = 0x45, 64, udp
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[minIPv4+4:], uint16(udpLen+n))
	return frame(Gateway, from, typeIPv4, b)
}

// question is a frame with a message of a DHCP client.
func question(from MAC, kind byte, more func(*message)) []byte {
	m := message{kind: kind, xid: [4]byte{1, 2, 3, 4}, ciaddr: none, client: from}
	if more != nil {
		more(&m)
	}
	body := make([]byte, optionsAt)
	body[0], body[1], body[2] = 1, 1, 6
	copy(body[4:], m.xid[:])
	binary.BigEndian.PutUint16(body[10:], m.flags)
	copy(body[12:], m.ciaddr.AsSlice())
	copy(body[28:], m.client[:])
	binary.BigEndian.PutUint32(body[bootpLen:], cookie)
	body = append(body, optKind, 1, m.kind)
	if m.requested.IsValid() {
		body = append(append(body, optRequested, 4), m.requested.AsSlice()...)
	}
	if m.server.IsValid() {
		body = append(append(body, optPad, optServer, 4), m.server.AsSlice()...)
	}
	body = append(body, optEnd)
	b := datagram(from, m.ciaddr, netip.MustParseAddr("255.255.255.255"), len(body))
	copy(b, broadcast[:])
	copy(b[HeaderLen+minIPv4+udpLen:], body)
	binary.BigEndian.PutUint16(b[HeaderLen+minIPv4:], clientPort)
	binary.BigEndian.PutUint16(b[HeaderLen+minIPv4+2:], serverPort)
	return b
}

func whoHas(from MAC, sender, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(append(b, from[:]...), sender.AsSlice()...)
	b = append(append(b, make([]byte, 6)...), target.AsSlice()...)
	return frame(broadcast, from, typeARP, append(b, make([]byte, 18)...)) // padded to 60
}

// An answered message is what a client would read.
type answered struct {
	to, ipTo string
	kind     byte
	your     netip.Addr
	options  map[byte][]byte
}

func read(t testing.TB, b []byte) answered {
	t.Helper()
	ip := packet.IPv4(b[HeaderLen:])
	if ip.TotalLen() != len(ip) || ip.Src() != gateway || packet.Checksum(ip[:minIPv4], 0) != 0 {
		t.Fatalf("a broken packet: %x", ip[:minIPv4])
	}
	if u := ip[minIPv4:]; packet.Checksum(u, packet.PseudoSum(ip, udp, len(u))) != 0 || u[1] != serverPort || u[3] != clientPort {
		t.Fatalf("broken UDP: %x", u[:udpLen])
	}
	body := ip[minIPv4+udpLen:]
	if len(body) < minMessage || body[0] != 2 || !bytes.Equal(body[4:8], []byte{1, 2, 3, 4}) || !bytes.Equal(body[28:34], guest[:]) {
		t.Fatalf("not an answer to the question: %x", body[:44])
	}
	a := answered{to: MAC(b).String(), ipTo: ip.Dst().String(), your: netip.AddrFrom4([4]byte(body[16:])), options: map[byte][]byte{}}
	for o := body[optionsAt:]; o[0] != optEnd; o = o[2+int(o[1]):] {
		a.options[o[0]] = append(a.options[o[0]], o[2:2+int(o[1])]...)
	}
	a.kind = a.options[optKind][0]
	return a
}

// Addresses are leased as RFC 2131 has it.
func TestDHCP(t *testing.T) {
	everybody, all := "255.255.255.255", broadcast.String()
	for name, tt := range map[string]struct {
		leased bool
		kind   byte
		ask    func(*message)
		want   answered // kind 0: no answer
	}{
		"discover":                   {false, discover, nil, answered{to: guest.String(), ipTo: leased.String(), kind: offer, your: leased}},
		"discover, broadcast":        {false, discover, func(m *message) { m.flags = flagBroad }, answered{to: all, ipTo: everybody, kind: offer, your: leased}},
		"discover again":             {true, discover, nil, answered{to: guest.String(), ipTo: leased.String(), kind: offer, your: leased}},
		"request what was offered":   {true, request, func(m *message) { m.requested, m.server = leased, gateway }, answered{to: guest.String(), ipTo: leased.String(), kind: ack, your: leased}},
		"request of another server":  {true, request, func(m *message) { m.requested, m.server = leased, peer }, answered{}},
		"reboot with its address":    {false, request, func(m *message) { m.requested = leased }, answered{to: guest.String(), ipTo: leased.String(), kind: ack, your: leased}},
		"reboot with a foreign one":  {false, request, func(m *message) { m.requested = peer }, answered{to: all, ipTo: everybody, kind: nak, your: none}},
		"foreign one while leased":   {true, request, func(m *message) { m.requested = peer }, answered{to: all, ipTo: everybody, kind: nak, your: none}},
		"request of nothing":         {true, request, nil, answered{to: all, ipTo: everybody, kind: nak, your: none}},
		"renew":                      {true, request, func(m *message) { m.ciaddr = leased }, answered{to: guest.String(), ipTo: leased.String(), kind: ack, your: leased}},
		"renew a foreign one":        {true, request, func(m *message) { m.ciaddr = peer }, answered{to: all, ipTo: everybody, kind: nak, your: none}},
		"inform":                     {false, inform, func(m *message) { m.ciaddr = peer }, answered{to: guest.String(), ipTo: peer.String(), kind: ack, your: none}},
		"release":                    {true, release, func(m *message) { m.ciaddr = leased }, answered{}},
		"decline":                    {true, decline, func(m *message) { m.requested = leased }, answered{}},
		"an answer":                  {true, offer, nil, answered{}},
		"another machine, one cable": {true, discover, func(m *message) { m.client = other }, answered{}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPort()
			if tt.leased {
				p = leasedPort(t)
			}
			v, b := p.In(question(guest, tt.kind, tt.ask))
			if v == Ask {
				b = p.Assign(leased)
			}
			if tt.want.kind == 0 {
				if b != nil || p.drops[DHCP] != 1 {
					t.Errorf("answered with %x", b)
				}
				return
			}
			got := read(t, b)
			if got.to != tt.want.to || got.ipTo != tt.want.ipTo || got.kind != tt.want.kind || got.your != tt.want.your {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// All that a machine is told; a machine that has configured its address itself is told no time.
func TestDHCPOptions(t *testing.T) {
	p := leasedPort(t)
	want := map[byte][]byte{
		optMask: {255, 255, 0, 0}, optRouter: {10, 0, 0, 1}, optDNS: {10, 0, 0, 53}, optMTU: {0x05, 0xdc}, optLease: {0, 0, 0x0e, 0x10},
		optKind: {ack}, optServer: {10, 0, 0, 1}, optSearch: []byte("\x04site\x07example\x00\x03lab\x00"),
	}
	for _, kind := range []byte{request, inform} {
		v, b := p.In(question(guest, kind, func(m *message) { m.ciaddr = leased }))
		if v != Reply {
			t.Fatalf("got verdict %d", v)
		}
		if kind == inform {
			delete(want, optLease)
		}
		got := read(t, b).options
		if len(got) != len(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		for k, v := range want {
			if !bytes.Equal(got[k], v) {
				t.Errorf("option %d: got %x, want %x", k, got[k], v)
			}
		}
	}
}

// A search list longer than an option goes in two (RFC 3396).
func TestLongSearchList(t *testing.T) {
	p := newPort()
	p.c.Domains = []string{"a.example"}
	for len(searchList(p.c.Domains)) <= 255 {
		p.c.Domains = append(p.c.Domains, "department.site.example")
	}
	p.In(question(guest, discover, nil))
	if got := read(t, p.Assign(leased)).options[optSearch]; !bytes.Equal(got, searchList(p.c.Domains)) {
		t.Errorf("got %d bytes", len(got))
	}
}

// The gateway is every other address of the pool, and never the machine's own.
func TestARP(t *testing.T) {
	for name, tt := range map[string]struct {
		leased         bool
		sender, target netip.Addr
		want           bool
	}{
		"gateway":                     {true, leased, gateway, true},
		"another peer":                {true, leased, peer, true},
		"gateway, not leased":         {false, netip.MustParseAddr("10.0.7.7"), gateway, true},
		"its own, announced":          {true, leased, leased, false},
		"its own, probed":             {true, none, leased, false},
		"another's, probed":           {true, none, peer, true},
		"one that it may get, probed": {false, none, peer, false},
		"the gateway's, probed":       {false, none, gateway, true},
		"own, configured":             {false, netip.MustParseAddr("10.0.7.7"), netip.MustParseAddr("10.0.7.7"), false},
		"the network":                 {true, leased, netip.MustParseAddr("10.0.0.0"), false},
		"its broadcast":               {true, leased, netip.MustParseAddr("10.0.255.255"), false},
		"beyond the pool":             {true, leased, netip.MustParseAddr("10.1.0.1"), false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPort()
			if tt.leased {
				p = leasedPort(t)
			}
			v, b := p.In(whoHas(guest, tt.sender, tt.target))
			if (v == Reply) != tt.want {
				t.Fatalf("got verdict %d, answered wanted: %v", v, tt.want)
			}
			if !tt.want {
				return
			}
			want := frame(guest, Gateway, typeARP, slicesOf([]byte{0, 1, 8, 0, 6, 4, 0, 2}, Gateway[:], tt.target.AsSlice(), guest[:], tt.sender.AsSlice()))
			if !bytes.Equal(b, want) {
				t.Errorf("got  %x\nwant %x", b, want)
			}
		})
	}
}

func slicesOf(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// What is no packet for the gateway is dropped and counted; nothing else changes.
func TestDropped(t *testing.T) {
	good := datagram(guest, leased, gateway, 10)
	change := func(at int, b ...byte) []byte {
		f := bytes.Clone(good)
		copy(f[at:], b)
		return f
	}
	for name, tt := range map[string]struct {
		frame []byte
		why   Reason
	}{
		"empty":                   {nil, Runt},
		"13 bytes":                {good[:13], Runt},
		"no payload":              {good[:14], Runt},
		"cut header":              {good[:33], Runt},
		"cut packet":              {good[:len(good)-1], Runt},
		"cut ARP":                 {whoHas(guest, leased, gateway)[:41], Runt},
		"802.1Q":                  {frame(Gateway, guest, typeVLAN, make([]byte, 50)), VLAN},
		"QinQ":                    {frame(Gateway, guest, typeQinQ, make([]byte, 50)), VLAN},
		"IPv6":                    {frame(Gateway, guest, typeIPv6, make([]byte, 50)), IPv6},
		"LLDP":                    {frame(MAC{1, 0x80, 0xc2}, guest, 0x88cc, make([]byte, 50)), Type},
		"802.3 length":            {frame(Gateway, guest, 46, make([]byte, 46)), Type},
		"to another machine":      {change(0, other[:]...), Foreign},
		"from a group":            {change(6, 1), Foreign},
		"from nobody":             {change(6, 0, 0, 0, 0, 0, 0), Foreign},
		"from the gateway":        {change(6, Gateway[:]...), Foreign},
		"broadcast":               {change(0, broadcast[:]...), Foreign},
		"multicast":               {change(0, 1, 0, 0x5e, 0, 0, 0xfb), Foreign},
		"version 6 in IPv4":       {change(14, 0x65), IP},
		"an address request":      {change(30, 0, 0, 0, 0), IP},
		"a keepalive":             {change(26, 255, 255, 255, 255, 255, 255, 255, 255), IP},
		"an extension frame":      {change(14, 0x80), IP},
		"header longer than all":  {change(14, 0x4f), IP},
		"length 0":                {change(16, 0, 0), IP},
		"ARP from another MAC":    {append(frame(broadcast, other, typeARP, nil), whoHas(guest, leased, gateway)[14:]...), ARP},
		"ARP reply":               {append(bytes.Clone(whoHas(guest, leased, gateway)[:21]), append([]byte{2}, whoHas(guest, leased, gateway)[22:]...)...), ARP},
		"DHCP without cookie":     {question(guest, discover, nil)[:HeaderLen+minIPv4+udpLen+bootpLen], Runt},
		"DHCP with a long option": {cutOption(), DHCP},
	} {
		t.Run(name, func(t *testing.T) {
			p := leasedPort(t)
			if v, b := p.In(tt.frame); v != Dropped || b != nil || p.drops[tt.why] != 1 {
				t.Errorf("got verdict %d, drops %v, want %s", v, p.drops, tt.why)
			}
			drops := map[string]uint64{tt.why.String(): 5}
			if p.AddDrops(drops); drops[tt.why.String()] != 6 || len(drops) != 1 {
				t.Errorf("counted as %v", drops)
			}
			if v, _ := p.In(good); v != Packet {
				t.Error("the next frame is dropped, too")
			}
		})
	}
}

func cutOption() []byte {
	b := question(guest, discover, nil)
	b[len(b)-3] = 200 // the length of option 53
	return b
}

// Of a packet with padding behind it, the packet alone is handed on.
func TestPaddingIsCutOff(t *testing.T) {
	p := leasedPort(t)
	f := append(datagram(guest, leased, peer, 1), make([]byte, 17)...)
	if v, b := p.In(f); v != Packet || !bytes.Equal(b, f[HeaderLen:len(f)-17]) {
		t.Errorf("got verdict %d, %x", v, b)
	}
}

// The machine is where its address speaks from; another one on the same cable does not take its place.
func TestLearnsTheMAC(t *testing.T) {
	p := newPort()
	sentTo := func() MAC { return MAC(p.AppendFrame(nil, make([]byte, 20))) }
	if sentTo() != broadcast {
		t.Error("nothing was heard, and the frame is for somebody")
	}
	p.In(whoHas(guest, netip.MustParseAddr("10.0.7.7"), gateway))
	if sentTo() != guest {
		t.Error("a machine that needs no lease is not found")
	}
	p = leasedPort(t)
	p.In(datagram(other, peer, gateway, 1))
	p.In(whoHas(other, peer, gateway))
	if sentTo() != guest {
		t.Error("another address has moved the machine")
	}
	p.In(datagram(other, leased, gateway, 1))
	if sentTo() != other {
		t.Error("the machine has a new card, and is not found")
	}
}

func TestNothingIsAllocated(t *testing.T) {
	p := leasedPort(t)
	f, ask := datagram(guest, leased, peer, 1000), whoHas(guest, leased, gateway)
	out := make([]byte, 0, 2000)
	if n := testing.AllocsPerRun(100, func() {
		p.In(f)
		p.In(ask)
		out = p.AppendFrame(out[:0], f[HeaderLen:])
	}); n != 0 {
		t.Errorf("%v allocations per frame", n)
	}
}
