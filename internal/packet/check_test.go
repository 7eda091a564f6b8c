package packet

import (
	"bytes"
	"errors"
	"testing"
)

func TestOffloadOnTheWire(t *testing.T) {
	wire := []byte{1, 0x81, 0x34, 0x12, 0xa8, 0x05, 0x14, 0x00, 0x10, 0x00}
	want := Offload{NeedsCsum, GSOTCPv4 | GSOECN, 0x1234, 1448, 20, 16}
	got, ok := ConsumeOffload(append(bytes.Clone(wire), 0x45))
	if !ok || got != want {
		t.Errorf("got %+v, %v, want %+v", got, ok, want)
	}
	b := make([]byte, OffloadLen)
	want.Put(b)
	if !bytes.Equal(b, wire) {
		t.Errorf("got % x, want % x", b, wire)
	}
	if _, ok := ConsumeOffload(wire[:9]); ok {
		t.Error("9 bytes are enough")
	}
}

var (
	tcp   = spec{proto: protoTCP, tcpFlags: 0x10, tcpOpts: make([]byte, 12), payload: numbers(4000)}
	udp   = spec{proto: protoUDP, payload: numbers(4000)}
	tcp6  = spec{v6: true, proto: protoTCP, payload: numbers(4000)}
	udp6  = spec{v6: true, proto: protoUDP, payload: numbers(4000)}
	icmp  = spec{proto: protoICMP, payload: numbers(64)}
	gre   = spec{proto: 47, payload: numbers(100)}
	bare  = Offload{}
	plain = Offload{Flags: NeedsCsum, CsumStart: 20, CsumOffset: 16}
)

// but returns b with the byte at i changed to x.
func but(b []byte, i int, x byte) []byte {
	b = bytes.Clone(b)
	b[i] = x
	return b
}

func TestCheckPasses(t *testing.T) {
	withData := func(o Offload, flags uint8) Offload { o.Flags |= flags; return o }
	fromForwarding := tcp.offload(1448)
	fromForwarding.HdrLen = 1500
	ecn := tcp.offload(1448)
	ecn.GSOType |= GSOECN
	tests := []struct {
		name string
		o    Offload
		ip   []byte
		want Offload
	}{
		{"bare header", bare, spec{proto: 59}.ip(), Offload{}},
		{"fragment", bare, spec{proto: protoUDP, fragment: 0x2000, payload: numbers(8)}.ip(), Offload{}},
		{"last fragment, as far as possible", bare, spec{proto: 59, fragment: 8188, payload: numbers(11)}.ip(), Offload{}},
		{"longest", bare, spec{proto: protoICMP, payload: numbers(65515)}.ip(), Offload{}},
		{"IPv6 without payload", bare, spec{v6: true, proto: 59}.ip(), Offload{}},
		{"IPv6 fragment", bare, spec{v6: true, proto: 44, payload: numbers(8)}.ip(), Offload{}},
		{"complete, fields without meaning", Offload{DataValid, 0, 1, 2, 3, 4}, tcp.ip(), Offload{}},
		{"checksum of TCP", Offload{NeedsCsum, 0, 99, 99, 20, 16}, tcp.ip(), plain},
		{"checksum of UDP", withData(udp.offload(0), DataValid), udp.ip(), udp.offload(0)},
		{"checksum of ICMP", Offload{NeedsCsum, 0, 0, 0, 20, 2}, icmp.ip(), Offload{NeedsCsum, 0, 0, 0, 20, 2}},
		{"checksum inside GRE", Offload{NeedsCsum, 0, 0, 0, 44, 16}, gre.ip(), Offload{NeedsCsum, 0, 0, 0, 44, 16}},
		{"checksum inside VXLAN", Offload{NeedsCsum, 0, 0, 0, 70, 16}, udp.ip(), Offload{NeedsCsum, 0, 0, 0, 70, 16}},
		{"checksum of TCP over IPv6", tcp6.offload(0), tcp6.ip(), tcp6.offload(0)},
		{"super-packet", tcp.offload(1448), tcp.ip(), tcp.offload(1448)},
		{"super-packet from a forwarding kernel", withData(fromForwarding, DataValid), tcp.ip(), tcp.offload(1448)},
		{"super-packet with ECN", ecn, tcp.ip(), ecn},
		{"super-packet of UDP", udp.offload(1400), udp.ip(), udp.offload(1400)},
		{"super-packet of TCP over IPv6", tcp6.offload(1440), tcp6.ip(), tcp6.offload(1440)},
		{"super-packet of UDP over IPv6", udp6.offload(1400), udp6.ip(), udp6.offload(1400)},
		{"super-packet of one segment", tcp.offload(4000), tcp.ip(), plain},
		{"GSO_BY_FRAGS of Linux", tcp.offload(0xffff), tcp.ip(), plain},
		{"least segments", tcp.offload(MinGSOSize), tcp.ip(), tcp.offload(MinGSOSize)},
	}
	for _, tt := range tests {
		got, err := Check(tt.o, tt.ip)
		if err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
}

// exam: M4
func TestCheckRefuses(t *testing.T) {
	short, long, v6 := tcp.ip(), append(udp.ip(), 0), tcp6.ip()
	many := spec{proto: protoTCP, payload: numbers(MinGSOSize*MaxSegments + 1)}
	fragment := spec{proto: protoUDP, fragment: 0x2000, payload: numbers(2000)}
	last := spec{proto: protoTCP, fragment: 1, payload: numbers(2000)}
	super := func(o Offload, kind uint8) Offload { o.GSOType = kind; return o }
	tests := []struct {
		name string
		o    Offload
		ip   []byte
		want error
	}{
		{"nothing", bare, nil, ErrLength},
		{"version 0", bare, but(short, 0, 0x05), ErrNotIP},
		{"version 5", bare, but(short, 0, 0x55), ErrNotIP},
		{"version alone", bare, []byte{0x45}, ErrLength},
		{"short", bare, short[:len(short)-1], ErrLength},
		{"long", bare, long, ErrLength},
		{"total length 0", bare, but(but(short, 2, 0), 3, 0), ErrLength},
		{"header of 16 bytes", bare, but(short, 0, 0x44), ErrHeader},
		{"header longer than the packet", bare, but(spec{proto: 59}.ip(), 0, 0x46), ErrHeader},
		{"ping of death", bare, spec{proto: 59, fragment: 8188, payload: numbers(12)}.ip(), ErrHeader},
		{"IPv6 short", bare, v6[:len(v6)-1], ErrLength},
		{"IPv6 half a header", bare, v6[:39], ErrLength},
		{"IPv6 jumbogram", bare, but(but(v6, 4, 0), 5, 0), ErrLength},

		{"unknown flag", Offload{Flags: 4}, short, ErrOffload},
		{"unknown flag with checksum", Offload{NeedsCsum | 0x80, 0, 0, 0, 20, 16}, short, ErrOffload},
		{"super-packet without checksum", Offload{0, GSOTCPv4, 52, 1448, 20, 16}, short, ErrOffload},
		{"super-packet with valid checksum", Offload{DataValid, GSOTCPv4, 52, 1448, 20, 16}, short, ErrOffload},
		{"checksum of a first fragment", fragment.offload(0), fragment.ip(), ErrOffload},
		{"checksum of a last fragment", last.offload(0), last.ip(), ErrOffload},
		{"super-packet that is a fragment", fragment.offload(100), fragment.ip(), ErrOffload},
		{"checksum of an IPv6 fragment", Offload{NeedsCsum, 0, 0, 0, 48, 6}, spec{v6: true, proto: 44, payload: numbers(99)}.ip(), ErrOffload},
		{"checksum in the IP header", Offload{NeedsCsum, 0, 0, 0, 0, 10}, gre.ip(), ErrOffload},
		{"checksum inside TCP", Offload{NeedsCsum, 0, 0, 0, 24, 16}, short, ErrOffload},
		{"checksum of TCP at the place of UDP", Offload{NeedsCsum, 0, 0, 0, 20, 6}, short, ErrOffload},
		{"checksum of UDP at the place of TCP", plain, udp.ip(), ErrOffload},
		{"checksum half behind the end", Offload{NeedsCsum, 0, 0, 0, 20, 99}, gre.ip(), ErrOffload},
		{"checksum far behind the end", Offload{NeedsCsum, 0, 0, 0, 0xffff, 0xffff}, gre.ip(), ErrOffload},
		{"TCP without room for its checksum", plain, spec{proto: 59, payload: numbers(17)}.as(protoTCP), ErrOffload},
		{"TCP without room for its header", plain, spec{proto: 59, payload: numbers(19)}.as(protoTCP), ErrHeader},
		{"TCP header of 16 bytes", plain, but(short, 32, 0x40), ErrHeader},
		{"TCP header longer than the packet", plain, but(spec{proto: protoTCP}.ip(), 32, 0x60), ErrHeader},
		{"UDP length short", udp.offload(0), but(udp.ip(), 25, 0), ErrHeader},
		{"UDP length long", udp.offload(1400), but(udp.ip(), 24, 0xff), ErrHeader},

		{"UFO", super(udp.offload(1400), 3), udp.ip(), ErrOffload},
		{"ECN alone", super(tcp.offload(1448), GSOECN), short, ErrOffload},
		{"ECN with UDP", super(udp.offload(1400), GSOUDPL4|GSOECN), udp.ip(), ErrOffload},
		{"UDP as TCP", super(udp.offload(1400), GSOTCPv4), udp.ip(), ErrOffload},
		{"TCP as UDP", super(tcp.offload(1448), GSOUDPL4), short, ErrOffload},
		{"TCPv6 on IPv4", super(tcp.offload(1448), GSOTCPv6), short, ErrOffload},
		{"TCPv4 on IPv6", super(tcp6.offload(1440), GSOTCPv4), v6, ErrOffload},
		{"super-packet of ICMP", Offload{NeedsCsum, GSOUDPL4, 28, 8, 20, 2}, icmp.ip(), ErrOffload},
		{"super-packet inside VXLAN", Offload{NeedsCsum, GSOUDPL4, 70, 1400, 70, 16}, udp.ip(), ErrOffload},
		{"segments of 0 bytes", super(tcp.offload(0), GSOTCPv4), short, ErrOffload},
		{"segments too small", tcp.offload(MinGSOSize - 1), short, ErrOffload},
		{"too many segments", many.offload(MinGSOSize), many.ip(), ErrOffload},
	}
	for _, tt := range tests {
		if got, err := Check(tt.o, tt.ip); !errors.Is(err, tt.want) || got != (Offload{}) {
			t.Errorf("%s: got %+v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
}

// as returns the packet with another protocol number and no header of that protocol.
func (s spec) as(proto uint8) []byte { return but(s.ip(), 9, proto) }

func TestMaxSegment(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    spec
		size int
		want int
	}{
		{"no super-packet", tcp, 0, 4052},
		{"TCP", tcp, 1448, 1500},
		{"UDP over IPv6", udp6, 1400, 1448},
		{"payload of one segment", udp, 4000, 4028},
	} {
		ip := tt.s.ip()
		if got := MaxSegment(mustCheck(t, tt.s.offload(tt.size), ip), ip); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}

// FuzzCheck: no bytes make Check panic, and what it lets through can be finished.
// exam: M14
func FuzzCheck(f *testing.F) {
	wire := make([]byte, OffloadLen)
	for _, s := range []spec{tcp, udp, tcp6, udp6, icmp, gre, {proto: 59, fragment: 0x2001}} {
		s.payload = numbers(99) // the fuzzer takes long to shrink what is larger
		for _, size := range []int{0, 20, 98} {
			s.offload(size).Put(wire)
			f.Add(append(bytes.Clone(wire), s.ip()...))
		}
		f.Add(append(make([]byte, OffloadLen), s.ip()...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		claimed, ok := ConsumeOffload(b)
		if !ok {
			return
		}
		again := make([]byte, OffloadLen)
		if claimed.Put(again); !bytes.Equal(again, b[:OffloadLen]) {
			t.Fatalf("encoded again: % x, want % x", again, b[:OffloadLen])
		}
		ip := b[OffloadLen:]
		o, err := Check(claimed, ip)
		if err != nil {
			return
		}
		if again, err := Check(o, ip); err != nil || again != o {
			t.Fatalf("checked again: %+v, %v, want %+v", again, err, o)
		}
		if o.GSOType == GSONone {
			out := AppendSegments(nil, o, ip)
			if len(out) != len(ip) || o.Flags == 0 && !bytes.Equal(out, ip) {
				t.Fatalf("%+v: the packet changed", o)
			}
			return
		}
		checkSegments(t, o, ip)
	})
}

func TestCheckAllocates(t *testing.T) {
	o, ip, wrong := tcp.offload(1448), tcp.ip(), tcp.offload(1)
	n := testing.AllocsPerRun(100, func() {
		_, _ = Check(o, ip)
		_, _ = Check(wrong, ip)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, bb := range []struct {
		name string
		o    Offload
		ip   []byte
	}{{"bare", bare, icmp.ip()}, {"super", tcp.offload(1448), tcp.ip()}} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(bb.ip)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Check(bb.o, bb.ip)
			}
		})
	}
}
