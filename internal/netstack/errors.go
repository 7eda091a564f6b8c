package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"ferry/internal/packet"
)

// What a client is told of packets that went nowhere, as by a router (RFC 792): nobody has to wait for what can not come.
//
//	the socket can not be made, or does not send --refuse--> unreachable, from the gateway or the destination
//	ICMP about what a socket has sent -----------hear-----> the same again, from who said it: traceroute sees the way
//	a packet that came with a TTL of 1 ----------expire---> time exceeded, from the gateway

// An icmpError is what a client is told about a packet of a flow.
type icmpError struct {
	kind header.ICMPv4Type
	code header.ICMPv4Code
	from netip.Addr
	seq  uint16 // of the echo that it is about
}

// expire tells the sender of a packet that it has passed as many routers as it may.
func (e *Exit) expire(ip packet.IPv4) {
	e.count.expired.Add(1)
	var b [packet.MaxICMPError]byte
	if g := e.flows.gateway.Load(); g != nil {
		if m := packet.AppendTimeExceeded(b[:0], ip, *g); len(m) > 0 {
			e.link.out.packet(m, nil)
		}
	}
}

// refuse tells a client why a packet could not be sent.
func (t *flows) refuse(k flowKey, err error) {
	said := icmpError{kind: header.ICMPv4DstUnreachable, code: header.ICMPv4HostUnreachable}
	switch {
	case errors.Is(err, os.ErrClosed), errors.Is(err, context.Canceled), errors.Is(err, unix.EMSGSIZE):
		return
	case errors.Is(err, unix.ECONNREFUSED):
		said.code, said.from = header.ICMPv4PortUnreachable, k.to.Addr()
	case errors.Is(err, unix.ENETUNREACH):
		said.code = header.ICMPv4NetUnreachable
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM): // no ping sockets for this user, or a firewall
		said.code = header.ICMPv4AdminProhibited
	}
	t.e.c.Log.Debug("packet refused", "client", k.client, "addr", k.to, "err", err)
	t.tell(k, said)
}

// mostHeard is how many errors are taken of a socket at once: more than a kernel keeps for one that is busy.
const mostHeard = 64

// hear passes on what others have said about the packets of a flow (ip(7), IP_RECVERR), and tells whether there was something.
func (t *flows) hear(f *flow) (heard bool) {
	_ = f.raw.Control(func(fd uintptr) {
		var b [header.ICMPv4MinimumSize]byte // of the packet that it is about
		var about [128]byte
		for range mostHeard {
			n, m, _, _, err := unix.Recvmsg(int(fd), b[:], about[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			heard = true
			if said, ok := t.parse(f, about[:m]); ok {
				if f.protocol == protoICMP && n == len(b) {
					said.seq = header.ICMPv4(b[:]).Sequence()
				}
				t.tell(f.flowKey, said)
			}
		}
	})
	return heard
}

// parse returns what an ICMP packet has said about one of a flow: struct sock_extended_err of linux/errqueue.h, with the address of who said it.
func (t *flows) parse(f *flow, about []byte) (said icmpError, ok bool) {
	all, err := unix.ParseSocketControlMessage(about)
	if err != nil {
		return said, false
	}
	for _, c := range all {
		const origin, kind, code, from, size = 4, 5, 6, 16, 16 + unix.SizeofSockaddrInet4
		if c.Header.Level != unix.IPPROTO_IP || c.Header.Type != unix.IP_RECVERR || len(c.Data) < size || c.Data[origin] != unix.SO_EE_ORIGIN_ICMP {
			continue
		}
		said = icmpError{kind: header.ICMPv4Type(c.Data[kind]), code: header.ICMPv4Code(c.Data[code])}
		if binary.NativeEndian.Uint16(c.Data[from:]) == unix.AF_INET {
			said.from = netip.AddrFrom4([4]byte(c.Data[from+4:]))
		}
		switch to := t.e.c.target(f.to).Addr(); {
		case said.from == to:
			said.from = f.to.Addr()
		case said.from.IsLoopback():
			said.from = netip.Addr{}
		}
		tooLong := said.kind == header.ICMPv4DstUnreachable && said.code == header.ICMPv4FragmentationNeeded // the kernel cuts the next one itself
		return said, !tooLong && (said.kind == header.ICMPv4DstUnreachable || said.kind == header.ICMPv4TimeExceeded)
	}
	return said, false
}

// tell sends a client an error about a packet of a flow.
func (t *flows) tell(k flowKey, said icmpError) {
	if said.kind == header.ICMPv4DstUnreachable {
		t.e.count.refused.Add(1)
	}
	if !said.from.Is4() {
		g := t.gateway.Load()
		if g == nil {
			return
		}
		said.from = *g
	}
	const quoted = header.IPv4MinimumSize + 8
	var b [header.IPv4MinimumSize + header.ICMPv4MinimumSize + quoted]byte
	m := header.ICMPv4(b[header.IPv4MinimumSize:])
	m.SetType(said.kind)
	m.SetCode(said.code)
	q := b[header.IPv4MinimumSize+header.ICMPv4MinimumSize:]
	if k.protocol == protoUDP {
		header.UDP(q[header.IPv4MinimumSize:]).Encode(&header.UDPFields{SrcPort: k.client.Port(), DstPort: k.to.Port(), Length: udpHeader})
	} else {
		e := header.ICMPv4(q[header.IPv4MinimumSize:])
		e.SetType(header.ICMPv4Echo)
		e.SetIdent(k.client.Port())
		e.SetSequence(said.seq)
	}
	putIPv4(q, k.client.Addr(), k.to.Addr(), k.protocol, 0)
	m.SetChecksum(packet.Checksum(m, 0))
	putIPv4(b[:], said.from, k.client.Addr(), protoICMP, 0)
	t.e.link.out.packet(b[:], nil)
}
