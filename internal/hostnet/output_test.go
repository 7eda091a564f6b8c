package hostnet

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// What a LAN may have, what is cut out of it, and what is let to another full tunnel.
func TestOutput(t *testing.T) {
	if !inNetns(t) {
		return
	}
	run(t, "ip addr add 192.168.77.2/24 dev veth0", "ip addr add fd77::2/64 dev veth0 nodad")
	for range 1000 { // the kernel makes its route a moment later
		if out, _ := exec.Command("ip", "-6", "route", "show", "table", "local").Output(); strings.Contains(string(out), "fd77::2") {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	before := snapshot(t)
	tun, second := openTUN(t, "vpn0"), openTUN(t, "vpn1")
	l0, l1 := New("vpn0", nil), New("vpn1", nil)
	s := fullTunnel
	s.Outer.Peers = addrs("192.168.77.1", "fd77::1")
	mustApply(t, l0, s)
	other := State{Routes: fullTunnel.Routes, Outer: Outer{Mark: outer.Mark, Table: 2003}}
	mustApply(t, l1, other)
	rules := func(link string) string {
		out, err := try("nft list table inet ferry-" + link)
		if err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		return out
	}
	first := rules("vpn0")
	for _, want := range []string{
		"ip daddr 192.168.77.1 drop", "ip6 daddr fd77::1 drop", `oif "veth0" ip daddr 192.168.77.0/24 accept`, `oif "veth0" ip6 daddr fd77::/64 accept`,
	} {
		if !strings.Contains(first, want) {
			t.Errorf("%q is not in\n%s", want, first)
		}
	}
	if strings.Index(first, "192.168.77.1 drop") > strings.Index(first, "192.168.77.0/24 accept") {
		t.Errorf("the LAN has what is in the tunnel:\n%s", first)
	}
	if got := rules("vpn1"); !strings.Contains(got, `oifname "vpn0" accept`) || strings.Contains(got, "192.168.77") || strings.Contains(got, "fe80") {
		t.Errorf("closed, beside another full tunnel:\n%s", got)
	}

	for i := range maxLocal - 4 { // beside two networks and two servers
		s.Routes = append(s.Routes, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 77, byte(i + 10)}), 32))
	}
	mustApply(t, l0, s)
	if got := rules("vpn0"); strings.Count(got, " drop\n") != maxLocal-2 {
		t.Errorf("as many routes inside of the LAN as there may be:\n%s", got)
	}
	for i := range 2000 { // a gateway must not be able to make the table too large
		s.Routes = append(s.Routes, netip.MustParsePrefix(fmt.Sprintf("192.168.%d.%d/32", 77, i%256)))
	}
	mustApply(t, l0, s)
	if got := rules("vpn0"); strings.Contains(got, "192.168.77") || !strings.Contains(got, "policy drop") {
		t.Errorf("with many routes inside of the LAN:\n%s", got)
	}
	if err := l1.Apply(State{Routes: other.Routes, Outer: outer}); err == nil || !strings.Contains(err.Error(), "used by the tunnel of vpn0: choose another --table") {
		t.Errorf("the table of another: got %v", err)
	}
	mustClose(t, l1)
	wantRoute(t, "203.0.113.9", "dev vpn0")
	mustClose(t, l0)
	tun.Close()
	second.Close()
	wantSame(t, "closed", snapshot(t), before)
}
