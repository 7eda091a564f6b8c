package quic

import (
	"net"
	"net/netip"
)

// An Addr is the address of an end of a connection.
type Addr struct{ netip.AddrPort }

// Network implements net.Addr.
func (Addr) Network() string { return "quic" }

func addrOf(a net.Addr) Addr {
	udp, ok := a.(*net.UDPAddr)
	if !ok {
		return Addr{}
	}
	at := udp.AddrPort()
	return Addr{netip.AddrPortFrom(at.Addr().Unmap(), at.Port())}
}
