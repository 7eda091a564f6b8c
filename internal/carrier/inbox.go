package carrier

import (
	"net"
	"sync"
)

// InboxSize is how many bytes may wait in an Inbox: enough that several packets are forwarded together. The longest item fits.
const InboxSize = 128 << 10

// An InboxBuffer has Headroom bytes before the items of an Inbox.
type InboxBuffer [Headroom + InboxSize]byte

// inboxes has the memory for what waits in all of them. One get (Inbox.Put), one put (InboxBuffer.Release).
var inboxes = sync.Pool{New: func() any { return new(InboxBuffer) }}

// An Inbox is what the goroutines that receive for a Link have brought, and the one that calls Fill has not taken. It has memory
// only while something waits. Init comes first.
type Inbox struct {
	mu     sync.Mutex // guards what follows
	change sync.Cond  // of anything
	buf    *InboxBuffer
	end    int   // in buf
	err    error // behind it
	closed bool
}

// Init makes the Inbox ready.
func (i *Inbox) Init() { i.change.L = &i.mu }

// Put waits until there is room for whole items, InboxSize bytes at most. It returns false when the Inbox is closed.
func (i *Inbox) Put(items []byte) bool {
	if len(items) == 0 {
		return true
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for !i.closed && i.buf != nil && i.end+len(items) > len(i.buf) {
		i.change.Wait()
	}
	if i.closed {
		return false
	}
	if i.buf == nil {
		i.buf, i.end = inboxes.Get().(*InboxBuffer), Headroom
	}
	i.end += copy(i.buf[i.end:], items)
	i.change.Broadcast()
	return true
}

// Finish says why nothing comes any more. The first cause counts.
func (i *Inbox) Finish(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err == nil {
		i.err = err
	}
	i.change.Broadcast()
}

// Close ends all waiting, and throws away what waits. It is idempotent.
func (i *Inbox) Close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	i.buf.Release()
	i.buf = nil
	i.change.Broadcast()
}

// Take waits for items, and returns the buffer that they are in, which the caller releases, with the index behind the last one.
// The error is what Finish was told, or net.ErrClosed.
func (i *Inbox) Take() (buf *InboxBuffer, end int, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for !i.closed && i.buf == nil && i.err == nil {
		i.change.Wait()
	}
	switch {
	case i.closed:
		return nil, 0, net.ErrClosed
	case i.buf == nil:
		return nil, 0, i.err
	}
	buf, end = i.buf, i.end
	i.buf = nil
	i.change.Broadcast()
	return buf, end, nil
}

// Len returns how many bytes wait. With none the Inbox holds no memory.
func (i *Inbox) Len() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.buf == nil {
		return 0
	}
	return i.end - Headroom
}

// Release gives a buffer back; nil is none.
func (b *InboxBuffer) Release() {
	if b != nil {
		inboxes.Put(b)
	}
}
