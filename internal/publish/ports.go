package publish

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
)

// Bounds of the search for a port.
const (
	stride    = 1000
	shifts    = 66   // 0 to 65, as Penguin has it
	maxTries  = 4096 // ports that are bound in vain, for one service
	maxKept   = 4096 // services whose ports are remembered
	maxOwn    = 256  // the same, of one client
	firstFree = 1024 // below, a port takes a right (ip_unprivileged_port_start is that unless it was changed)
)

// Ports are those of the host, as far as services have them. It belongs to one goroutine.
type Ports struct {
	Range Range // those that services get which have no map
	Maps  []Map
	// Expand is set where services on all addresses are there for single ones, too: then a map for one is for that alone.
	Expand bool

	kept map[Key]*kept
	turn uint64
}

// A kept port is that of a service which is there, or was.
type kept struct {
	port uint16
	live bool
	turn uint64 // of the last change: the lowest is the oldest
}

// A Record is a port that is remembered.
type Record struct {
	Key
	Port uint16
}

// Candidates are the ports to try for a service, in their order. only is set if there is a map: then it is that one or none.
func (p *Ports) Candidates(k Key) (ports iter.Seq[uint16], only bool) {
	if m, ok := p.fixed(k); ok {
		return func(yield func(uint16) bool) { yield(m.Host) }, true
	}
	return func(yield func(uint16) bool) {
		live, away := p.others(k)
		tries := 0
		try := func(port uint16) (more bool) {
			if !p.Range.Contains(port) || live[port] {
				return true
			}
			live[port] = true // or tried
			tries++
			return yield(port) && tries < maxTries
		}
		if own := p.kept[k]; own != nil {
			delete(away, own.port)
			if !try(own.port) {
				return
			}
		}
		for port := range sequence(k.Guest.Port(), p.Range) {
			if !away[port] && !try(port) {
				return
			}
		}
		// What belongs to a service that is away comes last.
		for port := range away {
			if !try(port) {
				return
			}
		}
	}, false
}

// others are the ports that other services have, or a map gives away, and those that services had which are away.
func (p *Ports) others(k Key) (live, away map[uint16]bool) {
	live, away = map[uint16]bool{}, map[uint16]bool{}
	for _, m := range p.Maps {
		if m.UDP == k.UDP {
			live[m.Host] = true
		}
	}
	for o, its := range p.kept {
		switch {
		case o == k || o.UDP != k.UDP:
		case its.live:
			live[its.port] = true
		default:
			away[its.port] = true
		}
	}
	return live, away
}

func (p *Ports) fixed(k Key) (Map, bool) {
	m, ok := fixed(p.Maps, k)
	if ok && p.Expand && m.Guest != k.Guest {
		return Map{}, false
	}
	return m, ok
}

// sequence are the numbers that are tried for a port: strides from it, from each behind it, and then all of r.
func sequence(port uint16, r Range) iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for shift := range shifts {
			for n := int(port) + shift; n <= 65535; n += stride {
				if !yield(uint16(n)) {
					return
				}
			}
		}
		for n := int(r.First); n <= int(r.Last); n++ {
			if !yield(uint16(n)) {
				return
			}
		}
	}
}

// Took notes that a service has a port now, which is remembered from then on.
func (p *Ports) Took(k Key, port uint16) {
	if p.kept == nil {
		p.kept = map[Key]*kept{}
	}
	p.turn++
	for o, its := range p.kept { // who is away for long has lost it
		if o != k && o.UDP == k.UDP && its.port == port && !its.live {
			delete(p.kept, o)
		}
	}
	p.kept[k] = &kept{port, true, p.turn}
	own := 0
	for o := range p.kept {
		if o.Client == k.Client {
			own++
		}
	}
	if own > maxOwn {
		p.forgetOldest(func(o Key) bool { return o.Client == k.Client })
	} else if len(p.kept) > maxKept {
		p.forgetOldest(func(Key) bool { return true })
	}
}

// Freed notes that a service is gone. Its port is remembered.
func (p *Ports) Freed(k Key) {
	if its := p.kept[k]; its != nil {
		p.turn++
		its.live, its.turn = false, p.turn
	}
}

func (p *Ports) forgetOldest(which func(Key) bool) {
	var oldest Key
	for k, its := range p.kept {
		if which(k) && !its.live && (oldest == Key{} || its.turn < p.kept[oldest].turn) {
			oldest = k
		}
	}
	delete(p.kept, oldest)
}

// Remember takes back what Records has returned, in an earlier run.
func (p *Ports) Remember(all []Record) {
	for _, r := range all {
		if len(p.kept) < maxKept {
			p.Took(r.Key, r.Port)
			p.Freed(r.Key)
		}
	}
}

// Records are all ports that are remembered, the oldest first.
func (p *Ports) Records() []Record {
	all := make([]Record, 0, len(p.kept))
	for k, its := range p.kept {
		all = append(all, Record{k, its.port})
	}
	slices.SortFunc(all, func(a, b Record) int { return cmp.Compare(p.kept[a.Key].turn, p.kept[b.Key].turn) })
	return all
}

// Why says in Penguin's words why a service has not the port of its own number; empty: it has.
func (p *Ports) Why(k Key, port uint16) string {
	own := k.Guest.Port()
	if _, only := p.fixed(k); only {
		return "via fixed mapping"
	}
	switch {
	case port == own:
		return ""
	case own < firstFree && !p.Range.Contains(own):
		return fmt.Sprintf("%d is privileged and user cannot bind", own)
	case !p.Range.Contains(own):
		return fmt.Sprintf("%d is not one of %s", own, p.Range)
	}
	return fmt.Sprintf("%d is already in use", own)
}
