package relay

import (
	"bytes"
	"container/list"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// FlowConfig is what a Flows is told. All but Waits has to be there.
type FlowConfig[K comparable] struct {
	Max  int           // flows
	Idle time.Duration // after how long without a datagram a flow ends
	// Dial makes the socket of a flow: one of the kernel's, or an io.WriterTo that writes each datagram by itself. It ends early when the table is to be
	// closed. Waits tells that it may take time, as to look a name up; it is called beside then.
	Dial  func(K) (net.Conn, error)
	Waits func(K) bool
	// Reply takes what came by a flow's socket; net.ErrClosed ends the flow.
	Reply func(k K, far net.Conn, b []byte) error
	// Count is told of each flow that was made, and each that gave way or datagram that was too early; Sent of bytes that were handed on.
	Made, Full func()
	Sent       func(n int)
}

// Flows hands datagrams on by a socket for each key, and what comes back by it. There are so many and no more: then the one gives way that was silent for
// longest.
//
//	Send --> flow of the key --> its socket
//	Reply <----------------------/
type Flows[K comparable] struct {
	c    FlowConfig[K]
	work sync.WaitGroup

	mu     sync.Mutex // guards what follows
	all    map[K]*flow[K]
	oldest *list.List // of *flow: in front that which was sent to longest ago
	early  int        // bytes in the early of all
	over   bool
}

// A flow is one key's.
type flow[K comparable] struct {
	key  K
	at   *list.Element
	born time.Time
	last atomic.Int64  // when a datagram passed, in nanoseconds since 1970
	sent atomic.Uint64 // bytes
	got  atomic.Uint64 // bytes
	try  func(fd uintptr) bool

	// Of the table's mu: while it is dialled far is nil, and early has what came meanwhile.
	far   net.Conn
	early [][]byte
	open  bool // early was sent
	over  bool // the flow has given way, or the table was closed

	raw syscall.RawConn // nil: far is no socket of the kernel
	b   []byte          // what try sends
}

// MaxEarly is how many datagrams of a flow wait for it to be dialled, and maxEarlyBytes how much those of all flows of a table may have: sources cost a
// stranger nothing.
const (
	MaxEarly      = 8
	maxEarlyBytes = 1 << 20
)

// NewFlows returns a table without flows.
func NewFlows[K comparable](c FlowConfig[K]) *Flows[K] {
	return &Flows[K]{c: c, all: map[K]*flow[K]{}, oldest: list.New()}
}

// Live is how many flows there are.
func (t *Flows[K]) Live() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.all)
}

// A FlowState is what a flow has done so far.
type FlowState struct {
	Far            net.Conn // its socket
	Since, Last    time.Time
	Sent, Received uint64 // bytes, by its socket
}

// Each calls f with each flow that has a socket. f must not call the table.
func (t *Flows[K]) Each(f func(K, FlowState)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, w := range t.all {
		if w.far != nil {
			f(k, FlowState{Far: w.far, Since: w.born, Last: time.Unix(0, w.last.Load()), Sent: w.sent.Load(), Received: w.got.Load()})
		}
	}
}

// Close ends all flows and waits for them.
func (t *Flows[K]) Close() {
	t.mu.Lock()
	t.over = true
	for _, w := range t.all {
		w.end()
	}
	t.mu.Unlock()
	t.work.Wait()
}

// Send hands a datagram on. One goroutine calls it. What does not go at once is lost, as UDP may be: the datagrams of others do not wait for it.
func (t *Flows[K]) Send(k K, b []byte) {
	if w := t.flow(k); w != nil && !t.waits(w, b) {
		t.send(w, b)
	}
}

func (t *Flows[K]) send(w *flow[K], b []byte) {
	w.send(b)
	w.sent.Add(uint64(len(b)))
	t.c.Sent(len(b))
}

// waits keeps a datagram for later if the flow is being dialled.
func (t *Flows[K]) waits(w *flow[K], b []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.open {
		return false
	}
	if !w.over && len(w.early) < MaxEarly && t.early+len(b) <= maxEarlyBytes {
		w.early = append(w.early, bytes.Clone(b))
		t.early += len(b)
	} else {
		t.c.Full()
	}
	return true
}

// takeEarly returns what has waited for a flow. The caller holds mu.
func (t *Flows[K]) takeEarly(w *flow[K]) [][]byte {
	early := w.early
	for _, b := range early {
		t.early -= len(b)
	}
	w.early = nil
	return early
}

// flow returns the flow of a key, which is made if there is none; nil: it can not be dialled.
func (t *Flows[K]) flow(k K) *flow[K] {
	t.mu.Lock()
	w := t.all[k]
	if w != nil {
		t.oldest.MoveToBack(w.at)
	}
	t.mu.Unlock()
	if w != nil {
		return w
	}
	w = &flow[K]{key: k, born: time.Now()}
	w.touch()
	beside := t.c.Waits != nil && t.c.Waits(k)
	if !beside && !t.reach(w) || !t.add(w) {
		w.end()
		return nil
	}
	go func() {
		defer t.work.Done()
		if !beside || t.reach(w) {
			t.receive(w)
		}
		t.remove(w)
	}()
	return w
}

// reach dials a flow, and sends what has waited for that. False: it can not be dialled.
func (t *Flows[K]) reach(w *flow[K]) bool {
	far, err := t.c.Dial(w.key)
	if err != nil {
		return false
	}
	var raw syscall.RawConn
	if s, ok := far.(syscall.Conn); ok {
		if raw, err = s.SyscallConn(); err != nil {
			_ = far.Close()
			return false
		}
	}
	t.mu.Lock()
	w.far, w.raw, w.try = far, raw, w.write
	if w.over {
		_ = far.Close()
	}
	t.mu.Unlock()
	for {
		t.mu.Lock()
		early := t.takeEarly(w)
		w.open = len(early) == 0
		t.mu.Unlock()
		if len(early) == 0 {
			return true
		}
		for _, b := range early {
			t.send(w, b)
		}
	}
}

// end ends a flow. The caller holds the table's mu, or nobody else knows the flow.
func (w *flow[K]) end() {
	w.over = true
	if w.far != nil {
		_ = w.far.Close()
	}
}

// add makes room for a flow, and counts it in work: with mu held, or Close could have waited already.
func (t *Flows[K]) add(w *flow[K]) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	if len(t.all) >= t.c.Max {
		first := t.oldest.Front().Value.(*flow[K])
		t.forget(first)
		first.end()
		t.c.Full()
	}
	t.all[w.key] = w
	w.at = t.oldest.PushBack(w)
	t.work.Add(1)
	t.c.Made()
	return true
}

// forget takes a flow out of the table. The caller holds mu.
func (t *Flows[K]) forget(w *flow[K]) {
	if t.all[w.key] == w {
		delete(t.all, w.key)
		t.oldest.Remove(w.at)
	}
}

func (t *Flows[K]) remove(w *flow[K]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(w)
	t.takeEarly(w)
	w.end()
}

func (w *flow[K]) touch() { w.last.Store(time.Now().UnixNano()) }

func (w *flow[K]) send(b []byte) {
	w.touch()
	if w.raw == nil {
		if _, err := w.far.Write(b); err != nil { // that of an earlier one: see write
			_, _ = w.far.Write(b)
		}
		return
	}
	w.b = b
	_ = w.raw.Write(w.try)
	w.b = nil
}

// write sends b. An error that came for an earlier datagram is returned in the place of sending this one, once (udp(7)).
func (w *flow[K]) write(fd uintptr) bool {
	for again := 0; again < 3; again++ {
		switch unix.Send(int(fd), w.b, unix.MSG_DONTWAIT) {
		case unix.EINTR, unix.ECONNREFUSED, unix.EHOSTUNREACH:
		default:
			return true
		}
	}
	return true
}

// receive hands on what comes by the flow's socket, until nothing has passed for too long.
func (t *Flows[K]) receive(w *flow[K]) {
	quiet := func() time.Duration { return time.Since(time.Unix(0, w.last.Load())) }
	stop := AfterQuiet(t.c.Idle, quiet, func() { _ = w.far.Close() })
	defer stop()
	reply := replies[K]{t, w}
	if w.raw == nil {
		_, _ = w.far.(io.WriterTo).WriteTo(reply)
		return
	}
	r := NewReader(w.raw, Size)
	for {
		b, err := r.Next()
		switch {
		case err == nil:
			_, err = reply.Write(b)
			r.Release()
			if err != nil {
				return
			}
		case !errors.As(err, new(syscall.Errno)): // closed
			return
		} // else nobody listens there just now, and the socket goes on
	}
}

// replies are written to whom a flow belongs.
type replies[K comparable] struct {
	t *Flows[K]
	w *flow[K]
}

// Write implements io.Writer.
func (r replies[K]) Write(b []byte) (int, error) {
	r.w.touch()
	r.w.got.Add(uint64(len(b)))
	if err := r.t.c.Reply(r.w.key, r.w.far, b); errors.Is(err, net.ErrClosed) {
		return 0, err
	}
	return len(b), nil
}
