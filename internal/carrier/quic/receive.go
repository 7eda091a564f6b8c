package quic

import (
	"errors"
	"io"
	"sync"

	"ferry/internal/carrier"
	"ferry/internal/proto"
)

// inboxSize is how many bytes may wait to be read: enough that several datagrams are forwarded together.
const inboxSize = 128 << 10

// errNotOnStream is for items on the stream that are no words: the count of data items belongs to datagrams.
var errNotOnStream = errors.New("an item on the stream that belongs into a datagram")

type inboxBuffer [carrier.Headroom + inboxSize]byte

// inboxes has the memory for what waits to be read. One get (inbox.put), one put (window.release).
var inboxes = sync.Pool{New: func() any { return new(inboxBuffer) }}

// An inbox is what the two goroutines that receive have brought, and the one that calls Fill has not taken.
type inbox struct {
	mu     sync.Mutex // guards what follows
	change sync.Cond  // of anything
	buf    *inboxBuffer
	end    int   // in buf
	err    error // behind it
	closed bool
}

func (i *inbox) init() { i.change.L = &i.mu }

// put waits until there is room for whole items. It returns false when nobody reads any more.
func (i *inbox) put(items []byte) bool {
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
		i.buf, i.end = inboxes.Get().(*inboxBuffer), carrier.Headroom
	}
	i.end += copy(i.buf[i.end:], items)
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

// close ends all waiting.
func (i *inbox) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	i.change.Broadcast()
}

// take waits for items, and returns them with the memory that they are in.
func (i *inbox) take() (buf *inboxBuffer, end int, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for !i.closed && i.buf == nil && i.err == nil {
		i.change.Wait()
	}
	switch {
	case i.closed:
		return nil, 0, errClosed
	case i.buf == nil:
		return nil, 0, i.err
	}
	buf, end = i.buf, i.end
	i.buf = nil
	i.change.Broadcast()
	return buf, end, nil
}

// drain gives memory back that nobody will take.
func (i *inbox) drain() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.buf != nil {
		inboxes.Put(i.buf)
		i.buf = nil
	}
}

// A window has the items that Fill has returned.
type window struct {
	buf        []byte       // nil: none
	pooled     *inboxBuffer // what buf is of; nil: memory of its own
	start, end int
}

// set replaces what was read by new items. What was not read stays before them.
func (w *window) set(b *inboxBuffer, end int) {
	if w.start < w.end { // seldom: who gets whole items consumes them
		rest := append(make([]byte, carrier.Headroom), w.buf[w.start:w.end]...)
		rest = append(rest, b[carrier.Headroom:end]...)
		w.release()
		inboxes.Put(b)
		w.buf, w.start, w.end = rest, carrier.Headroom, len(rest)
		return
	}
	w.release()
	w.buf, w.pooled, w.start, w.end = b[:], b, carrier.Headroom, end
}

func (w *window) release() {
	if w.pooled != nil {
		inboxes.Put(w.pooled)
	}
	*w = window{}
}

// receiveDatagrams brings what comes in datagrams, until the connection ends.
func (l *Link) receiveDatagrams() {
	f := proto.Framer{FromServer: !l.server, Extended: true}
	for {
		d, err := l.conn.receive()
		if err != nil {
			l.inbox.finish(meaning(err))
			return
		}
		l.received.count(len(d))
		if !l.inbox.put(d[:wholeItems(f, d)]) {
			return
		}
	}
}

const (
	// firstWords has room for the items of most connections.
	firstWords = 512
	maxWord    = proto.FrameHeaderLen + proto.MaxControl
)

// receiveWords brings what comes on the stream, until the other end closes it or the connection ends.
func (l *Link) receiveWords() {
	err := l.readWords()
	l.inbox.finish(meaning(err))
	l.conn.close() // the end of the stream is the end of all, and who has said last words waits for this
}

func (l *Link) readWords() error {
	if l.server {
		if err := l.conn.accept(); err != nil {
			return err
		}
	}
	f := proto.Framer{FromServer: !l.server, Extended: true}
	buf := make([]byte, 0, firstWords)
	for {
		n, err := l.conn.stream.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		l.received.count(n)
		whole, itemErr := words(f, buf)
		if !l.inbox.put(buf[:whole]) {
			return errClosed
		}
		if err == nil {
			err = itemErr
		}
		if err == io.EOF && whole < len(buf) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		buf = buf[:copy(buf, buf[whole:])]
		if len(buf) >= maxWord {
			return errNotOnStream
		}
		if len(buf) == cap(buf) { // as long as what came, not as what was claimed
			buf = append(make([]byte, 0, min(2*cap(buf), maxWord)), buf...)
		}
	}
}

// words returns the length of the whole items at the start of b.
func words(f proto.Framer, b []byte) (n int, err error) {
	for n < len(b) {
		k, size, err := f.Next(b[n:])
		switch {
		case err != nil:
			return n, err
		case size == 0:
			return n, nil
		case k.Travel() != proto.TravelSurely:
			return n, errNotOnStream
		}
		n += size
	}
	return n, nil
}
