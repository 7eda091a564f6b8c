package client

import (
	"slices"
	"testing"

	"ferry/internal/carrier"
)

// A carrier without a class would be preferred to all others, and one without a name could not be asked for.
func TestRegistry(t *testing.T) {
	for name := range carriers {
		if _, ok := classes[name]; !ok {
			t.Errorf("%s has no class: ways.go", name)
		}
		if !slices.Contains(carrier.Names(), name) {
			t.Errorf("%s is not in carrier.Schemes, of which --carrier takes names", name)
		}
	}
}
