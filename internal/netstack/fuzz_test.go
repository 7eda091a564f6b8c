package netstack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"ferry/internal/packet"
	"ferry/internal/proto"
	"ferry/internal/router"
)

// What the harness does to a packet, or nothing would come beyond the first check; bits of the first byte.
const (
	fixHeader  = 1 << iota // its length, and the checksum of its header
	fixPayload             // the checksum behind
	toGateway              // where it goes: there, or
	toClient               // to another client, or outside
)

// FuzzSend hands the exit what a client may send, as it comes through the router, and the network of a device what comes for it. Both hold no more of it than
// they may, and go on.
func FuzzSend(f *testing.F) {
	port := listen(f, echo)
	c := newClient(f, Config{Conns: 8, Flows: 8, Dials: 8, Memory: 1 << 20})
	server := udpEcho(f)
	seed := func(flags byte, frame []byte) {
		f.Add(slices.Concat([]byte{flags}, frame[proto.FrameHeaderLen:]))
	}
	for _, flags := range []byte{0, fixHeader | fixPayload, fixHeader | toGateway, fixHeader | toClient} {
		whole := datagram(server.Port(), udpHeader+1400, string(random(1400)))
		seed(flags, from(whole, here, 64))
		seed(flags, from(whole, here, 1))
		seed(flags, from(fragment(whole[proto.DataHeaderLen:], 0, 800), here, 64))
		seed(flags, from(fragment(whole[proto.DataHeaderLen:], 800, 1408), here, 64))
		seed(flags, from(syn(port), here, 64))
		seed(flags, from(frame(packet.Offload{}, protoICMP, echoRequest()), here, 64))
		seed(flags, from(fragNeeded(whole[proto.DataHeaderLen:], 600), here, 64))
		large := append(slices.Clone(syn(port)[proto.DataHeaderLen+header.IPv4MinimumSize:]), random(9000)...)
		header.TCP(large).SetFlags(uint8(header.TCPFlagAck))
		seed(flags, from(frame(packet.Offload{Flags: packet.NeedsCsum, GSOType: packet.GSOTCPv4, HdrLen: 40, GSOSize: 1000, CsumStart: 20, CsumOffset: 16}, protoTCP, large), here, 64))
		seed(flags, from(frame(packet.Offload{}, 47, []byte("another protocol")), here, 64))
	}
	table, err := router.NewSwitch(router.SwitchConfig{Pool: pool, Gateway: gateway, Exit: c.exit.Port()})
	if err != nil {
		f.Fatal(err)
	}
	peer := router.NewPort(2, router.Caps{Super: true}, c)
	table.Bind(peer, here)
	x := c.mustDialUDP(server)
	f.Fuzz(func(t *testing.T, b []byte) {
		frame := tame(b, port, server.Port())
		if frame == nil {
			return
		}
		var all router.Counters
		forward := router.NewForwarder(table, peer, &all, gateway)
		forward.Frame(slices.Clone(frame), 0, len(frame))
		forward.Flush()
		back(frame)
		o, _ := packet.ConsumeOffload(frame[proto.FrameHeaderLen:])
		if checked, err := packet.Check(o, frame[proto.DataHeaderLen:]); err == nil {
			checked.Put(frame[proto.FrameHeaderLen:])
			c.Local.Send(frame)
		}
		if s := c.exit.Stats(); s.Conns > 8 || s.Flows > 8 || s.Held > 2<<20 {
			t.Errorf("%+v", s)
		}
		c.t = t
		_ = x.SetDeadline(time.Now().Add(patience))
		c.ask(x, "still there")
	})
}

// tame makes a data frame of what the fuzzer has: of the client, and to nobody but who serves this test. nil: it is none.
func tame(b []byte, tcp, udp uint16) []byte {
	const least = 1 + proto.DataHeaderLen - proto.FrameHeaderLen + header.IPv4MinimumSize
	if len(b) < least || len(b) > 1<<15 {
		return nil
	}
	frame := append(make([]byte, proto.FrameHeaderLen), b[1:]...)
	proto.PutDataHeader(frame[:proto.DataHeaderLen], len(frame)-proto.DataHeaderLen)
	copy(frame[proto.FrameHeaderLen:], b[1:])
	ip := packet.IPv4(frame[proto.DataHeaderLen:])
	n := ip.HeaderLen()
	if ip[0]>>4 != 4 || n < header.IPv4MinimumSize || len(ip) < n || ip.MoreFragments() && len(ip) < n+8 {
		return nil // of the last: another fragment would say where it goes
	}
	h := header.IPv4(ip)
	h.SetSourceAddress(toStack(here))
	to := outside
	switch {
	case b[0]&toGateway != 0:
		to = gateway
	case b[0]&toClient != 0:
		to = netip.MustParseAddr("10.0.0.3")
	}
	h.SetDestinationAddress(toStack(to))
	if at := ip[n:]; ip.FragmentOffset() == 0 && len(at) >= 8 {
		switch ip.Protocol() {
		case protoTCP:
			binary.BigEndian.PutUint16(at[2:], tcp)
		case protoUDP:
			binary.BigEndian.PutUint16(at[2:], udp)
		}
	}
	if b[0]&fixHeader != 0 {
		h.SetTotalLength(uint16(len(ip)))
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
	}
	if b[0]&fixPayload != 0 {
		fixChecksum(ip)
	}
	return frame
}

// back makes a packet one for the client, from outside.
func back(frame []byte) {
	h := header.IPv4(frame[proto.DataHeaderLen:])
	sum := h.Checksum()
	h.SetChecksum(0)
	whole := ^h.CalculateChecksum() == sum
	h.SetSourceAddress(toStack(outside))
	h.SetDestinationAddress(toStack(here))
	if h.SetChecksum(sum); whole {
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
	}
}

// fixChecksum completes the checksum of what is in a packet.
func fixChecksum(ip packet.IPv4) {
	b, at, sum := ip[ip.HeaderLen():], 0, uint32(0)
	switch ip.Protocol() {
	case protoTCP:
		at, sum = header.TCPChecksumOffset, packet.PseudoSum(ip, protoTCP, len(b))
	case protoUDP:
		at, sum = 6, packet.PseudoSum(ip, protoUDP, len(b))
	case protoICMP:
		at = 2
	default:
		return
	}
	if len(b) >= at+2 {
		b[at], b[at+1] = 0, 0
		binary.BigEndian.PutUint16(b[at:], packet.Checksum(b, sum))
	}
}
