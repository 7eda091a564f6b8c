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
	wantRoute(t, "192.0.2.77", "dev veth0")
	wantRoute(t, "2001:db8:9::9", "No route to host")
	wantRoute(t, "2001:db8::77", "dev veth0")
	wantRoute(t, "2001:db8:9::9 mark 0x2002", "via 2001:db8::1 dev veth0")
	// a strict rp_filter takes the answers of the server, and of nobody else
	wantRoute(t, "192.0.2.2 from 198.51.100.1 iif veth0", "local 192.0.2.2 from 198.51.100.1")
	wantRoute(t, "192.0.2.2 from 203.0.113.9 iif veth0", "RTNETLINK answers: ")

	run(t, "ip link set vpn0 down") // exam S12, F9: blocked, not leaked
	wantRoute(t, "203.0.113.9", "No route to host")
	mustClose(t, l)
	wantRoute(t, "203.0.113.9", "dev veth0")
	wantRoute(t, "2001:db8:9::9", "dev veth0")
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
	wantRoute(t, "192.0.2.2 from 198.51.100.1 iif veth0", "local 192.0.2.2 from 198.51.100.1")
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
