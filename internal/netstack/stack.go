package netstack

import (
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	// maxWindow is how much of one direction of a connection may wait on its way, bytes: what 8 Gbit/s need for 4 ms.
	maxWindow = 4 << 20
	// deviceMemory is what the connections of a device hold together, and neighbourMemory those of a Neighbour, bytes.
	deviceMemory    = 64 << 20
	neighbourMemory = 16 << 20
)

// timeWait is how long an end of a connection that was closed first is remembered, in which a SYN from the same port of the client goes unheard: the stack
// has no listener that could take it over (RFC 9293, section 3.6.1). Tunnels lose little and delay less, so it is not four minutes.
const timeWait = time.Second

// nic is the only device that a stack has.
const nic = 1

// newStack returns a stack whose packets all go out by a link, with what that needs beside IPv4.
func newStack(l stack.LinkEndpoint, more ...stack.NetworkProtocolFactory) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   append(more, ipv4.NewProtocol),
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	sack, moderate, cubic := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true), tcpip.CongestionControlOption("cubic")
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 256 << 10, Max: maxWindow}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 256 << 10, Max: maxWindow}
	for _, option := range []tcpip.SettableTransportProtocolOption{&wait, &sack, &moderate, &cubic, &receive, &send} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			s.Destroy()
			return nil, fmt.Errorf("netstack: set option %T: %s", option, err)
		}
	}
	if err := s.CreateNIC(nic, l); err != nil {
		s.Destroy()
		return nil, fmt.Errorf("netstack: make the device: %s", err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	return s, nil
}

// move gives a stack another address than it had; invalid: it had none. Where that fails it keeps the one that it had.
func move(s *stack.Stack, from, to netip.Addr) error {
	if from == to {
		return nil
	}
	full := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{Address: toStack(to), PrefixLen: 32}}
	if err := s.AddProtocolAddress(nic, full, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("netstack: add the address %s: %s", to, err)
	}
	if from.IsValid() {
		if err := s.RemoveAddress(nic, toStack(from)); err != nil {
			return fmt.Errorf("netstack: remove the address %s: %s", from, err)
		}
	}
	return nil
}

func toStack(a netip.Addr) tcpip.Address { return tcpip.AddrFrom4(a.As4()) }

func fromStack(a tcpip.Address, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4(a.As4()), port)
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: toStack(a.Addr()), Port: a.Port()}
}
