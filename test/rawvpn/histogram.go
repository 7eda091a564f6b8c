package rawvpn

import (
	"math"
	"time"
)

// A histogram counts durations in steps of one percent from a microsecond on, whatever their number: a day of
// packets takes no more memory than a minute.
type histogram struct {
	steps [3000]uint64 // the last one ends at months
	n     uint64
	max   time.Duration
}

const step = 1.01

func (h *histogram) add(d time.Duration) {
	i := 0
	if us := float64(d) / float64(time.Microsecond); us > 1 {
		i = int(math.Log(us) / math.Log(step))
	}
	h.steps[min(i, len(h.steps)-1)]++
	h.n++
	h.max = max(h.max, d)
}

// percentile returns what p of 100 do not exceed, to one percent.
func (h *histogram) percentile(p float64) time.Duration {
	rank, seen := uint64(math.Ceil(float64(h.n)*p/100)), uint64(0)
	for i, n := range h.steps {
		if seen += n; seen >= rank && n > 0 {
			return min(h.max, time.Duration(math.Pow(step, float64(i+1))*float64(time.Microsecond)))
		}
	}
	return 0
}
