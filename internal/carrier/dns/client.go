package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/carrier/polling"
)

const (
	// hold is how long the gateway keeps a question that it has nothing to say to: less than a resolver waits before it asks once more.
	hold = 300 * time.Millisecond
	// given is after how long an answer does not come any more.
	given = 2500 * time.Millisecond
	// maxMissed answers in a row without a large one between them, and it is looked whether large ones come at all.
	maxMissed = 6
	// unheard is how long nothing may come by TCP at all while something is asked, and it is looked whether the other end is still there.
	unheard = 10 * time.Second
	// retestTime is between tests of UDP while TCP has to do.
	retestTime = 30 * time.Second

	// under is how many questions are remembered, a power of two; maxAnswers how many answers wait, or questions for TCP. maxConns is how many are asked at the same time by TCP, each by a connection of
	// its own, since many resolvers answer those of one in order.
	under      = 256
	maxAnswers = 32
	maxConns   = 8
	tcpIdle    = 10 * time.Second
	tcpWait    = 3 * time.Second
)

// An asker is the client's end: a polling.Asker.
//
//	Ask ──▶ UDP ──▶ resolver ──▶ read ──────────────+──▶ answers ──▶ Receive
//	  |                            | truncated      |
//	  +──▶ TCP only ──▶ questions ◀+ ──▶ fetch (8) ─+
//
// watch gives up what is not answered, and looks then whether large answers still come, or, where all goes by TCP, any.
type asker struct {
	*resolver
	client uint64
	udp    net.Conn
	post   *post // by udp

	answers   chan *arrived  // sent to by who reads
	questions chan []byte    // for TCP; more than it holds are lost
	takes     int            // length of the longest datagram in an answer
	stream    atomic.Bool    // all questions go by TCP
	done      chan struct{}  // closed by end
	cancel    func()         // ends what fetch and watch wait for
	work      sync.WaitGroup // all goroutines
	free      sync.Pool      // of *arrived
	out       sync.Pool      // of *questionBuffer

	mu      sync.Mutex     // guards what follows
	pending [under]pending // by what is left of their ids when they are divided by that
	next    uint16         // where a slot was free last
	missed  int
	heard   time.Time // when an answer came last
	err     error     // set before done is closed

	current []*arrived // what Receive has returned; of who receives
}

var _ polling.Asker = (*asker)(nil)

// A pending question was asked.
type pending struct {
	open   bool
	id     uint16
	number uint32
	at     time.Time
	n      int // of m
	m      questionBuffer
}

// A questionBuffer has room for the longest question.
type questionBuffer [messageHeader + maxName + questionTail + optLen]byte

// raw is what the answer has as the question.
func (p *pending) raw() []byte { return p.m[messageHeader : p.n-optLen] }

// An arrived answer has its data in buf.
type arrived struct {
	polling.Answer
	buf [maxDown + 100]byte
}

// newAsker asks a resolver in the manner that it carries. It outlives ctx.
func newAsker(ctx context.Context, r *resolver, client uint64, m manner) (*asker, error) {
	conn, err := r.dial(ctx, "udp")
	if err != nil {
		return nil, err
	}
	p, err := newPost(conn.(*net.UDPConn), r.at.Addr().Is6())
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a := &asker{
		resolver: r, client: client, takes: m.takes, udp: conn, post: p, cancel: cancel,
		answers: make(chan *arrived, maxAnswers), questions: make(chan []byte, maxAnswers), done: make(chan struct{}),
		free: sync.Pool{New: func() any { return new(arrived) }}, out: sync.Pool{New: func() any { return new(questionBuffer) }},
	}
	a.stream.Store(m.stream)
	a.heard = time.Now()
	a.work.Go(a.read)
	a.work.Go(func() { a.watch(ctx) })
	for range maxConns {
		a.work.Go(func() { a.fetch(ctx) })
	}
	return a, nil
}

// Ask implements polling.Asker. What is asked by TCP always has room, or is lost.
func (a *asker) Ask(first uint32, b []byte, lens []int, wait bool) (int, error) {
	m := a.out.Get().(*questionBuffer)
	defer a.out.Put(m)
	for i, n := range lens {
		out := a.note(m[:0], first+uint32(i), b[:n])
		b = b[n:]
		if a.stream.Load() {
			a.queue(out)
			continue
		}
		err := a.post.send(out, netip.AddrPort{}, netip.Addr{}, wait)
		switch {
		case errors.Is(err, errRoom):
			a.unnote(out)
			return i, nil
		case err != nil:
			return i, err
		}
	}
	return len(lens), nil
}

// note makes a question, and remembers it.
func (a *asker) note(b []byte, number uint32, data []byte) []byte {
	b = appendQuestion(b, 0, a.z, query{client: a.client, number: number, data: data})
	a.mu.Lock()
	defer a.mu.Unlock()
	slot := a.slot()
	p := &a.pending[slot]
	p.open, p.number, p.at = true, number, time.Now()
	p.id = uint16(rand.Uint32())/under*under + slot
	binary.BigEndian.PutUint16(b, p.id)
	p.n = copy(p.m[:], b)
	return b
}

// unnote forgets a question that was not sent.
func (a *asker) unnote(m []byte) {
	id := binary.BigEndian.Uint16(m)
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := &a.pending[id%under]; p.id == id {
		p.open = false
	}
}

// slot returns where a question can be remembered: where none is, or else the one that was asked first. The caller holds mu.
func (a *asker) slot() uint16 {
	for range under {
		if a.next++; !a.pending[a.next%under].open {
			return a.next % under
		}
	}
	oldest := 0
	for i := range a.pending {
		if a.pending[i].at.Before(a.pending[oldest].at) {
			oldest = i
		}
	}
	a.missed++
	return uint16(oldest)
}

// queue has a question asked by TCP.
func (a *asker) queue(m []byte) {
	select {
	case a.questions <- slices.Clone(m):
	default:
	}
}

// read reads answers by UDP until the socket is closed.
func (a *asker) read() {
	var b [maxMessage]byte
	for {
		n, err := a.udp.Read(b[:])
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // nobody listens there, just now
			if !a.deliver(&arrived{Answer: polling.Answer{Nobody: true}}) {
				return
			}
		case a.take(b[:n], false):
		default:
			return
		}
	}
}

// take takes an answer. It returns false when nobody wants any.
func (a *asker) take(m []byte, stream bool) bool {
	if len(m) < messageHeader {
		return true
	}
	got := a.free.Get().(*arrived)
	r, number, again, ok := a.settle(got.buf[:0], m, stream)
	switch {
	case again != nil:
		a.queue(again)
		ok = false
	case ok && r.code == codeSuccess && r.found && r.kind == textData && len(r.text) >= heldLen:
		held := time.Duration(binary.BigEndian.Uint16(r.text)) * time.Millisecond
		got.Answer = polling.Answer{Number: number, Held: held, Data: r.text[heldLen:]}
		return a.deliver(got)
	case ok:
		got.Answer = polling.Answer{Number: number, Lost: true}
		return a.deliver(got)
	}
	a.free.Put(got)
	return true
}

// settle finds the question to an answer. again is that question, if it is to be asked by TCP.
func (a *asker) settle(scratch, m []byte, stream bool) (r reply, number uint32, again []byte, ok bool) {
	id := binary.BigEndian.Uint16(m)
	a.mu.Lock()
	defer a.mu.Unlock()
	p := &a.pending[id%under]
	if !p.open || p.id != id {
		return r, 0, nil, false
	}
	r, err := parseReply(scratch, m, p.raw())
	switch {
	case err != nil:
		return r, 0, nil, false
	case r.truncated && !stream:
		return r, 0, slices.Clone(p.m[:p.n]), false
	}
	p.open = false
	a.heard = time.Now()
	if len(r.text) >= a.takes*9/10 || a.stream.Load() {
		a.missed = 0
	}
	return r, p.number, nil, true
}

// deliver hands an answer to Receive. It returns false when nothing is wanted any more.
func (a *asker) deliver(got *arrived) bool {
	select {
	case a.answers <- got:
		return true
	case <-a.done:
		return false
	}
}

// Receive implements polling.Asker.
func (a *asker) Receive(all []polling.Answer) (n int, err error) {
	for _, c := range a.current {
		a.free.Put(c)
	}
	a.current = a.current[:0]
	for n < len(all) {
		var got *arrived
		if n == 0 {
			select {
			case got = <-a.answers:
			case <-a.done:
				return 0, a.failure()
			}
		} else {
			select {
			case got = <-a.answers:
			default:
				return n, nil
			}
		}
		a.current = append(a.current, got)
		all[n] = got.Answer
		n++
	}
	return n, nil
}

// watch gives up what is not answered, until ctx is done.
func (a *asker) watch(ctx context.Context) {
	tick := time.NewTicker(given / 5)
	defer tick.Stop()
	tested := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		missed, heard := a.expire(time.Now())
		stream := a.stream.Load()
		switch {
		case missed >= maxMissed, stream && missed > 0 && time.Since(heard) >= unheard:
			if err := a.ceased(ctx, stream); err != nil {
				a.end(err)
				return
			}
			a.found()
		case stream && time.Since(tested) >= retestTime:
			a.stream.Store(a.try(ctx, a.client, manner{takes: a.takes}, againTime) != nil)
			tested = time.Now()
		}
	}
}

// found notes that somebody is there, whatever was missed.
func (a *asker) found() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.missed, a.heard = 0, time.Now()
}

// ceased tells why answers do not come any more; nil: they do.
func (a *asker) ceased(ctx context.Context, stream bool) error {
	if stream {
		return advise(a.try(ctx, a.client, manner{stream: true, takes: a.takes}, tcpTime))
	}
	err := a.try(ctx, a.client, manner{takes: a.takes}, againTime)
	if err == nil || errors.Is(err, errTruncated) {
		return nil
	}
	if errors.Is(err, ErrSilent) && a.try(ctx, a.client, manner{}, againTime) == nil {
		return ErrLarge
	}
	return advise(err)
}

// expire gives up questions, and returns how many answers are missed, and when one came last.
func (a *asker) expire(now time.Time) (missed int, heard time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.pending {
		if p := &a.pending[i]; p.open && now.Sub(p.at) >= given {
			p.open = false
			a.missed++
		}
	}
	return a.missed, a.heard
}

// fetch asks by TCP what is to be asked so, one question after the other, until ctx is done. Its connection ends when it is idle.
func (a *asker) fetch(ctx context.Context) {
	var conn net.Conn
	var b [maxMessage]byte
	idle := time.NewTimer(tcpIdle)
	defer idle.Stop()
	for {
		idle.Reset(tcpIdle)
		select {
		case m := <-a.questions:
			var n int
			var err error
			if conn, n, err = a.ask(ctx, conn, b[:], m); err == nil {
				a.take(b[:n], true)
			}
		case <-idle.C:
			conn = hangUp(conn)
		case <-ctx.Done():
			hangUp(conn)
			return
		}
	}
}

// ask asks by TCP, over a connection that there may be, and returns the one that there is then. A connection that was idle may have ended.
func (a *asker) ask(ctx context.Context, old net.Conn, b, m []byte) (conn net.Conn, n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, tcpWait)
	defer cancel()
	if old != nil {
		if n, err = within(ctx, old, b, m); err == nil {
			return old, n, nil
		}
	}
	if conn, err = a.dial(ctx, "tcp"); err != nil {
		return nil, 0, err
	}
	if n, err = within(ctx, conn, b, m); err != nil {
		return nil, 0, err
	}
	return conn, n, nil
}

// within exchanges messages until ctx is done. A connection by which that fails is closed.
func within(ctx context.Context, conn net.Conn, b, m []byte) (n int, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	n, err = exchange(conn, b, m)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
	}
	return n, err
}

func hangUp(conn net.Conn) net.Conn {
	if conn != nil {
		_ = conn.Close()
	}
	return nil
}

// end ends all calls. The first error counts.
func (a *asker) end(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = err
		close(a.done)
	}
}

func (a *asker) failure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// Max implements polling.Asker.
func (a *asker) Max() int { return a.z.maxUp() }

// Takes implements polling.Asker.
func (a *asker) Takes() int { return a.takes }

// Name implements polling.Asker.
func (a *asker) Name() net.Addr { return through{a.z.name, a.at} }

// Local implements polling.Asker.
func (a *asker) Local() net.Addr { return a.udp.LocalAddr() }

// Close implements polling.Asker. It returns when all goroutines have ended.
func (a *asker) Close() error {
	a.end(net.ErrClosed)
	a.cancel()
	_ = a.udp.Close()
	a.work.Wait()
	return nil
}

// A through is a gateway behind a resolver: where it is, nobody knows here.
type through struct {
	zone     string
	resolver netip.AddrPort
}

func (t through) Network() string { return "dns" }

func (t through) String() string { return t.zone + " by " + t.resolver.String() }
