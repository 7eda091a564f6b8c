package dns

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// DNS over TCP (RFC 7766), at the gateway: who comes by it is where he says.

const (
	// maxStreams bounds connections, and networkStreams those of one network. Of all the one goes for a new one that has said nothing for longest:
	// to keep the others out takes more than to be there.
	maxStreams     = 256
	networkStreams = 32
	// streamIdle is how long one may be silent; streamWrite is how long it may take to read an answer.
	streamIdle  = 10 * time.Second
	streamWrite = 5 * time.Second
	// maxOwed is how many messages of a connection wait for their answers, or these for being read: then no more are read. Resolvers ask as many questions
	// by one connection as they like (RFC 7766, section 6.2.1.1). An answer that does not come, for it was lost, is waited for as long as owedTime.
	maxOwed  = 32
	owedTime = time.Second
)

// streams are the connections of a gateway.
type streams struct {
	mu     sync.Mutex // guards what follows
	all    map[*stream]netip.Prefix
	closed bool
}

// add takes a connection, and returns one that is to be closed for it; nil: none. It returns false when there are too many of its network.
func (s *streams) add(x *stream) (victim *stream, ok bool) {
	from := network(x.from.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for o, p := range s.all {
		if p == from {
			n++
		}
		if victim == nil || o.said.Load() < victim.said.Load() {
			victim = o
		}
	}
	if s.closed || n >= networkStreams {
		return nil, false
	}
	if len(s.all) < maxStreams {
		victim = nil
	}
	delete(s.all, victim)
	if s.all == nil {
		s.all = map[*stream]netip.Prefix{}
	}
	s.all[x] = from
	return victim, true
}

func (s *streams) remove(x *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, x)
}

// end ends all of them.
func (s *streams) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for x := range s.all {
		_ = x.conn.Close()
	}
}

// A stream is one connection. Whoever answers hands messages to its writing goroutine.
type stream struct {
	conn *net.TCPConn
	from netip.AddrPort
	owed chan struct{} // capacity maxOwed: one for each message without an answer. Sent to by who reads, taken from with each answer that is written
	out  chan []byte   // capacity maxOwed
	done chan struct{} // closed when nothing more is read
	said atomic.Int64  // when a message came last, or the connection: nanoseconds
}

func newStream(conn *net.TCPConn, from netip.AddrPort) *stream {
	x := &stream{conn: conn, from: from, owed: make(chan struct{}, maxOwed), out: make(chan []byte, maxOwed), done: make(chan struct{})}
	x.said.Store(time.Now().UnixNano())
	return x
}

// send sends a message. It is lost if too many are unread, which are more than were asked for.
func (x *stream) send(m []byte) {
	b := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(m)), uint16(len(m))), m...)
	select {
	case x.out <- b:
	default:
	}
}

// owe waits until one more answer may be owed. It returns false when the gate is closed.
func (x *stream) owe(closed <-chan struct{}) bool {
	select {
	case x.owed <- struct{}{}:
		return true
	default:
	}
	late := time.NewTimer(owedTime)
	defer late.Stop()
	select {
	case x.owed <- struct{}{}:
	case <-late.C:
	case <-closed:
		return false
	}
	return true
}

// paid notes that there is an answer, or will be none.
func (x *stream) paid() {
	select {
	case <-x.owed:
	default:
	}
}

// accept takes connections until the listener is closed.
func (g *gate) accept() {
	for {
		conn, err := g.tcp.AcceptTCP()
		if err != nil {
			select {
			case <-g.done:
				return
			case <-time.After(10 * time.Millisecond): // no descriptor is free
				continue
			}
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		x := newStream(conn, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
		victim, ok := g.streams.add(x)
		if !ok {
			_ = conn.SetLinger(0)
			_ = conn.Close()
			continue
		}
		if victim != nil {
			_ = victim.conn.Close()
		}
		g.work.Go(func() { g.read(x) })
		g.work.Go(x.write)
	}
}

// read reads messages until the connection ends. It ends the writing goroutine, too.
func (g *gate) read(x *stream) {
	defer func() {
		g.streams.remove(x)
		_ = x.conn.Close()
		close(x.done)
	}()
	local := x.conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	r := reading{g: g}
	var m [2 + maxMessage]byte
	for {
		_ = x.conn.SetReadDeadline(time.Now().Add(streamIdle))
		if _, err := io.ReadFull(x.conn, m[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(m[:]))
		if n < messageHeader || n > maxMessage {
			return
		}
		if _, err := io.ReadFull(x.conn, m[2:2+n]); err != nil {
			return
		}
		x.said.Store(time.Now().UnixNano())
		if !x.owe(g.done) {
			return
		}
		if !r.handle(m[2:2+n], x.from, local, x) {
			x.paid()
		}
	}
}

// write writes what is to be sent, until the connection ends.
func (x *stream) write() {
	for {
		select {
		case b := <-x.out:
			_ = x.conn.SetWriteDeadline(time.Now().Add(streamWrite))
			if _, err := x.conn.Write(b); err != nil {
				_ = x.conn.Close()
				return
			}
			x.paid()
		case <-x.done:
			return
		}
	}
}
