package rawvpn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Protocol numbers of IANA.
const (
	ICMP = 1
	TCP  = 6
	UDP  = 17
)

// headerLen is the length in bytes of an IPv4 header without options.
const headerLen = 20

// IPv4 returns a packet without options, with TTL 64 and a right header checksum.
func IPv4(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	b := make([]byte, headerLen, headerLen+len(payload))
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(headerLen+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(0, b))
	return append(b, payload...)
}

// Datagram returns an IPv4 packet with a UDP datagram and all its checksums.
func Datagram(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	b = append(b, payload...)
	ip := IPv4(src.Addr(), dst.Addr(), UDP, b)
	binary.BigEndian.PutUint16(ip[headerLen+6:], checksum(pseudoHeader(ip, headerLen), ip[headerLen:]))
	return ip
}

// Echo returns an ICMP echo request.
func Echo(src, dst netip.Addr, id, seq uint16, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	b[0] = 8
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[2:], checksum(0, b))
	return IPv4(src, dst, ICMP, b)
}

// SetTTL changes the time to live of an IPv4 packet without options, and its checksum.
func SetTTL(ip []byte, ttl byte) {
	ip[8], ip[10], ip[11] = ttl, 0, 0
	binary.BigEndian.PutUint16(ip[10:], checksum(0, ip[:headerLen]))
}

// Src returns the source of an IPv4 packet.
func Src(ip []byte) netip.Addr { return netip.AddrFrom4([4]byte(ip[12:16])) }

// Dst returns the destination of an IPv4 packet.
func Dst(ip []byte) netip.Addr { return netip.AddrFrom4([4]byte(ip[16:20])) }

// Payload returns what follows the headers of an IPv4 packet of UDP or ICMP; nil of any other.
func Payload(ip []byte) []byte {
	n := int(ip[0]&15) * 4
	if len(ip) < n+8 || ip[9] != UDP && ip[9] != ICMP {
		return nil
	}
	return ip[n+8:]
}

// Intact tells what is wrong with an IPv4 packet as it should be on a wire: lengths and checksums of
// IP, TCP, UDP and ICMP, none left out.
func Intact(ip []byte) error {
	if len(ip) < headerLen || ip[0]>>4 != 4 {
		return errors.New("no IPv4 header")
	}
	n := int(ip[0]&15) * 4
	switch total := int(binary.BigEndian.Uint16(ip[2:])); {
	case n < headerLen || n > len(ip):
		return fmt.Errorf("header length %d of %d bytes", n, len(ip))
	case total != len(ip):
		return fmt.Errorf("total length %d of %d bytes", total, len(ip))
	case checksum(0, ip[:n]) != 0:
		return errors.New("wrong header checksum")
	case binary.BigEndian.Uint16(ip[6:])&0x3fff != 0:
		return nil // a fragment: the checksum is of the whole
	}
	sum := pseudoHeader(ip, n)
	switch ip[9] {
	case ICMP:
		sum = 0
	case UDP:
		if len(ip) < n+8 || int(binary.BigEndian.Uint16(ip[n+4:])) != len(ip)-n {
			return errors.New("wrong length of UDP")
		}
	case TCP:
	default:
		return nil
	}
	if checksum(sum, ip[n:]) != 0 {
		return fmt.Errorf("wrong checksum of protocol %d", ip[9])
	}
	return nil
}

// checksum is that of RFC 1071, begun with sum.
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// pseudoHeader sums up what TCP and UDP take from the IP header, n bytes long (RFC 9293, section 3.1).
func pseudoHeader(ip []byte, n int) (sum uint32) {
	for i := 12; i < 20; i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	return sum + uint32(ip[9]) + uint32(len(ip)-n)
}
