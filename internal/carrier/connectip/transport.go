package connectip

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/datagram"
)

const (
	// longest is what a path of 1500 bytes would carry as UDP: the length of the packets of package datagram. What is more than
	// QUIC's datagrams carry goes in two halves.
	longest = 1472
	// outboxSize is how many bytes wait for the library.
	outboxSize = 48 << 10
	// lingerTime is how long a link that is closed waits until the other end has last words.
	lingerTime = 500 * time.Millisecond
)

// What a datagram has: see the doc of the package.
const (
	partWhole  = 0x00
	partFirst  = 0x40
	partSecond = 0x80
	partKinds  = 0xc0
)

// outboxes has the memory for what waits to be sent. One get (transport.put), one put (transport.pump).
var outboxes = sync.Pool{New: func() any { return new([outboxSize]byte) }}

// A transport is what package datagram sends and receives by: the datagrams of one request. Goroutines call Send; one calls
// Receive; Close may be called by anybody.
type transport struct {
	t    *tunnel3
	peer datagram.Addr // the other end: always the same, for QUIC follows it

	mu      sync.Mutex // guards what follows
	box     *[outboxSize]byte
	used    int   // of box
	lens    []int // of the datagrams in box
	spare   []int // memory for lens; nil: the pump has it
	pumping bool
	closed  bool

	room   chan struct{} // capacity 1; sent to by the pump: there is room
	done   chan struct{} // closed by Close
	pumps  sync.WaitGroup
	linger atomic.Bool // the other end is to have last words
	once   sync.Once

	halves  halves // of the goroutine that receives
	lost    atomic.Uint64
	foreign atomic.Uint64 // datagrams of other contexts, or malformed
}

var _ datagram.Single = (*transport)(nil)

func newTransport(t *tunnel3) *transport {
	at := t.raw.RemoteAddr().AddrPort()
	return &transport{t: t, peer: datagram.Addr{Remote: at}, room: make(chan struct{}, 1), done: make(chan struct{})}
}

// Single implements datagram.Single.
func (w *transport) Single() {}

// Receive implements datagram.Transport: one datagram at a time.
func (w *transport) Receive(chunks []*datagram.Chunk) (int, error) {
	for {
		d, err := w.t.receive()
		if err != nil {
			return 0, err
		}
		context, n := consumeVarint(d)
		if n == 0 || context != contextFerry || len(d) < n+1 {
			w.foreign.Add(1)
			continue
		}
		c := chunks[0]
		if c.Len = w.halves.join(c.Data, d[n], d[n+1:]); c.Len > 0 {
			c.From, c.Size = w.peer, c.Len
			return 1, nil
		}
	}
}

// A halves joins what was sent in two datagrams.
type halves struct {
	first [longest]byte
	n     int // bytes in first
	part  byte
}

// join puts a datagram into b, and returns its length: 0 where it is not whole.
func (h *halves) join(b []byte, part byte, d []byte) int {
	switch {
	case len(d) == 0 || len(d) > longest:
	case part&partKinds == partWhole:
		return copy(b, d)
	case part&partKinds == partFirst:
		h.n, h.part = copy(h.first[:], d), part^partFirst^partSecond
	case h.n > 0 && part == h.part && h.n+len(d) <= longest:
		n := copy(b, h.first[:h.n])
		n += copy(b[n:], d)
		h.n = 0
		return n
	}
	return 0
}

// Send implements datagram.Transport.
func (w *transport) Send(b []byte, lens []int, _ datagram.Addr, wait bool) (int, error) {
	for sent := 0; ; {
		n, err := w.put(b, lens[sent:])
		for _, l := range lens[sent : sent+n] {
			b = b[l:]
		}
		sent += n
		if err != nil || sent == len(lens) || !wait {
			return sent, err
		}
		select {
		case <-w.room:
		case <-w.done:
		case <-w.t.raw.Ended():
		}
	}
}

// put takes datagrams as far as there is room, and starts a pump.
func (w *transport) put(b []byte, lens []int) (taken int, err error) {
	select {
	case <-w.t.raw.Ended():
		return 0, w.t.raw.Cause()
	default:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, net.ErrClosed
	}
	if w.box == nil {
		w.box, w.used = outboxes.Get().(*[outboxSize]byte), 0
	}
	for _, n := range lens {
		if w.used+n > outboxSize {
			break
		}
		w.used += copy(w.box[w.used:], b[:n])
		w.lens = append(w.lens, n)
		b = b[n:]
		taken++
	}
	if !w.pumping {
		w.pumping = true
		w.pumps.Go(w.pump)
	}
	return taken, nil
}

// pump hands datagrams to the library until there are none, or the connection has ended.
func (w *transport) pump() {
	s := sender{w: w}
	s.head = w.t.prefix(s.head, contextFerry)
	for {
		box, lens := w.take()
		if box == nil {
			return
		}
		s.limit = w.t.limit() // it grows with what is found out about the path
		at := 0
		for _, n := range lens {
			if !s.send(box[at : at+n]) {
				break
			}
			at += n
		}
		outboxes.Put(box)
		w.giveBack(lens)
	}
}

func (w *transport) giveBack(lens []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spare = lens[:0]
}

// take returns what waits; nil: nothing does.
func (w *transport) take() (*[outboxSize]byte, []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	box, lens := w.box, w.lens
	w.box, w.lens, w.spare = nil, w.spare, nil
	if box == nil {
		w.pumping = false
		w.lens = nil // an idle link holds no memory
		return nil, nil
	}
	notify(w.room)
	return box, lens
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A sender sends what a pump has taken.
type sender struct {
	w       *transport
	head    []byte // of each datagram
	scratch []byte
	limit   int // of a datagram, now
	count   byte
}

// send sends a datagram, in two if it is too long for one. It returns false when the connection has ended.
func (s *sender) send(d []byte) bool {
	if len(s.head)+1+len(d) <= s.limit {
		return s.part(partWhole, d)
	}
	s.count = (s.count + 1) &^ partKinds
	half := (len(d) + 1) / 2
	return s.part(partFirst|s.count, d[:half]) && s.part(partSecond|s.count, d[half:])
}

func (s *sender) part(kind byte, d []byte) bool {
	s.scratch = append(append(append(s.scratch[:0], s.head...), kind), d...)
	limit, err := s.w.t.send(s.scratch)
	if limit > 0 { // the path has become narrower at this moment
		s.limit = limit
		s.w.lost.Add(1)
	}
	return err == nil
}

// Max implements datagram.Transport.
func (w *transport) Max(datagram.Addr) int { return longest }

// Name implements datagram.Transport.
func (w *transport) Name(datagram.Addr) net.Addr { return w.t.remote() }

// Local implements datagram.Transport. Nobody asks for more than an address.
func (w *transport) Local() net.Addr { return Addr{netip.AddrPort{}, scheme3} }

// Close ends the connection: at once, or, where there are last words, when the other end has them and closes it, or closes at the same time and reads
// nothing any more, or has had lingerTime for that.
func (w *transport) Close() error {
	w.once.Do(func() {
		w.mu.Lock()
		w.closed = true
		w.mu.Unlock()
		close(w.done)
		var closing sync.WaitGroup
		if w.linger.Load() {
			both := make(chan struct{})
			closing.Go(func() { // ends with the connection
				defer close(both)
				w.t.closing()
			})
			late := time.NewTimer(lingerTime)
			select {
			case <-w.t.raw.Ended():
			case <-both:
			case <-late.C:
			}
			late.Stop()
		}
		w.t.close()
		closing.Wait()
		w.pumps.Wait()
	})
	return nil
}

// A Link is a connection of Ferry's own by HTTP/3.
type Link struct {
	*datagram.Link
	way      *transport
	listener *datagram.Listener // nil: a client's
	once     sync.Once
}

var (
	_ carrier.Link    = (*Link)(nil)
	_ carrier.Limiter = (*Link)(nil)
)

// Close ends the link; pending calls return an error. It returns when all has ended: at once, or, where the other end has not
// acknowledged all words, when it has, or has had lingerTime for that. It is idempotent.
func (l *Link) Close() error {
	l.once.Do(func() {
		l.way.linger.Store(l.Owes())
		_ = l.Link.Close()
		_ = l.way.Close()
		if l.listener != nil {
			_ = l.listener.Close()
		}
	})
	return nil
}
