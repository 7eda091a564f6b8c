package packet

import (
	"encoding/binary"
	"testing"
)

// spec says what kind of packet a test wants. Addresses, ports and identification are fixed.
type spec struct {
	v6       bool
	proto    uint8 // protoTCP, protoUDP, or another without a header
	options  []byte
	tcpOpts  []byte
	tcpFlags uint8
	fragment uint16 // flags and offset
	payload  []byte
	id       uint16
	seq      uint32
}

// ip returns the packet with the sum of the pseudo-header where TCP or UDP have their checksum, as a
// kernel leaves it.
func (s spec) ip() []byte {
	b := s.network()
	start := len(b)
	b = append(b, s.transport()...)
	b = append(b, s.payload...)
	if s.v6 {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	} else {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[10:], ^slowSum(b[:start]))
	}
	switch s.proto {
	case protoTCP:
		binary.BigEndian.PutUint16(b[start+16:], slowPseudo(b, s.proto, len(b)-start))
	case protoUDP:
		binary.BigEndian.PutUint16(b[start+4:], uint16(len(b)-start))
		binary.BigEndian.PutUint16(b[start+6:], slowPseudo(b, s.proto, len(b)-start))
	}
	return b
}

func (s spec) network() []byte {
	if s.v6 {
		b := make([]byte, 40)
		b[0], b[6], b[7] = 0x60, s.proto, 64
		b[8], b[23], b[24], b[39] = 0xfd, 1, 0xfd, 2
		return b
	}
	b := make([]byte, 20, 60)
	copy(b[12:], []byte{10, 0, 254, 254, 192, 0, 2, 1})
	b = append(b, s.options...)
	b[0], b[1], b[8], b[9] = 0x40|byte(len(b)/4), 2, 64, s.proto
	binary.BigEndian.PutUint16(b[4:], s.id)
	binary.BigEndian.PutUint16(b[6:], s.fragment)
	return b
}

func (s spec) transport() []byte {
	ports := []byte{0x13, 0x88, 0x14, 0x51}
	switch s.proto {
	case protoTCP:
		b := make([]byte, 20, 60)
		copy(b, ports)
		binary.BigEndian.PutUint32(b[4:], s.seq)
		binary.BigEndian.PutUint32(b[8:], 0x01020304)
		b = append(b, s.tcpOpts...)
		b[12], b[13], b[14] = byte(len(b)/4)<<4, s.tcpFlags, 2
		return b
	case protoUDP:
		return append(ports, 0, 0, 0, 0)
	}
	return nil
}

// offload returns what a kernel says about the packet. size is 0 for a packet that is no super-packet.
func (s spec) offload(size int) Offload {
	start := len(s.network())
	o := Offload{Flags: NeedsCsum, GSOSize: uint16(size), CsumStart: uint16(start), CsumOffset: 16}
	if s.proto == protoUDP {
		o.CsumOffset = 6
	}
	switch {
	case size == 0:
		return o
	case s.proto == protoUDP:
		o.GSOType = GSOUDPL4
	case s.v6:
		o.GSOType = GSOTCPv6
	default:
		o.GSOType = GSOTCPv4
	}
	o.HdrLen = uint16(start + len(s.transport()))
	return o
}

// numbers returns n bytes that do not repeat after a segment.
func numbers(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func mustCheck(t testing.TB, o Offload, ip []byte) Offload {
	t.Helper()
	checked, err := Check(o, ip)
	if err != nil {
		t.Fatalf("Check(%+v, %d bytes): %v", o, len(ip), err)
	}
	return checked
}

// slowSum is the sum of RFC 1071 as it reads.
func slowSum(b []byte) uint16 {
	s := 0
	for i, x := range b {
		if i%2 == 0 {
			s += int(x) << 8
		} else {
			s += int(x)
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func slowPseudo(ip []byte, proto uint8, n int) uint16 {
	var b []byte
	if ip[0]>>4 == 6 {
		b = append(b, ip[8:40]...)
	} else {
		b = append(b, ip[12:20]...)
	}
	return slowSum(append(b, 0, proto, byte(n>>8), byte(n)))
}

// split cuts packets that stand back to back.
func split(t testing.TB, b []byte) [][]byte {
	t.Helper()
	var packets [][]byte
	for len(b) > 0 {
		var n int
		if b[0]>>4 == 6 {
			n = IPv6Len(b)
		} else {
			n = IPv4(b).TotalLen()
		}
		if n < 20 || n > len(b) {
			t.Fatalf("packet %d claims %d bytes of %d", len(packets), n, len(b))
		}
		packets = append(packets, b[:n])
		b = b[n:]
	}
	return packets
}

// verifyHeader fails unless the IPv4 header checksum is right.
func verifyHeader(t testing.TB, ip []byte) {
	t.Helper()
	if ip[0]>>4 == 4 && slowSum(ip[:IPv4(ip).HeaderLen()]) != 0xffff {
		t.Errorf("wrong checksum in IP header % x", ip[:IPv4(ip).HeaderLen()])
	}
}

// verifyTransport fails unless the checksum over ip[start:] and the pseudo-header is right.
func verifyTransport(t testing.TB, ip []byte, start int, proto uint8) {
	t.Helper()
	all := int(slowSum(ip[start:])) + int(slowPseudo(ip, proto, len(ip)-start))
	if all%0xffff != 0 {
		t.Errorf("wrong checksum in segment of %d bytes: sum %#x", len(ip), all)
	}
	if proto == protoUDP && ip[start+6] == 0 && ip[start+7] == 0 {
		t.Error("UDP checksum 0 means that there is none")
	}
}
