package buffer

import (
	"math"
	"sync/atomic"
)

// A Budget bounds the memory of all queues together, or of some of them within another Budget. The less is left of
// it, the less one queue may hold, so that it is the large ones that find no more room, and whoever comes
// with little finds some (dynamic thresholds; Choudhury and Hahne, 1998). The zero value bounds nothing.
type Budget struct {
	Above *Budget // of which this one is a part; nil: none. Set before use
	limit atomic.Int64
	used  atomic.Int64
}

// SetLimit bounds the budget to n bytes; 0: to nothing. What waits already stays. It may be called at any
// time.
func (b *Budget) SetLimit(n int) { b.limit.Store(int64(n)) }

// Used returns the bytes that queues hold now.
func (b *Budget) Used() int { return int(b.used.Load()) }

// What one queue may hold of an empty budget: a part of it, but two super-packets.
const (
	shareOf  = 64
	minShare = 128 << 10
)

// Share returns how many bytes one queue may hold now.
func (b *Budget) Share() int {
	least := int64(math.MaxInt)
	for ; b != nil; b = b.Above {
		limit := b.limit.Load()
		if limit <= 0 {
			continue
		}
		whole := max(limit/shareOf, min(limit, minShare))
		free := max(limit-b.used.Load(), 0)
		least = min(least, int64(float64(whole)*float64(free)/float64(limit)))
	}
	return int(least)
}

// Add counts n bytes more, of memory that is not in blocks.
func (b *Budget) Add(n int) {
	for ; b != nil; b = b.Above {
		b.used.Add(int64(n))
	}
}
