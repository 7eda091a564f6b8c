package publish

import (
	"cmp"
	"slices"
	"time"
)

// A Debounce tells services from sockets that come and go:
//
//	absent --seen--> new --seen for Wait--> announced --gone--> fading --gone for Wait--> absent
//	   ^              |                         ^                  |
//	   +-----gone-----+                         +-------seen-------+
//
// So a bind that is shorter than Wait is never announced, and a service that starts anew within Wait stays. It belongs to one goroutine.
type Debounce struct {
	Wait  time.Duration // 0: at once
	Limit int           // announced at most

	all     map[place]*phase
	TooMany uint64 // sockets that were not announced since there were Limit
}

// A place is where a socket listens. Several programs may share one.
type place struct {
	Port
	addr string // of Socket.Addr, which sorts
}

type phase struct {
	socket    Socket
	announced bool
	refused   bool      // for the limit, and counted
	since     time.Time // new: it is seen
	gone      time.Time // since when it is not seen; zero: it is
}

// Saw takes all sockets that there are now, and tells whether what is announced has changed.
func (d *Debounce) Saw(sockets []Socket, now time.Time) (changed bool) {
	if d.all == nil {
		d.all = map[place]*phase{}
	}
	seen := make(map[place]Socket, len(sockets))
	for _, s := range sockets { // of those that share a place (SO_REUSEPORT) the oldest
		at := place{Port{s.UDP, s.Port}, string(s.Addr.AsSlice())}
		if other, ok := seen[at]; !ok || s.Inode < other.Inode {
			seen[at] = s
		}
	}
	for at, s := range seen {
		p := d.all[at]
		switch {
		case p == nil, !p.announced && p.socket.Inode != s.Inode: // another one: it begins anew
			d.all[at] = &phase{socket: s, since: now}
		case p.socket != s:
			changed = changed || p.announced && p.socket.Only6 != s.Only6
			p.socket = s
			fallthrough
		default:
			p.gone = time.Time{}
		}
	}
	for at, p := range d.all {
		_, there := seen[at]
		switch {
		case there:
		case !p.announced:
			delete(d.all, at)
		case p.gone.IsZero() && d.Wait > 0:
			p.gone = now
		case now.Sub(p.gone) >= d.Wait:
			delete(d.all, at)
			changed = true
		}
	}
	return d.announce(now) || changed
}

// announce announces what is there for long enough, the oldest first.
func (d *Debounce) announce(now time.Time) (changed bool) {
	var ripe []*phase
	n := 0
	for _, p := range d.all {
		switch {
		case p.announced:
			n++
		case now.Sub(p.since) >= d.Wait:
			ripe = append(ripe, p)
		}
	}
	slices.SortFunc(ripe, func(a, b *phase) int {
		return cmp.Or(a.since.Compare(b.since), compare(a.socket, b.socket))
	})
	for _, p := range ripe {
		switch {
		case n < d.Limit:
			p.announced, changed = true, true
			n++
		case !p.refused:
			p.refused = true
			d.TooMany++
		}
	}
	return changed
}

// Announced are the sockets that are announced now, in an order of their own.
func (d *Debounce) Announced() (all []Socket) {
	for _, p := range d.all {
		if p.announced {
			all = append(all, p.socket)
		}
	}
	slices.SortFunc(all, compare)
	return all
}

func compare(a, b Socket) int {
	udp := func(s Socket) int {
		if s.UDP {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.Port, b.Port), udp(a)-udp(b), a.Addr.Compare(b.Addr))
}
