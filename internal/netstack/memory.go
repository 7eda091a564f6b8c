package netstack

import (
	"cmp"
	"context"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"ferry/internal/buffer"
)

const (
	// leastWindow is what may wait of one direction of a connection however little memory there is, and firstWindow what may while it has
	// not shown that it needs more, bytes.
	leastWindow  = 4 << 10
	middleWindow = 32 << 10 // is announced as 16 KiB, which is what a sender begins with at an MTU of 1500 (RFC 6928)
	firstWindow  = 128 << 10
	// A window that was not filled within unused is more than its connection needs.
	unused = time.Second
	// Between two looks at all connections, while memory is short, lies restTime, and restTimes as long as one takes: a tenth of a processor at most.
	restTime  = 10 * time.Millisecond
	restTimes = 9
)

// memory is what the connections of an exit may hold, all together. A connection counts with its windows, for as much may wait, and with the block that
// it has while one of its ends does not take what came. The more is in use, the smaller are windows (buffer.Budget); what a connection does not need, it
// gives back; and when little is left, the one is reset that has held most for longest without progress.
type memory struct {
	budget buffer.Budget
	limit  int           // bytes
	wake   chan struct{} // has one token when memory may be short; its reader is run

	stalled, refused atomic.Uint64 // connections that were reset, and that waited in vain

	mu    sync.Mutex // guards what follows
	all   map[*windows]struct{}
	swept chan struct{} // closed when sweep is done, and made anew
}

func newMemory(limit int) *memory {
	m := &memory{limit: limit, wake: make(chan struct{}, 1), all: map[*windows]struct{}{}, swept: make(chan struct{})}
	m.budget.SetLimit(limit)
	return m
}

// firstWindows are the receive windows with which connections begin. What the first packet has announced is not taken back (RFC 9293, section 3.8.6):
// a window grows when the connection has come to be, but it is not made smaller.
var firstWindows = [...]int{leastWindow, middleWindow, firstWindow}

// first returns which of firstWindows a connection can have that begins now.
func (m *memory) first() (class int) {
	for class = len(firstWindows) - 1; class > 0 && firstWindows[class] > m.window(firstWindow); class-- {
	}
	return class
}

// reserve sets aside what a connection holds at first, of which receive is the window from the client, and waits until there is as much; false, which is
// counted: there is none until ctx is done.
func (m *memory) reserve(ctx context.Context, receive int) bool {
	n := receive + leastWindow
	for {
		m.mu.Lock()
		swept, room := m.swept, m.left() >= n
		if room {
			m.budget.Add(n)
		}
		m.mu.Unlock()
		if room {
			return true
		}
		m.tell()
		select {
		case <-swept:
		case <-ctx.Done():
			m.refused.Add(1)
			return false
		}
	}
}

// release ends what reserve has begun, of a connection that has not come to be.
func (m *memory) release(receive int) { m.budget.Add(-receive - leastWindow) }

// window returns how large a window may be now, where largest would do.
func (m *memory) window(largest int) int { return max(leastWindow, min(largest, m.budget.Share()/2)) }

// grown returns how large a window may become that is filled again and again. Such may have more than a share, or they would crawl while others stall: a
// quarter of what sweep keeps free for them, which is above the half of it where it resets also who has just begun to wait.
func (m *memory) grown(largest int) int {
	return max(m.window(largest), min(largest, (m.left()-m.limit/32)/4))
}

// add counts n bytes more.
func (m *memory) add(n int) {
	m.budget.Add(n)
	if n > 0 && m.left() < m.limit/2 {
		m.tell()
	}
}

func (m *memory) tell() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// run takes back what is not needed, while memory is short, until ctx is done.
func (m *memory) run(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		select {
		case <-m.wake:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		m.sweep()
		pause.Reset(restTime + restTimes*time.Since(began))
	}
}

// sweep makes windows smaller that are not needed, and resets connections while that is not enough.
func (m *memory) sweep() {
	m.mu.Lock()
	all := make([]*windows, 0, len(m.all))
	for w := range m.all {
		all = append(all, w)
	}
	m.mu.Unlock()
	now := time.Now().UnixNano()
	var stuck []*windows
	for _, w := range all {
		if w.trim(now, m.window(firstWindow)/2) {
			stuck = append(stuck, w)
		}
	}
	slices.SortFunc(stuck, func(a, b *windows) int { return cmp.Compare(b.cost, a.cost) })
	for _, w := range stuck {
		if m.left() > m.limit/16 {
			break
		}
		if time.Duration(now-w.last.Load()) >= unused || m.left() < m.limit/32 { // else it has just begun to wait
			m.stalled.Add(1)
			w.leave() // its memory is free as soon as it is reset
			w.reset()
		}
	}
	if m.left() < m.limit/2 {
		m.tell()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.swept)
	m.swept = make(chan struct{})
}

// left returns how many bytes are not in use; negative: more are than may.
func (m *memory) left() int { return m.limit - m.budget.Used() }

// windows are what may wait of one connection in the stack, in both directions.
type windows struct {
	m     *memory // nil: nothing is counted, and nothing bounded but by the stack
	in    tcpip.Endpoint
	reset func()       // ends the connection at once; it may be called more than once
	last  atomic.Int64 // when a byte passed, in nanoseconds since 1970
	need  atomic.Int64 // when a window was filled within unused, likewise
	begun int64        // when it was joined, likewise
	cost  float64      // of sweep: how much it holds, times for how long nothing has passed

	upward, downward pace // each of the goroutine that copies there

	mu            sync.Mutex // guards what follows; who writes to in holds it, or what waits could come to be more than was counted
	receive, send int        // bytes that may wait: what came from the client, what goes to it
	written       generation // of what goes to it
	blocks        int        // bytes that a goroutine holds while it waits
	ended         bool       // nothing more goes to the client: the stack does not tell any more what waits there
	gone          bool       // nothing is counted any more
}

// A pace tells how fast bytes pass in one direction.
type pace struct {
	since int64 // in nanoseconds since 1970
	n     int   // bytes, from then on
}

// filled counts n bytes, and tells whether a window of so many bytes was filled within unused.
func (p *pace) filled(n, window int, now int64) bool {
	if time.Duration(now-p.since) > unused {
		p.since, p.n = now, 0
	}
	if p.n += n; p.n < window {
		return false
	}
	p.since, p.n = now, 0
	return true
}

// join counts a connection, for which memory was reserved, and gives it its first windows: the one from the client is receive at least.
func (w *windows) join(m *memory, receive int) {
	w.m, w.begun = m, time.Now().UnixNano()
	w.mu.Lock()
	w.receive, w.send = receive, leastWindow
	first := m.window(firstWindow)
	w.in.SocketOptions().SetReceiveBufferSize(int64(receive), true) // else the stack changes it by itself
	if first > receive {
		w.setReceive(first)
	}
	w.setSend(first)
	w.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all[w] = struct{}{}
}

// leave ends what join has begun. It may be called more than once.
func (w *windows) leave() {
	if w.m == nil {
		return
	}
	w.m.mu.Lock()
	delete(w.m.all, w)
	w.m.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.gone {
		w.gone = true
		w.m.add(-w.receive - w.send - w.blocks)
	}
}

// touch notes that bytes pass, and returns when that is.
func (w *windows) touch() int64 {
	now := time.Now().UnixNano()
	w.last.Store(now)
	return now
}

// took notes that n bytes of the client's were passed on.
func (w *windows) took(n int) {
	if now := w.touch(); w.m != nil {
		w.grow(&w.upward, n, now, &w.receive, w.setReceive)
	}
}

// gave notes that the stack has taken n bytes for the client.
func (w *windows) gave(n int) {
	if now := w.touch(); w.m != nil {
		w.wrote(n)
		w.grow(&w.downward, n, now, &w.send, w.setSend)
	}
}

// grow doubles a window that is filled again and again, as far as there is memory.
func (w *windows) grow(p *pace, n int, now int64, size *int, set func(int)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !p.filled(n, *size, now) {
		return
	}
	w.need.Store(now)
	if more := w.m.grown(min(2**size, maxWindow)); more > *size && !w.gone {
		set(more)
	}
}

// hold counts a block that a goroutine holds while it waits (relay.Size), and when it waits no more (-relay.Size).
func (w *windows) hold(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.blocks += n; w.m != nil && !w.gone {
		w.m.add(n)
	}
}

// setReceive makes the window of what comes from the client n bytes long. The caller holds mu, as with all that follow.
func (w *windows) setReceive(n int) {
	w.m.add(n - w.receive)
	grows := n > w.receive
	w.receive = n
	w.in.SocketOptions().SetReceiveBufferSize(int64(n), grows) // who waits for room is told
}

// setSend makes the window of what goes to the client n bytes long.
func (w *windows) setSend(n int) {
	w.m.add(n - w.send)
	w.send = n
	if w.written.full {
		return
	}
	w.size(n)
}

// size tells the stack how much may wait for the client.
func (w *windows) size(n int) {
	o := w.in.SocketOptions()
	o.SetSendBufferSize(int64(n), true)  // else the stack changes it by itself; this waits for the endpoint's lock,
	o.SetSendBufferSize(int64(n), false) // with which an acknowledgement may have put back what it had read before
}

// trim makes windows smaller that were not needed just now: as long as what waits in them, and size at least. It tells whether something waits.
func (w *windows) trim(now int64, size int) (stuck bool) {
	if time.Duration(now-w.need.Load()) < unused {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return false
	}
	size = max(size, leastWindow)
	if w.receive > size && time.Duration(now-w.begun) >= unused { // a newcomer has still to use what was announced
		w.setReceive(size)
	}
	waits := receiveUsed(w.in) // more came meanwhile, or a segment did not fit
	if waits > w.receive {
		w.setReceive(waits)
	}
	w.shrinkSend(size)
	w.cost = float64(w.receive+w.send+w.blocks) * float64(now-w.last.Load())
	return w.blocks > 0 || waits > 0 || w.send > size || w.isFull()
}

// shrinkSend makes the window of what goes to the client as long as what waits in it, which is found by trying, and size at least.
func (w *windows) shrinkSend(size int) {
	if w.send <= size || w.ended || w.written.full {
		return
	}
	was, n := w.send, min(w.send, max(size, w.segments()))
	for w.setSend(n); n < was && w.isFull(); w.setSend(n) {
		n = min(2*n, was)
	}
}

// end is called before the last byte for the client is followed by the end. What waits then is counted until the connection has ended.
func (w *windows) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m != nil && !w.gone {
		w.shrinkSend(leastWindow)
		w.ended = true
	}
}

// isFull tells whether as much waits for the client as may. (Who has found it full is told of room when half of it is free.)
func (w *windows) isFull() bool {
	return w.in.Readiness(waiter.WritableEvents)&waiter.WritableEvents == 0
}

// usedField is where an endpoint has how much memory the segments take that its owner has not read, those out of order, too. The stack tells that nobody.
var usedField, usedKnown = func() (reflect.StructField, bool) {
	f, ok := reflect.TypeFor[tcp.Endpoint]().FieldByName("rcvMemUsed")
	return f, ok && f.Type.Size() == 4 && f.Type.Name() == "Int32"
}()

// receiveUsed returns how many bytes of memory hold what has come for an endpoint and was not read; 0 where this gVisor is another than that of which we
// know how to ask (a test fails then).
func receiveUsed(in tcpip.Endpoint) int {
	ep, ok := in.(*tcp.Endpoint)
	if !ok || !usedKnown {
		return 0
	}
	return int((*atomic.Int32)(unsafe.Add(unsafe.Pointer(ep), usedField.Offset)).Load())
}
