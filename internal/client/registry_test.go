package client

import (
	"slices"
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/failover"
)

// A carrier without a class would be preferred to all others, and one without a name could not be asked for.
func TestRegistry(t *testing.T) {
	for name, k := range carriers {
		if k.class == failover.ClassLocal && !slices.Contains([]string{"vsock", "unix"}, name) {
			t.Errorf("%s has no class", name)
		}
		if !slices.Contains(carrier.Names(), name) {
			t.Errorf("%s is not in carrier.Names, of which --carrier takes some", name)
		}
	}
}

// The zone of a gateway is looked for by a resolver, and where the gateway is.
func TestZoneOfGateway(t *testing.T) {
	var got []string
	for _, e := range on("gw.example", []string{"udp://:2002", "dns://t.example.org:5353", "later://:1"}) {
		got = append(got, e.String())
	}
	if want := []string{"udp://gw.example:2002", "dns://t.example.org", "dns://gw.example:5353/t.example.org"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
