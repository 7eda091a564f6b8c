package packet

import (
	"encoding/binary"
	"net/netip"
)

// AppendFragments appends to dst the fragments, back to back and each at most mtu bytes long, of the
// complete IPv4 packet ip, which passed Check (RFC 791, section 3.2). What fits is appended as it
// is. The caller has looked at DontFragment. mtu is at least 68, which every link must carry; below
// that dst may come back without fragments.
func AppendFragments(dst []byte, ip []byte, mtu int) []byte {
	if len(ip) <= mtu {
		return append(dst, ip...)
	}
	p := IPv4(ip)
	header, payload := ip[:p.HeaderLen()], ip[p.HeaderLen():]
	var scratch [maxIPv4Header]byte
	later := appendCopied(scratch[:0], header)
	if mtu < len(header)+8 {
		return dst
	}
	field := p.fragment() // offset and flags of the fragment to come
	for len(payload) > 0 {
		n, flags := len(payload), field
		if room := mtu - len(header); n > room {
			n, flags = room&^7, field|moreFragments
		}
		start := len(dst)
		dst = append(dst, header...)
		dst = append(dst, payload[:n]...)
		frag := IPv4(dst[start:])
		binary.BigEndian.PutUint16(frag[ipv4Length:], uint16(len(frag)))
		binary.BigEndian.PutUint16(frag[ipv4Fragment:], flags)
		frag.sum()
		header, payload = later, payload[n:]
		field += uint16(n / 8)
	}
	return dst
}

// appendCopied appends to b header as fragments after the first have it: with those options alone
// whose copied flag is set (RFC 791, section 3.1), filled up to 4 bytes with end-of-list. An option
// with an impossible length ends the list.
func appendCopied(b, header []byte) []byte {
	b = append(b, header[:minIPv4Header]...)
	for opts := header[minIPv4Header:]; len(opts) > 0 && opts[0] != 0; {
		n := 1 // no-operation
		if opts[0] != 1 {
			if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
				break
			}
			n = int(opts[1])
		}
		if opts[0]&0x80 != 0 {
			b = append(b, opts[:n]...)
		}
		opts = opts[n:]
	}
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	b[0] = 4<<4 | byte(len(b)/4)
	return b
}

const (
	icmpUnreachable  = 3
	icmpFragNeeded   = 4
	icmpTimeExceeded = 11

	// MaxICMPError is how long an error may be, with its IP header (RFC 1812, section 4.3.2.3).
	MaxICMPError = 576
	// internetworkControl is the precedence of errors, as a TOS (RFC 1812, section 4.3.2.5).
	internetworkControl = 6 << 5
	icmpTTL             = 64
)

// AppendFragNeeded appends to dst the ICMP error "fragmentation needed and DF set" (RFC 1191,
// section 4) that tells the source of ip about the next hop's mtu. ip is an IPv4 packet that passed
// Check; from, an IPv4 address, is the source of the error. It returns dst as it was if ip must not
// be answered by an error. Limiting the rate is left to the caller.
func AppendFragNeeded(dst []byte, ip []byte, mtu int, from netip.Addr) []byte {
	return appendError(dst, ip, icmpUnreachable, icmpFragNeeded, uint16(min(mtu, 65535)), from)
}

// AppendTimeExceeded appends to dst the ICMP error "time to live exceeded in transit" (RFC 792), as AppendFragNeeded does.
func AppendTimeExceeded(dst []byte, ip []byte, from netip.Addr) []byte {
	return appendError(dst, ip, icmpTimeExceeded, 0, 0, from)
}

// appendError appends an ICMP error about ip, whose last two bytes of header are more.
func appendError(dst []byte, ip []byte, kind, code byte, more uint16, from netip.Addr) []byte {
	p := IPv4(ip)
	if !from.Is4() || !answerable(p) {
		return dst
	}
	quote := ip[:min(len(ip), MaxICMPError-minIPv4Header-icmpHeader)]
	var b [minIPv4Header + icmpHeader]byte
	header, icmp := b[:minIPv4Header], b[minIPv4Header:]
	header[0] = 4<<4 | minIPv4Header/4
	header[1] = internetworkControl
	binary.BigEndian.PutUint16(header[ipv4Length:], uint16(len(b)+len(quote)))
	// No identification: with DF set none is needed (RFC 6864, section 4.1).
	binary.BigEndian.PutUint16(header[ipv4Fragment:], dontFragment)
	header[8] = icmpTTL
	header[9] = protoICMP
	src := from.As4()
	copy(header[ipv4Src:], src[:])
	copy(header[ipv4Dst:], ip[ipv4Src:ipv4Src+4])
	IPv4(header).sum()

	icmp[0], icmp[1] = kind, code
	binary.BigEndian.PutUint16(icmp[6:], more)
	check := ^Checksum(icmp, 0) // the quote is summed up where it is
	binary.BigEndian.PutUint16(icmp[2:], Checksum(quote, uint32(check)))
	return append(append(dst, b[:]...), quote...)
}

// answerable follows RFC 1812, section 4.3.2.7: no error about an ICMP error, about a fragment other
// than the first, about what went to many, or to a source that is no single host.
func answerable(p IPv4) bool {
	src, dst := p.SrcUint32(), p.DstUint32()
	switch {
	case p.FragmentOffset() != 0:
		return false
	case dst >= 0xe0000000 && (dst < 0xf0000000 || dst == 0xffffffff):
		return false
	case src>>24 == 0, src>>24 == 127, src >= 0xe0000000:
		return false
	case p.Protocol() == protoICMP:
		return len(p) > p.HeaderLen() && !isICMPError(p[p.HeaderLen()])
	}
	return true
}

// isICMPError: unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792).
func isICMPError(t byte) bool {
	return t >= 3 && t <= 5 || t == 11 || t == 12
}
