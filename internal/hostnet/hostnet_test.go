package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	gateway = State{
		Addr:       netip.MustParsePrefix("10.0.0.1/16"),
		MTU:        1400,
		TxQueueLen: 1000,
		Routes:     prefixes("172.20.0.0/24"),
		Masquerade: true,
	}
	client = State{
		Addr:   netip.MustParsePrefix("10.0.0.5/16"),
		MTU:    1400,
		Routes: prefixes("10.0.0.0/16", "10.0.7.0/24", "172.20.0.0/24", "172.20.0.7/24"),
	}
	outer = Outer{Mark: 0x2002, Table: 2002, Peers: addrs("198.51.100.1", "2001:db8:1::1")}

	fullTunnel = State{Addr: client.Addr, Routes: prefixes("0.0.0.0/0", "172.20.0.0/24"), Outer: outer, LocalNets: true, Guard: true}
	closed     = State{Addr: client.Addr, Routes: prefixes("0.0.0.0/0"), Outer: outer}
	covering   = State{Addr: client.Addr, Routes: prefixes("198.51.0.0/16", "172.20.0.0/24"), Outer: outer}
)

var states = map[string]State{
	"gateway": gateway, "client": client, "full tunnel": fullTunnel, "closed": closed, "covering": covering,
}

func TestApplyAndClose(t *testing.T) {
	if inNetns(t) {
		testApplyAndClose(t)
	}
}

func TestUserNamespace(t *testing.T) {
	if inNamespaces(t, unix.CLONE_NEWNET|unix.CLONE_NEWUSER) {
		testApplyAndClose(t)
	}
}

func testApplyAndClose(t *testing.T) {
	openTUN(t, "vpn0")
	before := snapshot(t)
	for name, s := range states {
		l := New("vpn0", nil)
		mustApply(t, l, s)
		once := snapshot(t)
		if once == before {
			t.Errorf("%s: Apply did nothing", name)
		}
		mustApply(t, l, s)
		wantSame(t, name+", applied twice", snapshot(t), once)
		mustClose(t, l)
		wantSame(t, name+", closed", snapshot(t), before)
		mustClose(t, l)
		wantSame(t, name+", closed twice", snapshot(t), before)
	}
}

func TestWhatIsMade(t *testing.T) {
	if !inNetns(t) {
		return
	}
	openTUN(t, "vpn0")
	for name, want := range map[string][]string{
		"gateway": {
			"mtu 1400", "qlen 1000", "inet 10.0.0.1/16 scope global vpn0",
			"10.0.0.0/16 dev vpn0 proto kernel scope link src 10.0.0.1",
			"172.20.0.0/24 dev vpn0 proto 202 scope link src 10.0.0.1",
			"table ip ferry-vpn0 {", "chain ip_forward_was_0 {",
			`ip saddr 10.0.0.0/16 oifname != "vpn0" oifname != "lo" masquerade`,
			`oifname "vpn0" tcp flags syn tcp option maxseg size set rt mtu`,
			"net.ipv4.ip_forward = 1",
		},
		"full tunnel": {
			"14005:	not from all fwmark 0x2002 lookup 2002 proto 202",
			"default dev vpn0 table 2002 proto 202 src 10.0.0.5",
			"10.0.0.0/16 dev vpn0 table 2002 proto 202 src 10.0.0.5",
			"172.20.0.0/24 dev vpn0 table 2002 proto 202 src 10.0.0.5",
			"198.51.100.1 dev vpn0 table 2002 proto 202",
			"unreachable 198.51.100.1 table 2002 proto 202",
			"unreachable 2001:db8:1::1 dev lo table 2002 proto 202",
			"unreachable default table 2002 proto 202",
			"unreachable default dev lo table 2002 proto 202",
			"throw fe80::/64 dev lo table 2002 proto 202",
			`iifname != "vpn0" iifname != "lo" ip daddr 10.0.0.5 drop`,
			"socket mark 0x00002002 meta mark set socket mark",
			"chain routing_table_2002 {", "table inet ferry-vpn0 {", "type filter hook output priority filter; policy drop;",
			`oifname "vpn0" accept`, `oifname "lo" accept`, "meta mark 0x00002002 accept",
			"udp sport 68 udp dport 67 accept", "udp sport 546 udp dport 547 accept", "accept\n\t\tip daddr 224.0.0.0/24 accept",
			"ip6 daddr fe80::/10 accept", "ip6 daddr ff02::/16 accept",
			"chain src_valid_mark_was_0 {", "net.ipv4.conf.all.src_valid_mark = 1",
			"default via 192.0.2.1 dev veth0 \n", // as it was
		},
		"covering": {
			"14004:	from all lookup main suppress_prefixlength 16 proto 202",
			"198.51.0.0/16 dev vpn0 table 2002 proto 202",
			"\n172.20.0.0/24 dev vpn0 proto 202",
			"14005:	not from all fwmark 0x2002 lookup 2002 proto 202",
			"socket mark 0x00002002 meta mark set socket mark",
		},
	} {
		l := New("vpn0", nil)
		mustApply(t, l, states[name])
		got := snapshot(t)
		for _, line := range want {
			if !strings.Contains(got, line) {
				t.Errorf("%s: %q is not in\n%s", name, line, got)
			}
		}
		if out, err := try("ip -6 addr show dev vpn0"); err != nil || strings.Contains(out, "inet6") {
			t.Errorf("%s: IPv6 on the TUN: %s %v", name, out, err)
		}
		mustClose(t, l)
	}
}

func TestRepair(t *testing.T) {
	if !inNetns(t) {
		return
	}
	tun := openTUN(t, "vpn0")
	both := fullTunnel
	both.Masquerade, both.MTU = true, 1400
	l := New("vpn0", nil)
	mustApply(t, l, both)
	want := snapshot(t)
	for _, broken := range []string{
		"ip link set vpn0 down",
		"ip link set vpn0 mtu 1280",
		"ip link set vpn0 mtu 1000", // takes the sysctls of IPv6 away
		"ip addr del 10.0.0.5/16 dev vpn0",
		"ip route del 10.0.0.0/16 dev vpn0",
		"ip route del 172.20.0.0/24 table 2002",
		"ip route flush table 2002",
		"ip rule del priority 14005",
		"ip -6 rule del priority 14005",
		"nft flush ruleset",
		"nft flush chain ip ferry-vpn0 postrouting",
		"nft flush chain ip ferry-vpn0 outer",
		"sysctl -qw net.ipv4.conf.all.src_valid_mark=0",
		"sysctl -qw net.ipv4.ip_forward=0",
	} {
		run(t, broken)
		if snapshot(t) == want {
			t.Errorf("%s: nothing broke", broken)
		}
		mustApply(t, l, both)
		wantSame(t, broken, snapshot(t), want)
	}

	tun.Close() // deletes the link
	wantRoute(t, "203.0.113.9", "No route to host")
	if err := l.Apply(both); !errors.Is(err, ErrNoLink) {
		t.Errorf("Apply without a link: got %v, want %v", err, ErrNoLink)
	}
	openTUN(t, "vpn0")
	mustApply(t, l, both)
	wantRoute(t, "203.0.113.9", "dev vpn0")
	mustClose(t, l)
}

func TestCloseWithoutLink(t *testing.T) {
	if !inNetns(t) {
		return
	}
	before := snapshot(t)
	tun := openTUN(t, "vpn0")
	l := New("vpn0", nil)
	full := fullTunnel
	full.Masquerade = true
	mustApply(t, l, full)
	tun.Close()
	mustClose(t, l)
	wantSame(t, "link gone, closed", snapshot(t), before)
}

func TestChange(t *testing.T) {
	if !inNetns(t) {
		return
	}
	openTUN(t, "vpn0")
	before := snapshot(t)
	other := fullTunnel
	other.Addr = netip.MustParsePrefix("10.0.0.9/16") // of the same prefix
	other.Outer.Table = 3003
	elsewhere := gateway
	elsewhere.Addr = netip.MustParsePrefix("10.99.0.1/24")
	narrow := elsewhere
	narrow.Masquerade, narrow.Routes = false, nil

	l := New("vpn0", nil)
	for i, s := range []State{client, fullTunnel, other, covering, elsewhere, narrow, gateway, client} {
		s.MTU, s.TxQueueLen = 1400, 1000 // a State leaves those it does not name
		mustApply(t, l, s)
		got := snapshot(t)
		mustClose(t, l)
		mustApply(t, l, s)
		wantSame(t, fmt.Sprintf("step %d", i), got, snapshot(t))
	}
	mustClose(t, l)
	wantSame(t, "closed", snapshot(t), before)
}

func TestForwardingIsHandedOver(t *testing.T) {
	if !inNetns(t) {
		return
	}
	openTUN(t, "vpn0")
	openTUN(t, "vpn1")
	second := gateway
	second.Addr, second.Routes = netip.MustParsePrefix("10.9.0.1/16"), nil
	l0, l1 := New("vpn0", nil), New("vpn1", nil)
	mustApply(t, l0, gateway)
	mustApply(t, l1, second)
	mustClose(t, l0)
	if got := snapshot(t); !strings.Contains(got, "net.ipv4.ip_forward = 1") {
		t.Error("the first of two turned forwarding off")
	}
	mustApply(t, l0, fullTunnel) // uses another switch, and is no heir
	mustClose(t, l1)
	if got := snapshot(t); !strings.Contains(got, "net.ipv4.ip_forward = 0") {
		t.Error("the last of two left forwarding on")
	}
	mustClose(t, l0)
	run(t, "sysctl -qw net.ipv4.ip_forward=1")
	mustApply(t, l0, gateway)
	mustClose(t, l0)
	if got := snapshot(t); !strings.Contains(got, "net.ipv4.ip_forward = 1") {
		t.Error("forwarding was on before, and is off")
	}
}

func TestOthersStayUntouched(t *testing.T) {
	if !inNetns(t) {
		return
	}
	openTUN(t, "vpn0")
	run(t, "ip route add 172.20.0.0/24 dev veth0",
		"ip rule add priority 14004 to 192.0.2.9 lookup main") // where a rule of ours would be
	before := snapshot(t)
	l := New("vpn0", nil)
	err := l.Apply(client)
	if err == nil || !strings.Contains(err.Error(), "add route 172.20.0.0/24 dev vpn0: another interface has it") {
		t.Errorf("route of another interface: got %v", err)
	}
	wantRoute(t, "172.20.0.1", "dev veth0")
	mustApply(t, l, State{Addr: client.Addr, Routes: prefixes("0.0.0.0/0"), Outer: outer})
	mustClose(t, l)
	wantSame(t, "closed", snapshot(t), before)
}

// A container may have /proc/sys read-only: what can be done without is, and the rest is told.
func TestReadOnlySysctls(t *testing.T) {
	if !inNamespaces(t, unix.CLONE_NEWNET|unix.CLONE_NEWNS) {
		return
	}
	run(t, "mount --make-rprivate /", "mount --bind /proc/sys /proc/sys", "mount -o remount,ro,bind /proc/sys")
	openTUN(t, "vpn0")
	before := snapshot(t)
	l := New("vpn0", nil)
	mustApply(t, l, fullTunnel)
	moved := fullTunnel
	moved.Addr = netip.MustParsePrefix("10.0.0.9/16") // goes with the old one, without promote_secondaries
	mustApply(t, l, moved)
	wantRoute(t, "203.0.113.9", "src 10.0.0.9")
	wantRoute(t, "10.0.3.3", "src 10.0.0.9")
	err := l.Apply(gateway)
	if want := "turn on net.ipv4.ip_forward: "; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
	mustClose(t, l)
	wantSame(t, "closed", snapshot(t), before)
}

// A process without rights is one in a user namespace that does not own its network namespace.
func TestNoRights(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		inNamespaces(t, unix.CLONE_NEWUSER)
		return
	}
	err := New("lo", nil).Apply(State{Addr: netip.MustParsePrefix("10.0.0.1/16"), MTU: 1400})
	if err == nil || !strings.Contains(err.Error(), "on lo: operation not permitted: run as root or with CAP_NET_ADMIN") {
		t.Errorf("got %v", err)
	}
}

func prefixes(list ...string) (ps []netip.Prefix) {
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func addrs(list ...string) (as []netip.Addr) {
	for _, s := range list {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}
