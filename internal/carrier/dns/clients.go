package dns

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// maxClients bounds those of whom something is known. Each of them was at one address at least, so this takes connections of TCP.
	maxClients = 4096
	// sampled is how many are looked at for one to make room: that which was silent for longest, of those who were given no datagram for
	// heardOf; where all were, for that takes no key, of them. Whoever is connected, and has to go, shows itself by TCP again.
	sampled = 16
	heardOf = time.Minute

	// maxProven is how many networks a client can have proven at a time: resolvers ask from many addresses.
	maxProven = 16
	// maxSaid is how many answers of a client are kept, for a resolver that asks once more; maxSaidBytes bounds all of them. Where that is
	// reached, who has fewer than fewSaid gets those of another one.
	maxSaid      = 64
	fewSaid      = 8
	maxSaidBytes = 16 << 20
)

// clients are those who ask, by their numbers.
type clients struct {
	mu   sync.Mutex // guards what follows
	all  map[uint64]*client
	said int // bytes that there are for what was said
}

// A client is what is known of one.
type client struct {
	last   time.Time // when it asked
	given  time.Time // when it was given a datagram
	proven [maxProven]netip.Prefix
	next   int // of proven
	said   []said
	newest int // of said
}

// A said datagram was in an answer.
type said struct {
	number uint32
	data   []byte
}

// network is what is proven with an address: the resolvers of one operator stand side by side.
func network(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, _ := a.Prefix(bits) // never fails: an address of a packet has that many
	return p
}

// known tells whether a client is proven to be at an address, or behind it.
func (c *clients) known(id uint64, at netip.Addr, now time.Time) bool {
	p := network(at)
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.all[id]
	if one == nil {
		return false
	}
	one.last = now
	return one.has(p)
}

func (c *client) has(p netip.Prefix) bool {
	for _, o := range c.proven {
		if o == p {
			return true
		}
	}
	return false
}

// prove notes that a client is at an address, or behind it.
func (c *clients) prove(id uint64, at netip.Addr, now time.Time) {
	p := network(at)
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.all[id]
	if one == nil {
		if len(c.all) >= maxClients {
			c.evict(now)
		}
		if c.all == nil {
			c.all = map[uint64]*client{}
		}
		one = &client{}
		c.all[id] = one
	}
	if one.last = now; !one.has(p) {
		one.proven[one.next] = p
		one.next = (one.next + 1) % maxProven
	}
}

// evict forgets one. The caller holds mu.
func (c *clients) evict(now time.Time) {
	id, one := c.worst(0, now)
	c.said -= len(one.said) * maxDown
	delete(c.all, id)
}

// worst returns who has to go of some, among those of whom so many answers are kept; nil: none of them is. The caller holds mu.
func (c *clients) worst(said int, now time.Time) (id uint64, worst *client) {
	n := 0
	for i, one := range c.all { // in no order that anybody could foresee
		if len(one.said) >= said && (worst == nil || one.before(worst, now)) {
			id, worst = i, one
		}
		if n++; n == sampled {
			break
		}
	}
	return id, worst
}

// before tells whether c has to go rather than o.
func (c *client) before(o *client, now time.Time) bool {
	if idle := now.Sub(c.given) > heardOf; idle != (now.Sub(o.given) > heardOf) {
		return idle
	}
	return c.last.Before(o.last)
}

// keep keeps a datagram that is in the answer to a question, for the same question may come again.
func (c *clients) keep(id uint64, number uint32, data []byte, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.all[id]
	if one == nil {
		return
	}
	one.given = now
	if c.said >= maxSaidBytes && len(one.said) < fewSaid {
		if _, other := c.worst(fewSaid+1, now); other != nil {
			c.said -= len(other.said) * maxDown
			other.said, other.newest = nil, 0
		}
	}
	if len(one.said) < maxSaid && c.said < maxSaidBytes {
		one.said = append(one.said, said{})
		c.said += maxDown
	}
	if len(one.said) == 0 {
		return
	}
	one.newest = (one.newest + 1) % len(one.said)
	s := &one.said[one.newest]
	s.number, s.data = number, append(s.data[:0], data...)
}

// again appends the datagram that was in the answer to a question, if it is kept.
func (c *clients) again(to []byte, id uint64, number uint32) (b []byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if one := c.all[id]; one != nil {
		for i := range one.said {
			if s := &one.said[i]; s.number == number && len(s.data) > 0 {
				return append(to, s.data...), true
			}
		}
	}
	return to, false
}
