package gateway

import (
	"testing"

	"pgregory.net/rapid"
)

// Each epoch is taken once, those too far behind not at all.
func TestEpochs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e epochs
		taken := map[uint64]bool{0: true} // that of the first connection
		highest := uint64(0)
		for range 300 {
			n := rapid.Uint64Range(highest-min(highest, 70), max(highest, highest+70)).Draw(t, "n")
			if rapid.IntRange(0, 20).Draw(t, "wild") == 0 {
				n = rapid.Uint64().Draw(t, "any")
			}
			want := n > highest || !taken[n] && highest-n < 64
			if got := e.take(n); got != want {
				t.Fatalf("epoch %d behind %d: taken %v, want %v", n, highest, got, want)
			}
			if want {
				taken[n] = true
			}
			highest = max(highest, n)
		}
	})
}
