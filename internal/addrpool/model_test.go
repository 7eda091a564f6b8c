package addrpool

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A twin is the pool as slow and obvious as it can be: slices that are searched from end to end.
type twin struct {
	prefix   netip.Prefix
	reserved map[string]netip.Addr
	hold     time.Duration
	order    []netip.Addr // free addresses for dynamic requests, the next one first
	leases   []twinLease  // those that are held stand in the order in which they will be free
}

type twinLease struct {
	Lease
	owner uint64    // 0: held
	until time.Time // of a held one
}

func newTwin(c Config) *twin {
	m := &twin{prefix: c.Prefix, reserved: c.Reserved, hold: c.Hold}
	var all, lastBlock []netip.Addr
	for a := c.Prefix.Addr(); c.Prefix.Contains(a); a = a.Next() {
		all = append(all, a)
	}
	first, last := all[0].As4(), all[len(all)-1].As4()
	for _, a := range slices.Backward(all) {
		b := a.As4()
		switch {
		case m.never(a) || m.nameOf(a) != "":
		case c.Prefix.Bits() >= 24:
			m.order = append(m.order, a)
		case b[3] == 0 || b[3] == 255 || b[2] == first[2]:
		case b[2] == last[2]:
			lastBlock = append(lastBlock, a)
		default:
			m.order = append(m.order, a)
		}
	}
	m.order = append(m.order, lastBlock...)
	return m
}

// never tells whether nobody gets an address: network, gateway, broadcast.
func (m *twin) never(a netip.Addr) bool {
	return !m.prefix.Contains(a) || a == m.prefix.Addr() || a == m.prefix.Addr().Next() || !m.prefix.Contains(a.Next())
}

func (m *twin) nameOf(a netip.Addr) string {
	for name, r := range m.reserved {
		if r == a {
			return name
		}
	}
	return ""
}

func (m *twin) dynamic(a netip.Addr) bool {
	return slices.Contains(newTwin(Config{Prefix: m.prefix, Reserved: m.reserved}).order, a)
}

func (m *twin) at(a netip.Addr) int {
	return slices.IndexFunc(m.leases, func(l twinLease) bool { return l.Addr == a })
}

func (m *twin) of(owner uint64) int {
	return slices.IndexFunc(m.leases, func(l twinLease) bool { return l.owner == owner })
}

// free ends lease i.
func (m *twin) free(i int) Event {
	l := m.leases[i].Lease
	m.leases = slices.Delete(m.leases, i, i+1)
	if m.dynamic(l.Addr) {
		m.order = append(m.order, l.Addr)
	}
	return Event{Freed: true, Lease: l}
}

func (m *twin) expire(now time.Time) (events []Event) {
	over := func(l twinLease) bool { return l.owner == 0 && !now.Before(l.until) }
	for i := slices.IndexFunc(m.leases, over); i >= 0; i = slices.IndexFunc(m.leases, over) {
		events = append(events, m.free(i))
	}
	return events
}

func (m *twin) release(owner uint64, hold bool, now time.Time) []Event {
	events := m.expire(now)
	i := m.of(owner)
	if i < 0 {
		return events
	}
	l := m.leases[i]
	if !hold || l.Token == (Token{}) {
		return append(events, m.free(i))
	}
	l.owner, l.until = 0, now.Add(m.hold)
	m.leases = append(slices.Delete(m.leases, i, i+1), l)
	return events
}

func (m *twin) grant(r Request, now time.Time) (Grant, []Event, error) {
	events := m.expire(now)
	if i := m.of(r.Owner); i >= 0 && (!r.Static.IsValid() || r.Static == m.leases[i].Addr) {
		return Grant{Lease: m.leases[i].Lease}, events, nil
	}
	a, resumed, err := m.choose(r)
	if err != nil {
		return Grant{}, events, err
	}
	if i := m.of(r.Owner); i >= 0 {
		events = append(events, m.free(i))
	}
	l := twinLease{Lease: Lease{Addr: a, Token: r.Token, Name: r.Name}, owner: r.Owner}
	g := Grant{Lease: l.Lease}
	if i := m.at(a); i >= 0 && resumed {
		l.Lease = m.leases[i].Lease
		g = Grant{Lease: l.Lease, Displaced: m.leases[i].owner}
		m.leases = slices.Delete(m.leases, i, i+1)
	} else if i >= 0 {
		events = append(events, m.free(i))
	}
	m.order = slices.DeleteFunc(m.order, func(o netip.Addr) bool { return o == a })
	m.leases = append(m.leases, l)
	if !resumed {
		events = append(events, Event{Lease: l.Lease})
	}
	return g, events, nil
}

func (m *twin) choose(r Request) (a netip.Addr, resumed bool, err error) {
	wanted := r.Static
	if reserved, ok := m.reserved[r.Name]; ok && !wanted.IsValid() {
		wanted = reserved
	}
	i := m.at(r.Resume)
	if i >= 0 && m.leases[i].Token == r.ResumeToken && r.ResumeToken != (Token{}) && (!wanted.IsValid() || wanted == r.Resume) {
		return r.Resume, true, nil
	}
	if wanted.IsValid() {
		return wanted, false, m.refusal(wanted, r.Name)
	}
	if r.Hint.IsValid() && m.refusal(r.Hint, "") == nil {
		return r.Hint, false, nil
	}
	if len(m.order) > 0 {
		return m.order[0], false, nil
	}
	for _, l := range m.leases {
		if l.owner == 0 && m.dynamic(l.Addr) {
			return l.Addr, false, nil
		}
	}
	return a, false, ErrExhausted
}

// refusal says why a client of some name can not have an address for itself.
func (m *twin) refusal(a netip.Addr, name string) error {
	i := m.at(a)
	switch {
	case m.never(a):
		return ErrOutside
	case m.nameOf(a) != "" && m.nameOf(a) != name:
		return ErrReserved
	case i >= 0 && m.leases[i].owner != 0:
		return ErrInUse
	case i >= 0:
		return &HeldError{Addr: a, Until: m.leases[i].until}
	}
	return nil
}

// After any sequence of requests, deaths and time the pool gives the same addresses, for
// the same reasons, with the same events as its twin; and what is on disk is what is live or held.
// exam: P5, P13
func TestModel(t *testing.T) {
	pools := []Config{
		{Prefix: netip.MustParsePrefix("192.168.0.0/28")},
		{Prefix: netip.MustParsePrefix("192.168.0.0/28"), Reserved: map[string]netip.Addr{"a": addr("192.168.0.14"), "b": addr("192.168.0.3")}},
		{Prefix: netip.MustParsePrefix("192.168.0.8/29"), Reserved: map[string]netip.Addr{"a": addr("192.168.0.11")}},
		{Prefix: netip.MustParsePrefix("192.168.0.4/30")},
		{Prefix: netip.MustParsePrefix("10.0.2.0/23")},
		{Prefix: netip.MustParsePrefix("10.0.4.0/22"), Reserved: map[string]netip.Addr{"a": addr("10.0.6.253"), "b": addr("10.0.6.0")}},
	}
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom(pools).Draw(t, "pool")
		c.Hold = time.Minute
		p, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		m, now, disk := newTwin(c), start, map[netip.Addr]Lease{}
		compare := func(t *rapid.T, got, want []Event) {
			if !slices.Equal(got, want) {
				t.Fatalf("events %v, want %v", got, want)
			}
			for _, e := range got {
				if _, there := disk[e.Lease.Addr]; there != e.Freed {
					t.Fatalf("event %+v does not fit the leases on disk", e)
				}
				if delete(disk, e.Lease.Addr); !e.Freed {
					disk[e.Lease.Addr] = e.Lease
				}
			}
		}
		owner := rapid.Uint64Range(1, 20)
		t.Repeat(map[string]func(*rapid.T){
			"ask": func(t *rapid.T) {
				r := drawRequest(t, c.Prefix, owner.Draw(t, "owner"))
				got, events, err := p.Grant(r, now)
				want, wantEvents, wantErr := m.grant(r, now)
				if !sameError(err, wantErr) || got != want {
					t.Fatalf("got %+v, %v; want %+v, %v", got, err, want, wantErr)
				}
				compare(t, events, wantEvents)
			},
			"leave": func(t *rapid.T) {
				o, hold := owner.Draw(t, "owner"), rapid.Bool().Draw(t, "hold")
				compare(t, p.Release(o, hold, now), m.release(o, hold, now))
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
				compare(t, p.Expire(now), m.expire(now))
			},
			"restart": func(t *rapid.T) {
				leases := slices.SortedFunc(maps.Values(disk), func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
				if p, err = New(c); err != nil {
					t.Fatal(err)
				}
				m = newTwin(c)
				compare(t, p.Restore(leases, now), m.restore(leases, now))
			},
			"reconfigure": func(t *rapid.T) {
				next := Config{Reserved: map[string]netip.Addr{}, Hold: time.Duration(rapid.IntRange(5, 90).Draw(t, "hold")) * time.Second}
				for _, name := range []string{"a", "b"} {
					if a := drawAddress(t, c.Prefix); !m.never(a) && rapid.Bool().Draw(t, "reserved?") && next.Reserved["a"] != a {
						next.Reserved[name] = a
					}
				}
				displaced, events, err := p.Reconfigure(next, now)
				wantDisplaced, wantEvents := m.reconfigure(next, now)
				if err != nil || !slices.Equal(displaced, wantDisplaced) {
					t.Fatalf("displaced %v, %v, want %v", displaced, err, wantDisplaced)
				}
				compare(t, events, wantEvents)
				next.Prefix = c.Prefix
				c = next
			},
			"": func(t *rapid.T) {
				checkLists(t, p)
				for mark := range byte(2) {
					for _, name := range []string{"", "a", "b", "c"} {
						got, _ := p.Held(name, Mark{5: mark})
						if want := m.held(name, mark); got != want {
							t.Fatalf("of %q, %d %+v is held, want %+v", name, mark, got, want)
						}
					}
				}
				if s := p.Stats(); len(disk) != s.Live+s.Held || len(disk) != len(m.leases) {
					t.Fatalf("%d leases on disk, pool %+v, %d of the twin", len(disk), s, len(m.leases))
				}
			},
		})
	})
}

// held is the first lease of a name that is held, with the last byte of its token.
func (m *twin) held(name string, mark byte) Lease {
	for _, l := range m.leases {
		if l.owner == 0 && l.Name == name && l.Token[15] == mark {
			return l.Lease
		}
	}
	return Lease{}
}

func (m *twin) reconfigure(c Config, now time.Time) (displaced []uint64, events []Event) {
	events = m.expire(now)
	before, names := m.order, map[netip.Addr]string{}
	for _, l := range m.leases {
		names[l.Addr] = m.nameOf(l.Addr)
	}
	m.reserved, m.hold = c.Reserved, c.Hold
	m.order = nil
	dynamic := map[netip.Addr]bool{}
	for _, a := range newTwin(Config{Prefix: m.prefix, Reserved: m.reserved}).order {
		dynamic[a] = true
	}
	for _, a := range before { // those that stay keep their places
		if dynamic[a] {
			m.order = append(m.order, a)
		}
	}
	for a := m.prefix.Addr(); m.prefix.Contains(a); a = a.Next() {
		i := m.at(a)
		switch {
		case i < 0:
			if dynamic[a] && !slices.Contains(m.order, a) {
				m.order = append(m.order, a)
			}
		case m.nameOf(a) != "" && m.nameOf(a) != names[a] && m.nameOf(a) != m.leases[i].Name:
			if m.leases[i].owner != 0 {
				displaced = append(displaced, m.leases[i].owner)
			}
			events = append(events, m.free(i))
		}
	}
	for i := range m.leases {
		if l := &m.leases[i]; l.owner == 0 && now.Add(m.hold).Before(l.until) {
			l.until = now.Add(m.hold)
		}
	}
	return displaced, events
}

func (m *twin) restore(leases []Lease, now time.Time) (events []Event) {
	for _, l := range leases {
		if i := slices.Index(m.order, l.Addr); i >= 0 {
			m.order = slices.Delete(m.order, i, i+1)
		}
		m.leases = append(m.leases, twinLease{Lease: l, until: now.Add(m.hold)})
		if l.Token == (Token{}) {
			events = append(events, m.free(len(m.leases)-1))
		}
	}
	return events
}

// drawRequest draws few names, tokens and addresses, so that they meet.
func drawRequest(t *rapid.T, prefix netip.Prefix, owner uint64) Request {
	token := rapid.Map(rapid.IntRange(0, 6), func(i int) Token { return Token{byte(i), 15: byte(i) & 1} }) // which has the last byte for its mark
	address := rapid.Custom(func(t *rapid.T) netip.Addr { return drawAddress(t, prefix) })
	r := Request{Owner: owner, Token: token.Draw(t, "token"), Name: rapid.SampledFrom([]string{"", "", "a", "b", "c"}).Draw(t, "name")}
	if rapid.IntRange(0, 2).Draw(t, "static?") == 0 {
		r.Static = address.Draw(t, "static")
	}
	if rapid.Bool().Draw(t, "hint?") {
		r.Hint = address.Draw(t, "hint")
	}
	if rapid.Bool().Draw(t, "resume?") {
		r.Resume, r.ResumeToken = address.Draw(t, "resume"), token.Draw(t, "proof")
	}
	return r
}

func drawAddress(t *rapid.T, prefix netip.Prefix) netip.Addr {
	n := 1 << (32 - prefix.Bits())
	off := rapid.OneOf(rapid.IntRange(-1, min(n, 16)), rapid.IntRange(max(n-260, 0), n)).Draw(t, "offset")
	b := prefix.Addr().As4()
	host := int(b[2])<<8 + int(b[3]) + off
	return netip.AddrFrom4([4]byte{b[0], b[1], byte(host >> 8), byte(host)})
}

func sameError(got, want error) bool {
	var held *HeldError
	if errors.As(want, &held) {
		var h *HeldError
		return errors.As(got, &h) && *h == *held && errors.Is(got, ErrHeld)
	}
	return errors.Is(got, want)
}

// checkLists compares every list and count of a pool with the states of its addresses.
func checkLists(t interface {
	Helper()
	Errorf(string, ...any)
}, p *Pool) {
	t.Helper()
	in := map[uint32]state{}
	for off, ok := p.order.front(); ok; off, ok = p.order.after(off) {
		in[off] = free
	}
	var until time.Time
	spare := 0
	for off, ok := p.holds.front(); ok; off, ok = p.holds.after(off) {
		if in[off] = held; p.slots[off].until.Before(until) {
			t.Errorf("%s is held until %s and stands behind %s", p.addr(off), p.slots[off].until, until)
		}
		until = p.slots[off].until
		if p.dynamic(off) {
			spare++
		}
	}
	if spare != p.spare {
		t.Errorf("%d can be spared, want %d", p.spare, spare)
	}
	for owner, off := range p.owners {
		if in[off] = live; p.slots[off].owner != owner {
			t.Errorf("%s belongs to %d and to %d", p.addr(off), owner, p.slots[off].owner)
		}
	}
	var want Stats
	for i, s := range p.states {
		off := uint32(i)
		listed, ok := in[off]
		if ok != (s == live || s == held || s == free && p.dynamic(off)) || ok && listed != s {
			t.Errorf("%s in state %d is in the list of state %d (%v)", p.addr(off), s, listed, ok)
		}
		if (p.slots[off] != nil) != (s == live || s == held) {
			t.Errorf("%s in state %d has slot %v", p.addr(off), s, p.slots[off])
		}
		switch {
		case s == live:
			want.Live++
		case s == held:
			want.Held++
		case s == free && p.reserved[off] != "":
			want.Reserved++
		case s == free:
			want.Free++
		}
	}
	want.Total = want.Free + want.Reserved + want.Live + want.Held
	if got := p.Stats(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
