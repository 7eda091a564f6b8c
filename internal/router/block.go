package router

import "sync"

// Blocks come in two sizes, so that a few bytes for a peer that does not read do not hold the memory
// of a super-packet.
const (
	smallBlock = 4 << 10
	largeBlock = 64 << 10
)

type block struct {
	n    int  // bytes in use
	rest bool // of an item that was cut; it takes no more
	data []byte
}

var (
	smallBlocks = sync.Pool{New: func() any { return &block{data: make([]byte, smallBlock)} }}
	largeBlocks = sync.Pool{New: func() any { return &block{data: make([]byte, largeBlock)} }}
)

// newBlock returns an empty block for n bytes or a part of them.
func (b *Budget) newBlock(n int) *block {
	pool := &smallBlocks
	if n > smallBlock {
		pool = &largeBlocks
	}
	k := pool.Get().(*block)
	k.n, k.rest = 0, false
	b.add(len(k.data))
	return k
}

func (b *Budget) free(k *block) {
	b.add(-len(k.data))
	if len(k.data) == largeBlock {
		largeBlocks.Put(k)
	} else {
		smallBlocks.Put(k)
	}
}

func (k *block) room() int     { return len(k.data) - k.n }
func (k *block) bytes() []byte { return k.data[:k.n] }

func (k *block) append(b []byte) int {
	n := copy(k.data[k.n:], b)
	k.n += n
	return n
}
