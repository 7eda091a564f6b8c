package addrpool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Reasons not to grant an address.
var (
	ErrInUse     = errors.New("address in use")
	ErrHeld      = errors.New("address held for its owner")
	ErrOutside   = errors.New("not an address for clients")
	ErrReserved  = errors.New("address reserved for another name")
	ErrExhausted = errors.New("no address left")
)

// A HeldError is an ErrHeld that says how long.
type HeldError struct {
	Addr  netip.Addr
	Until time.Time
}

func (e *HeldError) Error() string { return fmt.Sprintf("%s: %s", e.Addr, ErrHeld) }

// Is makes errors.Is(err, ErrHeld) true.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

// A Token proves a lease. The zero Token proves nothing: a 2013 client has none.
type Token [16]byte

// A Lease says who has an address.
type Lease struct {
	Addr  netip.Addr
	Token Token
	Name  string // what the client called itself; may be empty
}

// An Event is a change of the leases, for whoever keeps them.
type Event struct {
	Freed bool // the lease of Lease.Addr is over; else Lease was granted
	Lease Lease
}

// Config is what a Pool is made of.
type Config struct {
	Prefix   netip.Prefix          // /16 to /30; its first address is the gateway's
	Reserved map[string]netip.Addr // name -> the address that only a client of that name gets
	// OnRequest are given only to who asks for them by Static: to be them means more than to have
	// an address.
	OnRequest []netip.Addr
	// Taken are addresses that no client gets: they stand for something else. They are not changed by Reconfigure.
	Taken []netip.Addr
	Hold  time.Duration // how long the address of a vanished client is kept for it
}

// A Request asks for an address.
type Request struct {
	Owner       uint64     // the connection that asks; never 0
	Static      netip.Addr // the wanted address; invalid: any
	Hint        netip.Addr // taken if it is free and nothing else is asked for; may be invalid
	Resume      netip.Addr // the address of an earlier lease; may be invalid
	ResumeToken Token      // proves that lease
	Token       Token      // will prove the new lease; zero: nothing does
	Name        string
}

// A Grant is the answer to a Request.
type Grant struct {
	Lease     Lease
	Displaced uint64 // the owner that held the address until now; 0: none
}

type state uint8

const (
	free state = iota
	live
	held
	taken // network, broadcast, gateway, and Config.Taken
)

// A slot is what is known of a leased address.
type slot struct {
	lease Lease
	owner uint64    // while live
	until time.Time // while held

	prev, next *slot // while held: those of its kin, in a ring
}

// A Pool gives out addresses.
type Pool struct {
	c        Config
	base     uint32
	size     uint32
	states   []state
	slots    map[uint32]*slot // of live and held addresses, by offset from base
	owners   map[uint64]uint32
	reserved map[uint32]string
	asked    map[uint32]bool // Config.OnRequest
	order    list            // free addresses for dynamic requests
	holds    list            // held addresses, the one that ends first in front
	kin      relatives       // the same, by whose they are
	spare    int             // of them, those that are dynamic
	live     int
}

// New returns a pool in which all addresses are free.
func New(c Config) (*Pool, error) {
	bits := c.Prefix.Bits()
	if !c.Prefix.Addr().Is4() || bits < 16 || bits > 30 {
		return nil, fmt.Errorf("pool %s: an IPv4 prefix from /16 to /30 is needed", c.Prefix)
	}
	c.Prefix = c.Prefix.Masked()
	p := &Pool{
		c: c, base: toUint(c.Prefix.Addr()), size: 1 << (32 - bits),
		slots: map[uint32]*slot{}, owners: map[uint64]uint32{}, kin: relatives{},
	}
	p.states = make([]state, p.size)
	p.states[0], p.states[1], p.states[p.size-1] = taken, taken, taken
	for _, addr := range c.Taken {
		off, ok := p.offset(addr)
		if !ok || p.states[off] == taken {
			return nil, fmt.Errorf("address %s: %w of %s", addr, ErrOutside, c.Prefix)
		}
		p.states[off] = taken
	}
	var err error
	if p.reserved, p.asked, err = p.special(c); err != nil {
		return nil, err
	}
	links := make([]link, p.size+2)
	p.order, p.holds = newList(links, p.size), newList(links, p.size+1)
	for _, last := range []bool{false, true} {
		for off := p.size - 1; off > 0; off-- {
			if p.dynamic(off) && p.lastBlock(off) == last {
				p.order.pushBack(off)
			}
		}
	}
	return p, nil
}

// special returns the addresses that not everybody gets: the names that they are reserved for, and those that
// are given on request.
func (p *Pool) special(c Config) (reserved map[uint32]string, asked map[uint32]bool, err error) {
	reserved, asked = map[uint32]string{}, map[uint32]bool{}
	for name, addr := range c.Reserved {
		off, ok := p.offset(addr)
		switch {
		case !ok || p.states[off] == taken:
			return nil, nil, fmt.Errorf("address %s reserved for %q: %w", addr, name, ErrOutside)
		case reserved[off] != "":
			return nil, nil, fmt.Errorf("address %s is reserved for both %q and %q", addr, name, reserved[off])
		}
		reserved[off] = name
	}
	for _, addr := range c.OnRequest {
		off, ok := p.offset(addr)
		if !ok || p.states[off] == taken {
			return nil, nil, fmt.Errorf("address %s: %w of %s", addr, ErrOutside, c.Prefix)
		}
		asked[off] = true
	}
	return reserved, asked, nil
}

// dynamic tells whether an address is given to who asks for any.
func (p *Pool) dynamic(off uint32) bool {
	if p.states[off] == taken || p.reserved[off] != "" || p.asked[off] {
		return false
	}
	if p.size <= 256 {
		return true
	}
	end := (p.base + off) & 255
	return end != 0 && end != 255 && off >= 256
}

// lastBlock tells whether an address is one of the last resort.
func (p *Pool) lastBlock(off uint32) bool { return p.size > 256 && off >= p.size-256 }

// Grant gives r.Owner an address, or says why not: then nothing has changed. An owner never has two:
// the one that it had is freed. The events are those of the change; none when nothing changed that
// has to be kept.
func (p *Pool) Grant(r Request, now time.Time) (Grant, []Event, error) {
	events := p.Expire(now)
	has, old := p.owned(r.Owner)
	if has && (!r.Static.IsValid() || r.Static == p.addr(old)) {
		return Grant{Lease: p.slots[old].lease}, events, nil
	}
	off, err := p.choose(r)
	if err != nil {
		return Grant{}, events, err
	}
	if has {
		events = append(events, p.release(old))
	}
	if s := p.slots[off]; s != nil && p.resumes(r, off) {
		g := Grant{Lease: s.lease, Displaced: s.owner}
		p.unlink(off)
		p.own(off, s, r.Owner)
		return g, events, nil
	}
	if p.states[off] == held { // the oldest one, since nothing is free
		events = append(events, p.release(off))
	}
	p.unlink(off)
	s := &slot{lease: Lease{Addr: p.addr(off), Token: r.Token, Name: r.Name}}
	p.slots[off] = s
	p.own(off, s, r.Owner)
	return Grant{Lease: s.lease}, append(events, Event{Lease: s.lease}), nil
}

// choose finds the address for r.
func (p *Pool) choose(r Request) (uint32, error) {
	wanted := r.Static
	if !wanted.IsValid() && r.Name != "" {
		wanted = p.c.Reserved[r.Name]
	}
	if off, ok := p.offset(r.Resume); ok && p.resumes(r, off) && (!wanted.IsValid() || wanted == r.Resume) {
		return off, nil
	}
	if wanted.IsValid() {
		return p.chooseStatic(wanted, r.Name)
	}
	if off, ok := p.offset(r.Hint); ok && p.states[off] == free && p.reserved[off] == "" && !p.asked[off] {
		return off, nil
	}
	if off, ok := p.order.front(); ok {
		return off, nil
	}
	if p.spare == 0 { // who is refused asks again at once, and nothing is to be looked for meanwhile
		return 0, ErrExhausted
	}
	off, _ := p.holds.front()
	for !p.dynamic(off) {
		off, _ = p.holds.after(off)
	}
	return off, nil
}

func (p *Pool) chooseStatic(addr netip.Addr, name string) (uint32, error) {
	off, ok := p.offset(addr)
	switch {
	case !ok, p.states[off] == taken:
		return 0, fmt.Errorf("%s: %w of %s", addr, ErrOutside, p.c.Prefix)
	case p.reserved[off] != "" && p.reserved[off] != name:
		return 0, fmt.Errorf("%s: %w", addr, ErrReserved)
	case p.states[off] == live:
		return 0, fmt.Errorf("%s: %w", addr, ErrInUse)
	case p.states[off] == held:
		return 0, &HeldError{Addr: addr, Until: p.slots[off].until}
	}
	return off, nil
}

// resumes tells whether r proves the lease of an address.
func (p *Pool) resumes(r Request, off uint32) bool {
	s := p.slots[off]
	return s != nil && r.Resume == s.lease.Addr && r.ResumeToken != Token{} && r.ResumeToken == s.lease.Token
}

// own makes a linked-out address live.
func (p *Pool) own(off uint32, s *slot, owner uint64) {
	if p.states[off] == live {
		delete(p.owners, s.owner)
	} else {
		p.live++
	}
	p.states[off] = live
	s.owner, s.until = owner, time.Time{}
	p.owners[owner] = off
}

// unlink takes an address out of the list that it is in.
func (p *Pool) unlink(off uint32) {
	switch p.states[off] {
	case free:
		p.order.remove(off)
	case held:
		p.holds.remove(off)
		p.kin.remove(p.slots[off])
		if p.dynamic(off) {
			p.spare--
		}
	}
}

// Release ends the ownership of what owner has, if anything. With hold the address is kept for whoever
// shows its token; without a token it can not be.
func (p *Pool) Release(owner uint64, hold bool, now time.Time) []Event {
	events := p.Expire(now)
	has, off := p.owned(owner)
	if !has {
		return events
	}
	s := p.slots[off]
	if !hold || s.lease.Token == (Token{}) || p.c.Hold <= 0 {
		return append(events, p.release(off))
	}
	delete(p.owners, owner)
	p.live--
	p.hold(off, s, now)
	return events
}

func (p *Pool) hold(off uint32, s *slot, now time.Time) {
	p.states[off] = held
	s.owner, s.until = 0, now.Add(p.c.Hold)
	p.holds.pushBack(off)
	p.kin.add(s)
	if p.dynamic(off) {
		p.spare++
	}
}

// release frees a live or held address.
func (p *Pool) release(off uint32) Event {
	s := p.slots[off]
	if p.states[off] == live {
		delete(p.owners, s.owner)
		p.live--
	}
	p.unlink(off)
	delete(p.slots, off)
	p.states[off] = free
	if p.dynamic(off) {
		p.order.pushBack(off)
	}
	return Event{Freed: true, Lease: s.lease}
}

// Expire frees the addresses whose hold is over.
func (p *Pool) Expire(now time.Time) (events []Event) {
	for {
		off, ok := p.holds.front()
		if !ok || now.Before(p.slots[off].until) {
			return events
		}
		events = append(events, p.release(off))
	}
}

// Restore takes the leases of an earlier run: those with a token are held, the others free, but at
// the far end. Leases that do not belong here any more are freed; of two for one address the first
// counts. It is called on a new pool.
func (p *Pool) Restore(leases []Lease, now time.Time) (events []Event) {
	for _, l := range leases {
		off, ok := p.offset(l.Addr)
		if ok && p.states[off] == held {
			continue // a second lease of the address: an event would free the first one
		}
		if !ok || p.states[off] == taken || p.reserved[off] != "" && p.reserved[off] != l.Name {
			events = append(events, Event{Freed: true, Lease: l})
			continue
		}
		p.unlink(off)
		if l.Token == (Token{}) || p.c.Hold <= 0 {
			if p.dynamic(off) {
				p.order.pushBack(off)
			}
			events = append(events, Event{Freed: true, Lease: l})
			continue
		}
		s := &slot{lease: l}
		p.slots[off] = s
		p.hold(off, s, now)
	}
	return events
}

// A Holding is a lease, and who has it.
type Holding struct {
	Lease Lease
	Owner uint64    // 0: it is held for its owner
	Until time.Time // so long
}

// Holdings returns all leases by their addresses. It takes a time that grows with their number.
func (p *Pool) Holdings() []Holding {
	all := make([]Holding, 0, len(p.slots))
	for _, off := range slices.Sorted(maps.Keys(p.slots)) {
		s := p.slots[off]
		all = append(all, Holding{s.lease, s.owner, s.until})
	}
	return all
}

// Stats count the addresses that clients can have, each in one state: the first four add up to Total.
type Stats struct {
	Free     int // for anybody; some of them only as static ones
	Reserved int // free, but for the client of one name
	Live     int
	Held     int
	Total    int // of the prefix without network, broadcast, gateway and what is taken
}

// Stats returns the counts. It takes a time that grows with the number of reserved addresses.
func (p *Pool) Stats() Stats {
	s := Stats{Live: p.live, Held: len(p.slots) - p.live, Total: int(p.size) - 3 - len(p.c.Taken)}
	for off := range p.reserved {
		if p.states[off] == free {
			s.Reserved++
		}
	}
	s.Free = s.Total - s.Reserved - s.Live - s.Held
	return s
}

func (p *Pool) owned(owner uint64) (bool, uint32) {
	off, ok := p.owners[owner]
	return ok, off
}

func (p *Pool) addr(off uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], p.base+off)
	return netip.AddrFrom4(b)
}

func (p *Pool) offset(a netip.Addr) (uint32, bool) {
	if !a.Is4() || !p.c.Prefix.Contains(a) {
		return 0, false
	}
	return toUint(a) - p.base, true
}

func toUint(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
