package netns

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/internal/client"
	"ferry/test/lab"
)

// capture prints what passes an interface.
func capture(t *testing.T, ns *lab.Namespace, dev string, filter ...string) *lab.Proc {
	t.Helper()
	args := []string{"tcpdump", "-n", "-l", "-q", "-t", "--immediate-mode", "-i", dev}
	p, err := ns.Start(append(args, filter...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if _, err := p.Await("listening on", 0, patience); err != nil {
		if p.Count("Couldn't change to") > 0 { // in a user namespace there are no others
			t.Skip(p.Output())
		}
		t.Fatal(err)
	}
	return p
}

// TestFullTunnel routes everything of c1 into the tunnel. What leaves c1 beside the connection to the
// gateway would reach the Internet too, so a leak would be seen.
// exam: S14
func TestFullTunnel(t *testing.T) {
	t.Parallel()
	n := newGateway(t, "--nat")
	run(t, n.c1, "ip -6 route add default via fd00:101::1")
	leaks := capture(t, n.c1, "eth0", "(ip and not (tcp port 2002 and host "+gatewayC1+")) or host 2001:db8::1")
	inside := capture(t, n.lan, "eth0", "icmp")
	one := newClient(t, n.c1, "-s", gatewayC1, "--default-route")
	one.waitConnected()

	ping(t, n.c1, lanHost, 3)
	await(t, inside, "198.51.100.1 > "+lanHost, 0)
	if n := inside.Count("10.0."); n > 0 {
		t.Errorf("%d packets with an inner source in the Internet", n)
	}
	ping(t, n.c1, gatewayVPN, 1)
	transfer(t, n.c1, n.lan, lanHost, 2<<20, patience)
	if answers(n.c1, "2001:db8::1") {
		t.Error("IPv6 is answered")
	}

	n.srv.Kill()
	one.event(client.EventReconnecting, 0)
	if answers(n.c1, lanHost) {
		t.Error("the Internet is reached without a gateway")
	}
	n.startGateway(n.args...)
	one.event(client.EventConnected, 1)
	ping(t, n.c1, lanHost, 2)

	one.Kill() // the interface is gone, and what is left must block
	if answers(n.c1, lanHost) {
		t.Error("the Internet is reached past a tunnel that was killed")
	}
	one = newClient(t, n.c1, "-s", gatewayC1, "--default-route")
	one.waitConnected()
	ping(t, n.c1, lanHost, 1)
	if n := leaks.Count("IP"); n > 0 {
		t.Errorf("%d packets outside of the tunnel:\n%s", n, leaks.Output())
	}
	// The positive control: without the tunnel the capture sees the same pings.
	stop(t, one.Proc)
	ping(t, n.c1, lanHost, 1)
	_ = answers(n.c1, "2001:db8::1")
	await(t, leaks, "192.168.101.2 > "+lanHost, 0)
	await(t, leaks, "2001:db8::1", 0)
}

// TestClosedFromTheStart has a gateway that is away when the client starts, also after the client was killed:
// nothing leaks meanwhile, and after a clean stop all is open again.
// exam: S12
func TestClosedFromTheStart(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.settle()
	before := hostState(t, n.c1)
	ping(t, n.c1, lanHost, 1)
	for range 2 {
		one := newClient(t, n.c1, "-s", gatewayC1, "--default-route")
		one.event(client.EventReconnecting, 0)
		if answers(n.c1, lanHost) {
			t.Error("the Internet is reached before there is a tunnel")
		}
		ping(t, n.c1, gatewayC1, 1) // the LAN is spared
		one.Kill()
		if answers(n.c1, lanHost) {
			t.Error("the Internet is reached past a tunnel that was killed before it was there")
		}
	}
	one := newClient(t, n.c1, "-s", gatewayC1, "--default-route")
	one.event(client.EventReconnecting, 0)
	n.startGateway("--nat")
	one.waitConnected()
	ping(t, n.c1, lanHost, 1)
	stop(t, one.Proc)
	equalState(t, n.c1, before)
}

// TestFullTunnelMoves has a gateway that is at another address when it comes back, where it must not
// be sought inside of the tunnel.
func TestFullTunnelMoves(t *testing.T) {
	t.Parallel()
	hosts := filepath.Join(t.TempDir(), "hosts")
	writeFile(t, hosts, gatewayC1+" gw.test\n"+gatewayC2+" gw.test\n")
	n := newGateway(t, "--nat", "--listen", "tcp://"+gatewayC1+":2002")
	cli := []string{filepath.Join(bin, "vpncli"), "--json", "-s", "gw.test", "--default-route"}
	one := &device{start(t, n.c1, withFile(hosts, "/etc/hosts", cli...)...), t, n.c1}
	if e := one.event(client.EventConnected, 0); e.Server != gatewayC1+":2002" {
		t.Fatalf("connected to %s", e.Server)
	}
	stop(t, n.srv)
	n.startGateway("--nat", "--listen", "tcp://"+gatewayC2+":2002")
	if e := one.event(client.EventConnected, 1); e.Server != gatewayC2+":2002" {
		t.Errorf("connected to %s, want %s", e.Server, gatewayC2)
	}
	ping(t, n.c1, lanHost, 2)
}

// TestMovesIntoRoute has a gateway that comes back at an address which it had pushed a route for.
func TestMovesIntoRoute(t *testing.T) {
	t.Parallel()
	hosts := filepath.Join(t.TempDir(), "hosts")
	writeFile(t, hosts, gatewayC1+" gw.test\n"+gatewayC2+" gw.test\n")
	n := newGateway(t, "--push-route", "192.168.102.0/24", "--listen", "tcp://"+gatewayC1+":2002")
	cli := []string{filepath.Join(bin, "vpncli"), "--json", "-s", "gw.test"}
	one := &device{start(t, n.c1, withFile(hosts, "/etc/hosts", cli...)...), t, n.c1}
	one.event(client.EventConnected, 0)
	ping(t, n.c1, gatewayVPN, 1)
	stop(t, n.srv)
	n.startGateway("--push-route", "192.168.102.0/24", "--listen", "tcp://"+gatewayC2+":2002")
	if e := one.event(client.EventConnected, 1); e.Server != gatewayC2+":2002" {
		t.Errorf("connected to %s, want %s", e.Server, gatewayC2)
	}
	ping(t, n.c1, gatewayVPN, 2)
}

// TestFirewallFlushed has an administrator who restarts his firewall while there is a full tunnel, where the
// kernel wants answers to come by the way that packets go.
func TestFirewallFlushed(t *testing.T) {
	t.Parallel()
	n := newGateway(t, "--nat")
	run(t, n.c1, "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1")
	one := newClient(t, n.c1, "-s", gatewayC1, "--default-route")
	one.waitConnected()
	ping(t, n.c1, lanHost, 1)
	run(t, n.c1, "nft flush ruleset")
	n.srv.Kill()
	one.event(client.EventReconnecting, 0)
	n.startGateway(n.args...)
	one.event(client.EventConnected, 1)
	ping(t, n.c1, lanHost, 1)
}

// TestRouteOverServer routes a network into the tunnel which the gateway's own address is part of,
// and which is not that of a link.
func TestRouteOverServer(t *testing.T) {
	t.Parallel()
	n := newGateway(t)
	leaks := capture(t, n.c1, "eth0", "ip and not (tcp port 2002 and host "+gatewayC2+")")
	one := newClient(t, n.c1, "-s", gatewayC2, "--route", "192.168.102.0/24")
	a := one.waitConnected()
	seen := capture(t, n.c2, "eth0", "icmp")
	ping(t, n.c1, "192.168.102.2", 3)
	await(t, seen, a+" > 192.168.102.2", 0)
	transfer(t, n.c1, n.c2, "192.168.102.2", 1<<20, patience)
	n.srv.Kill()
	one.event(client.EventReconnecting, 0)
	n.startGateway(n.args...)
	one.event(client.EventConnected, 1)
	ping(t, n.c1, "192.168.102.2", 1)
	if n := leaks.Count("IP"); n > 0 {
		t.Errorf("%d packets outside of the tunnel:\n%s", n, leaks.Output())
	}
}

// TestPushed has a gateway that pushes a route and an MTU.
func TestPushed(t *testing.T) {
	t.Parallel()
	n := newGateway(t, "--push-route", "198.51.100.0/24", "--push-route", "203.0.113.0/24", "--mtu", "1400")
	run(t, n.lan, "ip route add 10.0.0.0/16 via 198.51.100.1")
	if e := newClient(t, n.c1, "-s", gatewayC1).event(client.EventConnected, 0); e.MTU != 1400 {
		t.Errorf("event: got MTU %d, want 1400", e.MTU)
	}
	newClient(t, n.c2, "-s", gatewayC2, "--accept-routes=false", "--mtu", "1300").waitConnected()
	for _, test := range []struct {
		ns     *lab.Namespace
		routes int
		mtu    string
	}{{n.c1, 2, "mtu 1400"}, {n.c2, 0, "mtu 1300"}} {
		routes := run(t, test.ns, "ip route show dev ferry0 proto 202")
		if got := strings.Count(routes, "\n"); got != test.routes {
			t.Errorf("%s: got %d routes, want %d: %s", test.ns.Name, got, test.routes, routes)
		}
		if link := run(t, test.ns, "ip link show dev ferry0"); !strings.Contains(link, test.mtu) {
			t.Errorf("%s: want %s: %s", test.ns.Name, test.mtu, link)
		}
	}
	seen := capture(t, n.lan, "eth0", "icmp")
	ping(t, n.c1, lanHost, 1)
	await(t, seen, "10.0.254.254 > "+lanHost, 0)
	ping(t, n.c2, lanHost, 1) // past the tunnel
	await(t, seen, "192.168.102.2 > "+lanHost, 0)
}

// TestNAT lets a client with a route, not with a full tunnel, out under the gateway's address.
func TestNAT(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	run(t, n.gw, "sysctl -qw net.ipv4.ip_forward=0")
	n.settle()
	before := hostState(t, n.gw)
	n.startGateway("--nat", "--push-route", "198.51.100.0/24")
	newClient(t, n.c1, "-s", gatewayC1).waitConnected()
	seen := capture(t, n.lan, "eth0", "net 10.0.0.0/8 or host 198.51.100.1")
	ping(t, n.c1, lanHost, 2)
	transfer(t, n.c1, n.lan, lanHost, 1<<20, patience)
	await(t, seen, "198.51.100.1 > "+lanHost, 0)
	if n := seen.Count("10.0."); n > 0 {
		t.Errorf("%d packets with an inner address in the LAN", n)
	}
	if hostState(t, n.gw) == before {
		t.Error("nothing can be compared: the state of the gateway is as before already")
	}
	stop(t, n.srv)
	equalState(t, n.gw, before)
}

// TestSite has a network behind a client: the gateway's file names it, the client forwards.
func TestSite(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	writeFile(t, file, "[sites]\n'172.20.0.0/16' = '10.0.3.7'\n")
	n := newGateway(t, "--config", file, "--push-route", "172.20.0.0/16")
	newClient(t, n.c1, "-s", gatewayC1, "-a", "10.0.3.7", "--accept-routes=false").waitConnected()
	run(t, n.c1, "ip address add 172.20.1.1/16 dev lo")
	newClient(t, n.c2, "-s", gatewayC2).waitConnected()
	for _, from := range []*lab.Namespace{n.gw, n.c2} {
		ping(t, from, "172.20.1.1", 2)
	}
	transfer(t, n.c2, n.c1, "172.20.1.1", 1<<20, 10*time.Second)
	if out, err := n.c1.Run(fmt.Sprintf("ping -n -q -c 1 -W 1 -I 172.20.1.1 %s", gatewayVPN)); err != nil {
		t.Errorf("from the site to the gateway: %v %s", err, out)
	}
}
