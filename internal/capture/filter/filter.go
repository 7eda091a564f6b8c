package filter

import (
	"encoding/binary"

	"ferry/internal/packet"
)

// A Filter matches IPv4 packets. The zero value matches all.
type Filter struct{ root node }

// Match tells whether a packet that has passed packet.Check matches. It allocates nothing.
func (f Filter) Match(ip packet.IPv4) bool {
	return f.root == nil || f.root.match(look(ip))
}

// A view is what expressions ask of a packet.
type view struct {
	src, dst         uint32
	length           int
	protocol         uint8
	ports            bool // there are some
	srcPort, dstPort uint16
}

// Numbers of protocols (https://www.iana.org/assignments/protocol-numbers).
var protocols = map[string]uint8{"icmp": 1, "igmp": 2, "tcp": tcp, "udp": udp, "esp": 50, "ah": 51, "sctp": sctp}

const (
	tcp  = 6
	udp  = 17
	sctp = 132
)

func look(ip packet.IPv4) view {
	v := view{src: ip.SrcUint32(), dst: ip.DstUint32(), length: len(ip), protocol: ip.Protocol()}
	if v.protocol != tcp && v.protocol != udp && v.protocol != sctp || ip.FragmentOffset() > 0 {
		return v
	}
	if b := ip[ip.HeaderLen():]; len(b) >= 4 {
		v.ports, v.srcPort, v.dstPort = true, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
	return v
}

// A node is a part of an expression.
type node interface{ match(view) bool }

type (
	and      struct{ a, b node }
	or       struct{ a, b node }
	not      struct{ a node }
	every    struct{} // packet is of IP
	protocol uint8
	network  struct {
		dir        direction
		addr, mask uint32
	}
	portRange struct {
		dir       direction
		protocol  uint8 // 0: any that has ports
		low, high uint16
	}
	length struct{ low, high int }
)

// A direction says which end of a packet is meant.
type direction uint8

const (
	either direction = iota
	source
	destination
	both
)

func (d direction) of(src, dst bool) bool {
	switch d {
	case source:
		return src
	case destination:
		return dst
	case both:
		return src && dst
	}
	return src || dst
}

func (n and) match(v view) bool      { return n.a.match(v) && n.b.match(v) }
func (n or) match(v view) bool       { return n.a.match(v) || n.b.match(v) }
func (n not) match(v view) bool      { return !n.a.match(v) }
func (every) match(view) bool        { return true }
func (n protocol) match(v view) bool { return v.protocol == uint8(n) }
func (n length) match(v view) bool   { return n.low <= v.length && v.length <= n.high }
func (n network) match(v view) bool {
	return n.dir.of(v.src&n.mask == n.addr, v.dst&n.mask == n.addr)
}

func (n portRange) match(v view) bool {
	if !v.ports || n.protocol != 0 && n.protocol != v.protocol {
		return false
	}
	return n.dir.of(n.low <= v.srcPort && v.srcPort <= n.high, n.low <= v.dstPort && v.dstPort <= n.high)
}
