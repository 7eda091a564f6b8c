package netstack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

var errNoAddress = errors.New("netstack: the gateway has no address yet")

// ListenTCP takes the connections of clients to a port of the gateway's own address. Who listens closes it, before Close.
func (e *Exit) ListenTCP(port uint16) (net.Listener, error) {
	at, err := e.own(port)
	if err != nil {
		return nil, err
	}
	l, err := gonet.ListenTCP(e.stack, at, ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("netstack: listen on TCP port %d of the gateway: %w", port, err)
	}
	return l, nil
}

// ListenUDP takes the packets of clients to a port of the gateway's own address. Who listens closes it, before Close.
func (e *Exit) ListenUDP(port uint16) (net.PacketConn, error) {
	at, err := e.own(port)
	if err != nil {
		return nil, err
	}
	c, err := gonet.DialUDP(e.stack, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("netstack: listen on UDP port %d of the gateway: %w", port, err)
	}
	return c, nil
}

// own returns a port of the gateway's own address.
func (e *Exit) own(port uint16) (tcpip.FullAddress, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.addr.IsValid() {
		return tcpip.FullAddress{}, errNoAddress
	}
	return full(netip.AddrPortFrom(e.addr, port)), nil
}
