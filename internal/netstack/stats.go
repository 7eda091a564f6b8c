package netstack

import "sync/atomic"

// counters count what an Exit refuses.
type counters struct {
	checksum, dials, refused, evicted atomic.Uint64
}

// Stats is what an Exit has, and what it has refused since it was made.
type Stats struct {
	Conns, Flows int    // there are
	Refused      uint64 // destinations that refused, or can not be reached
	Dials        uint64 // SYNs beyond the attempts that may run at once
	Evicted      uint64 // connections and flows that gave way to others
	Checksum     uint64 // packets that were damaged
	Full         uint64 // packets for clients that found no room
}

// Beyond returns Stats by their names, for people.
func (e *Exit) Beyond() map[string]uint64 {
	s := e.Stats()
	return map[string]uint64{
		"connections": uint64(s.Conns), "flows": uint64(s.Flows), "refused": s.Refused, "dials": s.Dials, "evicted": s.Evicted, "checksum": s.Checksum, "full": s.Full,
	}
}

// Stats returns the counts so far.
func (e *Exit) Stats() Stats {
	s := Stats{Refused: e.count.refused.Load(), Dials: e.count.dials.Load(), Evicted: e.count.evicted.Load(), Checksum: e.count.checksum.Load()}
	e.flows.mu.Lock()
	s.Flows = len(e.flows.all)
	e.flows.mu.Unlock()
	e.conns.mu.Lock()
	s.Conns = len(e.conns.all)
	e.conns.mu.Unlock()
	e.link.out.mu.Lock()
	s.Full = e.link.out.full
	e.link.out.mu.Unlock()
	return s
}
