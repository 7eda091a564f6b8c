package datagram

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/proto"
	"ferry/internal/session"
)

// Errors of connections.
var (
	ErrLost    = errors.New("the gateway does not know this connection any more: it was restarted, or has closed it")
	ErrSilent  = errors.New("the other end acknowledges nothing")
	ErrItem    = errors.New("what the other end sends is no item")
	ErrForged  = errors.New("too many packets were forged")
	ErrRefused = errors.New("nobody is there")
	ErrClosing = errors.New("the other end has refused the connection")
)

// The levels of keys.
const (
	levelInitial = iota
	levelHandshake
	levelData
	levels
)

// A level has one pair of keys and one stream.
type level struct {
	// Of the goroutine that reads:
	in     opener
	stream receiving

	// Guarded by Link.mu:
	out     sealer
	number  uint64 // of the next packet
	sending sending
	ack     ack
	ackDue  bool
}

// A Link is one connection. It begins with a handshake, which Dial or Pending.Handshake makes.
//
//	Dial, Accept ──▶ handshake ──▶ open ──▶ failed (err, done) ──▶ closed
//
// Who reads (the handshake, later Fill) owns the fields of the reader; who writes those of the writer; the others are guarded
// by mu, or atomic.
type Link struct {
	e        *endpoint
	id       uint64 // by which this end knows the connection
	client   uint64 // the client's id
	isClient bool
	origin   origin // a gateway's
	start    time.Time
	done     chan struct{} // closed by fail
	wake     chan struct{} // capacity 1; sent to by the endpoint: there is something in the queue
	room     chan struct{} // capacity 1; sent to by the reader: a stream has room

	reader
	writer

	qmu    sync.Mutex // guards queue
	queue  []*Chunk
	queued atomic.Int64 // bytes of memory in queue, and of what the reader took of it
	limit  atomic.Int64 // of queued

	mu        sync.Mutex // guards what follows
	levels    [levels]level
	peer      uint64         // by which the other end knows the connection
	max       int            // length of the longest datagram to send
	joint     atomic.Int64   // of the longest one with more than one item; 0: max
	token     [tokenLen]byte // of an unknown packet
	hasToken  bool
	cookie    []byte
	path      path
	places    places
	rtt, vary time.Duration // RFC 9002, section 5.3; rtt 0: not measured
	timer     *time.Timer
	timers    sync.WaitGroup // functions of timer that will run, or do
	probe     bool           // a ping is to be sent
	shaken    bool           // the other end is known to have finished the handshake
	ended     bool
	err       error
	closing   sync.Once

	remote         atomic.Pointer[net.Addr]
	received, sent tally
}

var _ carrier.Link = (*Link)(nil)

// A tally counts bytes and knows when the last ones passed.
type tally struct {
	bytes atomic.Uint64
	last  atomic.Int64 // nanoseconds since start
}

func (l *Link) tally(t *tally, n int) {
	t.bytes.Add(uint64(n))
	t.last.Store(int64(time.Since(l.start)))
}

// fillSize is what Fill returns at most, with room for one datagram more.
const fillSize = 256 << 10

// readBuffers: one get (Link.borrow), one put (Link.Release).
var readBuffers = sync.Pool{New: func() any { return new([fillSize]byte) }}

// A reader is the state of the goroutine that reads.
type reader struct {
	tls       *tls.QUICConn // nil behind the handshake
	complete  bool          // the handshake is
	confirmed bool          // the other end knows that
	window    session.Window
	forged    uint64 // packets of data
	highest   uint64 // number of a packet, and the one behind it
	cur       *Chunk
	at, last  int      // in cur: behind the datagram that was read, and how long that is
	mine      []*Chunk // taken from the queue
	read      int      // of mine
	early     []*Chunk // packets that came before their keys
	scratch   []byte
	flushDue  bool // there is something to answer

	buf        *[fillSize]byte // nil: none is borrowed
	begin, end int             // what is unread in it
}

func newLink(e *endpoint, id, client uint64, to Addr) *Link {
	l := &Link{
		e: e, id: id, client: client, isClient: id == client, start: time.Now(),
		done: make(chan struct{}), wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	l.limit.Store(shakeBytes)
	l.path.at = to
	l.max = e.t.Max(to)
	l.keepItem = l.keep
	l.named(to)
	return l
}

func (l *Link) named(a Addr) {
	name := l.e.t.Name(a)
	l.remote.Store(&name)
}

// RemoteAddr returns where the other end is now.
func (l *Link) RemoteAddr() net.Addr { return *l.remote.Load() }

// Received returns the bytes of genuine datagrams so far.
func (l *Link) Received() uint64 { return l.received.bytes.Load() }

// Sent returns the bytes of datagrams that the transport took so far.
func (l *Link) Sent() uint64 { return l.sent.bytes.Load() }

// LastReceived returns when the last genuine datagram was read; at first, when the connection was begun.
func (l *Link) LastReceived() time.Time {
	return l.start.Add(time.Duration(l.received.last.Load()))
}

// LastSent returns when the last datagram was sent; at first, when the connection was begun.
func (l *Link) LastSent() time.Time { return l.start.Add(time.Duration(l.sent.last.Load())) }

// Limit implements carrier.Limiter.
func (l *Link) Limit(max int) {
	if max > 0 {
		max += Overhead + proto.NumberLen
	}
	l.joint.Store(int64(max))
}

// Max returns the length of the longest item that goes into a datagram.
func (l *Link) Max() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.max - Overhead - proto.NumberLen
}

// deliver takes a chunk of the endpoint. It tells whether there was room.
func (l *Link) deliver(c *Chunk) bool {
	if l.queued.Load()+int64(len(c.Data)) > l.limit.Load() {
		return false
	}
	l.queued.Add(int64(len(c.Data)))
	l.qmu.Lock()
	l.queue = append(l.queue, c)
	l.qmu.Unlock()
	notify(l.wake)
	return true
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// next returns the next datagram; nil: none has come. It is valid until the next call.
func (l *Link) next() []byte {
	r := &l.reader
	if r.cur != nil && r.at == r.cur.Len {
		l.drop()
	}
	if r.cur == nil {
		if r.read == len(r.mine) {
			l.qmu.Lock()
			r.mine, l.queue = l.queue, r.mine[:0]
			l.qmu.Unlock()
			r.read = 0
		}
		if r.read == len(r.mine) {
			return nil
		}
		r.cur, r.at = r.mine[r.read], 0
		r.mine[r.read] = nil
		r.read++
	}
	from := r.at
	r.at = r.cur.next(from)
	r.last = r.at - from
	return r.cur.Data[from:r.at]
}

// drop gives back the chunk that was read.
func (l *Link) drop() {
	l.queued.Add(-int64(len(l.cur.Data)))
	l.cur.free()
	l.cur = nil
}

// maxEarly is how many packets may come before their keys.
const maxEarly = 8

// tooEarly keeps the datagram that was read until its keys are there.
func (l *Link) tooEarly() {
	r := &l.reader
	if len(r.early) == maxEarly || r.confirmed || l.queued.Load()+smallChunk > l.limit.Load() {
		l.e.drop(DropEarly)
		return
	}
	c := r.cur.part(r.at-r.last, r.at)
	l.queued.Add(int64(len(c.Data)))
	r.early = append(r.early, c)
}

// again reads once more what has come too early.
func (l *Link) again() {
	r := &l.reader
	if len(r.early) > 0 {
		r.mine, r.read = append(r.early, r.mine[r.read:]...), 0
		r.early = nil
	}
}

// Fill waits until items have come and returns all that are unread: buf[start:end], whole ones. There are at least
// carrier.Headroom bytes before start. They stay valid until the next Fill.
func (l *Link) Fill() (buf []byte, start, end int, err error) {
	l.borrow()
	l.again()
	before := l.end
	for {
		if err := l.items(); err != nil {
			l.fail(err)
		}
		if l.full() {
			break
		}
		if p := l.next(); p != nil {
			l.packet(p)
			continue
		}
		l.flushed()
		if l.end > before {
			break
		}
		if err := l.failure(); err != nil {
			l.Release()
			return nil, 0, 0, err
		}
		l.giveBack()
		select {
		case <-l.wake:
		case <-l.done:
		}
		l.borrow()
		before = l.end
	}
	l.flushed()
	return l.buf[:], l.begin, l.end, nil
}

// full tells that there may be no room for another datagram.
func (l *Link) full() bool { return fillSize-l.end < LargeChunk }

// flushed answers what has come.
func (l *Link) flushed() {
	if l.flushDue {
		l.flushDue = false
		l.flush()
	}
}

// borrow makes room behind what is unread.
func (l *Link) borrow() {
	r := &l.reader
	if r.buf == nil {
		r.buf = readBuffers.Get().(*[fillSize]byte)
		r.begin, r.end = carrier.Headroom, carrier.Headroom
	}
	if r.begin > carrier.Headroom {
		n := copy(r.buf[carrier.Headroom:], r.buf[r.begin:r.end])
		r.begin, r.end = carrier.Headroom, carrier.Headroom+n
	}
}

// giveBack gives the buffer back for the time of waiting, if nothing is unread.
func (l *Link) giveBack() {
	if l.begin == l.end {
		l.release()
	}
}

func (l *Link) release() {
	if l.buf != nil {
		readBuffers.Put(l.buf)
		l.buf = nil
	}
	l.begin, l.end = 0, 0
}

// Consume marks n bytes of what Fill returned as read.
func (l *Link) Consume(n int) { l.begin += n }

// Release gives all memory of the reader back. It is called by the reading goroutine when it ends.
func (l *Link) Release() {
	l.release()
	l.again()
	for l.next() != nil {
		l.at = l.cur.Len
	}
}

// items moves whole items that had to be kept in order to where Fill returns them.
func (l *Link) items() error {
	s := &l.levels[levelData].stream
	for !l.full() {
		n, err := proto.NextItem(s.ready)
		if err != nil {
			return ErrItem
		}
		if n == 0 {
			break
		}
		l.end += copy(l.buf[l.end:], s.ready[:n])
		s.ready = s.ready[n:]
	}
	if len(s.ready) == 0 {
		s.ready = nil
	}
	return nil
}

// packet treats one datagram that has come.
func (l *Link) packet(p []byte) {
	switch {
	case !isLong(p):
		l.short(p)
	case p[0] == typeRetry:
		l.retry(p)
	case p[0] == typeUnknown:
		l.unknown(p)
	default:
		l.long(p)
	}
}

// short treats a packet of data: its frames, and the items behind them, which are decrypted to where Fill returns them.
func (l *Link) short(p []byte) {
	level := &l.levels[levelData]
	if level.in.key == nil || l.buf == nil {
		l.tooEarly()
		return
	}
	number := binary.BigEndian.Uint64(p[idLen:])
	b, err := level.in.open(l.buf[l.end:l.end], p, shortLen, number)
	switch {
	case err != nil:
		l.e.drop(DropForged)
		if l.forged++; l.forged > maxForged {
			l.fail(ErrForged)
		}
		return
	case !l.window.Take(number):
		l.e.drop(DropReplayed)
		return
	}
	l.tally(&l.received, len(p))
	l.heard(number, len(p))
	n := l.frames(b, levelData, number)
	if n < 0 {
		l.e.drop(DropMalformed)
		return
	}
	items := wholeItems(b[n:])
	if len(items) < len(b)-n {
		l.e.drop(DropMalformed)
	}
	if n > 0 {
		copy(l.buf[l.end:], items)
	}
	l.end += len(items)
}

// wholeItems returns the whole items at the start of b.
func wholeItems(b []byte) []byte {
	for n := 0; ; {
		k, err := proto.NextItem(b[n:])
		if k == 0 || err != nil {
			return b[:n]
		}
		n += k
	}
}

// heard notes a genuine packet of data, and from where it came.
func (l *Link) heard(number uint64, size int) {
	from := l.cur.From
	newest := number >= l.highest
	if newest {
		l.highest = number + 1
	}
	first := !l.confirmed && l.complete
	l.confirmed = l.confirmed || first
	if !first && from == l.path.at && l.path.proven { // both change in this goroutine only
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if first {
		l.shaken = true
		l.forget()
	}
	if l.path.heard(from, size, newest, time.Now(), l.timeout(&l.levels[levelData].sending)) {
		l.moved()
		l.named(from)
	}
	l.flushDue = l.flushDue || l.path.ask
}

// forget forgets the keys of the handshake. The caller holds mu and reads.
func (l *Link) forget() {
	l.levels[levelInitial], l.levels[levelHandshake] = level{}, level{}
}

// frames treats the frames at the start of what was in a packet. It returns how long they are; -1: they are malformed.
func (l *Link) frames(b []byte, at int, number uint64) (n int) {
	elicits := false
	for n < len(b) && b[n] < frameKinds {
		f, k, err := consumeFrame(b[n:])
		if err != nil {
			return -1
		}
		n += k
		switch f.kind {
		case framePing:
			elicits = true
		case frameStream:
			elicits = true
			limit := shakeWindow
			if at == levelData {
				limit = window
			}
			l.levels[at].stream.take(f.offset, f.data, limit)
		case frameAck:
			l.acked(at, f.ack)
		case frameClose:
			l.fail(closeError(f.alert))
		case frameChallenge, frameResponse:
			l.challenged(f)
		}
	}
	if elicits {
		l.acknowledge(at, number)
	}
	return n
}
