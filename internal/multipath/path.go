package multipath

import (
	"sync/atomic"
	"time"

	"ferry/internal/proto"
	"ferry/internal/router"
)

// A Path is one carrier connection of a session, as its Sender sees it.
type Path struct {
	Epoch uint64
	queue *router.Queue
	max   atomic.Int64 // length in bytes of the longest item that the carrier takes; 0: any
	limit atomic.Int64 // what passes of it, as far as is known; 0: all

	hasty Hasty // nil: the carrier is not

	// Of the one who is busy with the Sender:
	known bool   // next is
	next  uint64 // the number that the other end gives to the next frame
	parts []byte // scratch memory for fragments
	owed  []byte // a switch frame for which there was no room; empty: none
}

// A Carrier is what a Path has to know of a link: carrier.Link.
type Carrier interface {
	// Max is the length in bytes of the longest item that it takes; 0: of any.
	Max() int
}

// A Hasty is a Carrier that sends as fast as it is told. What is sent again by it goes over paceTrips.
type Hasty interface {
	// RoundTrip returns the time there and back; 0: it is not known.
	RoundTrip() time.Duration
}

// NewPath returns a path through a queue to a carrier.
func NewPath(epoch uint64, queue *router.Queue, c Carrier) *Path {
	p := &Path{Epoch: epoch, queue: queue}
	p.max.Store(int64(c.Max()))
	p.hasty, _ = c.(Hasty)
	return p
}

// partOf returns how many of so many bytes go by the path at once; 0: all.
func (p *Path) partOf(bytes int) int {
	if p.hasty == nil {
		return 0
	}
	rtt := p.hasty.RoundTrip()
	if rtt == 0 {
		rtt = holdTime
	}
	return max(bytes/int(max(min(paceTrips*rtt, paceMax)/paceTick, 1)), leastPart)
}

// Carries says that the carrier takes items of up to max bytes now: it has found out more of its way.
func (p *Path) Carries(max int) {
	if p.max.Load() > 0 && max > 2*proto.FragmentOverhead {
		p.max.Store(int64(max))
	}
}

// Begins says that the other end counts from number 0 by this path without being told: it is the first one of a session.
func (p *Path) Begins() { p.known, p.next = true, 0 }

// Ack sends an ack frame, unless there is no room: the next one says more.
func (p *Path) Ack(received uint64) { p.queue.Send(proto.AppendAck(nil, received)) }

// send hands the frames from number first on to the queue as far as there is room. A closed queue takes them
// all: they are kept for the next path.
func (p *Path) send(first uint64, run []byte) (dropped int, why router.Reason) {
	count := proto.CountItems(run)
	if b := p.numbered(first); b != nil {
		if n, why := p.queue.Send(b); n > 0 {
			return kept(count, why)
		}
		p.known, p.next = true, first
	}
	if whole := p.fit(first, run); whole != nil {
		_, why = p.queue.Send(whole) // a part that is missing makes the frame one that was lost on the way
		return kept(0, why)
	}
	dropped, why = p.queue.Send(run)
	p.next += uint64(count - dropped)
	return kept(dropped, why)
}

func kept(dropped int, why router.Reason) (int, router.Reason) {
	if why == router.DropClosed {
		return 0, router.None
	}
	return dropped, why
}

// put is send, but it waits for room until stop is closed. It returns false when not all was sent.
func (p *Path) put(first uint64, run []byte, stop <-chan struct{}) bool {
	if len(p.owed) > 0 {
		if !p.queue.SendUntil(p.owed, stop) {
			return false
		}
		p.owed = nil
	}
	if len(run) == 0 {
		return true
	}
	if b := p.numbered(first); b != nil {
		if !p.queue.SendUntil(b, stop) {
			return false
		}
		p.known, p.next = true, first
	}
	if whole := p.fit(first, run); whole != nil {
		return p.queue.SendUntil(whole, stop)
	}
	p.next += uint64(proto.CountItems(run))
	p.known = p.queue.SendUntil(run, stop) // else a part may have been sent
	return p.known
}

// numbered returns a number frame, if the other end would count wrong without one.
func (p *Path) numbered(first uint64) []byte {
	if p.known && p.next == first {
		return nil
	}
	return proto.AppendNumber(make([]byte, 0, 16), first)
}

// leave sends a switch frame to another path. A path that takes nothing gets none.
func (p *Path) leave(s proto.SwitchMessage) { p.queue.Send(proto.AppendSwitch(nil, s)) }

// turn sends a switch frame to this path; if there is no room, put does so first of all.
func (p *Path) turn(s proto.SwitchMessage) {
	p.owed = nil
	b := proto.AppendSwitch(nil, s)
	if dropped, why := p.queue.Send(b); dropped > 0 && why != router.DropClosed {
		p.owed = b
	}
}

// fit returns run with the frames that the carrier does not take in fragments; nil when there are none such.
func (p *Path) fit(first uint64, run []byte) []byte {
	most := int(p.max.Load())
	if limit := int(p.limit.Load()); limit > 0 {
		most = min(most, limit)
	}
	if most == 0 || longest(run) <= most {
		return nil
	}
	p.known = false // behind fragments the count begins anew
	p.parts = p.parts[:0]
	for ; len(run) > 0; first++ {
		frame := run[:proto.ItemLen(run)]
		run = run[len(frame):]
		if len(frame) <= most {
			p.parts = append(proto.AppendNumber(p.parts, first), frame...)
			continue
		}
		for offset := 0; offset < len(frame); {
			part := frame[offset:min(len(frame), offset+most-proto.FragmentOverhead)]
			p.parts = proto.AppendFragment(p.parts, proto.FragmentMessage{Number: first, Offset: offset, Len: len(frame), Part: part})
			offset += len(part)
		}
	}
	return p.parts
}

func longest(run []byte) (n int) {
	for len(run) > 0 {
		k := proto.ItemLen(run)
		n, run = max(n, k), run[k:]
	}
	return n
}
