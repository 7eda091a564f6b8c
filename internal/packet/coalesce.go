package packet

import (
	"bytes"
	"encoding/binary"
	"slices"
)

const (
	tcpAck = 8 // where the acknowledgement number stands

	tcpACK = 0x10
	tcpECE = 0x40
)

// A Coalescer makes super-packets of consecutive segments of a flow: what AppendSegments has made of one becomes that one again. It
// takes TCP over IPv4 without options of IP, whose checksums are right: a wrong one must stay so. The zero value is empty.
//
//	Add(segment) ── is it the next of what there is? ── true: copied ──▶ Add ...
//	                                                 └─ false: Take first, then Add again, or send it as it is
type Coalescer struct {
	Headroom int // bytes that Take leaves free before the packet; set before use

	buf     []byte
	headers int    // length of those of IP and TCP; 0: empty
	size    int    // payload of the first segment
	count   int    // segments
	next    uint32 // sequence number of the next one
	last    bool   // nothing can follow
}

// Add takes ip, which passed Check and is complete, if it is the next segment or the first one. It keeps no part of ip.
func (c *Coalescer) Add(ip []byte) bool {
	n, ok := segmentHeaders(ip)
	if !ok || !c.follows(ip, n) {
		return false
	}
	// A checksum of 0 is right where 0xffff is, and would come out as that.
	if binary.BigEndian.Uint16(ip[minIPv4Header+tcpChecksum:]) == 0 || IPv4(ip).sumIsWrong() || Checksum(ip[minIPv4Header:], PseudoSum(ip, protoTCP, len(ip)-minIPv4Header)) != 0 {
		return false
	}
	payload := ip[n:]
	if c.headers == 0 {
		c.headers, c.size, c.count = n, len(payload), 0
		c.buf = slices.Grow(c.buf[:0], c.Headroom+len(ip))[:c.Headroom]
		c.buf = append(c.buf, ip[:n]...)
		c.next = binary.BigEndian.Uint32(ip[minIPv4Header+tcpSeq:])
	}
	c.buf = append(c.buf, payload...)
	c.count++
	c.next += uint32(len(payload))
	ending := ip[minIPv4Header+tcpFlags] & (tcpFIN | tcpPSH)
	c.buf[c.Headroom+minIPv4Header+tcpFlags] |= ending
	c.last = ending != 0 || len(payload) < c.size || c.size < MinGSOSize
	return true
}

// segmentHeaders returns the length of the headers of a segment that can be part of a super-packet.
func segmentHeaders(ip []byte) (int, bool) {
	if len(ip) < minIPv4Header+minTCPHeader || ip[0] != 0x45 || ip[9] != protoTCP || IPv4(ip).TotalLen() != len(ip) ||
		IPv4(ip).fragment()&^dontFragment != 0 {
		return 0, false
	}
	tcp := ip[minIPv4Header:]
	n := int(tcp[tcpOffset]>>4) * 4
	payload := len(tcp) - n
	flags := tcp[tcpFlags]
	return minIPv4Header + n, n >= minTCPHeader && payload > 0 && flags&tcpACK != 0 && flags&^(tcpACK|tcpPSH|tcpFIN|tcpECE) == 0
}

// follows tells whether a segment with headers of n bytes is the next one. What differs between the headers is what segmentation
// makes differ, as in Linux (net/ipv4/tcp_offload.c, tcp_gro_receive).
func (c *Coalescer) follows(ip []byte, n int) bool {
	if c.headers == 0 {
		return true
	}
	first := c.buf[c.Headroom : c.Headroom+c.headers]
	payload := len(ip) - n
	if c.last || n != c.headers || payload > c.size || c.count == MaxSegments || len(c.buf)-c.Headroom+payload > 65535 {
		return false
	}
	tcp, was := ip[minIPv4Header:n], first[minIPv4Header:]
	return binary.BigEndian.Uint32(tcp[tcpSeq:]) == c.next &&
		binary.BigEndian.Uint16(ip[ipv4ID:]) == binary.BigEndian.Uint16(first[ipv4ID:])+uint16(c.count) &&
		bytes.Equal(ip[:ipv4Length], first[:ipv4Length]) &&
		bytes.Equal(ip[ipv4Fragment:ipv4Checksum], first[ipv4Fragment:ipv4Checksum]) &&
		bytes.Equal(ip[ipv4Src:minIPv4Header], first[ipv4Src:minIPv4Header]) &&
		bytes.Equal(tcp[:tcpSeq], was[:tcpSeq]) &&
		bytes.Equal(tcp[tcpAck:tcpFlags], was[tcpAck:tcpFlags]) &&
		(tcp[tcpFlags]^was[tcpFlags])&^(tcpFIN|tcpPSH) == 0 &&
		bytes.Equal(tcp[tcpFlags+1:tcpChecksum], was[tcpFlags+1:tcpChecksum]) &&
		bytes.Equal(tcp[tcpChecksum+2:], was[tcpChecksum+2:])
}

// sumIsWrong tells whether the header checksum does not fit the header, which has no options.
func (p IPv4) sumIsWrong() bool { return Checksum(p[:minIPv4Header], 0) != 0 }

// Count returns how many segments there are.
func (c *Coalescer) Count() int { return c.count }

// Take returns what has become of the segments, with Headroom bytes before it, and empties the Coalescer; nil: there were none. A
// single segment is as it was. The bytes are valid until the next Add.
func (c *Coalescer) Take() (Offload, []byte) {
	if c.headers == 0 {
		return Offload{}, nil
	}
	b, ip := c.buf, c.buf[c.Headroom:]
	headers, size, count := c.headers, c.size, c.count
	c.headers, c.count, c.last = 0, 0, false
	if count == 1 {
		return Offload{}, b
	}
	binary.BigEndian.PutUint16(ip[ipv4Length:], uint16(len(ip)))
	IPv4(ip).sum()
	pseudo := fold(uint64(PseudoSum(ip, protoTCP, len(ip)-minIPv4Header)))
	binary.BigEndian.PutUint16(ip[minIPv4Header+tcpChecksum:], pseudo)
	return Offload{
		Flags: NeedsCsum, GSOType: GSOTCPv4, HdrLen: uint16(headers), GSOSize: uint16(size),
		CsumStart: minIPv4Header, CsumOffset: tcpChecksum,
	}, b
}
