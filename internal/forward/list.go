package forward

import (
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
		mine := f.door.flows()
		mine = slices.DeleteFunc(mine, func(w flowlist.Flow) bool { return !flowlist.Of(clients, w.Client.Addr()) })
		total += len(mine)
		all = append(all, mine[:min(len(mine), flowlist.Max-len(all))]...)
	}
	return all, total
}

func (d *streamDoor) flows() []flowlist.Flow {
	d.mu.Lock()
	pairs := make([]*pair, 0, len(d.all))
	for p := range d.all {
		pairs = append(pairs, p)
	}
	d.mu.Unlock()
	all := make([]flowlist.Flow, 0, len(pairs))
	for _, p := range pairs {
		if w, ok := p.flow(); ok {
			all = append(all, w)
		}
	}
	return all
}

// flow returns what there is to know of a connection; false: it is none yet, or none any more.
func (p *pair) flow() (w flowlist.Flow, ok bool) {
	p.mu.Lock()
	far, over := p.far, p.over
	p.mu.Unlock()
	if far == nil || over {
		return w, false
	}
	w = flowlist.Flow{By: flowlist.ByForward, Protocol: "tcp", Client: addrPort(far.RemoteAddr()), Remote: addrPort(p.near.RemoteAddr()), Since: p.born, Last: time.Unix(0, p.last.Load())}
	if t, is := far.(*net.TCPConn); is {
		w.Sent, w.Received, w.Last, w.Counted = counts(t)
	} else if t, is := p.near.(*net.TCPConn); is {
		w.Received, w.Sent, w.Last, w.Counted = counts(t)
	}
	return w, true
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

func (d *packetDoor) flows() []flowlist.Flow {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]flowlist.Flow, 0, len(d.all))
	for _, w := range d.all {
		all = append(all, flowlist.Flow{
			By: flowlist.ByForward, Protocol: "udp", Client: addrPort(w.far.RemoteAddr()), Remote: w.source, Since: w.born, Last: time.Unix(0, w.last.Load()),
			Counted: true, Sent: w.down.Load(), Received: w.up.Load(),
		})
	}
	return all
}
