package connectip

import (
	"net"
	"sync"

	"ferry/internal/carrier"
)

// inboxSize is how many bytes may wait to be read: enough that several packets are forwarded together. The longest packet fits.
const inboxSize = 64 << 10

type inboxBuffer [carrier.Headroom + inboxSize]byte

// inboxes has the memory for what waits to be read. One get (inbox.put), one put (inbox.giveBack).
var inboxes = sync.Pool{New: func() any { return new(inboxBuffer) }}

// An inbox has the items that have come and were not taken.
type inbox struct {
	mu     sync.Mutex // guards what follows
	change sync.Cond  // of anything
	buf    *inboxBuffer
	end    int   // in buf
	err    error // behind it
}

func (i *inbox) init() { i.change.L = &i.mu }

// put waits until there is room for an item. It returns false when nobody reads any more.
func (i *inbox) put(item []byte) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for i.err == nil && i.buf != nil && i.end+len(item) > len(i.buf) {
		i.change.Wait()
	}
	if i.err != nil {
		return false
	}
	if i.buf == nil {
		i.buf, i.end = inboxes.Get().(*inboxBuffer), carrier.Headroom
	}
	i.end += copy(i.buf[i.end:], item)
	i.change.Broadcast()
	return true
}

// finish says why nothing comes any more. The first cause counts.
func (i *inbox) finish(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err == nil {
		i.err = err
	}
	i.change.Broadcast()
}

// close ends all waiting, and throws away what waits.
func (i *inbox) close() {
	i.finish(net.ErrClosed)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.giveBack(i.buf)
	i.buf = nil
}

// take waits for items, and returns them with the memory that they are in, which goes back by giveBack.
func (i *inbox) take() (buf *inboxBuffer, end int, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for i.buf == nil && i.err == nil {
		i.change.Wait()
	}
	if i.buf == nil {
		return nil, 0, i.err
	}
	buf, end = i.buf, i.end
	i.buf = nil
	i.change.Broadcast()
	return buf, end, nil
}

func (i *inbox) giveBack(b *inboxBuffer) {
	if b != nil {
		inboxes.Put(b)
	}
}
