package gateway

import "testing"

func TestCrowd(t *testing.T) {
	var c crowd
	for i, step := range []struct {
		n    uint64
		want bool
	}{{0, false}, {499, false}, {499, false}, {500, false}, {500, true}, {500, false}, {1500, false}, {1600, false}, {1600, true}, {1601, false}} {
		if got := c.settled(step.n); got != step.want {
			t.Errorf("step %d, %d connections: got %v, want %v", i, step.n, got, step.want)
		}
	}
}
