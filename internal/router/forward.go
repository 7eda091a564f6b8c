package router

import (
	"errors"
	"net/netip"
	"sync"

	"golang.org/x/time/rate"

	"ferry/internal/packet"
	"ferry/internal/proto"
)

// scratchPool has room for the segments or fragments of one super-packet.
var scratchPool = sync.Pool{New: func() any { b := make([]byte, 0, 192<<10); return &b }}

// joins has what bare packets are put together in. One get (Forwarder.Packet), one put (Forwarder.Flush): an idle peer holds none.
var joins = sync.Pool{New: func() any { return &packet.Coalescer{Headroom: proto.DataHeaderLen} }}

// A Forwarder takes the packets that one reading goroutine hands in, and collects them to runs.
// Each reading goroutine has its own.
type Forwarder struct {
	table Table
	from  *Port
	all   *Counters
	icmp  netip.Addr    // source of ICMP errors
	errs  *rate.Limiter // of ICMP errors; nil until the first one
	taps  *Taps         // nil: nobody looks

	// The run that is being collected: buf[start:end] for the port to.
	buf        []byte
	start, end int
	packets    int
	to         *Port

	join *packet.Coalescer // of bare packets; nil: none came since Flush
}

// NewForwarder returns a Forwarder for packets that come in by from. all counts for every port
// together; icmp is the source of ICMP errors.
func NewForwarder(table Table, from *Port, all *Counters, icmp netip.Addr) *Forwarder {
	return &Forwarder{table: table, from: from, all: all, icmp: icmp}
}

// Drop counts a packet that is not even looked at.
func (f *Forwarder) Drop(why Reason) { f.drop(why, 1) }

// Frame forwards the data frame buf[i:j]. What it points to is kept until Flush.
func (f *Forwarder) Frame(buf []byte, i, j int) {
	f.joined()
	o, ok := packet.ConsumeOffload(buf[i+proto.FrameHeaderLen:])
	if !ok {
		f.Drop(DropLength)
		return
	}
	f.forward(buf, i, j, o)
}

// Item forwards the data item buf[i:j], a data frame or a bare IPv4 packet, and flushes.
func (f *Forwarder) Item(buf []byte, i, j int) {
	if proto.IsFrame(buf[i:j]) {
		f.Frame(buf, i, j)
	} else {
		f.Packet(buf, i, j)
	}
	f.Flush()
}

// Packet forwards the bare IPv4 packet buf[i:j]. The proto.DataHeaderLen bytes before it are
// overwritten, unless they belong to an unfinished run, which is flushed first. Consecutive segments of a TCP flow are
// forwarded as the super-packet that they were: one write to the TUN, and one walk through the kernel's stack.
func (f *Forwarder) Packet(buf []byte, i, j int) {
	if f.join == nil {
		f.join = joins.Get().(*packet.Coalescer)
	}
	if f.join.Add(buf[i:j]) {
		return
	}
	f.joined()
	if f.join.Add(buf[i:j]) {
		return
	}
	f.flush()
	i -= proto.DataHeaderLen
	proto.PutBareHeader(buf[i:], j-i-proto.DataHeaderLen)
	f.forward(buf, i, j, packet.Offload{})
}

// joined forwards what bare packets were put together to.
func (f *Forwarder) joined() {
	if f.join == nil {
		return
	}
	o, b := f.join.Take()
	if b == nil {
		return
	}
	f.flush() // what came before it
	proto.PutDataHeader(b, len(b)-proto.DataHeaderLen)
	o.Put(b[proto.FrameHeaderLen:])
	f.forward(b, 0, len(b), o)
	f.flush() // b is overwritten by the next one
}

func (f *Forwarder) forward(buf []byte, i, j int, claimed packet.Offload) {
	ip := buf[i+proto.DataHeaderLen : j]
	o, err := packet.Check(claimed, ip)
	if err != nil {
		f.Drop(reasonOf(err))
		return
	}
	if ip[0]>>4 == 6 {
		f.Drop(DropIPv6)
		return
	}
	to, why := f.table.Route(f.from, packet.IPv4(ip))
	if why != None {
		f.Drop(why)
		return
	}
	switch caps := to.Caps(); {
	case caps.MTU > 0 && packet.MaxSegment(o, ip) > caps.MTU:
		f.flush()
		f.tooBig(to, o, ip)
	case !caps.Super, o.GSOType == packet.GSOUDPL4 && !caps.USO:
		f.flush()
		f.segments(to, o, ip)
	default:
		o.Put(buf[i+proto.FrameHeaderLen:])
		f.collect(to, buf, i, j)
	}
}

// collect adds buf[i:j] to the run, or begins a new one.
func (f *Forwarder) collect(to *Port, buf []byte, i, j int) {
	if f.to != to || f.end != i {
		f.flush()
		f.to, f.buf, f.start = to, buf, i
	}
	f.end = j
	f.packets++
}

// Flush sends the run. It has to be called before the bytes handed in become invalid.
func (f *Forwarder) Flush() {
	f.joined()
	if f.join != nil {
		joins.Put(f.join)
		f.join = nil
	}
	f.flush()
}

// flush sends the run, but not what is being put together.
func (f *Forwarder) flush() {
	if f.to == nil {
		return
	}
	f.send(f.to, f.buf[f.start:f.end], f.packets, f.end-f.start-f.packets*proto.DataHeaderLen)
	f.to, f.buf, f.packets, f.end = nil, nil, 0, -1 // an idle peer must not keep the buffer
}

func (f *Forwarder) send(to *Port, run []byte, packets, size int) {
	f.show(to, run)
	dropped, why := to.out.Send(run)
	if dropped > 0 {
		f.drop(why, dropped)
		size = size * (packets - dropped) / packets // on average; what was lost is not measured
	}
	f.from.packets.Add(uint64(packets - dropped))
	f.from.bytes.Add(uint64(size))
	f.all.packets.Add(uint64(packets - dropped))
	f.all.bytes.Add(uint64(size))
}

func (f *Forwarder) drop(why Reason, n int) {
	f.from.drop(why, n)
	f.all.drop(why, n)
}

// segments sends a super-packet to a port that wants whole packets.
func (f *Forwarder) segments(to *Port, o packet.Offload, ip []byte) {
	scratch := scratchPool.Get().(*[]byte)
	defer scratchPool.Put(scratch)
	*scratch = packet.AppendSegments((*scratch)[:0], o, ip)
	f.bare(to, *scratch)
}

// ICMP errors a second (RFC 1812, section 4.3.2.8): to a client, and to all that is behind the exit. One is
// enough for a sender to learn the MTU.
const (
	errorsToClient = 10
	errorsToExit   = 100
)

// mayTell tells whether one more ICMP error may go to where the packets come from.
func (f *Forwarder) mayTell() bool {
	if f.errs == nil {
		n := errorsToClient
		if f.from.Caps().Exit {
			n = errorsToExit
		}
		f.errs = rate.NewLimiter(rate.Limit(n), n)
	}
	return f.errs.Allow()
}

// tooBig treats a packet that is larger than the MTU of its destination: RFC 791 and RFC 1191.
func (f *Forwarder) tooBig(to *Port, o packet.Offload, ip []byte) {
	scratch := scratchPool.Get().(*[]byte)
	defer scratchPool.Put(scratch)
	if packet.IPv4(ip).DontFragment() {
		f.Drop(DropTooBig)
		if !f.mayTell() {
			return
		}
		from := f.icmp
		if f.from.Caps().Exit {
			// The kernel behind the exit has that address itself, and takes it for a martian; the
			// destination is believed by all.
			from = packet.IPv4(ip).Dst()
		}
		*scratch = packet.AppendFragNeeded((*scratch)[:0], ip, to.Caps().MTU, from)
		f.bare(f.from, *scratch)
		return
	}
	whole := scratchPool.Get().(*[]byte)
	defer scratchPool.Put(whole)
	*whole = packet.AppendSegments((*whole)[:0], o, ip)
	*scratch = (*scratch)[:0]
	for rest := *whole; len(rest) > 0; {
		n := packet.IPv4(rest).TotalLen()
		*scratch = packet.AppendFragments(*scratch, rest[:n], to.Caps().MTU)
		rest = rest[n:]
	}
	f.bare(to, *scratch)
}

// bare sends complete packets that stand back to back. The exit wants each in a data frame.
func (f *Forwarder) bare(to *Port, packets []byte) {
	if len(packets) == 0 {
		return
	}
	if !to.Caps().Exit {
		f.send(to, packets, proto.CountItems(packets), len(packets))
		return
	}
	frame := scratchPool.Get().(*[]byte)
	defer scratchPool.Put(frame)
	for len(packets) > 0 {
		n := packet.IPv4(packets).TotalLen()
		b := append((*frame)[:0], make([]byte, proto.DataHeaderLen)...)
		proto.PutBareHeader(b, n)
		f.send(to, append(b, packets[:n]...), 1, n)
		packets = packets[n:]
	}
}

func reasonOf(err error) Reason {
	switch {
	case errors.Is(err, packet.ErrLength):
		return DropLength
	case errors.Is(err, packet.ErrOffload):
		return DropOffload
	}
	return DropHeader
}
