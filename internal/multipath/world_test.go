package multipath

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/buffer"
	"ferry/internal/packet"
	"ferry/internal/proto"
	"ferry/internal/router"
)

var errDead = errors.New("the carrier is dead")

// A wire is one direction of a carrier: bytes come out after a delay, in order; or items, some of which are lost or
// overtaken, if it is a lossy one.
type wire struct {
	delay time.Duration
	loss  float64 // of items; 0: an ordered carrier
	chunk chan chunk
	room  int // bytes that may be on the way
	grain int // router.Stream.Grain

	mu     sync.Mutex
	flying int
	hole   bool   // nothing comes out: it is late if that ends, and lost if the carrier dies
	number uint64 // of the next data item, on a lossy wire
	dead   chan struct{}
	less   chan struct{}
	healed chan struct{} // closed when a hole ends
}

type chunk struct {
	at time.Time
	b  []byte
}

func newWire(delay time.Duration, loss float64) *wire {
	return &wire{delay: delay, loss: loss, chunk: make(chan chunk, 100_000), room: 64 << 10, dead: make(chan struct{}), less: make(chan struct{}, 1), healed: make(chan struct{})}
}

func (w *wire) TryWrite(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.dead:
		return 0, errDead
	default:
	}
	n := min(len(b), w.room-w.flying)
	if w.loss > 0 {
		n = proto.WholeItems(b, n)
	}
	w.flying += n
	switch {
	case n == 0:
	case w.loss == 0:
		w.chunk <- chunk{time.Now().Add(w.delay), slices.Clone(b[:n])}
	default:
		for rest := b[:n]; len(rest) > 0; {
			item := rest[:proto.ItemLen(rest)]
			rest = rest[len(item):]
			if kind, _, _ := (proto.Framer{Extended: true}).Next(item); kind == proto.KindNumber {
				w.number, _ = proto.ParseNumber(item)
				w.flying -= len(item)
				continue
			} else if kind == proto.KindIPv4 { // each datagram says which number it has
				item = append(proto.AppendNumber(nil, w.number), item...)
				w.flying += len(item) - proto.ItemLen(item[12:])
				w.number++
			}
			if rand.Float64() < w.loss {
				w.flying -= len(item)
				continue
			}
			w.chunk <- chunk{time.Now().Add(w.delay + rand.N(w.delay/2+1)), slices.Clone(item)}
		}
	}
	return n, nil
}

func (w *wire) Write(b []byte, progress func()) error {
	for len(b) > 0 {
		n, err := w.TryWrite(b)
		if err != nil {
			return err
		}
		if b = b[n:]; n > 0 {
			progress()
			continue
		}
		select {
		case <-w.less:
		case <-w.dead:
		}
	}
	return nil
}

func (w *wire) Held() int { return 0 }

func (w *wire) Grain() int { return w.grain }

func (w *wire) kill() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.dead:
	default:
		close(w.dead)
	}
}

func (w *wire) setHole(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hole = on
	if !on {
		close(w.healed)
		w.healed = make(chan struct{})
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// read hands what comes to f until the wire is dead.
func (w *wire) read(f func([]byte)) {
	for {
		select {
		case c := <-w.chunk:
			w.mu.Lock()
			hole, healed := w.hole, w.healed
			w.mu.Unlock()
			if hole {
				select {
				case <-healed:
				case <-w.dead:
					return
				}
			}
			if wait := time.Until(c.at); w.loss > 0 {
				go func() { // they overtake each other
					time.Sleep(wait)
					w.arrive(c.b, f)
				}()
			} else {
				time.Sleep(wait)
				w.arrive(c.b, f)
			}
		case <-w.dead:
			return
		}
	}
}

func (w *wire) arrive(b []byte, f func([]byte)) {
	select {
	case <-w.dead:
		return
	default:
	}
	f(b)
	w.mu.Lock()
	w.flying -= len(b)
	w.mu.Unlock()
	notify(w.less)
}

// An end of a session.
type end struct {
	t *testing.T
	f *router.Fair // before s
	s *Sender
	r *Receiver

	mu    sync.Mutex
	got   []int
	sizes []int
	turns int // switch frames that came
	links map[uint64]*link
}

// A link is a path as one end has it.
type link struct {
	path  *Path
	queue *router.Queue
	out   *wire
	ended chan struct{}
}

func newEnd(t *testing.T) *end {
	e := &end{t: t, links: map[uint64]*link{}}
	e.s = NewSender(Config{Limit: 1 << 20, Budget: new(buffer.Budget), Room: func() { e.f.Refill() }})
	e.f = router.NewFair(e.s, new(buffer.Budget), nil)
	e.r = NewReceiver(func(n uint64) {
		if p := e.s.Using(); p != nil {
			p.Ack(n)
		}
	})
	t.Cleanup(func() {
		for _, l := range e.links {
			l.close()
		}
		e.f.Close()
		e.s.Close()
		e.r.Close()
	})
	return e
}

func (l *link) close() { l.queue.Close(); l.out.kill() }

// upTo is a Carrier.
type upTo int

func (u upTo) Max() int { return int(u) }

// hasty is one that sends as fast as it is told, with a round trip of 40 ms.
type hasty struct{ upTo }

func (hasty) RoundTrip() time.Duration { return 40 * time.Millisecond }

// connect makes a carrier between two ends.
func connect(a, b *end, epoch uint64, delay time.Duration, loss float64, max int) {
	there, back := newWire(delay, loss), newWire(delay, loss)
	a.add(epoch, there, back, max)
	b.add(epoch, back, there, max)
}

func (e *end) add(epoch uint64, out, in *wire, max int) {
	q := router.NewQueue(out, router.QueueConfig{Limit: 1 << 20, Budget: new(buffer.Budget)})
	q.OnRoom(e.f.Next)
	l := &link{path: NewPath(epoch, q, upTo(max)), queue: q, out: out, ended: make(chan struct{})}
	var alone chan struct{}
	e.mu.Lock()
	for _, other := range e.links {
		if using := e.s.Using(); other.path == using {
			alone = other.ended
		}
	}
	e.links[epoch] = l
	e.mu.Unlock()
	go func() { _ = q.Run() }()
	go func() {
		e.read(in, l, alone)
		close(l.ended)
		e.s.Lost(l.path)
		l.close()
	}()
}

func (e *end) read(in *wire, l *link, alone chan struct{}) {
	var buf []byte
	var mu sync.Mutex // items of a lossy wire come by many goroutines
	reader := e.r.NewReader(0, alone)
	in.read(func(b []byte) {
		mu.Lock()
		defer mu.Unlock()
		for buf = append(buf, b...); len(buf) > 0; {
			kind, n, err := proto.Framer{Extended: true}.Next(buf)
			if err != nil {
				panic(err)
			}
			if n == 0 {
				break
			}
			e.item(reader, l, kind, buf[:n])
			buf = buf[n:]
		}
		reader.Flush()
	})
}

func (e *end) item(r *Reader, l *link, kind proto.Kind, b []byte) {
	switch kind {
	case proto.KindIPv4, proto.KindData:
		if r.Take(len(b)) {
			e.deliver(b)
		}
	case proto.KindAck:
		n, _ := proto.ParseNumber(b)
		e.s.Acked(n)
	case proto.KindNumber:
		_ = r.Number(b)
	case proto.KindSwitch:
		e.mu.Lock()
		e.turns++
		e.mu.Unlock()
		if m, _ := proto.ParseSwitch(b); m.Epoch == l.path.Epoch && !m.Again {
			r.Hold(l.ended)
		}
	case proto.KindFragment:
		if whole, _ := r.Fragment(b); whole != nil {
			e.deliver(whole[Headroom:])
		}
	}
}

func (e *end) deliver(b []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if b[0] == 0x81 {
		e.sizes = append(e.sizes, len(b))
		b = b[proto.DataHeaderLen:]
	}
	e.got = append(e.got, int(binary.BigEndian.Uint64(b[20:])))
}

func (e *end) switches() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.turns
}

func (e *end) received() []int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.got)
}

// item is a bare packet with number n in it.
func item(n int) []byte {
	b := make([]byte, 28)
	b[0], b[3] = 0x45, 28
	copy(b[12:], "\x0a\x00\x00\x01\x0a\x00\x00\x02")
	binary.BigEndian.PutUint64(b[20:], uint64(n))
	return b
}

// super is a data frame of size bytes with number n in its packet.
func super(n, size int) []byte {
	b := make([]byte, size)
	proto.PutBareHeader(b, size-proto.DataHeaderLen)
	ip := b[proto.DataHeaderLen:]
	copy(ip, item(n))
	binary.BigEndian.PutUint16(ip[2:], uint16(packet.IPv4(ip).TotalLen()))
	return b
}

// stream sends an item every millisecond, from number first on.
func (e *end) stream(first, n int) {
	for i := range n {
		if dropped, why := e.f.Send(item(first + i)); dropped > 0 {
			e.t.Errorf("frame %d: dropped, %s", first+i, why)
		}
		time.Sleep(time.Millisecond)
	}
}

// inOrder fails unless got is 0 to n-1.
func inOrder(t *testing.T, got []int, n int) {
	t.Helper()
	for i, v := range got {
		if v != i {
			t.Fatalf("frame %d comes where %d should: %v", v, i, got[max(0, i-3):min(len(got), i+10)])
		}
	}
	if len(got) != n {
		t.Fatalf("%d frames came, want %d", len(got), n)
	}
}

func inBubble(t *testing.T, f func(t *testing.T, a, b *end)) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t), newEnd(t)
		connect(a, b, 0, 20*time.Millisecond, 0, 0)
		a.s.Start(a.links[0].path)
		b.s.Start(b.links[0].path)
		f(t, a, b)
	})
}
