package netns

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/internal/client"
	"ferry/test/lab"
)

// The tests here have an attacker in the client's LAN, or a LAN that is one. What leaves c1 is seen on
// the router's side, and at the end of each the same packets leave it without a tunnel, so that a
// capture which sees nothing is known to see.

// strict makes a host check the way back of each packet, as hardened systems do.
func strict(t *testing.T, ns *lab.Namespace) {
	t.Helper()
	run(t, ns, "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1")
}

// dials tries a TCP connection from a process that has no mark.
func dials(ns *lab.Namespace, addr string) bool {
	return ns.Do(func() error {
		c, err := net.DialTimeout("tcp4", addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err
	}) == nil
}

// wantNone fails for each packet that a capture has seen.
func wantNone(t *testing.T, when string, p *lab.Proc) {
	t.Helper()
	if n := p.Count("IP"); n > 0 {
		t.Errorf("%s: %d packets outside of the tunnel:\n%s", when, n, p.Output())
	}
}

// TestTunnelVision is exam S12, S13 and S14: routes that the LAN brings take nothing out of the
// tunnel, and neither does a LAN that claims a public prefix; while there is no gateway nothing leaks
// either. A strict rp_filter is no hindrance.
// exam: S12
func TestTunnelVision(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	strict(t, n.c1)
	run(t, n.c1, "ip -6 route add default via fd00:101::1")
	n.settle()
	before := hostState(t, n.c1)
	n.startGateway("--nat")
	leaks := capture(t, n.gw, "eth1", "(ip and not (tcp port 2002 and host "+gatewayC1+")) or net 2001:db8::/32")
	one := newClient(t, n.c1, "-s", gatewayC1, "--default-route")
	one.waitConnected()
	ping(t, n.c1, lanHost, 1)

	attack := []string{
		"ip route %s 0.0.0.0/1 via " + gatewayC1, "ip route %s 128.0.0.0/1 via " + gatewayC1,
		"ip route %s " + lanHost + "/32 via " + gatewayC1, "ip route %s 10.0.0.0/24 via " + gatewayC1,
		"ip -6 route %s 2001:db8::/32 via fd00:101::1",
		"ip address %s 198.51.100.9/24 dev eth0", // the LAN is 198.51.100.0/24, it says
	}
	all := func(verb string) {
		for _, a := range attack {
			run(t, n.c1, fmt.Sprintf(a, verb))
		}
	}
	outside := func() (reached []string) {
		for _, a := range []string{lanHost, gatewayC1, "198.51.100.50", "2001:db8::1"} {
			if answers(n.c1, a) {
				reached = append(reached, a)
			}
		}
		return reached
	}
	all("add")
	ping(t, n.c1, lanHost, 2) // in the tunnel, or the capture tells
	ping(t, n.c1, gatewayVPN, 1)
	transfer(t, n.c1, n.lan, lanHost, 1<<20, patience)
	_ = outside()
	wantNone(t, "connected", leaks)

	n.srv.Kill()
	one.event(client.EventReconnecting, 0)
	if reached := outside(); len(reached) > 0 {
		t.Errorf("without a gateway: reached %s", reached)
	}
	wantNone(t, "without a gateway", leaks)
	n.startGateway(n.args...)
	one.event(client.EventConnected, 1)
	ping(t, n.c1, lanHost, 1)

	one.Kill()
	if reached := outside(); len(reached) > 0 {
		t.Errorf("after kill -9: reached %s", reached)
	}
	wantNone(t, "after kill -9", leaks)
	one = newClient(t, n.c1, "-s", gatewayC1, "--default-route")
	one.waitConnected()
	stop(t, one.Proc)
	_ = outside()
	await(t, leaks, "> "+lanHost, 0)
	await(t, leaks, "> "+gatewayC1, 0)
	await(t, leaks, "2001:db8::1", 0)
	all("del")
	equalState(t, n.c1, before)
}

// TestTunnelCrack is exam S13: the gateway's name leads to an address, and that address alone may be
// reached outside of the tunnel, by one socket alone.
// exam: S13
func TestTunnelCrack(t *testing.T) {
	t.Parallel()
	const server = "198.51.100.1"
	n := newGateway(t, "--nat")
	strict(t, n.c1)
	one := newClient(t, n.c1, "-s", server, "--default-route")
	one.waitConnected()
	leaks := capture(t, n.gw, "eth1", "host "+server+" and (not tcp port 2002 or tcp[tcpflags] & tcp-syn != 0)")
	try := func() { // each of them in clear, were it not for the tunnel
		_ = answers(n.c1, server)
		_ = dials(n.c1, server+":2002")
		_ = dials(n.c1, server+":80")
	}
	try()
	ping(t, n.c1, lanHost, 1)
	wantNone(t, "connected", leaks)
	stop(t, one.Proc)
	try()
	await(t, leaks, "ICMP", 0)
	await(t, leaks, "."+"80: tcp", 0)
	await(t, leaks, "2002: tcp", 0)
}

// TestAllowLAN has another host in a private network of c1, which a full tunnel spares unless it is
// told not to. The network may come and go meanwhile.
func TestAllowLAN(t *testing.T) {
	t.Parallel()
	n := newGateway(t, "--nat")
	const host, device = "192.168.110.1", "192.168.110.2"
	neighbour := n.beside(host+"/24", device+"/24")
	strict(t, n.c1)
	one := newClient(t, n.c1, "-s", gatewayC1, "--default-route")
	one.waitConnected()
	ping(t, neighbour, device, 1)
	ping(t, n.c1, host, 1)
	run(t, n.c1, "ip address del "+device+"/24 dev eth1")
	until(t, patience, "the network is closed", func() bool {
		return strings.Contains(run(t, n.c1, "ip route get "+host), "dev ferry0")
	})
	run(t, n.c1, "ip address add "+device+"/24 dev eth1")
	until(t, patience, "the network is open", func() bool {
		return strings.Contains(run(t, n.c1, "ip route get "+host), "dev eth1")
	})
	ping(t, neighbour, device, 1)
	stop(t, one.Proc)

	one = newClient(t, n.c1, "-s", gatewayC1, "--default-route", "--allow-lan=false")
	one.waitConnected()
	seen := capture(t, neighbour, "eth0", "src "+device)
	ping(t, n.c1, lanHost, 1)
	if answers(neighbour, device) || answers(n.c1, host) {
		t.Error("the LAN is reached, and was to be closed")
	}
	wantNone(t, "closed LAN", seen)
	stop(t, one.Proc)
	ping(t, neighbour, device, 1)
	await(t, seen, device, 0)
}

// TestGuard is exam S9: the address of the tunnel does not answer to the LAN, whatever is sent there.
// exam: S9
func TestGuard(t *testing.T) {
	t.Parallel()
	n := newGateway(t)
	const host, device = "192.168.110.1", "192.168.110.2"
	attacker := n.beside(host+"/24", device+"/24")
	one := newClient(t, n.c1, "-s", gatewayC1)
	inside := one.waitConnected()
	run(t, attacker, "ip route add 10.0.0.0/16 via "+device)
	seen := capture(t, attacker, "eth0", "src "+inside)
	attack := func() {
		_ = answers(attacker, inside)
		_ = dials(attacker, inside+":80")
		_ = attacker.Do(func() error {
			c, err := net.Dial("udp4", inside+":53")
			if err == nil {
				_, _ = c.Write([]byte("?"))
				_ = c.Close()
			}
			return err
		})
	}
	attack()
	wantNone(t, "guarded", seen)
	ping(t, n.gw, inside, 1) // the tunnel itself is free, and so is this host
	ping(t, n.c1, inside, 1)

	stop(t, one.Proc)
	run(t, n.c1, "ip address add "+inside+" dev lo") // the same address without a guard
	attack()
	await(t, seen, "ICMP echo reply", 0)
	await(t, seen, ".80 > ", 0)
	await(t, seen, "unreachable", 0)
}

// beside joins another host to c1: eth0 of it with an address, eth1 of c1 with another one.
func (n *network) beside(addr, device string) *lab.Namespace {
	n.t.Helper()
	ns, err := lab.NewNamespace("neighbour")
	if err != nil {
		unable(n.t, err)
	}
	n.t.Cleanup(func() { _ = ns.Close() })
	join(n.t, ns, "eth0", addr, n.c1, "eth1", device)
	return ns
}

// TestOuterPathMTU has a narrow link on the way to the gateway. The router's message about it is an
// answer to the marked socket too: a strict rp_filter must let it in, though everything else that
// comes from there is dropped.
func TestOuterPathMTU(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	strict(t, n.c1)
	run(t, n.gw, "ip link set lan0 mtu 1000") // the far side knows nothing of it
	server := start(t, n.lan, alone([]string{filepath.Join(bin, "vpnsrv"), "--state", n.state, "--listen", "tcp://:2002"})...)
	await(t, server, "msg=serving", 0)
	told := capture(t, n.c1, "eth0", "icmp[icmptype] == icmp-unreach")
	one := newClient(t, n.c1, "-s", lanHost, "--default-route", "--allow-lan=false")
	one.waitConnected()
	transfer(t, n.c1, n.lan, gatewayVPN, 1<<20, patience)
	await(t, told, "need to frag", 0)
	if answers(n.gw, "192.168.101.2") {
		t.Error("the LAN is reached, and was to be closed")
	}
}
