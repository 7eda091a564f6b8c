package addrpool

// A Mark is the end of a Token. Whoever makes tokens may say by it whose they are.
type Mark [6]byte

// kin is what Held tells leases from others by.
type kin struct {
	name string
	mark Mark
}

func kinOf(l Lease) kin { return kin{l.Name, Mark(l.Token[len(l.Token)-len(Mark{}):])} }

// relatives are held leases: those of each kin are a ring, the one that ends first in front.
type relatives map[kin]*slot

func (r relatives) add(s *slot) {
	k := kinOf(s.lease)
	first := r[k]
	if first == nil {
		r[k], s.prev, s.next = s, s, s
		return
	}
	s.prev, s.next = first.prev, first
	s.prev.next, s.next.prev = s, s
}

func (r relatives) remove(s *slot) {
	k := kinOf(s.lease)
	switch {
	case s.next == s:
		delete(r, k)
	case r[k] == s:
		r[k] = s.next
	}
	s.prev.next, s.next.prev = s.next, s.prev
	s.prev, s.next = nil, nil
}

// Held returns the lease that has been held the longest of those with a name whose tokens end in a mark. However many are held, it takes the same time:
// strangers ask.
func (p *Pool) Held(name string, m Mark) (Lease, bool) {
	s, ok := p.kin[kin{name, m}]
	if !ok {
		return Lease{}, false
	}
	return s.lease, true
}

// countSpare counts the held addresses that anybody may get when nothing is free.
func (p *Pool) countSpare() {
	p.spare = 0
	for off, ok := p.holds.front(); ok; off, ok = p.holds.after(off) {
		if p.dynamic(off) {
			p.spare++
		}
	}
}
