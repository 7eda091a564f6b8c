package dns

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"ferry/internal/carrier/polling"
)

// Kinds of texts: their first byte.
const (
	textData = 0 // [held 2][datagram]: for how many milliseconds the question was held
	textTest = 1 // as many bytes as were asked for
)

// A gate is the gateway's end: a polling.Answerer.
//
//	UDP ──▶ readDatagrams ─+                     +─▶ answered at once: what concerns the zone, tests, what is not proven
//	                       +─▶ handle ──judge──▶ |
//	TCP ──▶ stream.read ───+                     +─▶ in ──▶ Receive ──▶ package polling
//	                                                                          |
//	UDP, stream.write ◀──────────────── Answer ◀──────────────────────────────+
type gate struct {
	authority
	udp     *net.UDPConn
	post    *post // by udp
	tcp     *net.TCPListener
	clients clients
	in      chan asking   // sent to by who reads, without waiting: more than it holds are lost
	done    chan struct{} // closed by Close
	closing sync.Once
	work    sync.WaitGroup
	out     sync.Pool // of *[maxMessage]byte

	streams streams
	current [readQuestions]asking // what Receive has returned
}

var _ polling.Answerer[back] = (*gate)(nil)

const (
	// waiting is how many questions wait for Receive, of 0.5 KiB each.
	waiting = 256
	// readQuestions is how many Receive returns.
	readQuestions = 16
)

// A back is what it takes to answer a question.
type back struct {
	from   netip.AddrPort
	local  netip.Addr
	stream *stream // nil: UDP
	client uint64
	id     uint16
	flags  uint16
	buffer uint16
	edns   bool
	n      uint16 // of raw
	raw    [maxName + questionTail]byte
}

func (b *back) question() question {
	return question{id: b.id, flags: b.flags, buffer: int(b.buffer), edns: b.edns, raw: b.raw[:b.n]}
}

// An asking is a question for the tunnel.
type asking struct {
	back   back
	number uint32
	n      int // of data
	data   [maxName]byte
}

func newGate(z *zone, udp *net.UDPConn, tcp *net.TCPListener) (*gate, error) {
	p, err := newPost(udp, udp.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is6())
	if err != nil {
		return nil, err
	}
	g := &gate{
		authority: authority{z}, udp: udp, post: p, tcp: tcp, in: make(chan asking, waiting), done: make(chan struct{}),
		out: sync.Pool{New: func() any { return new([maxMessage]byte) }},
	}
	g.work.Go(g.readDatagrams)
	g.work.Go(g.accept)
	return g, nil
}

// readDatagrams reads until the socket is closed.
func (g *gate) readDatagrams() {
	var m [maxMessage]byte
	var control [controlLen]byte
	r := reading{g: g}
	for {
		n, k, _, from, err := g.udp.ReadMsgUDPAddrPort(m[:], control[:])
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err == nil:
			from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			r.handle(m[:n], from, localOf(control[:k]), nil)
		}
	}
}

// A reading is the scratch memory of who reads.
type reading struct {
	g       *gate
	out     [maxMessage]byte
	scratch [maxName]byte
	said    [heldLen + maxDown]byte
}

// handle answers a message, or hands it on. It tells whether there is an answer, or will be.
func (r *reading) handle(m []byte, from netip.AddrPort, local netip.Addr, s *stream) bool {
	g := r.g
	b, q, data, v := g.judge(r.out[:0], r.scratch[:], m, from.Addr(), local, s != nil)
	if v == answered {
		g.send(b, from, local, s)
	}
	if v != asked {
		return v == answered
	}
	now := time.Now()
	if s == nil && !g.clients.known(data.client, from.Addr(), now) {
		g.send(appendTruncated(b, &q), from, local, s)
		return true
	}
	if s != nil {
		g.clients.prove(data.client, from.Addr(), now)
	}
	if data.test {
		n := min(int(binary.BigEndian.Uint16(data.data)), len(r.said))
		clear(r.said[:])
		g.send(appendFitting(b, &q, textTest, r.said[:n], s != nil), from, local, s)
		return true
	}
	if p, ok := g.clients.again(r.said[:0], data.client, data.number); ok {
		g.send(appendData(b, &q, 0, p, s != nil), from, local, s)
		return true
	}
	return r.pass(&q, data, from, local, s)
}

// pass hands a question to Receive. It tells whether there was room.
func (r *reading) pass(q *question, data query, from netip.AddrPort, local netip.Addr, s *stream) bool {
	a := asking{number: data.number}
	a.n = copy(a.data[:], data.data)
	a.back = back{
		from: from, local: local, stream: s, client: data.client, id: q.id, flags: q.flags, buffer: uint16(min(q.buffer, bufferSize)), edns: q.edns,
	}
	a.back.n = uint16(copy(a.back.raw[:], q.raw))
	select {
	case r.g.in <- a:
		return true
	default:
		return false
	}
}

// appendFitting answers with a text, or says that it is to be had by TCP.
func appendFitting(b []byte, q *question, kind byte, text []byte, stream bool) []byte {
	if !stream && textLen(q, 1+len(text)) > min(q.buffer, bufferSize) {
		return appendTruncated(b, q)
	}
	return appendText(b, q, kind, text)
}

// appendData answers with a datagram.
func appendData(b []byte, q *question, held time.Duration, data []byte, stream bool) []byte {
	var text [heldLen + maxDown]byte
	binary.BigEndian.PutUint16(text[:], uint16(min(held.Milliseconds(), 1<<16-1)))
	n := heldLen + copy(text[heldLen:], data)
	return appendFitting(b, q, textData, text[:n], stream)
}

// Receive implements polling.Answerer.
func (g *gate) Receive(all []polling.Question[back]) (n int, err error) {
	for n < min(len(all), len(g.current)) {
		c := &g.current[n]
		if n > 0 {
			select {
			case *c = <-g.in:
			default:
				return n, nil
			}
		} else {
			select {
			case *c = <-g.in:
			case <-g.done:
				return 0, net.ErrClosed
			}
		}
		all[n] = polling.Question[back]{From: nameOf(c.back.client), Seen: c.back.from, Number: c.number, Data: c.data[:c.n], Back: c.back}
		n++
	}
	return n, nil
}

// nameOf returns the address by which package polling knows a client: one that leads nowhere (RFC 6666).
func nameOf(client uint64) netip.AddrPort {
	b := [16]byte{0: 1}
	binary.BigEndian.PutUint64(b[8:], client)
	return netip.AddrPortFrom(netip.AddrFrom16(b), 1)
}

// Answer implements polling.Answerer.
func (g *gate) Answer(to []polling.Reply[back], b []byte, lens []int, wait bool) (int, error) {
	out := g.out.Get().(*[maxMessage]byte)
	defer g.out.Put(out)
	now := time.Now()
	for i, n := range lens {
		r := &to[i].Back
		if n > 0 { // before it is sent, for the question may come again at once
			g.clients.keep(r.client, to[i].Number, b[:n], now)
		}
		q := r.question()
		switch err := g.put(appendData(out[:0], &q, to[i].Held, b[:n], r.stream != nil), r.from, r.local, r.stream, wait); {
		case errors.Is(err, errRoom):
			return i, nil
		case err != nil:
			return i, err
		}
		b = b[n:]
	}
	return len(lens), nil
}

// send sends a message of who reads, or loses it: who reads waits for nobody.
func (g *gate) send(m []byte, to netip.AddrPort, local netip.Addr, s *stream) {
	_ = g.put(m, to, local, s, false)
}

// put sends a message. Its error is errRoom, or final.
func (g *gate) put(m []byte, to netip.AddrPort, local netip.Addr, s *stream, wait bool) error {
	if s != nil {
		s.send(m)
		return nil
	}
	return g.post.send(m, to, local, wait)
}

// Max implements polling.Answerer.
func (g *gate) Max() int { return maxDown }

// Takes implements polling.Answerer.
func (g *gate) Takes() int { return g.maxUp() }

// Name implements polling.Answerer.
func (g *gate) Name(seen netip.AddrPort) net.Addr { return addr{seen} }

// Local implements polling.Answerer.
func (g *gate) Local() net.Addr { return addr{g.udp.LocalAddr().(*net.UDPAddr).AddrPort()} }

// Close implements polling.Answerer. It returns when all goroutines have ended.
func (g *gate) Close() error {
	g.closing.Do(func() {
		close(g.done)
		_ = g.udp.Close()
		_ = g.tcp.Close()
		g.streams.end()
		g.work.Wait()
	})
	return nil
}

// An addr is where a question came from or goes to: a resolver, or the other end itself.
type addr struct{ at netip.AddrPort }

func (a addr) Network() string { return "dns" }

func (a addr) String() string { return a.at.String() }

// AddrPort is by what a gateway bounds where clients come from.
func (a addr) AddrPort() netip.AddrPort { return a.at }
