package vtunnel

import "sync/atomic"

// Counters count the connections of Servers by what became of them. They are safe for concurrent use.
type Counters struct {
	made, ended                         atomic.Uint64
	full, share, evicted, source        atomic.Uint64
	silent                              atomic.Uint64
	request, address, auth, destination atomic.Uint64
}

// of returns the counter of a refusal.
func (c *Counters) of(r reply) *atomic.Uint64 {
	switch r {
	case badAddress:
		return &c.address
	case badAuth:
		return &c.auth
	case notReached:
		return &c.destination
	}
	return &c.request
}

// Stats returns the counts: tunnels that were made and those of them that have ended, and connections that became none, by the reason.
func (c *Counters) Stats() map[string]uint64 {
	return map[string]uint64{
		"made": c.made.Load(), "ended": c.ended.Load(),
		"full": c.full.Load(), "share": c.share.Load(), "unasked": c.evicted.Load(), "source": c.source.Load(), "silent": c.silent.Load(),
		"request": c.request.Load(), "address": c.address.Load(), "auth": c.auth.Load(), "destination": c.destination.Load(),
	}
}
