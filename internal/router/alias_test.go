package router

import (
	"net/netip"
	"testing"

	"ferry/internal/packet"
	"ferry/internal/policy"
)

// An address of the pool that stands for something behind the exit: packets for it go out there and come from there, as far as the policy lets them, also where clients do not
// reach each other. No client can have it as a source.
func TestAlias(t *testing.T) {
	const alias = "10.0.0.254"
	exit := NewPort(0, Caps{Super: true, Exit: true}, new(sink))
	guest := NewPort(1, Caps{}, new(sink))
	guest.Guest = true
	s, err := NewSwitch(SwitchConfig{Pool: pool, Gateway: gateway, Exit: exit, Isolate: true, Alias: []netip.Addr{netip.MustParseAddr(alias)}})
	if err != nil {
		t.Fatal(err)
	}
	s.Bind(guest, netip.MustParseAddr(addrA))
	check := func(what string, from *Port, src, dst string, to *Port, why Reason) {
		t.Helper()
		if got, reason := s.Route(from, packet.IPv4(udp(28, src, dst, false))); got != to || reason != why {
			t.Errorf("%s: got %v, %v, want %v, %v", what, got, reason, to, why)
		}
	}
	check("out", guest, addrA, alias, exit, None)
	check("back", exit, alias, addrA, guest, None)
	check("back from another", exit, addrB, addrA, nil, DropSource)
	check("as a client's source", guest, alias, "192.0.2.1", nil, DropSource)
	check("from the exit to it", exit, "192.0.2.1", alias, nil, DropHairpin)
	check("a neighbour", guest, addrA, "10.0.0.253", nil, DropUnassigned)
	s.SetEgress(nil, []policy.Target{{Prefix: netip.MustParsePrefix(alias + "/32")}})
	check("denied", guest, addrA, alias, nil, DropDenied)
	for _, bad := range []string{"192.0.2.1", gateway.String()} {
		if _, err := NewSwitch(SwitchConfig{Pool: pool, Gateway: gateway, Exit: exit, Alias: []netip.Addr{netip.MustParseAddr(bad)}}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
