package forward

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// proxySignature begins a header of version 2 (proxy-protocol.txt of HAProxy, section 2.2).
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// appendProxy appends the header of the PROXY protocol that says who came (src) and to which address of ours (dst). They are not valid where the
// connection came by a unix socket, which has neither.
func appendProxy(b []byte, version int, src, dst netip.AddrPort) []byte {
	known := src.IsValid() && dst.IsValid()
	v4 := known && src.Addr().Is4() && dst.Addr().Is4()
	if version == 1 {
		family := "TCP6"
		switch {
		case !known:
			return append(b, "PROXY UNKNOWN\r\n"...)
		case v4:
			family = "TCP4"
		}
		return fmt.Appendf(b, "PROXY %s %s %s %d %d\r\n", family, src.Addr(), dst.Addr(), src.Port(), dst.Port())
	}
	const command = 0x21 // version 2, PROXY
	b = append(append(b, proxySignature...), command)
	switch {
	case !known:
		return append(b, 0x00, 0, 0) // AF_UNSPEC
	case v4:
		s, d := src.Addr().As4(), dst.Addr().As4()
		b = append(b, 0x11, 0, 12) // TCP over IPv4
		b = append(append(b, s[:]...), d[:]...)
	default:
		s, d := src.Addr().As16(), dst.Addr().As16()
		b = append(b, 0x21, 0, 36) // TCP over IPv6
		b = append(append(b, s[:]...), d[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, src.Port())
	return binary.BigEndian.AppendUint16(b, dst.Port())
}

// addrPort returns an address of package net as a value; not valid: it is none of IP.
func addrPort(a net.Addr) netip.AddrPort {
	p, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	at := p.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
