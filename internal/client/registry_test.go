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
