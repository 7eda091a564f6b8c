package netns

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// foreign are sources that a client does not have, and why what it sends from them is dropped.
var foreign = []struct{ name, src, reason string }{
	{"other client", "10.0.3.1", "source"},
	{"gateway", gatewayVPN, "source"},
	{"free pool address", "10.0.9.9", "source"},
	{"this network", "0.1.2.3", "martian"},
	{"loopback", "127.0.0.1", "martian"},
	{"multicast", "224.0.0.1", "martian"},
	{"reserved", "240.0.0.1", "martian"},
	{"limited broadcast", "255.255.255.255", "martian"},
	{"pool's broadcast", "10.0.255.255", "source"},
	{"gateway's LAN", "198.51.100.1", "source"},
	{"a host of the LAN", lanHost, "source"},
	{"own outer address", "192.168.101.2", "source"},
	{"the Internet", "8.8.8.8", "source"},
	{"another client's site", "192.168.8.8", "source"},
}

// TestSpoof sends packets with sources that the client does not have: all are dropped and counted, and
// nobody sees one. Bare packets and data frames go the same way.
// exam: S1
func TestSpoof(t *testing.T) {
	t.Parallel()
	n := newRawGateway(t, "[sites]", `"192.168.8.0/24" = "10.0.3.7"`)
	victim := n.joinRaw(rawvpn.Ask{Static: netip.MustParseAddr("10.0.3.1")})
	router := n.joinRaw(rawvpn.Ask{Static: netip.MustParseAddr("10.0.3.7"), Features: rawvpn.All})
	for _, who := range []struct {
		name string
		ask  rawvpn.Ask
	}{{"bare", rawvpn.Ask{}}, {"data frames", rawvpn.Ask{Features: rawvpn.All}}} {
		c := n.joinRaw(who.ask)
		for _, test := range foreign {
			t.Run(who.name+", "+test.name, func(t *testing.T) {
				spoofed(t, n, c, []*rawvpn.Client{victim, router}, netip.MustParseAddr(test.src), test.reason)
			})
		}
		if _, err := c.Ping(gatewayAddr); err != nil {
			t.Error(err)
		}
		_ = c.Close()
	}
	t.Run("client with several prefixes", func(t *testing.T) {
		spoofed(t, n, router, []*rawvpn.Client{victim}, netip.MustParseAddr("192.168.9.8"), "source")
		own := rawvpn.Echo(netip.MustParseAddr("192.168.8.8"), victim.Lease.Addr, 1, 1, nil)
		if err := router.SendIP(own); err != nil {
			t.Fatal(err)
		}
		if item, err := victim.ReadItem(); err != nil || !bytes.Equal(item.Packet, own) {
			t.Errorf("from its site: got %v, %v", item, err)
		}
	})
	n.alive()
}

// spoofed sends from c with a source that it does not have, to everywhere.
func spoofed(t *testing.T, n *network, c *rawvpn.Client, others []*rawvpn.Client, src netip.Addr, reason string) {
	t.Helper()
	before := n.report()
	n.nothingIn("spoofed", func() {
		to := []netip.Addr{gatewayAddr, netip.MustParseAddr(lanHost)}
		for _, o := range others {
			to = append(to, o.Lease.Addr)
		}
		for _, dst := range to {
			if err := c.SendIP(rawvpn.Echo(src, dst, 1, 1, nil)); err != nil {
				t.Fatal(err)
			}
		}
		quiet(t, c, "the one who spoofs")
		for _, o := range others {
			quiet(t, o, "another client")
		}
		n.counted(before, "drops", reason, uint64(len(to)))
	})
}

// listenUDP returns a function that waits for a datagram to any address of the namespace; it is nil
// when none comes.
func listenUDP(t *testing.T, ns *lab.Namespace, port int) func(limit time.Duration) []byte {
	t.Helper()
	conn := openUDP(t, ns, fmt.Sprintf(":%d", port))
	return func(limit time.Duration) []byte {
		b := make([]byte, 1500)
		_ = conn.SetReadDeadline(time.Now().Add(limit))
		size, _, err := conn.ReadFrom(b)
		if err != nil {
			return nil
		}
		return b[:size]
	}
}

// TestProtected sends to addresses of the gateway's host that are nobody's business: its loopback, even
// with route_localnet, the metadata service of a cloud, its addresses in the LAN. They are dropped
// unless they are allowed.
// exam: S3
func TestProtected(t *testing.T) {
	t.Parallel()
	const port = 4000
	targets := []string{"127.0.0.1", "169.254.169.254", "198.51.100.1", "192.168.101.1"}
	for _, test := range []struct {
		name    string
		lines   []string
		allowed []string
	}{
		{"default", nil, nil},
		{"one is allowed", []string{`allow = ["198.51.100.1/32"]`}, targets[2:3]},
		{"all are allowed", []string{`allow = ["0.0.0.0/0", "127.0.0.1/32", "169.254.169.254/32", "198.51.100.1/32", "192.168.101.1/32"]`}, targets},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newRawGateway(t, test.lines...)
			run(t, n.gw, "ip address add 169.254.169.254/32 dev lo")
			run(t, n.gw, "sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.vpn0.route_localnet=1")
			run(t, n.gw, "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.vpn0.rp_filter=0")
			received := listenUDP(t, n.gw, port)
			c := n.joinRaw(rawvpn.Ask{})
			before := n.report()
			datagram := func(dst string) []byte {
				return rawvpn.Datagram(netip.AddrPortFrom(c.Lease.Addr, port), netip.AddrPortFrom(netip.MustParseAddr(dst), port), []byte(dst))
			}
			for _, dst := range targets {
				send(t, c, datagram(dst))
			}
			send(t, c, datagram(gatewayVPN)) // behind the others, and allowed always
			for _, want := range append(test.allowed[:len(test.allowed):len(test.allowed)], gatewayVPN) {
				if got := received(5 * time.Second); string(got) != want {
					t.Fatalf("got a datagram to %q, want one to %q", got, want)
				}
			}
			n.counted(before, "drops", "denied", uint64(len(targets)-len(test.allowed)))
			n.alive()
		})
	}
}

// TestIsolate switches packets between clients off.
// exam: S4
func TestIsolate(t *testing.T) {
	t.Parallel()
	for _, isolate := range []bool{false, true} {
		t.Run(fmt.Sprint(isolate), func(t *testing.T) {
			n := newRawGateway(t, fmt.Sprintf("isolate = %t", isolate))
			clients := []*rawvpn.Client{
				n.joinRaw(rawvpn.Ask{}), n.joinRaw(rawvpn.Ask{}),
				n.joinRaw(rawvpn.Ask{Features: rawvpn.All}), n.joinRaw(rawvpn.Ask{Features: rawvpn.All}),
			}
			for _, from := range clients {
				for _, to := range clients {
					if from == to {
						continue
					}
					packet := rawvpn.Echo(from.Lease.Addr, to.Lease.Addr, 1, 1, nil)
					if err := from.SendIP(packet); err != nil {
						t.Fatal(err)
					}
					quiet(t, from, "the sender") // so the gateway has treated the packet
					items, err := to.Fence()
					if arrived := len(items) == 1 && bytes.Equal(items[0].Packet, packet); err != nil || arrived == isolate || len(items) > 1 {
						t.Errorf("%s to %s: got %v, %v", from.Lease.Addr, to.Lease.Addr, items, err)
					}
				}
				if _, err := from.Ping(gatewayAddr); err != nil {
					t.Error(err)
				}
			}
			if isolate {
				n.counted(report{}, "drops", "isolated", 12)
			}
			n.alive()
		})
	}
}

// TestNobody sends to an address of the pool that nobody has, with the longest life: not one copy comes
// to vpn0, where the kernel would send it back, again and again.
// exam: S5
func TestNobody(t *testing.T) {
	t.Parallel()
	n := newRawGateway(t)
	c := n.joinRaw(rawvpn.Ask{})
	packet := rawvpn.Datagram(netip.AddrPortFrom(c.Lease.Addr, 1), netip.AddrPortFrom(netip.MustParseAddr("10.0.9.9"), 2), nil)
	rawvpn.SetTTL(packet, 255)
	before := n.report()
	_, tx := n.tunCounters()
	n.nothingIn("from a client", func() {
		send(t, c, packet)
		quiet(t, c, "from a client")
	})
	if _, now := n.tunCounters(); now != tx {
		t.Errorf("vpn0 sent %d packets", now-tx)
	}
	n.counted(before, "drops", "unassigned", 1)
	n.nothingIn("from the gateway's host", func() {
		if answers(n.gw, "10.0.9.9") {
			t.Error("nobody answered a ping")
		}
	})
	n.counted(before, "drops", "unassigned", 2)
	n.alive()
}
