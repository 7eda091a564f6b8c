package addrpool

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// An address that comes to stand for a network behind it is nobody's by chance, neither live nor held; one
// that stood for it before stays with who asked for it.
func TestReconfigureOnRequest(t *testing.T) {
	p := newPool(t, "10.0.0.0/24", nil)
	for owner, want := range map[uint64]string{1: "10.0.0.254"} {
		if got := dynamic(p, owner); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	dynamic(p, 2)
	p.Release(2, true, start)
	via := []netip.Addr{addr("10.0.0.254"), addr("10.0.0.253"), addr("10.0.0.7")}
	displaced, events, err := p.Reconfigure(Config{OnRequest: via, Hold: time.Minute}, start)
	if err != nil || !slices.Equal(displaced, []uint64{1}) || len(events) != 2 || !events[0].Freed || !events[1].Freed {
		t.Errorf("displaced %v, events %v, %v", displaced, events, err)
	}
	checkLists(t, p)
	if got := dynamic(p, 3); got != "10.0.0.252" {
		t.Errorf("the next one got %s", got)
	}
	r := Request{Owner: 4, Static: addr("10.0.0.254")}
	if _, _, err := p.Grant(r, start); err != nil {
		t.Error(err)
	}
	displaced, events, err = p.Reconfigure(Config{OnRequest: via[:1], Hold: time.Minute}, start)
	if err != nil || len(displaced) != 0 || len(events) != 0 {
		t.Errorf("who asked for it: displaced %v, events %v, %v", displaced, events, err)
	}
	checkLists(t, p)
}

// Holdings are what is live and what is held.
func TestHoldings(t *testing.T) {
	p := newPool(t, "10.0.0.0/24", nil)
	dynamic(p, 7)
	dynamic(p, 8)
	p.Release(8, true, start)
	dynamic(p, 9)
	p.Release(9, false, start)
	got := p.Holdings()
	if len(got) != 2 || got[0].Lease.Addr != addr("10.0.0.253") || got[0].Owner != 0 || got[0].Until != start.Add(time.Minute) ||
		got[1].Lease.Addr != addr("10.0.0.254") || got[1].Owner != 7 || !got[1].Until.IsZero() {
		t.Errorf("got %+v", got)
	}
}

// A configuration with a fault changes nothing.
func TestReconfigureFault(t *testing.T) {
	p := newPool(t, "10.0.0.0/24", map[string]netip.Addr{"a": addr("10.0.0.9")})
	for _, c := range []Config{
		{Reserved: map[string]netip.Addr{"b": addr("10.0.0.1")}},
		{Reserved: map[string]netip.Addr{"b": addr("10.0.0.8"), "c": addr("10.0.0.8")}},
		{OnRequest: []netip.Addr{addr("10.0.1.1")}},
	} {
		if _, _, err := p.Reconfigure(c, start); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	if _, _, err := p.Grant(Request{Owner: 1, Static: addr("10.0.0.9")}, start); !errors.Is(err, ErrReserved) {
		t.Errorf("got %v, want it reserved still", err)
	}
	checkLists(t, p)
}
