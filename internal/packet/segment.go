package packet

import (
	"encoding/binary"
	"slices"
)

// TCP flags (RFC 9293, section 3.1).
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80
)

// CompleteChecksum stores in ip the checksum that o, the result of Check, says is missing.
func CompleteChecksum(o Offload, ip []byte) {
	if o.Flags&NeedsCsum == 0 {
		return
	}
	// The field holds the sum of the pseudo-header, and is summed up like the rest.
	b := ip[o.CsumStart:]
	check := Checksum(b, 0)
	if check == 0 {
		check = 0xffff // 0 is "no checksum" in UDP (RFC 768), and means the same elsewhere
	}
	binary.BigEndian.PutUint16(b[o.CsumOffset:], check)
}

// AppendSegments appends to dst the complete packets, back to back, that become of ip, which passed
// Check with the result o. Each has its own length, checksums, and IPv4 identification; those of TCP
// have their sequence number, FIN and PSH in the last and CWR in the first alone (Linux,
// net/ipv4/tcp_offload.c, tcp_gso_segment). They are MaxSegment bytes long, the last may be shorter.
func AppendSegments(dst []byte, o Offload, ip []byte) []byte {
	if o.GSOType == GSONone {
		start := len(dst)
		dst = append(dst, ip...)
		CompleteChecksum(o, dst[start:])
		return dst
	}
	headers, payload := ip[:o.HdrLen], ip[o.HdrLen:]
	size := int(o.GSOSize)
	dst = slices.Grow(dst, len(payload)+(len(payload)+size-1)/size*len(headers))
	for at := 0; at < len(payload); at += size {
		end := min(at+size, len(payload))
		start := len(dst)
		dst = append(dst, headers...)
		dst = append(dst, payload[at:end]...)
		finish(o, dst[start:], at, end == len(payload))
	}
	return dst
}

// finish turns the headers of a super-packet into those of the segment seg, whose payload stood at
// the offset at. CsumStart is where the transport header begins.
func finish(o Offload, seg []byte, at int, last bool) {
	transport := seg[o.CsumStart:]
	if seg[0]>>4 == 4 {
		binary.BigEndian.PutUint16(seg[ipv4Length:], uint16(len(seg)))
		add16(seg[ipv4ID:], at/int(o.GSOSize))
		IPv4(seg).sum()
	} else {
		binary.BigEndian.PutUint16(seg[ipv6Length:], uint16(len(transport)))
	}
	protocol := uint8(protoTCP)
	if o.GSOType == GSOUDPL4 {
		protocol = protoUDP
		binary.BigEndian.PutUint16(transport[udpLength:], uint16(len(transport)))
	} else {
		finishTCP(transport, at, last)
	}
	pseudo := fold(uint64(PseudoSum(seg, protocol, len(transport))))
	binary.BigEndian.PutUint16(transport[o.CsumOffset:], pseudo)
	CompleteChecksum(o, seg)
}

func finishTCP(tcp []byte, at int, last bool) {
	seq := binary.BigEndian.Uint32(tcp[tcpSeq:])
	binary.BigEndian.PutUint32(tcp[tcpSeq:], seq+uint32(at))
	if at > 0 {
		tcp[tcpFlags] &^= tcpCWR
	}
	if !last {
		tcp[tcpFlags] &^= tcpFIN | tcpPSH
	}
}

func add16(b []byte, n int) {
	binary.BigEndian.PutUint16(b, binary.BigEndian.Uint16(b)+uint16(n))
}
