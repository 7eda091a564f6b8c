package pcap

import (
	"encoding/binary"
	"fmt"
	"strings"

	"ferry/internal/packet"
)

// Line writes a packet in a line, much as tcpdump does.
func Line(p Packet) string {
	var b strings.Builder
	b.WriteString(p.Time.Format("15:04:05.000000 "))
	ip := packet.IPv4(p.Data)
	if len(ip) < 20 || ip[0]>>4 != 4 || ip.HeaderLen() < 20 || len(ip) < ip.HeaderLen() {
		fmt.Fprintf(&b, "IP, length %d", p.Length)
		return b.String()
	}
	rest, length := ip[ip.HeaderLen():], max(0, p.Length-ip.HeaderLen())
	var srcPort, dstPort, what string
	switch {
	case ip.FragmentOffset() > 0:
		what = fmt.Sprintf("%s, fragment at %d, length %d", protocol(ip.Protocol()), ip.FragmentOffset(), length)
	case ip.Protocol() == protoTCP && len(rest) >= 20:
		srcPort, dstPort = ports(rest)
		what = tcp(rest, length)
	case ip.Protocol() == protoUDP && len(rest) >= 8:
		srcPort, dstPort = ports(rest)
		what = fmt.Sprintf("UDP, length %d", max(0, length-8))
	case ip.Protocol() == protoICMP && len(rest) >= 8:
		what = icmp(rest, length)
	default:
		what = fmt.Sprintf("%s, length %d", protocol(ip.Protocol()), length)
	}
	fmt.Fprintf(&b, "IP %s%s > %s%s: %s", ip.Src(), srcPort, ip.Dst(), dstPort, what)
	return b.String()
}

const (
	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17
)

func protocol(n uint8) string {
	switch n {
	case protoICMP:
		return "ICMP"
	case protoTCP:
		return "TCP"
	case protoUDP:
		return "UDP"
	}
	return fmt.Sprintf("protocol %d", n)
}

func ports(b []byte) (src, dst string) {
	return fmt.Sprintf(".%d", binary.BigEndian.Uint16(b)), fmt.Sprintf(".%d", binary.BigEndian.Uint16(b[2:]))
}

// tcp writes a segment; length is what the packet has behind its IP header.
func tcp(b []byte, length int) string {
	flags := ""
	for i, name := range "FSRP.U" { // from the lowest bit (RFC 9293, section 3.1); '.' is ACK
		if b[13]&(1<<i) != 0 {
			flags += string(name)
		}
	}
	if flags == "" {
		flags = "none"
	}
	ack := ""
	if b[13]&0x10 != 0 {
		ack = fmt.Sprintf(", ack %d", binary.BigEndian.Uint32(b[8:]))
	}
	return fmt.Sprintf("Flags [%s], seq %d%s, win %d, length %d", flags, binary.BigEndian.Uint32(b[4:]), ack, binary.BigEndian.Uint16(b[14:]), max(0, length-int(b[12]>>4)*4))
}

// icmp writes a message (RFC 792).
func icmp(b []byte, length int) string {
	id, seq := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	switch b[0] {
	case 0:
		return fmt.Sprintf("ICMP echo reply, id %d, seq %d, length %d", id, seq, length)
	case 8:
		return fmt.Sprintf("ICMP echo request, id %d, seq %d, length %d", id, seq, length)
	case 3:
		return fmt.Sprintf("ICMP unreachable, code %d, length %d", b[1], length)
	case 11:
		return fmt.Sprintf("ICMP time exceeded, code %d, length %d", b[1], length)
	}
	return fmt.Sprintf("ICMP type %d, code %d, length %d", b[0], b[1], length)
}
