package netstack

import (
	"net/netip"
	"strings"
	"time"

	"ferry/internal/flowlist"
	"ferry/internal/relay"
)

// Flows returns the connections and flows of some clients, flowlist.Max of each at most, and how many there are; none: of all clients.
func (e *Exit) Flows(clients []netip.Addr) (all []flowlist.Flow, total int, err error) {
	conns, total := e.conns.some(clients)
	for _, x := range conns {
		all = append(all, x.show())
	}
	flows, more := e.flows.some(clients)
	return append(all, flows...), total + more, nil
}

// some returns the connections of some clients, and how many there are.
func (c *conns) some(clients []netip.Addr) (some []*conn, total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for client, share := range c.all.of {
		if !flowlist.Of(clients, client) {
			continue
		}
		total += len(share.all)
		some = append(some, share.all[:min(len(share.all), flowlist.Max-len(some))]...)
	}
	return some, total
}

func (x *conn) show() flowlist.Flow {
	w := flowlist.Flow{
		By: flowlist.ByUser, Protocol: "tcp", Client: x.from, Remote: x.to, State: strings.ToLower(stateOf(x.in).String()), Since: x.born, Last: time.Unix(0, x.last.Load()),
	}
	if info, err := relay.Info(x.out); err == nil { // else it was closed meanwhile
		w.Counted, w.Sent, w.Received = true, info.Bytes_acked, info.Bytes_received
	}
	return w
}

// some returns the flows of some clients, and how many there are.
func (t *flows) some(clients []netip.Addr) (some []flowlist.Flow, total int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.all {
		if !flowlist.Of(clients, f.owner) {
			continue
		}
		if total++; len(some) < flowlist.Max {
			some = append(some, flowlist.Flow{
				By: flowlist.ByUser, Protocol: flowlist.Protocol(f.protocol), Client: f.client, Remote: f.to, Since: f.born, Last: time.Unix(0, f.last.Load()),
				Counted: true, Sent: f.sent.Load(), Received: f.got.Load(),
			})
		}
	}
	return some, total
}
