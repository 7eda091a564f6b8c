package forward

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"ferry/internal/flowlist"
	"ferry/internal/relay"
)

// Flows returns the connections and flows of some clients, flowlist.Max at most, and how many there are; none: of all clients.
func (t *Table) Flows(clients []netip.Addr) (all []flowlist.Flow, total int) {
	t.mu.Lock()
	var open []*Forward
	for _, e := range t.all {
		if e.f != nil {
			open = append(open, e.f)
		}
	}
	t.mu.Unlock()
	for _, f := range open {
		if to := f.spec.To.Addr; to.IsValid() && !flowlist.Of(clients, to) {
			continue
		}
		mine, n := f.door.list(clients, flowlist.Max-len(all))
		all, total = append(all, mine...), total+n
	}
	return all, total
}

// list returns up to room of those of some clients, and how many there are.
func (d *streamDoor) list(clients []netip.Addr, room int) (some []flowlist.Flow, total int) {
	for _, p := range d.pairs() {
		w, far := p.flow()
		if far == nil || !flowlist.Of(clients, w.Client.Addr()) {
			continue
		}
		if total++; len(some) < room {
			some = append(some, p.counted(w, far))
		}
	}
	return some, total
}

func (d *streamDoor) pairs() []*pair {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.all))
}

// flow returns what a connection is, and its half of the client; nil: there is none yet, or none any more.
func (p *pair) flow() (w flowlist.Flow, far net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.far == nil || p.over {
		return w, nil
	}
	return flowlist.Flow{By: flowlist.ByForward, Protocol: "tcp", Client: addrPort(p.far.RemoteAddr()), Remote: addrPort(p.near.RemoteAddr()), Since: p.born}, p.far
}

// counted adds what a connection has carried, which a socket of the kernel at one of its ends knows.
func (p *pair) counted(w flowlist.Flow, far net.Conn) flowlist.Flow {
	w.Last = time.Unix(0, p.last.Load())
	if t, is := far.(*net.TCPConn); is {
		w.Sent, w.Received, w.Last, w.Counted = counts(t)
	} else if t, is := p.near.(*net.TCPConn); is {
		w.Received, w.Sent, w.Last, w.Counted = counts(t)
	}
	return w
}

// counts returns how many bytes came by a socket and left by it, and when the last did.
func counts(t *net.TCPConn) (in, out uint64, last time.Time, ok bool) {
	info, err := relay.Info(t)
	if err != nil { // it was closed meanwhile
		return 0, 0, last, false
	}
	quiet := time.Duration(min(info.Last_data_sent, info.Last_data_recv)) * time.Millisecond
	return info.Bytes_received, info.Bytes_acked, time.Now().Add(-quiet), true
}

func (d *packetDoor) list(clients []netip.Addr, room int) (some []flowlist.Flow, total int) {
	d.flows.Each(func(k flowKey, w relay.FlowState) {
		client := addrPort(w.Far.RemoteAddr())
		if !flowlist.Of(clients, client.Addr()) {
			return
		}
		if total++; len(some) < room {
			some = append(some, flowlist.Flow{
				By: flowlist.ByForward, Protocol: "udp", Client: client, Remote: k.source, Since: w.Since, Last: w.Last, Counted: true, Sent: w.Received, Received: w.Sent,
			})
		}
	})
	return some, total
}
