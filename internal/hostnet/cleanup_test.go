package hostnet

import (
	"net/netip"
	"testing"
)

// What kill -9 leaves: the link goes with its descriptor, and everything else stays.
func TestCleanUp(t *testing.T) {
	if !inNetns(t) {
		return
	}
	full := fullTunnel
	full.Masquerade = true
	alive := gateway
	alive.Addr = netip.MustParsePrefix("10.9.0.1/16")
	alive.Routes = prefixes("198.51.0.0/16")
	alive.Outer = Outer{Mark: 0x3003, Table: 3003, Peers: outer.Peers}

	before := snapshot(t)
	for name, s := range map[string]State{"vpn0": full, "renamed": covering} { // the dead one's name, or a new one
		tun := openTUN(t, "vpn0")
		mustApply(t, New("vpn0", nil), s)
		tun.Close()
		if err := CleanUp(name, true, nil); err != nil {
			t.Errorf("CleanUp: %v", err)
		}
		wantSame(t, "cleaned up as "+name, snapshot(t), before)
	}
	for _, s := range []State{full, {Routes: full.Routes, Outer: outer}} { // also one that was never connected
		tun := openTUN(t, "vpn0")
		mustApply(t, New("vpn0", nil), s)
		if s.Addr.IsValid() {
			tun.Close()
		}
		left := snapshot(t)
		if err := CleanUp("other", true, nil); err != nil {
			t.Errorf("CleanUp: %v", err)
		}
		wantSame(t, "another's full tunnel", snapshot(t), left)
		wantRoute(t, "203.0.113.9", "No route to host")
		tun.Close()
		if err := CleanUp("vpn0", true, nil); err != nil {
			t.Errorf("CleanUp: %v", err)
		}
		wantSame(t, "cleaned up by its own", snapshot(t), before)
	}

	openTUN(t, "vpn1")
	l := New("vpn1", nil)
	mustApply(t, l, alive)
	aside := snapshot(t)
	mustApply(t, l, alive)
	openTUN(t, "vpn0") // as a new process does before it cleans up
	mustApply(t, New("vpn0", nil), full)
	if err := CleanUp("vpn0", true, nil); err != nil {
		t.Errorf("CleanUp: %v", err)
	}
	run(t, "ip link del vpn0")
	wantSame(t, "another one lives", snapshot(t), aside)
	mustClose(t, l)
	run(t, "ip link del vpn1")
	wantSame(t, "that one closed", snapshot(t), before)
}
