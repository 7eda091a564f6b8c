package netstack

import (
	"math/rand/v2"
	"net/netip"
)

// shares say which entries of a table each client has. All that they do takes the same time however many there are.
type shares[E member] struct {
	n       int
	of      map[netip.Addr]*share[E]
	byCount map[int]map[*share[E]]struct{} // clients, by how many entries they have
	top     int                            // the most that one has
}

// A share is what one client has.
type share[E member] struct {
	client netip.Addr
	all    []E
}

// A member is an entry of such a table.
type member interface {
	comparable
	// seat is where the table keeps the entry's place in its share: an index, or gaveWay.
	seat() *int
	// used is when the entry was used last, in nanoseconds since 1970.
	used() int64
}

// gaveWay is the place of an entry that had to leave a full table.
const gaveWay = -1

func newShares[E member]() shares[E] {
	return shares[E]{of: map[netip.Addr]*share[E]{}, byCount: map[int]map[*share[E]]struct{}{}}
}

func (s *shares[E]) add(client netip.Addr, e E) {
	c := s.of[client]
	if c == nil {
		c = &share[E]{client: client}
		s.of[client] = c
	}
	*e.seat() = len(c.all)
	c.all = append(c.all, e)
	s.n++
	s.count(c, len(c.all)-1)
}

func (s *shares[E]) sub(client netip.Addr, e E) {
	c := s.of[client]
	at, last := *e.seat(), len(c.all)-1
	c.all[at] = c.all[last]
	*c.all[at].seat() = at
	clear(c.all[last:])
	c.all = c.all[:last]
	s.n--
	if last == 0 {
		delete(s.of, client)
	}
	s.count(c, last+1)
}

// count notes that a client has as many entries as it has now, and not was, one more or less.
func (s *shares[E]) count(c *share[E], was int) {
	if delete(s.byCount[was], c); len(s.byCount[was]) == 0 {
		delete(s.byCount, was)
	}
	n := len(c.all)
	if n > 0 {
		if s.byCount[n] == nil {
			s.byCount[n] = map[*share[E]]struct{}{}
		}
		s.byCount[n][c] = struct{}{}
	}
	if n > s.top || s.byCount[s.top] == nil {
		s.top = n
	}
}

// sample is among how many entries of a client the oldest is looked for. It is among the oldest quarter of them with a probability of 99 %.
const sample = 16

// oldest returns an entry of a client that has most: of sample entries, the one that was used before the others.
func (s *shares[E]) oldest() (oldest E) {
	for c := range s.byCount[s.top] {
		from := rand.IntN(len(c.all))
		for i := range min(sample, len(c.all)) {
			at := (from + i) % len(c.all)
			if len(c.all) > sample {
				at = rand.IntN(len(c.all))
			}
			if e := c.all[at]; i == 0 || e.used() < oldest.used() {
				oldest = e
			}
		}
		break
	}
	return oldest
}
