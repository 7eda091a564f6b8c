// Package buffer has the memory for what waits: blocks, bounded by budgets that many queues share.
package buffer

import "sync"

// Blocks come in two sizes, so that a few bytes for a peer that does not read do not hold the memory
// of a super-packet. The larger one takes any data frame whole.
const (
	smallBlock = 4 << 10
	largeBlock = 68 << 10
)

// A Block is a piece of memory that is filled from its start. It belongs to who got it from New until Free.
type Block struct {
	Sealed bool // takes no more
	n      int  // bytes in use
	data   []byte
}

var (
	smallBlocks = sync.Pool{New: func() any { return &Block{data: make([]byte, smallBlock)} }}
	largeBlocks = sync.Pool{New: func() any { return &Block{data: make([]byte, largeBlock)} }}
)

// New returns an empty block for n bytes or a part of them.
func (b *Budget) New(n int) *Block {
	pool := &smallBlocks
	if n > smallBlock {
		pool = &largeBlocks
	}
	k := pool.Get().(*Block)
	k.n, k.Sealed = 0, false
	b.Add(len(k.data))
	return k
}

// Free takes a block of New back. Nobody uses it any more.
func (b *Budget) Free(k *Block) {
	b.Add(-len(k.data))
	if len(k.data) == largeBlock {
		largeBlocks.Put(k)
	} else {
		smallBlocks.Put(k)
	}
}

// Len returns how many bytes are in use.
func (k *Block) Len() int { return k.n }

// Cap returns how many bytes of memory k takes.
func (k *Block) Cap() int { return len(k.data) }

// Room returns how many bytes more it takes.
func (k *Block) Room() int {
	if k.Sealed {
		return 0
	}
	return len(k.data) - k.n
}

// Bytes returns what is in it.
func (k *Block) Bytes() []byte { return k.data[:k.n] }

// Append takes what there is room for of b, and returns how many bytes that is.
func (k *Block) Append(b []byte) int {
	n := copy(k.data[k.n:], b)
	k.n += n
	return n
}
