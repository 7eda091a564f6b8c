package packet

import "encoding/binary"

// FlowHash returns the same number for all packets of a flow: of two addresses, the protocol, and the ports where there are some. Fragments have none:
// those of a flow have a number of their own. ip has passed Check, or came from this machine.
func FlowHash(ip []byte) uint32 {
	p := IPv4(ip)
	h := p.SrcUint32()*31 + p.DstUint32()
	h = h*31 + uint32(p.Protocol())
	if n := p.HeaderLen(); hasPorts(p) && len(ip) >= n+4 {
		h = h*31 + binary.BigEndian.Uint32(ip[n:])
	}
	return h * 0x9E3779B1 // 2^32 / golden ratio: Knuth, volume 3, section 6.4
}

// hasPorts tells whether a packet begins with ports as all others of its flow do: no fragment does.
func hasPorts(p IPv4) bool {
	return (p.Protocol() == protoTCP || p.Protocol() == protoUDP) && !p.MoreFragments() && p.FragmentOffset() == 0
}
