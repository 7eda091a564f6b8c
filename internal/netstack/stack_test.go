package netstack

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// A stack that can not have another address keeps the one that it has.
func TestMoveFails(t *testing.T) {
	s, err := newStack(newLink())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy()
	if err := errors.Join(move(s, netip.Addr{}, here), move(s, netip.Addr{}, mute)); err != nil {
		t.Fatal(err)
	}
	if err := move(s, here, mute); err == nil {
		t.Error("it has one address twice")
	}
	has := func(a netip.Addr) bool {
		return slices.ContainsFunc(s.AllAddresses()[nic], func(p tcpip.ProtocolAddress) bool { return p.AddressWithPrefix.Address == toStack(a) })
	}
	if !has(here) {
		t.Error("it has lost its address")
	}
	if err := move(s, here, outside); err != nil || has(here) || !has(outside) {
		t.Errorf("%v, or it has not moved", err)
	}
}
