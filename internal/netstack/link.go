package netstack

import (
	"context"
	"slices"
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

// runBytes is how many bytes of segments are handed to the router at once, about.
const runBytes = 256 << 10

// run hands what the stack sends to f until ctx is done.
func (l *link) run(ctx context.Context, f *router.Forwarder) {
	defer l.out.end()
	run := make([]byte, 0, runBytes+proto.MaxData) // it is not moved while f has a part of it
	for {
		segments, b, err := l.out.take(ctx)
		if err != nil {
			return
		}
		for i := 0; i < len(b); {
			next := i + proto.DataLen(b[i:])
			f.Frame(b, i, next)
			i = next
		}
		f.Flush()
		run = run[:0]
		for i, pkt := range segments {
			at := len(run)
			run = appendFrame(run, pkt)
			pkt.DecRef()
			segments[i] = nil
			f.Frame(run, at, len(run))
			if len(run) >= runBytes {
				f.Flush()
				run = run[:0]
			}
		}
		f.Flush()
	}
}

// appendFrame appends a data frame with what the stack sends.
func appendFrame(b []byte, pkt *stack.PacketBuffer) []byte {
	n := pkt.Size()
	at := len(b)
	b = slices.Grow(b, proto.DataHeaderLen+n)[:at+proto.DataHeaderLen]
	proto.PutDataHeader(b[at:], n)
	offload(pkt, n).Put(b[at+proto.FrameHeaderLen:])
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		part := v.AsSlice()
		b = append(b, part[min(skip, len(part)):]...)
		skip -= min(skip, len(part))
	}
	return b
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

// An outbox has what goes to clients, until Run hands it to the router. (The stack calls WritePackets with locks held that a packet which comes
// in may need, so it does not go into the router at once.)
type outbox struct {
	ready chan struct{} // has one token while there may be something

	mu    sync.Mutex // guards what follows
	bytes int        // of memory, of all
	full  uint64     // packets that found no room
	ended bool       // nothing more is taken
	// Segments of the stack, each with a reference that is ours, and other packets: data frames, back to back. What Run had before is spare.
	segments, spareSegments []*stack.PacketBuffer
	b, spare                []byte
}

// room makes room for n bytes, and tells the reader; false: there is none. The caller holds mu.
func (o *outbox) room(n int) bool {
	if o.ended || o.bytes+n > outboxBytes {
		o.full++
		return false
	}
	if o.bytes == 0 {
		select {
		case o.ready <- struct{}{}:
		default:
		}
	}
	o.bytes += n
	return true
}

// segment adds what the stack sends. It counts with all that the reference holds: of an ACK that is more than ten times its length.
func (o *outbox) segment(pkt *stack.PacketBuffer) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.room(pkt.MemSize()) {
		return false
	}
	o.segments = append(o.segments, pkt.IncRef())
	return true
}

// packet adds a packet that is complete: of a header of its own, and a payload.
func (o *outbox) packet(head, payload []byte) bool {
	n := len(head) + len(payload)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.room(proto.DataHeaderLen + n) {
		return false
	}
	at := len(o.b)
	o.b = slices.Grow(o.b, proto.DataHeaderLen+n)[:at+proto.DataHeaderLen]
	proto.PutBareHeader(o.b[at:], n)
	o.b = append(append(o.b, head...), payload...)
	return true
}

// take returns all segments, whose references are the caller's, and all other packets, and waits for one. Both are valid until the next call.
func (o *outbox) take(ctx context.Context) (segments []*stack.PacketBuffer, b []byte, err error) {
	for {
		o.mu.Lock()
		if o.bytes > 0 {
			segments, o.segments, o.spareSegments = o.segments, o.spareSegments[:0], o.segments
			b, o.b, o.spare = o.b, o.spare[:0], o.b
			o.bytes = 0
			o.mu.Unlock()
			return segments, b, nil
		}
		o.mu.Unlock()
		select {
		case <-o.ready:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// end gives back what nobody takes any more.
func (o *outbox) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, pkt := range o.segments {
		pkt.DecRef()
	}
	o.segments, o.spareSegments, o.b, o.spare = nil, nil, nil, nil
	o.bytes, o.ended = 0, true
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
