package packet

import (
	"net/netip"
	"testing"
)

func TestIPv4(t *testing.T) {
	p := IPv4(spec{proto: protoUDP, options: []byte{1, 1, 1, 0}, fragment: 0x2003, payload: numbers(16)}.ip())
	if p.HeaderLen() != 24 || p.TotalLen() != 48 || p.Protocol() != protoUDP {
		t.Errorf("header %d, total %d, protocol %d", p.HeaderLen(), p.TotalLen(), p.Protocol())
	}
	if p.DontFragment() || !p.MoreFragments() || p.FragmentOffset() != 24 {
		t.Errorf("DF %v, MF %v, offset %d", p.DontFragment(), p.MoreFragments(), p.FragmentOffset())
	}
	if src, dst := p.Src(), p.Dst(); src != netip.MustParseAddr("10.0.254.254") || dst != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("%v -> %v", src, dst)
	}
	if p.SrcUint32() != 0x0a00fefe || p.DstUint32() != 0xc0000201 {
		t.Errorf("%#x -> %#x", p.SrcUint32(), p.DstUint32())
	}
	if p := IPv4(spec{fragment: 0x4000}.ip()); !p.DontFragment() || p.MoreFragments() || p.FragmentOffset() != 0 {
		t.Errorf("DF alone: DF %v, MF %v, offset %d", p.DontFragment(), p.MoreFragments(), p.FragmentOffset())
	}
}

func TestIPv6Len(t *testing.T) {
	if n := IPv6Len(spec{v6: true, payload: make([]byte, 300)}.ip()); n != 340 {
		t.Errorf("got %d, want 340", n)
	}
}
