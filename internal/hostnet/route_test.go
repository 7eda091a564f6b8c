package hostnet

import (
	"testing"
)

// Exam S13, S14: what leaves by which interface.
func TestFullTunnel(t *testing.T) {
	if !inNetns(t) {
		return
	}
	openTUN(t, "vpn0")
	run(t, "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.veth0.rp_filter=1")
	l := New("vpn0", nil)
	mustApply(t, l, fullTunnel)
	wantRoute(t, "203.0.113.9", "dev vpn0")
	wantRoute(t, "172.20.0.1", "dev vpn0")
	wantRoute(t, "203.0.113.9 mark 0x2002", "via 192.0.2.1 dev veth0")
	wantRoute(t, "198.51.100.1 mark 0x2002", "via 192.0.2.1 dev veth0")
	wantRoute(t, "198.51.100.1", "dev vpn0") // its own address too, without the mark
	wantRoute(t, "192.0.2.77", "dev vpn0")   // a LAN that has a public prefix
	wantRoute(t, "2001:db8:9::9", "No route to host")
	wantRoute(t, "2001:db8::77", "No route to host")
	wantRoute(t, "2001:db8:9::9 mark 0x2002", "via 2001:db8::1 dev veth0")
	// a strict rp_filter takes the answers to the marked socket, and nothing else
	wantRoute(t, "192.0.2.2 from 198.51.100.1 mark 0x2002 iif veth0", "local 192.0.2.2 from 198.51.100.1")
	wantRoute(t, "192.0.2.2 from 198.51.100.1 iif veth0", "RTNETLINK answers: ")

	// Exam S12: routes that a DHCP server or an attacker brings.
	run(t, "ip route add 0.0.0.0/1 via 192.0.2.1", "ip route add 203.0.113.9/32 via 192.0.2.66",
		"ip route add 203.0.113.0/24 dev veth0", "ip -6 route add 2001:db8:9::/48 via fe80::1 dev veth0")
	wantRoute(t, "203.0.113.9", "dev vpn0")
	wantRoute(t, "203.0.113.10", "dev vpn0")
	wantRoute(t, "8.8.8.8", "dev vpn0")
	wantRoute(t, "2001:db8:9::9", "No route to host")
	// Who manages the LAN can, as before.
	for _, c := range []string{"ip route replace default via 192.0.2.1 dev veth0", "ip route add 198.18.0.0/15 via 192.0.2.1"} {
		run(t, c)
	}
	wantRoute(t, "198.18.0.1 mark 0x2002", "via 192.0.2.1 dev veth0")
	run(t, "ip route del 203.0.113.9", "ip route del 203.0.113.0/24", "ip route del 0.0.0.0/1")

	run(t, "ip link set vpn0 down") // exam S12, F9: blocked, not leaked
	wantRoute(t, "203.0.113.9", "No route to host")
	mustClose(t, l)
	wantRoute(t, "203.0.113.9", "dev veth0")
	wantRoute(t, "2001:db8:9::1234", "dev veth0")
}

// Private networks of this host stay reachable beside a full tunnel, if that is wanted, and only what
// is one: neither what the tunnel routes itself nor what a router is said to reach.
func TestLocalNets(t *testing.T) {
	if !inNetns(t) {
		return
	}
	run(t, "ip addr add 192.168.77.2/24 dev veth0", "ip addr add fd77::2/64 dev veth0 nodad",
		"ip addr add 10.0.9.2/24 dev veth0",                                          // inside of the tunnel's own prefix
		"ip addr add 172.20.0.2/26 dev veth0", "ip addr add 172.16.0.2/12 dev veth0", // inside of a route, and around it
		"ip route add 192.168.88.0/24 via 192.168.77.9", "ip route add 192.168.89.0/24 dev veth0")
	before := snapshot(t)
	tun := openTUN(t, "vpn0")
	l := New("vpn0", nil)
	s := fullTunnel
	s.Outer.Peers = addrs("192.168.77.1") // the server is in the LAN
	mustApply(t, l, s)
	for query, want := range map[string]string{
		"192.168.77.9": "dev veth0 table 2002 src 192.168.77.2",
		"192.168.77.1": "dev vpn0",
		"fd77::9":      "dev veth0",
		"172.17.0.1":   "dev veth0",
		"172.20.0.9":   "dev vpn0",
		"10.0.9.9":     "dev vpn0",
		"192.168.88.1": "dev vpn0",
		"192.168.89.1": "dev vpn0",
		"192.168.77.2 from 192.168.77.9 iif veth0": "local 192.168.77.2",
	} {
		wantRoute(t, query, want)
	}
	tun.Close() // what the LAN could not have is not given to it now
	for _, a := range []string{"192.168.77.1", "172.20.0.9", "10.0.9.9", "192.168.88.1", "8.8.8.8"} {
		wantRoute(t, a, "No route to host")
	}
	wantRoute(t, "192.168.77.9", "dev veth0")
	if err := CleanUp("vpn0", true, nil); err != nil {
		t.Error(err)
	}
	wantSame(t, "cleaned up", snapshot(t), before)

	openTUN(t, "vpn0")
	mustApply(t, l, s)
	run(t, "ip addr del 192.168.77.2/24 dev veth0")
	mustApply(t, l, s) // as after the event LocalNets
	wantRoute(t, "192.168.77.9", "dev vpn0")
	s.LocalNets = false
	mustApply(t, l, s)
	wantRoute(t, "172.17.0.1", "dev vpn0")
	wantRoute(t, "fd77::9", "No route to host")
	mustClose(t, l)
}

// A route may contain the server; and a network that leads to the server may contain the route.
func TestRouteContainsServer(t *testing.T) {
	if !inNetns(t) {
		return
	}
	openTUN(t, "vpn0")
	run(t, "ip route add 198.0.0.0/8 via 192.0.2.3", // the way to the server, wider than the route
		"ip route add 198.51.7.0/24 via 192.0.2.4", // narrower: stays outside
		"sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.veth0.rp_filter=1")
	l := New("vpn0", nil)
	mustApply(t, l, covering)
	wantRoute(t, "198.51.9.9", "dev vpn0")
	wantRoute(t, "198.51.100.1 mark 0x2002", "via 192.0.2.3 dev veth0")
	wantRoute(t, "198.51.7.7", "via 192.0.2.4 dev veth0")
	wantRoute(t, "198.9.9.9", "via 192.0.2.3 dev veth0")
	wantRoute(t, "203.0.113.9", "via 192.0.2.1 dev veth0")
	wantRoute(t, "2001:db8:9::9", "dev veth0")
	wantRoute(t, "192.0.2.2 from 198.51.100.1 mark 0x2002 iif veth0", "local 192.0.2.2 from 198.51.100.1")
	mustClose(t, l)
	wantRoute(t, "198.51.9.9", "via 192.0.2.3 dev veth0")
}

// A host that has IPv6 turned off must still get its full tunnel.
func TestFullTunnelWithIPv6Off(t *testing.T) {
	if !inNetns(t) {
		return
	}
	run(t, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
	openTUN(t, "vpn0")
	before := snapshot(t)
	l := New("vpn0", nil)
	mustApply(t, l, fullTunnel)
	wantRoute(t, "203.0.113.9", "dev vpn0")
	mustClose(t, l)
	wantSame(t, "closed", snapshot(t), before)
}
