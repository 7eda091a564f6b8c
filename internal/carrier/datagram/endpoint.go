package datagram

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// readChunks is how many chunks are read at once.
const readChunks = 8

// unknownPerSecond bounds how many unknown packets are sent.
const unknownPerSecond = 1000

// An endpoint reads a transport and hands what has come to the connections: all of a gateway, or the one of a client.
type endpoint struct {
	t      Transport
	drops  counters
	reads  sync.WaitGroup // of run
	listen *Listener      // nil: a client's

	mu     sync.Mutex       // guards what follows
	links  map[uint64]*Link // by the id by which this end knows them
	shakes map[origin]*Link // a gateway's, by what a packet of the handshake has

	// Of run:
	answer  [lostLen + retryLen]byte
	lens    [1]int
	second  time.Time
	unknown int // packets sent in that second
}

// An origin is what a client's packets have before it knows the gateway's id.
type origin struct {
	from   netip.AddrPort
	client uint64
}

func newEndpoint(t Transport) *endpoint {
	return &endpoint{t: t, links: map[uint64]*Link{}, shakes: map[origin]*Link{}}
}

func (e *endpoint) drop(why Reason) { e.drops.drop(why) }

// run reads until the transport is closed.
func (e *endpoint) run() {
	count, size := readChunks, LargeChunk
	if _, single := e.t.(Single); single {
		count, size = 1, smallChunk
	}
	chunks := make([]*Chunk, count)
	for i := range chunks {
		chunks[i] = newChunk(size)
	}
	for {
		n, err := e.t.Receive(chunks)
		for i := range n {
			if e.sort(chunks[i]) {
				chunks[i] = newChunk(size)
			}
		}
		if err != nil {
			e.end(err)
			break
		}
	}
	for _, c := range chunks {
		c.free()
	}
}

// end fails all connections.
func (e *endpoint) end(err error) {
	e.mu.Lock()
	links := make([]*Link, 0, len(e.links))
	for _, l := range e.links {
		links = append(links, l)
	}
	e.mu.Unlock()
	for _, l := range links {
		l.fail(err)
	}
}

// refused ends a handshake with nobody. Later it may be a lie, and who has really gone is missed soon.
func (e *endpoint) refused() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.links {
		l.mu.Lock()
		young := l.isClient && !l.shaken
		l.mu.Unlock()
		if young {
			l.fail(ErrRefused)
		}
	}
}

// A goal is to whom a datagram says that it goes.
type goal struct {
	long bool
	id   uint64
}

// sort hands the datagrams of a chunk to whom they go. It tells whether the chunk went with them: only where all have the same
// goal, which is so but for strangers' inventions, and where they are worth the memory.
func (e *endpoint) sort(c *Chunk) (gone bool) {
	if c.Len == 0 {
		e.refused()
	}
	for i := 0; i < c.Len; {
		g, ok := goalOf(c.Data[i:c.next(i)])
		j := c.next(i)
		for same := ok; same && j < c.Len; {
			var h goal
			if h, same = goalOf(c.Data[j:c.next(j)]); same && h == g {
				j = c.next(j)
			} else {
				same = false
			}
		}
		if !ok {
			e.drop(DropMalformed)
		} else if l := e.find(g, c, i); l != nil {
			gone = e.hand(l, c, i, j)
		}
		i = j
	}
	return gone
}

func goalOf(p []byte) (goal, bool) {
	switch {
	case len(p) < lostLen:
		return goal{}, false
	case isLong(p):
		return goal{true, binary.BigEndian.Uint64(p[2:])}, true
	}
	return goal{false, binary.BigEndian.Uint64(p)}, len(p) > Overhead
}

// hand gives datagrams to a connection. It tells whether the whole chunk went there.
func (e *endpoint) hand(l *Link, c *Chunk, i, j int) bool {
	if i == 0 && j == c.Len && j > mediumChunk {
		if l.deliver(c) {
			return true
		}
		e.drop(DropQueue)
		return false
	}
	p := c.part(i, j)
	if !l.deliver(p) {
		p.free()
		e.drop(DropQueue)
	}
	return false
}

// find returns the connection that a datagram is for; nil: there is none, and what there was to do is done.
func (e *endpoint) find(g goal, c *Chunk, i int) *Link {
	p := c.Data[i:c.next(i)]
	e.mu.Lock()
	var l *Link
	switch {
	case e.listen == nil:
		for _, l = range e.links { // the one that there is
		}
	case g.long:
		l = e.shakes[origin{c.From.Remote, g.id}]
	default:
		l = e.links[g.id]
	}
	e.mu.Unlock()
	switch {
	case l != nil:
		return l
	case e.listen == nil:
		e.drop(DropUnknown)
	case g.long:
		return e.listen.admit(p, c.From)
	default:
		e.drop(DropUnknown)
		e.lost(g.id, c.From)
	}
	return nil
}

// lost tells a client that its connection is not known: in less than it has sent.
func (e *endpoint) lost(id uint64, to Addr) {
	static := e.listen.static.Load()
	now := time.Now()
	if now.Sub(e.second) > time.Second {
		e.second, e.unknown = now, 0
	}
	if e.unknown++; static == nil || e.unknown > unknownPerSecond {
		return
	}
	token := lostToken(*static, id)
	e.reply(appendFixed(e.answer[:0], typeUnknown, id, token[:]), to)
}

// reply sends a packet that no connection is behind.
func (e *endpoint) reply(p []byte, to Addr) {
	e.lens[0] = len(p)
	_, _ = e.t.Send(p, e.lens[:], to, false)
}

// crowded tells whether the transport keeps nothing of who is there.
func (e *endpoint) crowded(a Addr) bool {
	p, ok := e.t.(Prover)
	return ok && p.Crowded(a)
}

// come tells the transport that a connection is there, or may be.
func (e *endpoint) come(a Addr) {
	if p, ok := e.t.(Prover); ok {
		p.Come(a)
	}
}

// proven tells the transport that a client is no stranger.
func (e *endpoint) proven(a Addr) {
	if p, ok := e.t.(Prover); ok {
		p.Proven(a)
	}
}

// left tells the transport that a connection is there no more.
func (e *endpoint) left(a Addr) {
	if p, ok := e.t.(Prover); ok {
		p.Left(a)
	}
}

// add makes a connection known. It returns false when there is one with that id, or the endpoint was closed.
func (e *endpoint) add(l *Link) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.links[l.id] != nil {
		return false
	}
	e.links[l.id] = l
	if !l.isClient {
		e.shakes[l.origin] = l
	}
	return true
}

// remove forgets a connection. A client's transport is closed with it.
func (e *endpoint) remove(l *Link) {
	e.mu.Lock()
	delete(e.links, l.id)
	if !l.isClient {
		delete(e.shakes, l.origin)
	}
	e.mu.Unlock()
	if !l.isClient {
		l.leave()
	}
	if e.listen == nil {
		_ = e.t.Close()
		e.reads.Wait()
	}
}
