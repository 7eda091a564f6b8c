package addrpool

import (
	"maps"
	"slices"
	"time"
)

// Reconfigure replaces Reserved, OnRequest and Hold of the pool's Config; its Prefix and Taken stay. Leases of addresses
// that are another's now end, whether they are live or held: displaced are the owners who had one. Such are
// addresses reserved for a name that the client does not have, and those that have become ones on request:
// who got one before may have got it by chance. After an error nothing has changed.
func (p *Pool) Reconfigure(c Config, now time.Time) (displaced []uint64, events []Event, err error) {
	c.Prefix, c.Taken = p.c.Prefix, p.c.Taken
	reserved, asked, err := p.special(c)
	if err != nil {
		return nil, nil, err
	}
	events = p.Expire(now)
	var changed []uint32
	for _, off := range slices.Concat(slices.Collect(maps.Keys(p.reserved)), slices.Collect(maps.Keys(reserved)),
		slices.Collect(maps.Keys(p.asked)), slices.Collect(maps.Keys(asked))) {
		if p.reserved[off] != reserved[off] || p.asked[off] != asked[off] {
			changed = append(changed, off)
		}
	}
	slices.Sort(changed)
	changed = slices.Compact(changed)
	before := p.asked
	for _, off := range changed {
		if p.states[off] == free {
			p.order.remove(off)
		}
	}
	p.c, p.reserved, p.asked = c, reserved, asked
	for _, off := range changed {
		switch s := p.slots[off]; {
		case p.states[off] == free:
			if p.dynamic(off) {
				p.order.pushBack(off)
			}
		case reserved[off] != "" && reserved[off] != s.lease.Name, asked[off] && !before[off]:
			if p.states[off] == live {
				displaced = append(displaced, s.owner)
			}
			events = append(events, p.release(off))
		}
	}
	p.shorten(now)
	p.countSpare()
	return displaced, events, nil
}

// shorten keeps holds in the order of their ends when the time for them has become shorter.
func (p *Pool) shorten(now time.Time) {
	latest := now.Add(p.c.Hold)
	for off, ok := p.holds.front(); ok; off, ok = p.holds.after(off) {
		if s := p.slots[off]; latest.Before(s.until) {
			s.until = latest
		}
	}
}
