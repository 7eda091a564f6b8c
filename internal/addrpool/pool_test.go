package addrpool

import (
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newPool(t testing.TB, prefix string, reserved map[string]netip.Addr) *Pool {
	t.Helper()
	p, err := New(Config{Prefix: netip.MustParsePrefix(prefix), Reserved: reserved, Hold: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// dynamic asks for any address and returns it, or the error, as text.
func dynamic(p *Pool, owner uint64) string {
	g, _, err := p.Grant(Request{Owner: owner, Token: Token{byte(owner), 1}}, start)
	if err != nil {
		return err.Error()
	}
	return g.Lease.Addr.String()
}

// The order of 2013: 10.0.254.254 downwards, none that ends in 0 or 255, none of 10.0.0.x.
func TestOrder(t *testing.T) {
	p := newPool(t, "10.0.0.0/16", nil)
	want := map[int]string{
		0: "10.0.254.254", 1: "10.0.254.253", 253: "10.0.254.1", 254: "10.0.253.254",
		254*254 - 1: "10.0.1.1", 254 * 254: "10.0.255.254", 254*254 + 253: "10.0.255.1",
		254*254 + 254: ErrExhausted.Error(),
	}
	seen := map[string]bool{}
	for i := range 254*254 + 255 {
		got := dynamic(p, uint64(i+1))
		if w, ok := want[i]; ok && got != w {
			t.Errorf("address %d: got %s, want %s", i, got, w)
		}
		if seen[got] {
			t.Fatalf("%s was given twice", got)
		}
		seen[got] = true
	}
	small := newPool(t, "192.168.0.0/29", nil)
	for i, w := range []string{"192.168.0.6", "192.168.0.5", "192.168.0.4", "192.168.0.3", "192.168.0.2", ErrExhausted.Error()} {
		if got := dynamic(small, uint64(i+1)); got != w {
			t.Errorf("/29, address %d: got %s, want %s", i, got, w)
		}
	}
}

// What a static request can not have.
// exam: P3
func TestStatic(t *testing.T) {
	p := newPool(t, "10.0.0.0/16", map[string]netip.Addr{"cam1": addr("10.0.3.4")})
	if _, _, err := p.Grant(Request{Owner: 1, Static: addr("10.0.9.9"), Token: Token{1}}, start); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		addr, name string
		err        error
	}{
		{"10.0.9.9", "", ErrInUse},
		{"10.0.0.0", "", ErrOutside},
		{"10.0.0.1", "", ErrOutside},
		{"10.0.255.255", "", ErrOutside},
		{"10.1.0.5", "", ErrOutside},
		{"255.255.255.255", "", ErrOutside},
		{"10.0.3.4", "", ErrReserved},
		{"10.0.3.4", "cam2", ErrReserved},
		{"10.0.3.4", "cam1", nil},
		{"10.0.0.2", "", nil},
		{"10.0.7.255", "", nil},
		{"10.0.7.0", "", nil},
	}
	for i, tt := range tests {
		g, _, err := p.Grant(Request{Owner: uint64(i + 2), Static: addr(tt.addr), Name: tt.name}, start)
		if !errors.Is(err, tt.err) || err == nil && g.Lease.Addr != addr(tt.addr) {
			t.Errorf("%s as %q: got %s, %v; want %v", tt.addr, tt.name, g.Lease.Addr, err, tt.err)
		}
	}
}

func TestReserved(t *testing.T) {
	p := newPool(t, "192.168.0.0/29", map[string]netip.Addr{"cam1": addr("192.168.0.6")})
	if got := dynamic(p, 1); got != "192.168.0.5" {
		t.Errorf("got %s although it is reserved", got)
	}
	g, _, err := p.Grant(Request{Owner: 2, Name: "cam1"}, start)
	if err != nil || g.Lease.Addr != addr("192.168.0.6") {
		t.Errorf("got %s, %v; want the reserved address", g.Lease.Addr, err)
	}
	if _, _, err := p.Grant(Request{Owner: 3, Name: "cam1"}, start); !errors.Is(err, ErrInUse) {
		t.Errorf("a second cam1: got %v", err)
	}
	if _, _, err := p.Grant(Request{Owner: 4, Name: "other"}, start); err != nil {
		t.Errorf("a name without a reservation: %v", err)
	}
	for name, bad := range map[string]map[string]netip.Addr{
		"gateway's": {"a": addr("192.168.0.1")},
		"outside":   {"a": addr("10.0.0.1")},
		"twice":     {"a": addr("192.168.0.5"), "b": addr("192.168.0.5")},
	} {
		if _, err := New(Config{Prefix: netip.MustParsePrefix("192.168.0.0/29"), Reserved: bad}); err == nil {
			t.Errorf("reserved address %s: no error", name)
		}
	}
}

func TestOnRequest(t *testing.T) {
	site := addr("192.168.0.6") // the first in the order
	p, err := New(Config{Prefix: netip.MustParsePrefix("192.168.0.0/29"), OnRequest: []netip.Addr{site}})
	if err != nil {
		t.Fatal(err)
	}
	for owner := uint64(1); owner <= 4; owner++ {
		if g, _, err := p.Grant(Request{Owner: owner, Hint: site}, start); err != nil || g.Lease.Addr == site {
			t.Errorf("got %s, %v; want any other", g.Lease.Addr, err)
		}
	}
	if _, _, err := p.Grant(Request{Owner: 5}, start); !errors.Is(err, ErrExhausted) {
		t.Errorf("got %v, want none that is free for all", err)
	}
	if g, _, err := p.Grant(Request{Owner: 6, Static: site}, start); err != nil || g.Lease.Addr != site {
		t.Errorf("got %s, %v; want %s", g.Lease.Addr, err, site)
	}
	if _, err := New(Config{Prefix: netip.MustParsePrefix("192.168.0.0/29"), OnRequest: []netip.Addr{addr("192.168.0.1")}}); !errors.Is(err, ErrOutside) {
		t.Errorf("the gateway's own: got %v", err)
	}
}

// Exam P4 and P5, and design decision 11: a live owner wins, a vanished one comes second, a stranger last.
// exam: P4, P5
func TestOwnership(t *testing.T) {
	p := newPool(t, "10.0.0.0/16", nil)
	a := addr("10.0.9.9")
	token := Token{1}
	grant := func(r Request, now time.Time) (Grant, error) {
		g, _, err := p.Grant(r, now)
		return g, err
	}
	if _, err := grant(Request{Owner: 1, Static: a, Token: token}, start); err != nil {
		t.Fatal(err)
	}
	if _, err := grant(Request{Owner: 2, Static: a}, start); !errors.Is(err, ErrInUse) {
		t.Errorf("stranger, owner live: got %v", err)
	}
	if g, err := grant(Request{Owner: 2, Resume: a, ResumeToken: Token{7}, Hint: a}, start); err != nil || g.Lease.Addr == a {
		t.Errorf("stranger with a wrong token: got %s, %v", g.Lease.Addr, err)
	}
	if g, err := grant(Request{Owner: 3, Resume: a, ResumeToken: token}, start); err != nil || g.Lease.Addr != a || g.Displaced != 1 {
		t.Errorf("newer connection of the owner: got %+v, %v", g, err)
	}
	if ev := p.Release(1, true, start); len(ev) != 0 {
		t.Errorf("the displaced connection released %v", ev)
	}
	p.Release(3, true, start)
	var held *HeldError
	if _, err := grant(Request{Owner: 4, Static: a}, start.Add(59*time.Second)); !errors.As(err, &held) || !held.Until.Equal(start.Add(time.Minute)) {
		t.Errorf("stranger, owner vanished: got %v", err)
	}
	if g, err := grant(Request{Owner: 5, Static: a, Resume: a, ResumeToken: token}, start.Add(59*time.Second)); err != nil || g.Displaced != 0 {
		t.Errorf("vanished owner comes back: got %+v, %v", g, err)
	}
	p.Release(5, true, start.Add(time.Minute))
	if _, err := grant(Request{Owner: 6, Static: a}, start.Add(2*time.Minute)); err != nil {
		t.Errorf("stranger, hold over: got %v", err)
	}
	p.Release(6, true, start.Add(2*time.Minute)) // no token: not held
	if _, err := grant(Request{Owner: 7, Static: a}, start.Add(2*time.Minute)); err != nil {
		t.Errorf("after a 2013 client: got %v", err)
	}
}

func TestOneAddressForEach(t *testing.T) {
	p := newPool(t, "10.0.0.0/16", nil)
	dynamic(p, 1)
	if got := dynamic(p, 1); got != "10.0.254.254" {
		t.Errorf("asked again: got %s", got)
	}
	g, events, err := p.Grant(Request{Owner: 1, Static: addr("10.0.9.9")}, start)
	if err != nil || g.Lease.Addr != addr("10.0.9.9") || len(events) != 2 || !events[0].Freed || events[1].Freed {
		t.Errorf("static after dynamic: got %+v, %v, %v", g, events, err)
	}
	if _, _, err := p.Grant(Request{Owner: 1, Static: addr("10.0.0.1")}, start); err == nil {
		t.Error("the gateway's address was granted")
	}
	if got := dynamic(p, 1); got != "10.0.9.9" {
		t.Errorf("after a refusal: got %s", got)
	}
	if s := p.Stats(); s.Live != 1 || s.Held != 0 {
		t.Errorf("got %+v", s)
	}
}

// A device that comes back finds its old address free as long as there are others.
func TestSticky(t *testing.T) {
	p := newPool(t, "192.168.0.0/28", nil)
	dynamic(p, 1) // .14
	p.Release(1, false, start)
	for i := range 12 {
		if got := dynamic(p, uint64(i+2)); got == "192.168.0.14" {
			t.Fatalf("given to client %d although others were free", i)
		}
	}
	g, _, err := p.Grant(Request{Owner: 20, Hint: addr("192.168.0.14")}, start)
	if err != nil || g.Lease.Addr != addr("192.168.0.14") {
		t.Errorf("got %s, %v", g.Lease.Addr, err)
	}
}

func TestHeldIsTakenLast(t *testing.T) {
	p := newPool(t, "192.168.0.0/29", nil)
	for i := range 5 {
		dynamic(p, uint64(i+1)) // .6 to .2
	}
	p.Release(2, true, start)
	p.Release(1, true, start.Add(time.Second))
	g, events, err := p.Grant(Request{Owner: 9, Token: Token{9}}, start.Add(2*time.Second))
	if err != nil || g.Lease.Addr != addr("192.168.0.5") || len(events) != 2 || !events[0].Freed {
		t.Errorf("got %s, %v, %v; want the address that is held longest", g.Lease.Addr, events, err)
	}
}

func TestRestore(t *testing.T) {
	p := newPool(t, "192.168.0.0/28", map[string]netip.Addr{"cam1": addr("192.168.0.13")})
	events := p.Restore([]Lease{
		{Addr: addr("192.168.0.14"), Token: Token{1}},
		{Addr: addr("192.168.0.12")},                  // a 2013 client's
		{Addr: addr("10.0.0.9"), Token: Token{2}},     // of another pool
		{Addr: addr("192.168.0.13"), Token: Token{3}}, // reserved since
		{Addr: addr("192.168.0.14"), Token: Token{4}}, // twice
	}, start)
	// The second lease of .14 is no event: freeing it would take the first one off the disk.
	var freed []string
	for _, e := range events {
		if !e.Freed {
			t.Errorf("%v was granted", e.Lease)
		}
		freed = append(freed, e.Lease.Addr.String())
	}
	if want := []string{"192.168.0.12", "10.0.0.9", "192.168.0.13"}; !slices.Equal(freed, want) {
		t.Errorf("freed %v, want %v", freed, want)
	}
	checkLists(t, p)
	if got := dynamic(p, 1); got != "192.168.0.11" {
		t.Errorf("dynamic: got %s, want one that nobody had", got)
	}
	g, ev, err := p.Grant(Request{Owner: 2, Resume: addr("192.168.0.14"), ResumeToken: Token{1}}, start)
	if err != nil || g.Lease.Addr != addr("192.168.0.14") || len(ev) != 0 {
		t.Errorf("resume: got %s, %v, %v", g.Lease.Addr, ev, err)
	}
	if ev := p.Expire(start.Add(time.Hour)); len(ev) != 0 {
		t.Errorf("a resumed lease expired: %v", ev)
	}
}

func TestPrefixes(t *testing.T) {
	for prefix, ok := range map[string]bool{
		"10.0.0.0/16": true, "10.1.2.3/24": true, "192.168.0.0/30": true,
		"10.0.0.0/15": false, "192.168.0.0/31": false, "192.168.0.0/32": false, "fd00::/64": false, "::ffff:10.0.0.0/112": false,
	} {
		_, err := New(Config{Prefix: netip.MustParsePrefix(prefix)})
		if (err == nil) != ok {
			t.Errorf("%s: got %v", prefix, err)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("no prefix: no error")
	}
}

// What the smallest and the largest pool have, as documented.
func TestTotals(t *testing.T) {
	for prefix, want := range map[string]int{"192.168.0.0/30": 1, "192.168.0.0/24": 253, "10.0.0.0/16": 65533} {
		p := newPool(t, prefix, nil)
		if got := p.Stats(); got != (Stats{Free: want, Total: want}) {
			t.Errorf("%s: got %+v, want %d free", prefix, got, want)
		}
		checkLists(t, p)
	}
}

// With no time to hold it, an address is free when its owner is gone.
func TestNoHold(t *testing.T) {
	p, err := New(Config{Prefix: netip.MustParsePrefix("192.168.0.0/30")})
	if err != nil {
		t.Fatal(err)
	}
	dynamic(p, 1)
	if ev := p.Release(1, true, start); len(ev) != 1 || !ev[0].Freed {
		t.Errorf("got %v", ev)
	}
	if got := dynamic(p, 2); got != "192.168.0.2" {
		t.Errorf("got %s", got)
	}
}

// What an idle gateway pays for the largest pool: links and states, no slot.
func TestMemory(t *testing.T) {
	const pools, limit = 8, 1 << 20 // bytes each; less than 0.6 MiB measured
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var all [pools]*Pool
	for i := range all {
		all[i] = newPool(t, "10.0.0.0/16", nil)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / pools; got > limit {
		t.Errorf("%d bytes, limit %d", got, limit)
	}
	runtime.KeepAlive(all)
}

// The time of an operation does not depend on how many addresses there are, or are in use.
func BenchmarkGrantRelease(b *testing.B) {
	for name, c := range map[string]struct {
		prefix string
		used   int
	}{"24-empty": {"10.0.0.0/24", 0}, "16-empty": {"10.0.0.0/16", 0}, "16-full": {"10.0.0.0/16", 64_000}} {
		b.Run(name, func(b *testing.B) {
			p := newPool(b, c.prefix, nil)
			for i := range c.used {
				dynamic(p, uint64(i+1))
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := p.Grant(Request{Owner: 1 << 20, Token: Token{1}}, start); err != nil {
					b.Fatal(err)
				}
				p.Release(1<<20, false, start)
			}
		})
	}
}

// What stands for something else is nobody's: not for any, not on request, not reserved, not from before.
func TestTaken(t *testing.T) {
	const alias = "10.0.0.6"
	c := Config{Prefix: netip.MustParsePrefix("10.0.0.0/29"), Hold: time.Minute, Taken: []netip.Addr{addr(alias)}}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if s := p.Stats(); s.Total != 4 || s.Free != 4 {
		t.Errorf("got %+v", s)
	}
	events := p.Restore([]Lease{{Addr: addr(alias), Token: Token{1}}}, start)
	if len(events) != 1 || !events[0].Freed {
		t.Errorf("from before: %v", events)
	}
	if _, _, err := p.Grant(Request{Owner: 99, Static: addr(alias)}, start); !errors.Is(err, ErrOutside) {
		t.Errorf("on request: %v", err)
	}
	for owner := uint64(1); owner <= 4; owner++ {
		g, _, err := p.Grant(Request{Owner: owner, Hint: addr(alias)}, start)
		if err != nil || g.Lease.Addr == addr(alias) {
			t.Errorf("%d got %v, %v", owner, g.Lease.Addr, err)
		}
	}
	if got := dynamic(p, 5); got != ErrExhausted.Error() {
		t.Errorf("got %s", got)
	}
	if _, _, err := p.Reconfigure(Config{Reserved: map[string]netip.Addr{"x": addr(alias)}, Hold: time.Minute}, start); !errors.Is(err, ErrOutside) {
		t.Errorf("reserved: %v", err)
	}
	for _, bad := range []string{"10.0.0.1", "10.0.0.7", "192.0.2.1"} {
		if _, err := New(Config{Prefix: c.Prefix, Taken: []netip.Addr{addr(bad)}}); !errors.Is(err, ErrOutside) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
