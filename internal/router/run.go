package router

import (
	"time"

	"ferry/internal/buffer"
	"ferry/internal/proto"
)

// Run writes what waits, until Close or Finish. It returns the error of the stream, or nil.
func (q *Queue) Run() error {
	for {
		select {
		case <-q.wake:
		case <-q.done:
			return nil
		}
		if err := q.drain(); err != nil {
			return err
		}
		if q.finished() {
			q.Close()
			return nil
		}
	}
}

func (q *Queue) finished() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.last && !q.writing && !q.waiting()
}

// drain writes what waits until nothing is left.
func (q *Queue) drain() error {
	defer q.blocked.Store(0)
	for {
		b, more := q.take()
		if !more {
			return nil
		}
		q.progress()
		err := q.write(b)
		q.wrote(b)
		if err != nil {
			return err
		}
	}
}

// take makes Run the one who writes and returns the first block, or nil where only the stream has
// something left.
func (q *Queue) take() (b *buffer.Block, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.writing || !q.waiting() {
		return nil, false
	}
	q.writing = true
	if len(q.blocks) == 0 {
		return nil, true
	}
	b = q.blocks[0]
	q.blocks = q.blocks[1:]
	if len(q.blocks) == 0 {
		q.blocks = nil
	}
	return b, true
}

// wrote ends what take has begun.
func (q *Queue) wrote(b *buffer.Block) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writing = false
	q.hold(q.s.Held())
	if b != nil {
		q.c.Budget.Free(b)
	}
}

// took notes that the stream took n bytes of a block.
func (q *Queue) took(n int) {
	q.grain.Store(int32(q.s.Grain()))
	q.mu.Lock()
	q.bytes -= n
	q.lately.add(n, time.Now())
	room := q.onRoom
	q.mu.Unlock()
	notify(q.less)
	if room != nil {
		room()
	}
}

func (q *Queue) progress() { q.blocked.Store(int64(time.Since(q.start)) + 1) }

// write writes a block, in pieces if the stream is slow.
func (q *Queue) write(k *buffer.Block) error {
	if k == nil {
		return q.s.Write(nil, q.onProgress)
	}
	for b := k.Bytes(); len(b) > 0; {
		n := q.piece(b, k.Sealed)
		if err := q.s.Write(b[:n], q.onProgress); err != nil {
			return err
		}
		b = b[n:]
		q.took(n)
	}
	return nil
}

// piece returns how much of b goes into one write.
func (q *Queue) piece(b []byte, cut bool) int {
	grain := int(q.grain.Load())
	switch {
	case q.onePerWrite.Load() && !cut:
		return proto.ItemLen(b)
	case grain == 0 || grain >= len(b):
		return len(b)
	case q.whole:
		return max(proto.WholeItems(b, grain), proto.ItemLen(b))
	}
	return grain
}
