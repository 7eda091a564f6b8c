package packet

import (
	"encoding/binary"
	"net/netip"
)

// TTL returns how many more hops the packet may take.
func (p IPv4) TTL() uint8 { return p[8] }

// Protocol numbers (IANA, Assigned Internet Protocol Numbers).
const (
	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17

	protoFragment = 44 // an IPv6 extension header
)

// Lengths in bytes.
const (
	minIPv4Header = 20
	maxIPv4Header = 60
	ipv6Header    = 40
	minTCPHeader  = 20
	udpHeader     = 8
	icmpHeader    = 8
)

// Where header fields stand.
const (
	ipv4Length   = 2
	ipv4ID       = 4
	ipv4Fragment = 6
	ipv4Checksum = 10
	ipv4Src      = 12
	ipv4Dst      = 16

	ipv6Length = 4
	ipv6Src    = 8

	tcpSeq      = 4
	tcpOffset   = 12
	tcpFlags    = 13
	tcpChecksum = 16

	udpLength   = 4
	udpChecksum = 6
)

// Of the 16 bits at ipv4Fragment (RFC 791, section 3.1).
const (
	dontFragment   = 1 << 14
	moreFragments  = 1 << 13
	fragmentOffset = 1<<13 - 1 // in units of 8 bytes
)

// IPv4 is a view of an IPv4 packet. It must be at least 20 bytes long; nothing else is assumed, so
// lengths are what the header claims.
type IPv4 []byte

// HeaderLen returns the length of the header with its options, in bytes.
func (p IPv4) HeaderLen() int { return int(p[0]&0xf) * 4 }

// TotalLen returns the length of header and payload, in bytes.
func (p IPv4) TotalLen() int { return int(binary.BigEndian.Uint16(p[ipv4Length:])) }

// Protocol returns the protocol of the payload.
func (p IPv4) Protocol() uint8 { return p[9] }

// Src returns the source address.
func (p IPv4) Src() netip.Addr { return netip.AddrFrom4([4]byte(p[ipv4Src:])) }

// Dst returns the destination address.
func (p IPv4) Dst() netip.Addr { return netip.AddrFrom4([4]byte(p[ipv4Dst:])) }

// SrcUint32 returns the source address as a number, 10.0.0.1 being 0x0a000001.
func (p IPv4) SrcUint32() uint32 { return binary.BigEndian.Uint32(p[ipv4Src:]) }

// DstUint32 returns the destination address as a number.
func (p IPv4) DstUint32() uint32 { return binary.BigEndian.Uint32(p[ipv4Dst:]) }

// DontFragment reports whether a router must not fragment the packet.
func (p IPv4) DontFragment() bool { return p.fragment()&dontFragment != 0 }

// MoreFragments reports whether the packet is a fragment and not the last one.
func (p IPv4) MoreFragments() bool { return p.fragment()&moreFragments != 0 }

// FragmentOffset returns where the payload stands in that of the whole packet, in bytes.
func (p IPv4) FragmentOffset() int { return int(p.fragment()&fragmentOffset) * 8 }

// DstPort returns the destination port of TCP or UDP; false: it has none, or is a fragment that is not the first.
func (p IPv4) DstPort() (uint16, bool) {
	n := p.HeaderLen()
	if p.Protocol() != protoTCP && p.Protocol() != protoUDP || p.FragmentOffset() > 0 || len(p) < n+4 {
		return 0, false
	}
	return binary.BigEndian.Uint16(p[n+2:]), true
}

func (p IPv4) fragment() uint16 { return binary.BigEndian.Uint16(p[ipv4Fragment:]) }

// sum writes the header checksum.
func (p IPv4) sum() {
	binary.BigEndian.PutUint16(p[ipv4Checksum:], 0)
	binary.BigEndian.PutUint16(p[ipv4Checksum:], Checksum(p[:p.HeaderLen()], 0))
}

// IPv6Len returns the length of the IPv6 packet that begins with b, in bytes. b must have at least
// 40 bytes. A jumbogram (RFC 2675) counts as one without payload.
func IPv6Len(b []byte) int { return ipv6Header + int(binary.BigEndian.Uint16(b[ipv6Length:])) }
