package addrpool

import (
	"net/netip"
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
	for owner := range uint64(3) {
		if _, _, err := p.Grant(Request{Owner: owner + 1, Token: Token{1}, Name: "a"}, now); err != nil {
			t.Fatal(err)
		}
	}
	named := func(l Lease) bool { return l.Name == "a" }
	if l, ok := p.Held(named); ok {
		t.Errorf("%+v is live", l)
	}
	want := p.slots[p.owners[2]].lease
	p.Release(2, true, now)
	p.Release(1, true, now.Add(time.Second))
	if l, ok := p.Held(named); !ok || l != want {
		t.Errorf("got %+v, %v, want %+v", l, ok, want)
	}
	if l, ok := p.Held(func(l Lease) bool { return l.Name == "b" }); ok {
		t.Errorf("got %+v of another", l)
	}
	p.Expire(now.Add(time.Hour))
	if l, ok := p.Held(named); ok {
		t.Errorf("%+v is free", l)
	}
}
