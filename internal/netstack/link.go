package netstack

import (
	"context"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"ferry/internal/packet"
	"ferry/internal/proto"
	"ferry/internal/router"
)

// A link is the device of the stack. Super-packets pass it in both directions as they do a TUN, with checksums that are not complete: what
// needs whole packets makes them where it sends (package router).
type link struct {
	out        outbox
	mtu        atomic.Uint32
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

func newLink() *link {
	l := &link{out: outbox{ready: make(chan struct{}, 1)}}
	l.mtu.Store(1500)
	return l
}

// deliver hands a copy of an IP packet to the stack.
func (l *link) deliver(ip []byte) bool {
	d := l.dispatcher.Load()
	if d == nil {
		return false
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(ip)})
	(*d).DeliverNetworkPacket(ipv4.ProtocolNumber, pkt)
	pkt.DecRef()
	return true
}

// run hands what the stack sends to f until ctx is done.
func (l *link) run(ctx context.Context, f *router.Forwarder) {
	for {
		b, err := l.out.take(ctx)
		if err != nil {
			return
		}
		for i := 0; i < len(b); {
			next := i + proto.DataLen(b[i:])
			f.Frame(b, i, next)
			i = next
		}
		f.Flush()
	}
}

// WritePackets implements stack.LinkWriter.
func (l *link) WritePackets(all stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range all.AsSlice() {
		if !l.out.segment(pkt) {
			return i, &tcpip.ErrNoBufferSpace{}
		}
	}
	return all.Len(), nil
}

// MTU implements stack.LinkEndpoint, as all that follow.
func (l *link) MTU() uint32     { return l.mtu.Load() }
func (l *link) SetMTU(n uint32) { l.mtu.Store(n) }
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}
func (l *link) IsAttached() bool { return l.dispatcher.Load() != nil }
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}
func (l *link) GSOMaxSize() uint32                      { return proto.MaxPacket }
func (l *link) SupportedGSO() stack.SupportedGSO        { return stack.HostGSOSupported }
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (l *link) LinkAddress() tcpip.LinkAddress          { return "" }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) MaxHeaderLength() uint16                 { return 0 }
func (l *link) AddHeader(*stack.PacketBuffer)           {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *link) SetOnCloseAction(func())                 {}
func (l *link) Wait()                                   {}
func (l *link) Close()                                  {}

// outboxBytes is how much may wait for Run: more than one connection has on its way before the first loss shows.
const outboxBytes = 2 << 20

// An outbox has data frames, back to back, until Run hands them to the router. (The stack calls WritePackets with locks held that a packet which comes
// in may need, so it does not go into the router at once.)
type outbox struct {
	ready chan struct{} // has one token while there may be something

	mu    sync.Mutex // guards what follows
	b     []byte
	spare []byte // what Run had before
	full  uint64 // frames that found no room
}

// room makes room for a frame with a packet of n bytes, and tells the reader. It returns nil where there is none. The caller holds mu.
func (o *outbox) room(n int) []byte {
	n += proto.DataHeaderLen
	if len(o.b)+n > outboxBytes {
		o.full++
		return nil
	}
	if len(o.b) == 0 {
		select {
		case o.ready <- struct{}{}:
		default:
		}
	}
	at := len(o.b)
	if cap(o.b) < at+n {
		o.b = append(make([]byte, 0, min(outboxBytes, max(2*cap(o.b), at+n, 64<<10))), o.b...)
	}
	o.b = o.b[:at+n]
	return o.b[at:]
}

// segment adds what the stack sends.
func (o *outbox) segment(pkt *stack.PacketBuffer) bool {
	n := pkt.Size()
	o.mu.Lock()
	defer o.mu.Unlock()
	frame := o.room(n)
	if frame == nil {
		return false
	}
	proto.PutDataHeader(frame, n)
	offload(pkt, n).Put(frame[proto.FrameHeaderLen:])
	b := frame[proto.DataHeaderLen:]
	for _, part := range pkt.AsSlices() {
		b = b[copy(b, part):]
	}
	return true
}

// packet adds a packet that is complete: of a header of its own, and a payload.
func (o *outbox) packet(head, payload []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	frame := o.room(len(head) + len(payload))
	if frame == nil {
		return false
	}
	proto.PutBareHeader(frame, len(head)+len(payload))
	copy(frame[proto.DataHeaderLen+copy(frame[proto.DataHeaderLen:], head):], payload)
	return true
}

// take returns all frames, which are valid until the next call, and waits for one.
func (o *outbox) take(ctx context.Context) ([]byte, error) {
	for {
		o.mu.Lock()
		b := o.b
		if len(b) > 0 {
			o.b, o.spare = o.spare[:0], b
		}
		o.mu.Unlock()
		if len(b) > 0 {
			return b, nil
		}
		select {
		case <-o.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// offload says what remains to be done to a packet of n bytes.
func offload(pkt *stack.PacketBuffer, n int) (o packet.Offload) {
	gso := pkt.GSOOptions
	if gso.Type != stack.GSOTCPv4 {
		return o
	}
	o.HdrLen = uint16(pkt.HeaderSize())
	if gso.NeedsCsum {
		o.Flags, o.CsumStart, o.CsumOffset = packet.NeedsCsum, gso.L3HdrLen, gso.CsumOffset
	}
	if n-int(o.HdrLen) > int(gso.MSS) {
		o.GSOType, o.GSOSize = packet.GSOTCPv4, gso.MSS
	}
	return o
}
