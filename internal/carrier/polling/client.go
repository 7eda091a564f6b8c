package polling

import (
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"ferry/internal/carrier/datagram"
)

// A Client is the client's end: a transport to one gateway.
//
//	Send ── number ──▶ Ask            Receive ◀── answers; more polls, when there were datagrams
//	run  ── polls that are due ──▶ Ask
type Client struct {
	m    Asker
	c    Config
	to   datagram.Addr
	done chan struct{} // closed by Close
	kick chan struct{} // capacity 1: the deadline is another one
	room chan struct{} // capacity 1: an answer has come
	runs sync.WaitGroup
	once sync.Once

	timers sync.Pool // of *time.Timer, for await

	mu    sync.Mutex // guards what follows
	a     *asking
	aside aside
	armed time.Time // when run looks next

	// Of the goroutine that receives:
	answers    []Answer
	next, have int // of answers
}

var (
	_ datagram.Transport = (*Client)(nil)
	_ datagram.Taker     = (*Client)(nil)
)

// noLens are the lengths of polls.
var noLens [maxBatch]int

// NewClient asks a gateway, which is known by an address. The medium belongs to the Client from now on.
func NewClient(m Asker, to datagram.Addr, c Config) *Client {
	c.setDefaults()
	t := &Client{
		m: m, c: c, to: to, answers: make([]Answer, maxBatch),
		done: make(chan struct{}), kick: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	t.timers.New = newTimer
	t.a = newAsking(c, rand.Uint32(), time.Now())
	t.armed = t.a.deadline(time.Now())
	t.runs.Go(t.run)
	return t
}

// Send implements datagram.Transport.
func (t *Client) Send(b []byte, lens []int, _ datagram.Addr, wait bool) (done int, err error) {
	for len(lens) > 0 {
		first, k, put := t.number(b, lens, wait)
		switch {
		case k == 0 && !wait:
			return done + put, nil
		case k == 0:
			if !t.await() {
				return done, nil
			}
			continue
		}
		n, err := t.m.Ask(first, b, lens[:k], wait)
		if n < k {
			t.unsent(first+uint32(n), first+uint32(k))
		}
		done += n
		if err != nil || n < k {
			return done, err
		}
		b, lens = b[sum(lens[:n]):], lens[n:]
	}
	return done, nil
}

// number takes numbers for as many datagrams as may be sent, and returns the first and how many. If there is none, and nobody waits, it puts
// datagrams aside and returns how many.
func (t *Client) number(b []byte, lens []int, wait bool) (first uint32, k, put int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if k = min(len(lens), t.a.room(), maxBatch); k > 0 {
		first = t.a.ask(k, now)
	} else if !wait {
		put = t.aside.add(b, lens, asideBytes)
	}
	t.a.sent(now)
	t.arm(now)
	return first, k, put
}

func (t *Client) unsent(from, to uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.a.unsent(from, to)
}

// await waits for an answer. It returns false when the caller may think again.
func (t *Client) await() bool {
	return await(&t.timers, t.room, t.done)
}

func newTimer() any { return time.NewTimer(maxWait) }

// await waits for a word, but not for long. It tells whether it has come.
func await(timers *sync.Pool, word, done <-chan struct{}) bool {
	late := timers.Get().(*time.Timer)
	defer timers.Put(late)
	late.Reset(maxWait)
	defer late.Stop()
	select {
	case <-word:
		return true
	case <-late.C:
	case <-done:
	}
	return false
}

// Receive implements datagram.Transport.
func (t *Client) Receive(all []*datagram.Chunk) (int, error) {
	c := chunks{all: all}
	for {
		for t.next < t.have {
			a := &t.answers[t.next]
			if a.Nobody && !c.nobody() || len(a.Data) > 0 && !a.Nobody && !c.add(t.to, a.Data) {
				return c.n, nil
			}
			t.next++
		}
		if c.n > 0 {
			return c.n, nil
		}
		n, err := t.m.Receive(t.answers)
		if err != nil {
			return 0, err
		}
		t.next, t.have = 0, n
		t.answered(t.answers[:n])
	}
}

// answered counts answers, and asks anew.
func (t *Client) answered(all []Answer) {
	t.mu.Lock()
	now := time.Now()
	for i := range all {
		switch a := &all[i]; {
		case a.Nobody:
		case a.Lost:
			t.a.refused(a.Number)
		default:
			t.a.answered(a.Number, a.Held, len(a.Data) > 0, now)
		}
	}
	t.mu.Unlock()
	notify(t.room)
	t.poll()
}

// poll sends what was put aside, and the polls that are due.
func (t *Client) poll() {
	for t.ask() {
	}
}

// ask does so once, and tells whether there may be more.
func (t *Client) ask() bool {
	t.mu.Lock()
	now := time.Now()
	var b []byte
	var lens []int
	if k := min(len(t.aside.lens), t.a.room(), maxBatch); k > 0 {
		lens = slices.Clone(t.aside.lens[:k]) // seldom
		b = slices.Clone(t.aside.bytes[:sum(lens)])
		t.aside.drop(k)
		t.a.sent(now)
	} else {
		lens = noLens[:min(t.a.due(now), maxBatch)]
	}
	first := t.a.ask(len(lens), now)
	t.arm(now)
	t.mu.Unlock()
	if len(lens) == 0 {
		return false
	}
	n, err := t.m.Ask(first, b, lens, false)
	if n < len(lens) {
		t.unsent(first+uint32(n), first+uint32(len(lens)))
	}
	return err == nil && n == len(lens)
}

// arm sees to it that run looks when something is due. The caller holds mu.
func (t *Client) arm(now time.Time) {
	if at := t.a.deadline(now); at.Before(t.armed) {
		t.armed = at
		notify(t.kick)
	}
}

// run sends the polls that are due because nothing happens. It ends with Close.
func (t *Client) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-t.done:
			return
		case <-t.kick:
		case <-timer.C:
			t.poll()
			notify(t.room) // questions may have been given up
		}
		t.mu.Lock()
		now := time.Now()
		t.armed = t.a.deadline(now)
		timer.Reset(t.armed.Sub(now))
		t.mu.Unlock()
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Max implements datagram.Transport.
func (t *Client) Max(datagram.Addr) int { return t.m.Max() }

// Takes implements datagram.Taker.
func (t *Client) Takes(datagram.Addr) int { return t.m.Takes() }

// Name implements datagram.Transport.
func (t *Client) Name(datagram.Addr) net.Addr { return t.m.Name() }

// Local implements datagram.Transport.
func (t *Client) Local() net.Addr { return t.m.Local() }

// Close implements datagram.Transport.
func (t *Client) Close() (err error) {
	t.once.Do(func() {
		close(t.done)
		err = t.m.Close()
		t.runs.Wait()
	})
	return err
}
