package ether

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"ferry/internal/packet"
)

// Lengths in bytes, and where things stand.
const (
	minIPv4    = 20
	udpLen     = 8
	bootpLen   = 236           // the fixed part (RFC 951), before the cookie
	optionsAt  = bootpLen + 4  // RFC 2131, section 3
	minMessage = 300           // shorter ones are padded, as relays and old clients want them (RFC 1542, section 2.1)
	cookie     = 0x63_82_53_63 // RFC 2131, section 3
	leaseTime  = 3600          // seconds: as gvproxy; it is renewed by half of that
	serverPort = 67
	clientPort = 68
	udp        = 17
	flagBroad  = 1 << 15 // the client can not take unicast before it has its address (RFC 2131, section 4.1)
)

// Kinds of messages (RFC 2132, section 9.6).
const (
	discover = 1 + iota
	offer
	request
	decline
	ack
	nak
	release
	inform
)

// Options (RFC 2132; the last one RFC 3397).
const (
	optPad       = 0
	optMask      = 1
	optRouter    = 3
	optDNS       = 6
	optMTU       = 26
	optRequested = 50
	optLease     = 51
	optKind      = 53
	optServer    = 54
	optSearch    = 119
	optEnd       = 255
)

// A message is a question of a DHCP client, without what is of no interest here.
type message struct {
	kind      byte // 0: none
	xid       [4]byte
	flags     uint16
	ciaddr    netip.Addr // the address that it has
	client    MAC
	requested netip.Addr // option 50; invalid: none
	server    netip.Addr // option 54; invalid: none
}

// wanted returns the address that a client has or had; invalid: none.
func (m *message) wanted() netip.Addr {
	if m.requested.IsValid() {
		return m.requested
	}
	if m.ciaddr.IsValid() && !m.ciaddr.IsUnspecified() {
		return m.ciaddr
	}
	return netip.Addr{}
}

// toDHCP returns the payload of a packet that is for the gateway's DHCP server: by broadcast, or to the gateway itself.
func (p *Port) toDHCP(ip packet.IPv4) ([]byte, bool) {
	n := ip.HeaderLen()
	if ip[0]>>4 != 4 || n < minIPv4 || len(ip) < n+udpLen || ip.Protocol() != udp || ip.MoreFragments() || ip.FragmentOffset() > 0 {
		return nil, false
	}
	if binary.BigEndian.Uint16(ip[n+2:]) != serverPort || ip.Dst() != p.c.Gateway && ip.DstUint32() != 0xffffffff {
		return nil, false
	}
	return ip[n+udpLen:], true
}

// parse reads a question of a client on this cable: none comes from a relay.
func parse(b []byte) (m message, ok bool) {
	if len(b) < optionsAt || b[0] != 1 || b[1] != 1 || b[2] != 6 || binary.BigEndian.Uint32(b[bootpLen:]) != cookie {
		return m, false
	}
	if binary.BigEndian.Uint32(b[24:]) != 0 {
		return m, false
	}
	m.xid, m.flags = [4]byte(b[4:]), binary.BigEndian.Uint16(b[10:])
	m.ciaddr, m.client = netip.AddrFrom4([4]byte(b[12:])), MAC(b[28:])
	for b = b[optionsAt:]; len(b) > 0 && b[0] != optEnd; {
		if b[0] == optPad {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return m, false
		}
		m.option(b[0], b[2:2+int(b[1])])
		b = b[2+int(b[1]):]
	}
	return m, m.kind != 0 && m.client != MAC{} && !m.client.isGroup()
}

func (m *message) option(kind byte, value []byte) {
	switch {
	case kind == optKind && len(value) == 1:
		m.kind = value[0]
	case kind == optRequested && len(value) == 4:
		m.requested = netip.AddrFrom4([4]byte(value))
	case kind == optServer && len(value) == 4:
		m.server = netip.AddrFrom4([4]byte(value))
	}
}

// dhcp takes a question.
func (p *Port) dhcp(b []byte) (Verdict, []byte) {
	m, ok := parse(b)
	if !ok || m.server.IsValid() && m.server != p.c.Gateway {
		return p.drop(DHCP)
	}
	switch m.kind {
	case inform:
		p.scratch = p.answer(p.scratch[:0], ack, &m)
		return Reply, p.scratch
	case discover, request:
	default: // release and decline: the address stays with the connection
		return p.drop(DHCP)
	}
	switch {
	case p.addr.IsValid() && m.client != p.owner && p.owner != MAC{}:
		return p.drop(DHCP) // another machine on the same cable: there is one lease to a connection
	case p.addr.IsValid():
		p.owner = m.client
		return Reply, p.lease(&m)
	}
	p.owner, p.waiting = m.client, m
	return Ask, nil
}

// Assign gives the machine an address, and returns the frame that tells it, if it waits for one.
func (p *Port) Assign(a netip.Addr) []byte {
	m := p.waiting
	p.addr, p.waiting = a, message{}
	if m.kind == 0 {
		return nil
	}
	return p.lease(&m)
}

// lease answers DISCOVER and REQUEST of a machine that has a lease.
func (p *Port) lease(m *message) []byte {
	kind := byte(offer)
	switch {
	case m.kind == request && m.wanted() != p.addr:
		kind = nak
	case m.kind == request:
		kind, p.mac = ack, m.client
	}
	p.scratch = p.answer(p.scratch[:0], kind, m)
	return p.scratch
}

// answer appends the frame that answers m.
func (p *Port) answer(b []byte, kind byte, m *message) []byte {
	to, ip := p.whereTo(kind, m)
	b = p.header(b, to, typeIPv4)
	start := len(b)
	b = append(b, make([]byte, minIPv4+udpLen+optionsAt)...)
	body := b[start+minIPv4+udpLen:]
	body[0], body[1], body[2] = 2, 1, 6
	copy(body[4:], m.xid[:])
	binary.BigEndian.PutUint16(body[10:], m.flags)
	if kind == ack {
		copy(body[12:], m.ciaddr.AsSlice())
	}
	if kind != nak && m.kind != inform {
		copy(body[16:], p.addr.AsSlice())
	}
	copy(body[28:], m.client[:])
	binary.BigEndian.PutUint32(body[bootpLen:], cookie)
	b = p.options(b, kind, m)
	if n := len(b) - start - minIPv4 - udpLen; n < minMessage {
		b = append(b, make([]byte, minMessage-n)...)
	}
	seal(b[start:], p.c.Gateway, ip)
	return b
}

// whereTo returns to whom an answer goes (RFC 2131, section 4.1).
func (p *Port) whereTo(kind byte, m *message) (MAC, netip.Addr) {
	everybody := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	switch {
	case kind == nak:
		return broadcast, everybody
	case !m.ciaddr.IsUnspecified():
		return m.client, m.ciaddr
	case m.flags&flagBroad != 0, !p.addr.IsValid():
		return broadcast, everybody
	}
	return m.client, p.addr
}

func (p *Port) options(b []byte, kind byte, m *message) []byte {
	gateway := p.c.Gateway.As4()
	b = append(b, optKind, 1, kind, optServer, 4)
	b = append(b, gateway[:]...)
	if kind == nak {
		return append(b, optEnd)
	}
	if m.kind != inform {
		b = binary.BigEndian.AppendUint32(append(b, optLease, 4), leaseTime)
	}
	b = binary.BigEndian.AppendUint32(append(b, optMask, 4), ^uint32(0)<<(32-p.c.Pool.Bits()))
	b = append(append(b, optRouter, 4), gateway[:]...)
	b = binary.BigEndian.AppendUint16(append(b, optMTU, 2), uint16(p.c.MTU))
	var servers []byte
	for _, a := range p.c.DNS {
		if a.Is4() {
			servers = append(servers, a.AsSlice()...)
		}
	}
	b = appendOption(b, optDNS, servers)
	b = appendOption(b, optSearch, searchList(p.c.Domains))
	return append(b, optEnd)
}

// appendOption appends an option, as several ones where its value is too long for one (RFC 3396); none without a value.
func appendOption(b []byte, kind byte, value []byte) []byte {
	for part := range slices.Chunk(value, 255) {
		b = append(append(b, kind, byte(len(part))), part...)
	}
	return b
}

// searchList returns domains as names of DNS.
func searchList(domains []string) (b []byte) {
	for _, d := range domains {
		for label := range strings.SplitSeq(strings.Trim(d, "."), ".") {
			b = append(append(b, byte(len(label))), label...)
		}
		b = append(b, 0)
	}
	return b
}

// seal writes the headers of a UDP packet from the server to the client.
func seal(ip []byte, from, to netip.Addr) {
	ip[0], ip[8], ip[9] = 0x45, 64, udp
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], from.AsSlice())
	copy(ip[16:], to.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip[:minIPv4], 0))
	u := ip[minIPv4:]
	binary.BigEndian.PutUint16(u, serverPort)
	binary.BigEndian.PutUint16(u[2:], clientPort)
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	sum := packet.Checksum(u, packet.PseudoSum(ip, udp, len(u)))
	if sum == 0 {
		sum = 0xffff // 0 is "no checksum" (RFC 768)
	}
	binary.BigEndian.PutUint16(u[6:], sum)
}
