package gateway

import (
	"net/netip"

	"ferry/internal/api"
	"ferry/internal/flowlist"
)

// A Tracker is an Exit that knows what passes.
type Tracker interface {
	// Flows returns the flows of some clients, flowlist.Max of each kind at most, and how many there are; none: of all clients.
	Flows(clients []netip.Addr) (all []flowlist.Flow, total int, err error)
}

// flows returns what goes through the gateway: by its published ports, and to the network behind it. What clients send each other passes as packets, of
// which nobody keeps a list.
func (g *Gateway) flows(peer string) (f api.Flows, err error) {
	var clients []netip.Addr
	if peer != "" {
		if clients, err = g.addressesOf(peer); err != nil {
			return f, err
		}
	}
	f.Flows = []flowlist.Flow{}
	for _, t := range g.published() {
		all, total := t.Flows(clients)
		f.Flows, f.Total = append(f.Flows, all...), f.Total+total
	}
	t, ok := g.exit.(Tracker)
	if !ok {
		f.Missing = append(f.Missing, "this exit keeps no list")
		return f, nil
	}
	all, total, err := t.Flows(clients)
	if err != nil {
		f.Missing = append(f.Missing, err.Error())
	}
	f.Flows, f.Total = append(f.Flows, all...), f.Total+total
	return f, nil
}
