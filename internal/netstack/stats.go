package netstack

import (
	"reflect"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// counters count what an Exit refuses.
type counters struct {
	checksum, dials, refused, evicted, expired atomic.Uint64
}

// Stats is what an Exit has, and what it has refused since it was made.
type Stats struct {
	Conns, Flows int    // there are
	Held         int    // bytes that connections hold, and may
	Refused      uint64 // destinations that refused, or can not be reached
	Dials        uint64 // SYNs beyond the attempts that may run at once
	Memory       uint64 // connections that waited for memory in vain
	Evicted      uint64 // connections and flows that gave way to others
	Stalled      uint64 // connections that were reset because they held most memory for longest
	Expired      uint64 // packets that had passed as many routers as they may
	Checksum     uint64 // packets that were damaged
	Full         uint64 // packets for clients that found no room
}

// Beyond returns Stats by their names, for people.
func (e *Exit) Beyond() map[string]uint64 {
	s := e.Stats()
	return map[string]uint64{
		"connections": uint64(s.Conns), "flows": uint64(s.Flows), "refused": s.Refused, "dials": s.Dials, "memory": s.Memory,
		"evicted": s.Evicted, "stalled": s.Stalled, "expired": s.Expired, "checksum": s.Checksum, "full": s.Full, "held": uint64(s.Held),
	}
}

// StackStats returns what gVisor counts: numbers by their names, of which some have more below them.
func (e *Exit) StackStats() map[string]any { return numbers(reflect.ValueOf(e.stack.Stats())) }

func numbers(v reflect.Value) map[string]any {
	all := map[string]any{}
	for i := range v.NumField() {
		name, field := v.Type().Field(i).Name, v.Field(i)
		if c, ok := field.Interface().(*tcpip.StatCounter); ok {
			all[name] = c.Value()
		} else if field.Kind() == reflect.Struct {
			all[name] = numbers(field)
		}
	}
	return all
}

// Stats returns the counts so far.
func (e *Exit) Stats() Stats {
	s := Stats{Refused: e.count.refused.Load(), Dials: e.count.dials.Load(), Evicted: e.count.evicted.Load(), Checksum: e.count.checksum.Load(), Expired: e.count.expired.Load()}
	m := e.conns.memory
	s.Held, s.Memory, s.Stalled = m.budget.Used(), m.refused.Load(), m.stalled.Load()
	e.flows.mu.Lock()
	s.Flows = len(e.flows.all)
	e.flows.mu.Unlock()
	e.conns.mu.Lock()
	s.Conns = e.conns.all.n
	e.conns.mu.Unlock()
	e.link.out.mu.Lock()
	s.Full = e.link.out.full
	e.link.out.mu.Unlock()
	return s
}
