package polling

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"ferry/internal/carrier/datagram"
)

// A medium is one that tests make: questions and answers between one client and a gateway.
//
//	Ask ── lost? late ──▶ inbox of the gateway         Answer ── lost? late ──▶ inbox of the client
type medium struct {
	up, down int // longest datagrams
	delay    time.Duration
	from     func() netip.AddrPort

	mu        sync.Mutex // guards what follows
	rand      *rand.Rand
	loss      float64
	asked     int // questions that were sent
	polls     int // of them without a datagram
	open      map[uint32]bool
	most      int // questions without an answer
	answered  int
	empty     int
	doubled   int // answers to what has one
	nr        time.Duration
	questions chan Question[uint32]
	answers   chan Answer
	done      chan struct{}
	once      sync.Once
}

func newMedium(up, down int, delay time.Duration, loss float64) *medium {
	return &medium{
		up: up, down: down, delay: delay, loss: loss, rand: rand.New(rand.NewPCG(1, 2)), open: map[uint32]bool{},
		from:      func() netip.AddrPort { return netip.MustParseAddrPort("198.51.100.7:1024") },
		questions: make(chan Question[uint32], 1<<14), answers: make(chan Answer, 1<<14), done: make(chan struct{}),
	}
}

// later does something when half a round trip is over, or never.
func (m *medium) later(f func()) {
	if m.rand.Float64() < m.loss {
		return
	}
	if m.delay == 0 {
		f()
		return
	}
	m.nr++ // what is sent later arrives later
	time.AfterFunc(m.delay+m.nr, f)
}

// An askerEnd is the client's end.
type askerEnd struct{ *medium }

func (m askerEnd) Ask(first uint32, b []byte, lens []int, _ bool) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, l := range lens {
		if l > m.up {
			panic("a question is too long")
		}
		q := Question[uint32]{From: m.from(), Seen: m.from(), Number: first + uint32(i), Back: first + uint32(i), Data: slices.Clone(b[:l])}
		b = b[l:]
		m.asked++
		if l == 0 {
			m.polls++
		}
		m.open[q.Number] = true
		m.most = max(m.most, len(m.open))
		m.later(func() { put(m.questions, q) })
	}
	return len(lens), nil
}

func put[T any](c chan T, v T) {
	select {
	case c <- v:
	default:
	}
}

// receive takes what is there.
func receive[T any](m *medium, c chan T, all []T) (n int, err error) {
	select {
	case all[0] = <-c:
	case <-m.done:
		return 0, net.ErrClosed
	}
	for n = 1; n < len(all); n++ {
		select {
		case all[n] = <-c:
		default:
			return n, nil
		}
	}
	return n, nil
}

func (m askerEnd) Receive(a []Answer) (int, error) { return receive(m.medium, m.answers, a) }
func (m askerEnd) Max() int                        { return m.up }
func (m askerEnd) Takes() int                      { return m.down }
func (m askerEnd) Name() net.Addr                  { return &net.UDPAddr{} }
func (m askerEnd) Local() net.Addr                 { return &net.UDPAddr{} }
func (m askerEnd) Close() error                    { m.once.Do(func() { close(m.done) }); return nil }

// An answererEnd is the gateway's end.
type answererEnd struct{ *medium }

func (m answererEnd) Answer(to []Reply[uint32], b []byte, lens []int, _ bool) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, r := range to {
		if lens[i] > m.down {
			panic("an answer is too long")
		}
		if r.Back != r.Number {
			panic("an answer to something else")
		}
		a := Answer{Number: r.Number, Held: r.Held, Data: slices.Clone(b[:lens[i]])}
		b = b[lens[i]:]
		if !m.open[r.Number] {
			m.doubled++
		}
		delete(m.open, r.Number)
		m.answered++
		if lens[i] == 0 {
			m.empty++
		}
		m.later(func() { put(m.answers, a) })
	}
	return len(to), nil
}

func (m answererEnd) Receive(q []Question[uint32]) (int, error) {
	return receive(m.medium, m.questions, q)
}
func (m answererEnd) Max() int                       { return m.down }
func (m answererEnd) Takes() int                     { return m.up }
func (m answererEnd) Name(a netip.AddrPort) net.Addr { return net.UDPAddrFromAddrPort(a) }
func (m answererEnd) Local() net.Addr                { return &net.UDPAddr{} }
func (m answererEnd) Close() error                   { m.once.Do(func() { close(m.done) }); return nil }

// transports returns both ends over a medium.
func transports(t testing.TB, m *medium, c Config) (*Client, *Server[uint32]) {
	t.Helper()
	s := NewServer(answererEnd{m}, c)
	k := NewClient(askerEnd{m}, gatewayAt, c)
	t.Cleanup(func() { _, _ = k.Close(), s.Close() })
	return k, s
}

var gatewayAt = datagram.Addr{Remote: netip.MustParseAddrPort("192.0.2.1:0")}
