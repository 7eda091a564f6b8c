package addrpool

// A link is the place of an address in the one list that it is in. An address in none links to itself.
type link struct{ prev, next uint32 }

// A list is a ring of links. Lists share their links: an address is in one of them at most.
type list struct {
	links []link
	head  uint32 // a link of no address
}

func newList(links []link, head uint32) list {
	if links[head].next != head { // the first list of these links
		for i := range links {
			links[i] = link{uint32(i), uint32(i)}
		}
	}
	return list{links, head}
}

func (l list) pushBack(i uint32) {
	last := l.links[l.head].prev
	l.links[i] = link{last, l.head}
	l.links[last].next, l.links[l.head].prev = i, i
}

// remove takes i out of the list that it is in, if any.
func (l list) remove(i uint32) {
	k := l.links[i]
	l.links[k.prev].next, l.links[k.next].prev = k.next, k.prev
	l.links[i] = link{i, i}
}

func (l list) front() (uint32, bool) { return l.after(l.head) }

// after returns what follows i.
func (l list) after(i uint32) (uint32, bool) {
	next := l.links[i].next
	return next, next != l.head
}
