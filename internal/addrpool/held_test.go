package addrpool

import (
	"errors"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// Held finds what is held, the one that ends first in front, and nothing that is not held any more, or never was.
func TestHeld(t *testing.T) {
	now := time.Unix(0, 0)
	p, err := New(Config{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Hold: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	mark := Mark{5: 7}
	for owner := range uint64(3) {
		if _, _, err := p.Grant(Request{Owner: owner + 1, Token: Token{0: 1, 15: 7}, Name: "a"}, now); err != nil {
			t.Fatal(err)
		}
	}
	if l, ok := p.Held("a", mark); ok {
		t.Errorf("%+v is live", l)
	}
	want := p.slots[p.owners[2]].lease
	p.Release(2, true, now)
	p.Release(1, true, now.Add(time.Second))
	if l, ok := p.Held("a", mark); !ok || l != want {
		t.Errorf("got %+v, %v, want %+v", l, ok, want)
	}
	if l, ok := p.Held("b", mark); ok {
		t.Errorf("got %+v of another", l)
	}
	if l, ok := p.Held("a", Mark{}); ok {
		t.Errorf("got %+v, which has another mark", l)
	}
	p.Expire(now.Add(time.Hour))
	if l, ok := p.Held("a", mark); ok {
		t.Errorf("%+v is free", l)
	}
}

// A full pool has nothing to look for, however many addresses are held in it that only their owners get, and so does one that is asked for a machine it does not know.
func TestFullIsQuick(t *testing.T) {
	now := time.Unix(0, 0)
	asks := func(reserved int) time.Duration {
		c := Config{Prefix: netip.MustParsePrefix("10.0.0.0/16"), Hold: time.Hour, Reserved: map[string]netip.Addr{}}
		a := netip.MustParseAddr("10.0.1.0")
		for i := range reserved {
			c.Reserved[strconv.Itoa(i)], a = a, a.Next()
		}
		p, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		owner := uint64(0)
		for name := range c.Reserved {
			owner++
			if _, _, err := p.Grant(Request{Owner: owner, Token: Token{1}, Name: name}, now); err != nil {
				t.Fatal(err)
			}
			p.Release(owner, true, now)
		}
		for owner++; err == nil; owner++ {
			_, _, err = p.Grant(Request{Owner: owner}, now)
		}
		best := time.Hour
		for range 5 { // others use the machine, too
			began := time.Now()
			for range 1000 {
				if _, _, err := p.Grant(Request{Owner: owner}, now); !errors.Is(err, ErrExhausted) {
					t.Fatalf("got %v of a full pool", err)
				}
				if l, ok := p.Held("none", Mark{1}); ok {
					t.Fatalf("found %+v", l)
				}
			}
			best = min(best, time.Since(began))
		}
		return best
	}
	if few, many := asks(10), asks(20_000); many > 20*few+time.Millisecond {
		t.Errorf("1000 questions take %s where 10 addresses are held, %s where 20,000 are", few, many)
	}
}
