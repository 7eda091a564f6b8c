package ether

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"

	"ferry/internal/packet"
	"ferry/internal/proto"
)

// HeaderLen is the length of an Ethernet header in bytes.
const HeaderLen = 14

// Types of frames (IEEE 802 numbers, IANA).
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
	typeIPv6 = 0x86dd
)

// A MAC is a hardware address.
type MAC [6]byte

// String returns m in the form of IEEE 802, which is the name of a device, too: 5A-94-EF-E4-0C-DD in lower case.
func (m MAC) String() string {
	b := make([]byte, 0, 17)
	for i := range m {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, m[i:i+1])
	}
	return string(b)
}

// isGroup tells a multicast or broadcast address, which no frame comes from.
func (m MAC) isGroup() bool { return m[0]&1 != 0 }

// Gateway is the MAC of the gateway at every port: that of gvproxy, which its users may have in their configurations.
var Gateway = MAC{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd}

var broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// A Verdict is what became of a frame.
type Verdict uint8

// The verdicts.
const (
	Dropped Verdict = iota
	Packet          // it has an IPv4 packet for the router
	Reply           // it is answered
	Ask             // the machine wants an address
)

// A Reason says why a frame was dropped.
type Reason uint8

// The reasons.
const (
	Runt      Reason = iota // shorter than a header, or than what its header says
	VLAN                    // 802.1Q: there are none here
	IPv6                    // not carried yet
	Foreign                 // to another MAC than the gateway's, or from one that nobody has
	Type                    // neither IPv4 nor ARP
	IP                      // no IPv4 packet, or one that is a word of Ferry's protocol
	ARP                     // an ARP message that is no question to the gateway
	DHCP                    // not understood, or for another server
	Oversized               // longer than any packet: it is for who reads the frames
	Unread                  // the machine does not take the answers that it has asked for: as before
	reasons
)

var reasonNames = [reasons]string{
	"l2_runt", "l2_vlan", "l2_ipv6", "l2_foreign", "l2_type", "l2_ip", "l2_arp", "l2_dhcp", "l2_oversized", "l2_unread",
}

// String returns the name under which the reason is counted.
func (r Reason) String() string { return reasonNames[r] }

// Config is what a machine is told of its network.
type Config struct {
	Gateway netip.Addr   // in Pool
	Pool    netip.Prefix // IPv4
	MTU     int          // bytes
	DNS     []netip.Addr // name servers; those of IPv6 are left out
	Domains []string     // to search
}

// A Port is the gateway's end of the cable to one machine. It is not safe for concurrent use.
type Port struct {
	c       Config
	mac     MAC        // of the machine; zero: it has not spoken yet
	owner   MAC        // that the lease is for: the client of the last question by DHCP
	addr    netip.Addr // its lease; invalid: none
	waiting message    // the question that Assign answers; its kind is 0 when there is none
	scratch []byte     // of the last reply
	drops   [reasons]uint64
}

// NewPort returns a port with nothing heard from the machine.
func NewPort(c Config) *Port {
	c.Pool = c.Pool.Masked()
	return &Port{c: c}
}

// MAC returns the hardware address for which a lease was asked; zero: none was.
func (p *Port) MAC() MAC { return p.owner }

// Wanted returns the address that the machine would like to have; it may be invalid.
func (p *Port) Wanted() netip.Addr { return p.waiting.wanted() }

// Drop counts a frame that is not even looked at.
func (p *Port) Drop(r Reason) { p.drops[r]++ }

// AddDrops adds the counts so far to drops, by the names of their reasons.
func (p *Port) AddDrops(drops map[string]uint64) {
	for r, n := range p.drops {
		if n > 0 {
			drops[Reason(r).String()] += n
		}
	}
}

// In takes a frame. b is a part of frame with Packet; with Reply it is the frame that answers, and valid until the next call.
func (p *Port) In(frame []byte) (v Verdict, b []byte) {
	if len(frame) < HeaderLen {
		return p.drop(Runt)
	}
	to, from := MAC(frame), MAC(frame[6:])
	if from == (MAC{}) || from.isGroup() || from == Gateway || to != Gateway && !to.isGroup() {
		return p.drop(Foreign)
	}
	payload := frame[HeaderLen:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeIPv4:
		return p.ipv4(from, to, payload)
	case typeARP:
		return p.arp(from, payload)
	case typeIPv6:
		return p.drop(IPv6)
	case typeVLAN, typeQinQ:
		return p.drop(VLAN)
	}
	return p.drop(Type)
}

func (p *Port) drop(r Reason) (Verdict, []byte) {
	p.Drop(r)
	return Dropped, nil
}

// ipv4 takes an IPv4 packet, which may have padding behind it (a frame has 60 bytes at least).
func (p *Port) ipv4(from, to MAC, b []byte) (Verdict, []byte) {
	if len(b) < minIPv4 {
		return p.drop(Runt)
	}
	ip := packet.IPv4(b)
	if n := ip.TotalLen(); n > len(b) {
		return p.drop(Runt)
	} else if n >= minIPv4 {
		b, ip = b[:n], ip[:n]
	}
	if udp, ok := p.toDHCP(ip); ok {
		return p.dhcp(udp)
	}
	// Words of the 2013 protocol look like packets with lengths or addresses that none has.
	if k, n, err := (proto.Framer{}).Next(b); err != nil || k != proto.KindIPv4 || n != len(b) {
		return p.drop(IP)
	}
	if to != Gateway {
		return p.drop(Foreign) // broadcast and multicast end here
	}
	if !p.addr.IsValid() || p.addr == ip.Src() {
		p.mac = from
	}
	return Packet, b
}

// arp answers a question of Ethernet and IPv4 (RFC 826).
func (p *Port) arp(from MAC, b []byte) (Verdict, []byte) {
	const (
		length  = 28
		request = 1
	)
	if len(b) < length {
		return p.drop(Runt)
	}
	if binary.BigEndian.Uint64(b) != 0x0001_0800_0604_0000|request || MAC(b[8:]) != from {
		return p.drop(ARP)
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:]))
	if p.addr == sender || !p.addr.IsValid() && !sender.IsUnspecified() {
		p.mac = from
	}
	if !p.answersFor(sender, target) {
		return p.drop(ARP)
	}
	r := p.header(p.scratch[:0], from, typeARP)
	r = append(r, 0, 1, 8, 0, 6, 4, 0, 2)
	r = append(r, Gateway[:]...)
	r = append(r, b[24:28]...)
	r = append(r, from[:]...)
	p.scratch = append(r, b[14:18]...)
	return Reply, p.scratch
}

// answersFor tells whether target is an address for which the gateway takes packets of the machine.
func (p *Port) answersFor(sender, target netip.Addr) bool {
	switch {
	case !p.c.Pool.Contains(target), target == p.addr, target == sender:
		return false
	case target == p.c.Pool.Addr(), target == last(p.c.Pool):
		return false // network and broadcast
	case target == p.c.Gateway:
		return true
	}
	// A probe of the address that the machine is about to take: without a lease it may be any.
	return p.addr.IsValid() || !sender.IsUnspecified()
}

// last returns the broadcast address of a prefix of IPv4.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	n := binary.BigEndian.Uint32(b[:]) | ^uint32(0)>>p.Bits()
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// AppendFrame appends the frame with an IPv4 packet for the machine.
func (p *Port) AppendFrame(b, packet []byte) []byte {
	to := p.mac
	if to == (MAC{}) {
		to = broadcast
	}
	return append(p.header(b, to, typeIPv4), packet...)
}

// header appends that of a frame from the gateway.
func (p *Port) header(b []byte, to MAC, kind uint16) []byte {
	b = append(b, to[:]...)
	b = append(b, Gateway[:]...)
	return binary.BigEndian.AppendUint16(b, kind)
}
