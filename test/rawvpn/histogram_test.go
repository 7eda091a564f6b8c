package rawvpn

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestHistogram compares it with all durations, sorted.
func TestHistogram(t *testing.T) {
	var h histogram
	if h.percentile(99) != 0 {
		t.Errorf("of nothing: %s", h.percentile(99))
	}
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(rand.ExpFloat64() * float64(3*time.Millisecond))
		all = append(all, d)
		h.add(d)
	}
	slices.Sort(all)
	for _, p := range []float64{50, 99, 100} {
		want := all[min(int(p*float64(len(all))/100), len(all)-1)]
		got := h.percentile(p)
		if off := float64(got-want) / float64(want); off < -0.02 || off > 0.02 {
			t.Errorf("%g %%: got %s, want %s", p, got, want)
		}
	}
}
