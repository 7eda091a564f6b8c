package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A Neighbour is another host on an Ethernet, which this process is: it answers ARP and pings, and connects by TCP.
//
//	Dial --> stack --> frames --> write          frames of the other hosts --> Deliver --> stack
type Neighbour struct {
	stack *stack.Stack
	link  *frameLink
	addr  netip.Addr
	conns *group
}

// NewNeighbour returns a neighbour with an IPv4 address in a network, and a hardware address. write puts a frame on the Ethernet, without waiting for anything that
// Deliver does; the frame is valid during the call.
func NewNeighbour(addr netip.Prefix, mac net.HardwareAddr, mtu int, write func([]byte) error) (*Neighbour, error) {
	n := &Neighbour{addr: addr.Addr(), link: &frameLink{addr: tcpip.LinkAddress(mac), mtu: uint32(mtu + header.EthernetMinimumSize), write: write}}
	var err error
	if n.stack, err = newStack(ethernet.New(n.link), arp.NewProtocol); err != nil {
		return nil, err
	}
	full := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{Address: toStack(n.addr), PrefixLen: addr.Bits()}}
	if problem := n.stack.AddProtocolAddress(nic, full, stack.AddressProperties{}); problem != nil {
		n.stack.Destroy()
		return nil, fmt.Errorf("netstack: add the address %s: %s", addr, problem)
	}
	n.conns = newGroup(neighbourMemory)
	return n, nil
}

// Deliver hands a copy of a frame to the neighbour.
func (n *Neighbour) Deliver(frame []byte) {
	if d := n.link.dispatcher.Load(); d != nil {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		(*d).DeliverNetworkPacket(0, pkt) // the header says what it is
		pkt.DecRef()
	}
}

// Dial connects by TCP. All connections hold 16 MiB together of what their ends have not taken: where that is not enough, the one is reset that has held
// most for longest, and a new one waits until ctx is done, which is syscall.ENOBUFS.
func (n *Neighbour) Dial(ctx context.Context, to netip.AddrPort) (*Conn, error) {
	return n.conns.dial(ctx, n.stack, "tcp", n.addr, to)
}

// Close ends all connections. Nobody calls Deliver then.
func (n *Neighbour) Close() {
	n.conns.close()
	n.stack.Destroy()
}

// A frameLink is a device that takes and gives Ethernet frames.
type frameLink struct {
	addr       tcpip.LinkAddress
	mtu        uint32 // with the header of Ethernet
	write      func([]byte) error
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
}

var _ stack.LinkEndpoint = (*frameLink)(nil)

// WritePackets implements stack.LinkWriter.
func (l *frameLink) WritePackets(all stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range all.AsSlice() {
		view := pkt.ToView()
		err := l.write(view.AsSlice())
		view.Release()
		if err != nil {
			return i, &tcpip.ErrNoBufferSpace{}
		}
	}
	return all.Len(), nil
}

// Attach implements stack.LinkEndpoint, as all that follow.
func (l *frameLink) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}
func (l *frameLink) IsAttached() bool                             { return l.dispatcher.Load() != nil }
func (l *frameLink) MTU() uint32                                  { return l.mtu }
func (l *frameLink) SetMTU(n uint32)                              { l.mtu = n }
func (l *frameLink) LinkAddress() tcpip.LinkAddress               { return l.addr }
func (l *frameLink) SetLinkAddress(a tcpip.LinkAddress)           { l.addr = a }
func (l *frameLink) Capabilities() stack.LinkEndpointCapabilities { return 0 }
func (l *frameLink) ARPHardwareType() header.ARPHardwareType      { return header.ARPHardwareEther }
func (l *frameLink) MaxHeaderLength() uint16                      { return 0 }
func (l *frameLink) AddHeader(*stack.PacketBuffer)                {}
func (l *frameLink) ParseHeader(*stack.PacketBuffer) bool         { return true }
func (l *frameLink) SetOnCloseAction(func())                      {}
func (l *frameLink) Wait()                                        {}
func (l *frameLink) Close()                                       {}
