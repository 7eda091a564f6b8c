package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// TestDataBeforeAddress: packets of a client without an address are dropped and counted, and it can
// join afterwards.
// exam: P1
func TestDataBeforeAddress(t *testing.T) {
	t.Parallel()
	n := newRawGateway(t)
	victim := n.joinRaw(rawvpn.Ask{})
	c := n.dialRaw()
	before := n.report()
	n.nothingIn("before an address", func() {
		for _, src := range []string{"10.0.254.253", "10.0.0.1", victim.Lease.Addr.String(), "192.168.101.2"} {
			for _, dst := range []netip.Addr{gatewayAddr, victim.Lease.Addr, netip.MustParseAddr(lanHost)} {
				send(t, c, rawvpn.Echo(netip.MustParseAddr(src), dst, 1, 1, nil))
			}
		}
		quiet(t, c, "before an address")
		quiet(t, victim, "before an address")
	})
	n.counted(before, "drops", "no_address", 12)
	if err := c.Join(rawvpn.Ask{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ping(gatewayAddr); err != nil {
		t.Error(err)
	}
	n.alive()
}

// TestManyRequests asks 1,000 times on one connection: one address, a single reply to each request,
// and not faster than the gateway wants.
// exam: P2
func TestManyRequests(t *testing.T) {
	t.Parallel()
	const count = 1000
	n := newRawGateway(t)
	c := n.joinRaw(rawvpn.Ask{})
	began := time.Now()
	send(t, c, bytes.Repeat(rawvpn.Ask{}.Bytes(), count))
	for i := range count {
		if addr, err := c.ReadReply(); err != nil || addr != c.Lease.Addr {
			t.Fatalf("reply %d: got %s, %v, want %s", i, addr, err, c.Lease.Addr)
		}
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("%d replies within %s, want about 500 in a second", count, took)
	}
	quiet(t, c, "after the replies")
	if live := n.report().counts["pool.live"]; live != 1 {
		t.Errorf("%d addresses are in use, want 1", live)
	}
	n.alive()
}

// TestRefused has static requests that nobody gets: no bytes, but the end of the connection; an
// extended client is told why.
// exam: P3
func TestRefused(t *testing.T) {
	t.Parallel()
	n := newRawGateway(t, "[reserved]", `printer = "10.0.3.7"`)
	victim := n.joinRaw(rawvpn.Ask{Static: netip.MustParseAddr("10.0.3.4")})
	const inUse, refused = 2, 4 // docs/protocol.md, goodbye
	for _, test := range []struct {
		name, addr, cause string
		reason            byte
	}{
		{"in use", "10.0.3.4", "address_in_use", inUse},
		{"outside the prefix", "10.1.0.1", "address_refused", refused},
		{"the gateway's", "10.0.0.1", "address_refused", refused},
		{"network", "10.0.0.0", "address_refused", refused},
		{"broadcast", "10.0.255.255", "address_refused", refused},
		{"loopback", "127.0.0.1", "address_refused", refused},
		{"multicast", "224.0.0.1", "address_refused", refused},
		{"limited broadcast", "255.255.255.255", "address_refused", refused},
		{"of another name", "10.0.3.7", "address_refused", refused},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr := netip.MustParseAddr(test.addr)
			before := n.report()
			c := n.dialRaw()
			if err := c.Request(addr); err != nil {
				t.Fatal(err)
			}
			closes(t, c, test.name, 0, 2*time.Second)
			n.counted(before, "closed", test.cause, 1)
			var why *rawvpn.RefusedError
			if err := n.dialRaw().Join(rawvpn.Ask{Static: addr, Features: rawvpn.All}); !errors.As(err, &why) || why.Reason != test.reason {
				t.Errorf("extended client: got %v, want a goodbye with reason %d", err, test.reason)
			}
		})
	}
	if _, err := victim.Ping(gatewayAddr); err != nil {
		t.Error(err)
	}
	n.alive()
}

// TestTheft asks for the address of a client that uses it, and then of one that has just vanished and
// can come back: neither is harmed.
// exam: P4, U3
func TestTheft(t *testing.T) {
	t.Parallel()
	n := newRawGateway(t)
	victim := n.joinRaw(rawvpn.Ask{Features: rawvpn.All})
	lease := victim.Lease
	stop, pinged := make(chan struct{}), make(chan error, 1)
	go func() { // ends with stop
		for {
			select {
			case <-stop:
				pinged <- nil
				return
			default:
			}
			if _, err := victim.Ping(gatewayAddr); err != nil {
				pinged <- err
				return
			}
		}
	}()
	thieves := []rawvpn.Ask{
		{Static: lease.Addr},
		{Static: lease.Addr, Features: rawvpn.All},
		{Static: lease.Addr, Features: rawvpn.All, Resume: lease.Addr, Token: rawvpn.Token{1}},
		{Static: lease.Addr, Features: rawvpn.All, Resume: lease.Addr}, // no token
		{Static: lease.Addr, Features: rawvpn.All, Name: "printer"},
	}
	steal := func(cause string) {
		t.Helper()
		for i, ask := range thieves {
			before := n.report()
			if err := n.dialRaw().Join(ask); err == nil {
				t.Errorf("thief %d got the address", i)
			}
			n.counted(before, "closed", cause, 1)
		}
		for _, ask := range []rawvpn.Ask{
			{}, // those who want any get another one
			{Features: rawvpn.All, Hint: lease.Addr},
			{Features: rawvpn.All, Resume: lease.Addr, Token: rawvpn.Token{1}},
		} {
			if c := n.joinRaw(ask); c.Lease.Addr == lease.Addr {
				t.Errorf("%+v got the address", ask)
			}
		}
	}
	steal("address_in_use")
	close(stop)
	if err := <-pinged; err != nil {
		t.Errorf("the victim meanwhile: %v", err)
	}
	quiet(t, victim, "the victim")
	if err := victim.Abort(); err != nil {
		t.Fatal(err)
	}
	until(t, patience, "the gateway knows that it vanished", func() bool { return n.report().counts["pool.held"] == 1 })
	steal("address_held")

	back := n.joinRaw(rawvpn.Ask{Features: rawvpn.All, Resume: lease.Addr, Token: lease.Token})
	if back.Lease.Addr != lease.Addr {
		t.Errorf("the owner came back and got %s, want %s", back.Lease.Addr, lease.Addr)
	}
	if _, err := back.Ping(gatewayAddr); err != nil {
		t.Error(err)
	}
	n.alive()
}

// TestChanges lets one client ask for a dynamic, a static and again a dynamic address: it never has
// two, and what it had is free for others, once.
// exam: P5
func TestChanges(t *testing.T) {
	t.Parallel()
	n := newRawGateway(t)
	other := n.joinRaw(rawvpn.Ask{})
	c := n.joinRaw(rawvpn.Ask{})
	first, static := c.Lease.Addr, netip.MustParseAddr("10.0.3.4")
	for i, want := range []netip.Addr{static, static} {
		ask := rawvpn.Ask{}
		if i == 0 {
			ask.Static = static
		}
		if err := c.Join(ask); err != nil || c.Lease.Addr != want {
			t.Fatalf("request %d: got %s, %v, want %s", i, c.Lease.Addr, err, want)
		}
		before := n.report()
		send(t, c, rawvpn.Echo(first, other.Lease.Addr, 1, 1, nil))
		send(t, other, rawvpn.Echo(other.Lease.Addr, first, 1, 1, nil))
		quiet(t, c, "with the old address")
		quiet(t, other, "to the old address")
		n.counted(before, "drops", "source", 1)
		n.counted(before, "drops", "unassigned", 1)
		if live := n.report().counts["pool.live"]; live != 2 {
			t.Errorf("%d addresses are in use by 2 clients", live)
		}
		if _, err := c.Ping(gatewayAddr); err != nil {
			t.Error(err)
		}
	}
	if third := n.joinRaw(rawvpn.Ask{Static: first}); third.Lease.Addr != first {
		t.Errorf("got %s, want %s, which is free", third.Lease.Addr, first)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, patience, "one of three has left", func() bool { return n.report().counts["pool.live"] == 2 })
	for _, addr := range []netip.Addr{first, other.Lease.Addr} {
		if err := n.dialRaw().Join(rawvpn.Ask{Static: addr}); !errors.Is(err, io.EOF) {
			t.Errorf("%s is in use and was asked for: got %v, want the end of the connection", addr, err)
		}
	}
	n.alive()
}

// TestRandomChanges compares the gateway with a model: who asked for what last. All
// clients ask for addresses out of a small set.
// exam: P5, P13
func TestRandomChanges(t *testing.T) {
	t.Parallel()
	n := newRawGateway(t, `pool = "10.0.0.0/28"`)
	random := rand.New(rand.NewPCG(5, 5))
	holders := map[netip.Addr]*rawvpn.Client{}
	var clients []*rawvpn.Client
	drop := func(c *rawvpn.Client) {
		if holders[c.Lease.Addr] == c {
			delete(holders, c.Lease.Addr)
		}
		clients = slices.DeleteFunc(clients, func(o *rawvpn.Client) bool { return o == c })
	}
	for step := range 400 {
		if len(clients) < 3 || len(clients) < 10 && random.IntN(4) == 0 {
			clients = append(clients, n.dialRaw())
		}
		c := clients[random.IntN(len(clients))]
		had := c.Lease.Addr
		ask := rawvpn.Ask{}
		if random.IntN(2) == 0 {
			ask.Static = netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + random.IntN(13))})
		}
		holder := holders[ask.Static]
		if err := c.Join(ask); err != nil {
			if holder == nil || holder == c {
				t.Fatalf("step %d: %+v of a client with %s: %v", step, ask, had, err)
			}
			drop(c)
		} else {
			now := c.Lease.Addr
			if other := holders[now]; other != nil && other != c {
				t.Fatalf("step %d: %s was given to two", step, now)
			}
			if ask.Static.IsValid() && now != ask.Static || !ask.Static.IsValid() && had.IsValid() && now != had {
				t.Fatalf("step %d: %+v of a client with %s: got %s", step, ask, had, now)
			}
			delete(holders, had)
			holders[now] = c
			if random.IntN(5) == 0 {
				drop(c)
				_ = c.Close()
			}
		}
		want := uint64(len(holders))
		until(t, patience, fmt.Sprintf("step %d: %d addresses are in use", step, want), func() bool {
			return n.report().counts["pool.live"] == want
		})
	}
}

// TestNeverReads sends a million keepalives and reads no echo: the gateway stops to read, holds little,
// and closes.
// exam: P6
func TestNeverReads(t *testing.T) {
	const queue = 256 << 10
	n := newRawGateway(t, "write_timeout = '2s'", fmt.Sprintf("queue_bytes = %d", queue))
	for _, ns := range []*lab.Namespace{n.gw, n.c1} { // else the kernels take it all, unread
		for _, buffers := range []string{"tcp_rmem", "tcp_wmem"} {
			if _, err := ns.Output(exec.Command("sysctl", "-qw", "net.ipv4."+buffers+"=4096 131072 262144")); err != nil {
				t.Fatal(err)
			}
		}
	}
	n.alive()
	for _, who := range []struct {
		name string
		ask  rawvpn.Ask
		item []byte
	}{
		{"keepalives", rawvpn.Ask{}, rawvpn.Keepalive(0)},
		{"pings", rawvpn.Ask{Features: rawvpn.All}, rawvpn.Frame(0x84, make([]byte, 64))},
	} {
		t.Run(who.name, func(t *testing.T) {
			c := n.dialRaw()
			if err := c.SetReadBuffer(64 << 10); err != nil {
				t.Fatal(err)
			}
			if err := c.Join(who.ask); err != nil {
				t.Fatal(err)
			}
			before, memory := n.report(), rss(t, n.srv)
			c.Timeout = patience
			sent := make(chan int, 1)
			last := time.Now() // of progress, as far as batches tell
			go func() {        // ends when the gateway closes the connection
				const batch = 1000
				done := 0
				for done < 1_000_000 && c.SendRaw(bytes.Repeat(who.item, batch)) == nil {
					done += batch
					last = time.Now()
				}
				sent <- done
			}()
			grown, queued, done := 0, uint64(0), 0
			for done == 0 {
				select {
				case done = <-sent:
				default:
					grown = max(grown, rss(t, n.srv)-memory)
					queued = max(queued, n.report().queued)
				}
			}
			took := time.Since(last)
			t.Logf("%d sent, closed after %s, %d bytes queued, memory grown by %d KiB", done, took, queued, grown>>10)
			if done == 1_000_000 {
				t.Error("the gateway went on reading")
			}
			if took < 1900*time.Millisecond || took > 4*time.Second {
				t.Errorf("closed after %s, want 2s without progress", took)
			}
			// What is left of an item that was cut by a write is kept, whatever room there is.
			if limit := uint64(queue + len(who.item)); queued < queue/2 || queued > limit {
				t.Errorf("%d bytes were queued, want %d at most, and half of it at least", queued, limit)
			}
			if grown > 8<<20 {
				t.Errorf("memory has grown by %d bytes", grown)
			}
			n.counted(before, "closed", "write_timeout", 1)
		})
	}
	n.alive()
}

// TestSelfAssign has a 2013 client that uses an address it never asked for, in both modes.
// exam: P8
func TestSelfAssign(t *testing.T) {
	t.Parallel()
	own := netip.MustParseAddr("10.0.7.7")
	ping := rawvpn.Echo(own, gatewayAddr, 1, 1, nil)
	t.Run("off", func(t *testing.T) {
		n := newRawGateway(t)
		c := n.dialRaw()
		n.nothingIn("nobody's address", func() {
			send(t, c, ping)
			quiet(t, c, "nobody's address")
		})
		n.counted(report{}, "drops", "no_address", 1)
		n.alive()
	})
	t.Run("on", func(t *testing.T) {
		n := newRawGateway(t, "legacy_self_assign = true")
		victim := n.joinRaw(rawvpn.Ask{})
		c := n.dialRaw()
		n.nothingIn("addresses that are not free", func() {
			for _, src := range []string{victim.Lease.Addr.String(), gatewayVPN, "10.0.255.255", "192.168.101.2", "8.8.8.8"} {
				send(t, c, rawvpn.Echo(netip.MustParseAddr(src), gatewayAddr, 1, 1, nil))
			}
			quiet(t, c, "addresses that are not free")
			quiet(t, victim, "addresses that are not free")
		})
		n.counted(report{}, "drops", "no_address", 5)
		c.Lease.Addr = own
		if _, err := c.Ping(gatewayAddr); err != nil {
			t.Error(err)
		}
		if _, err := victim.Ping(gatewayAddr); err != nil {
			t.Error(err)
		}
		send(t, victim, rawvpn.Echo(victim.Lease.Addr, own, 1, 1, nil))
		if item, err := c.ReadItem(); err != nil || item.Kind != rawvpn.KindPacket {
			t.Errorf("packet to the new address: got %v, %v", item, err)
		}
		n.alive()
	})
}
