package netns

import (
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"ferry/test/rawvpn"
)

// A fleet is many clients of one network, each with a lease that outlives its connections.
type fleet struct {
	n       *network
	clients []*rawvpn.Client
	leases  []rawvpn.Lease
}

// joinFleet lets count clients join at the same time.
func joinFleet(t *testing.T, n *network, count int) *fleet {
	t.Helper()
	f := &fleet{n: n, clients: n.dialMany(count), leases: make([]rawvpn.Lease, count)}
	f.each(t, func(i int) error { return f.clients[i].Join(rawvpn.Ask{Features: rawvpn.All}) })
	owners := map[netip.Addr]int{}
	for i, c := range f.clients {
		f.leases[i] = c.Lease
		if other, twice := owners[c.Lease.Addr]; twice {
			t.Fatalf("clients %d and %d have got %s", other, i, c.Lease.Addr)
		}
		owners[c.Lease.Addr] = i
		if c.Lease.Token == (rawvpn.Token{}) {
			t.Fatalf("client %d has got no token", i)
		}
	}
	return f
}

// each calls do for all clients at the same time.
func (f *fleet) each(t *testing.T, do func(i int) error) {
	t.Helper()
	errs := make([]error, len(f.clients))
	var all sync.WaitGroup
	for i := range f.clients {
		all.Go(func() { errs[i] = do(i) })
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("client %d with %s: %v", i, f.leases[i].Addr, err)
		}
	}
}

// load lets clients send to their neighbours until their connections end.
func (f *fleet) load() (wait func()) {
	const senders = 8
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			for i := s; ; i = (i + senders) % len(f.clients) {
				c, to := f.clients[i], f.leases[(i+1)%len(f.leases)].Addr
				if c.SendIP(rawvpn.Echo(c.Lease.Addr, to, 1, 1, nil)) != nil {
					return
				}
			}
		})
	}
	return all.Wait
}

// back lets all clients come back with their tokens, while as many strangers ask for an address. It
// returns how long that took.
func (f *fleet) back(t *testing.T, strangers int) time.Duration {
	t.Helper()
	began := time.Now()
	for _, c := range f.clients {
		_ = c.Close()
	}
	f.clients = f.n.dialMany(len(f.clients))
	others := f.n.dialMany(strangers)
	var asking sync.WaitGroup
	for _, c := range others {
		asking.Go(func() { _ = c.Join(rawvpn.Ask{}) })
	}
	f.each(t, func(i int) error {
		l := f.leases[i]
		return f.clients[i].Join(rawvpn.Ask{Features: rawvpn.All, Hint: l.Addr, Resume: l.Addr, Token: l.Token})
	})
	took := time.Since(began)
	asking.Wait()
	owners := map[netip.Addr]bool{}
	for i, c := range f.clients {
		owners[c.Lease.Addr] = true
		if c.Lease.Addr != f.leases[i].Addr {
			t.Errorf("client %d had %s and came back with %s", i, f.leases[i].Addr, c.Lease.Addr)
		}
		f.leases[i] = c.Lease
	}
	for _, c := range others {
		if !c.Lease.Addr.IsValid() || owners[c.Lease.Addr] {
			t.Errorf("a stranger has got %s", c.Lease.Addr)
		}
		_ = c.Close()
	}
	return took
}

// TestFleetKilled kills the gateway under load, again and again: all clients are back within 5 s with the
// addresses that they had, and no address is given to two. 'make exam' does so a hundred times.
// exam: F1
func TestFleetKilled(t *testing.T) { killFleet(t, 3, func(int, time.Duration) {}) }

// killFleet does it rounds times, and tells how long each took.
func killFleet(t *testing.T, rounds int, tell func(round int, took time.Duration)) {
	const count, strangers, limit = 1000, 100, 5 * time.Second
	n := newRawGateway(t)
	f := joinFleet(t, n, count)
	for round := range rounds {
		wait := f.load()
		before := n.srv.Pid()
		if err := n.srv.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-n.srv.Done()
		wait()
		restarted := time.Now()
		n.startGateway(n.args...)
		ready := time.Since(restarted)
		if n.srv.Pid() == before {
			t.Fatal("the gateway was not killed")
		}
		took := f.back(t, strangers)
		tell(round, ready+took)
		if took+ready > limit {
			t.Errorf("round %d: %s until all were back, want %s", round, took+ready, limit)
		}
		if live := n.report().counts["pool.live"]; live < count {
			t.Errorf("round %d: %d addresses are in use by %d clients", round, live, count)
		}
	}
	n.alive()
}

// TestIdle has clients that fall silent: after idle_timeout the gateway gives them up, keeps the address
// of those who can prove that it is theirs, as long again, and then frees it.
// exam: F6
func TestIdle(t *testing.T) {
	t.Parallel()
	const idle = 2 * time.Second
	n := newRawGateway(t, fmt.Sprintf("idle_timeout = '%s'", idle))
	busy, plain, owner := n.joinRaw(rawvpn.Ask{}), n.joinRaw(rawvpn.Ask{}), n.joinRaw(rawvpn.Ask{Features: rawvpn.Super | rawvpn.Config})
	if owner.Lease.Idle != idle {
		t.Errorf("the gateway says that it waits for %s, want %s", owner.Lease.Idle, idle)
	}
	var silent sync.WaitGroup
	for _, c := range []*rawvpn.Client{plain, owner} {
		silent.Go(func() { closes(t, c, c.Lease.Addr.String(), idle-100*time.Millisecond, 2*idle) })
	}
	done := make(chan struct{})
	go func() { silent.Wait(); close(done) }()
	ticker := time.NewTicker(idle / 5)
	defer ticker.Stop()
	for !isClosed(done) {
		<-ticker.C
		quiet(t, busy, "the one that sends keepalives")
	}
	now := n.report()
	if now.maps["closed"]["idle_timeout"] != 2 || now.counts["pool.live"] != 1 || now.counts["pool.held"] != 1 {
		t.Errorf("got %v, want 2 closed for idle_timeout, 1 address in use and 1 held", now)
	}
	if err := n.dialRaw().Join(rawvpn.Ask{Static: owner.Lease.Addr}); err == nil {
		t.Error("a stranger has got an address that is held")
	}
	if c := n.joinRaw(rawvpn.Ask{Static: plain.Lease.Addr}); c.Lease.Addr != plain.Lease.Addr {
		t.Errorf("got %s, want %s, which is free", c.Lease.Addr, plain.Lease.Addr)
	}
	until(t, 3*idle, "the address is held no longer", func() bool { return n.report().counts["pool.held"] == 0 })
	if c := n.joinRaw(rawvpn.Ask{Static: owner.Lease.Addr}); c.Lease.Addr != owner.Lease.Addr {
		t.Errorf("got %s, want %s, which is free", c.Lease.Addr, owner.Lease.Addr)
	}
	n.alive()
}
