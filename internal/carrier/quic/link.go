package quic

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/proto"
)

// lingerTime is how long a link that is closed waits until the other end has read last words.
const lingerTime = 500 * time.Millisecond

var errClosed = net.ErrClosed

// A Link is a connection over QUIC.
type Link struct {
	server bool
	conn   *conn
	socket *socket
	start  time.Time // has the monotonic clock

	sender sender
	pace   carrier.Pace // of the goroutine that writes
	inbox  carrier.Inbox
	out    window // of the goroutine that reads

	received, sent tally

	receivers sync.WaitGroup
	closing   chan struct{} // closed by Close
	closeOnce sync.Once
}

var _ carrier.Link = (*Link)(nil)

// A tally counts bytes and knows when the last ones passed.
type tally struct {
	link  *Link
	bytes atomic.Uint64
	last  atomic.Int64 // nanoseconds since start
}

func (t *tally) count(n int) {
	if n > 0 {
		t.bytes.Add(uint64(n))
		t.last.Store(int64(time.Since(t.link.start)))
	}
}

func (t *tally) when() time.Time { return t.link.start.Add(time.Duration(t.last.Load())) }

// newLink begins to receive. The link takes over the use of the socket.
func newLink(c *conn, s *socket, server bool) *Link {
	l := &Link{server: server, conn: c, socket: s, start: time.Now(), closing: make(chan struct{})}
	l.received.link, l.sent.link = l, l
	l.inbox.Init()
	l.sender.init(l, c.limit(make([]byte, tooLong)))
	l.receivers.Go(l.receiveDatagrams)
	l.receivers.Go(l.receiveWords)
	return l
}

// RemoteAddr returns the address of the other end, an Addr. That of a client may change.
func (l *Link) RemoteAddr() net.Addr { return l.conn.remote() }

// Max returns the length of the longest item that one datagram takes now, with its number. It grows while more is found out
// about the path, and falls to that of the smallest packets for a moment when the address of a client changes; what is longer
// than that when it is sent goes in fragments.
func (l *Link) Max() int {
	l.sender.setLimit(l.conn.limit(make([]byte, tooLong)))
	return int(l.sender.limit.Load()) - proto.NumberLen
}

// Received returns the bytes of the items, and of their numbers, that came.
func (l *Link) Received() uint64 { return l.received.bytes.Load() }

// Sent returns the bytes of the items, and of their numbers, that the library took.
func (l *Link) Sent() uint64 { return l.sent.bytes.Load() }

// LastReceived returns when the last items came; at first, when the link was made.
func (l *Link) LastReceived() time.Time { return l.received.when() }

// LastSent returns when the library took the last items; at first, when the link was made.
func (l *Link) LastSent() time.Time { return l.sent.when() }

// Dropped returns how many items were not sent because no datagram takes them: a ping that is too long, or what was on its
// way when the path became narrower.
func (l *Link) Dropped() uint64 { return l.sender.dropped.Load() }

// Fill waits until more items have come and returns all that are unread: buf[start:end], whole ones, with carrier.Headroom bytes
// before start. They stay valid until the next Fill. The error is io.EOF when the other end has closed the link.
func (l *Link) Fill() (buf []byte, start, end int, err error) {
	b, n, err := l.inbox.Take()
	if err != nil {
		l.Release()
		return nil, 0, 0, l.opError("read", err)
	}
	l.out.set(b, n)
	return l.out.buf, l.out.start, l.out.end, nil
}

// Consume marks n bytes of what Fill returned as read.
func (l *Link) Consume(n int) { l.out.start += n }

// Release gives the buffer back. It is called by the reading goroutine when it ends.
func (l *Link) Release() { l.out.release() }

// TryWrite takes items as far as there is room, and returns how many bytes that was.
func (l *Link) TryWrite(b []byte) (int, error) {
	select {
	case <-l.conn.ended():
		err := l.conn.cause()
		if l.sender.finished() {
			err = errClosed
		}
		return 0, l.opError("write", err)
	case <-l.closing:
		return 0, l.opError("write", errClosed)
	default:
		return l.sender.put(b), nil
	}
}

// Write takes all items of b, waiting as long as it takes or until the link is closed. progress is called whenever some were
// taken.
func (l *Link) Write(b []byte, progress func()) error {
	start, all := time.Now(), len(b)
	defer func() { l.pace.Took(all-len(b), time.Since(start)) }()
	for len(b) > 0 {
		n, err := l.TryWrite(b)
		if err != nil {
			return err
		}
		if b = b[n:]; n > 0 && progress != nil {
			progress()
		}
		if len(b) == 0 {
			return nil
		}
		select {
		case <-l.sender.room:
		case <-l.closing:
		case <-l.conn.ended():
		}
	}
	return nil
}

// Held returns 0: what was taken is sent without another call.
func (l *Link) Held() int { return 0 }

// Grain is that of carrier.Stream.
func (l *Link) Grain() int { return l.pace.Grain() }

// Close ends the link; pending calls return an error. It returns when all has ended: at once, or, if a goodbye or joined
// frame was the last item, when the other end has read it, or has had lingerTime for that. It is idempotent.
func (l *Link) Close() error {
	l.closeOnce.Do(func() {
		last := l.sender.finish()
		close(l.closing)
		l.inbox.Close()
		if last {
			l.linger()
		}
		l.conn.close()
		l.receivers.Wait()
		l.sender.pumps.Wait()
		l.sender.stream.Wait()
		l.sender.free()
		l.socket.leave()
	})
	return nil
}

// linger closes the stream behind the last words. The other end closes the connection when it has read them.
func (l *Link) linger() {
	t := time.AfterFunc(lingerTime, l.conn.close)
	defer t.Stop()
	l.sender.stream.Wait()
	select {
	case <-l.conn.opened:
		_ = l.conn.stream.Close()
		<-l.conn.ended()
	case <-l.conn.ended():
	}
}

func (l *Link) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "quic", Addr: l.RemoteAddr(), Err: err}
}
