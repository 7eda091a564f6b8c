package quic

import (
	"net"
	"net/netip"
)

// An Addr is the address of an end of a connection.
type Addr struct{ at netip.AddrPort }

// The gateway bounds connections by where they come from.
var _ interface {
	net.Addr
	AddrPort() netip.AddrPort
} = Addr{}

// AddrPort returns it as a value.
func (a Addr) AddrPort() netip.AddrPort { return a.at }

// String implements net.Addr.
func (a Addr) String() string { return a.at.String() }

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
