package packet

import (
	"encoding/binary"
	"math/bits"
)

// Checksum returns the Internet checksum (RFC 1071) of b, ready to be stored. The sum starts at
// initial, which is 0 or a PseudoSum. Over data that includes its checksum the result is 0.
func Checksum(b []byte, initial uint32) uint16 {
	return ^fold(uint64(initial) + uint64(sum(b)))
}

// PseudoSum returns the sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1) for
// n bytes of transport header and payload in the IPv4 or IPv6 packet ip.
func PseudoSum(ip []byte, protocol uint8, n int) uint32 {
	addrs := ip[ipv4Src : ipv4Dst+4]
	if ip[0]>>4 == 6 {
		addrs = ip[ipv6Src:ipv6Header]
	}
	return uint32(sum(addrs)) + uint32(protocol) + uint32(n)
}

// sum returns the one's complement sum of b in words of 16 bits. Words of 64 bits fold to the same
// sum, and their byte order can be put right at the end (RFC 1071, section 2). Each carry goes into
// the next addition.
func sum(b []byte) uint16 {
	var s, c uint64
	for len(b) >= 64 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[8:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[16:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[24:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[32:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[40:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[48:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[56:]), c)
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), c)
		b = b[8:]
	}
	var last uint64
	for i, x := range b {
		last |= uint64(x) << (8 * i)
	}
	s, c = bits.Add64(s, last, c)
	return bits.ReverseBytes16(fold(s + c)) // no overflow: with a carry, s is not all ones
}

// fold adds the four words of s, and the carries of that.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff // at most 3 words
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}
