package quic

import (
	"errors"
	"io"

	"ferry/internal/carrier"
	"ferry/internal/proto"
)

// errNotOnStream is for items on the stream that are no words: the count of data items belongs to datagrams.
var errNotOnStream = errors.New("an item on the stream that belongs into a datagram")

// A window has the items that Fill has returned.
type window struct {
	buf        []byte               // nil: none
	pooled     *carrier.InboxBuffer // what buf is of; nil: memory of its own
	start, end int
}

// set replaces what was read by new items. What was not read stays before them.
func (w *window) set(b *carrier.InboxBuffer, end int) {
	if w.start < w.end { // seldom: who gets whole items consumes them
		rest := append(make([]byte, carrier.Headroom), w.buf[w.start:w.end]...)
		rest = append(rest, b[carrier.Headroom:end]...)
		w.release()
		b.Release()
		w.buf, w.start, w.end = rest, carrier.Headroom, len(rest)
		return
	}
	w.release()
	w.buf, w.pooled, w.start, w.end = b[:], b, carrier.Headroom, end
}

func (w *window) release() {
	w.pooled.Release()
	*w = window{}
}

// receiveDatagrams brings what comes in datagrams, until the connection ends.
func (l *Link) receiveDatagrams() {
	f := proto.Framer{FromServer: !l.server, Extended: true}
	for {
		d, err := l.conn.receive()
		if err != nil {
			l.inbox.Finish(meaning(err))
			return
		}
		l.received.count(len(d))
		if !l.inbox.Put(d[:wholeItems(f, d)]) {
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
	l.inbox.Finish(meaning(err))
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
		if !l.inbox.Put(buf[:whole]) {
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
