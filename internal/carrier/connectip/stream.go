package connectip

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"ferry/internal/carrier"
	"ferry/internal/identity"
)

const (
	scheme1 = "connect-ip+h1"
	// headPart is how much is read ahead of what the caller has memory for: the head of a capsule, and little more.
	headPart = 64
	// partSize is how much of a capsule is read at once: a record of TLS.
	partSize = carrier.MaxRecord
	// capsulePart is how much goes into one of our capsules.
	capsulePart = 64 << 10
	// outSize is how much is written at once.
	outSize = capsulePart + maxCapsuleHeader
)

// outs has the memory for what is written at once. One get (stream.Write, lane1.room), one put (stream.Write, lane1.flush).
var outs = sync.Pool{New: func() any { return new([outSize]byte) }}

// parts has the memory of parts of capsules. One get (stream.next), one put (stream.giveBack).
var parts = sync.Pool{New: func() any { return new([partSize]byte) }}

// A stream is the bytes in capsules of ours by HTTP/1.1. One goroutine at a time reads, one writes; Close may be called by anybody.
type stream struct {
	net.Conn
	in capsuleReader // its buffer has no more than headPart

	// For the goroutine that reads.
	part   *[partSize]byte // nil: none is borrowed
	unread []byte          // of part
}

var _ carrier.Waiter = (*stream)(nil)

func newStream(conn net.Conn) *stream {
	return &stream{Conn: conn, in: capsuleReader{br: bufio.NewReaderSize(conn, headPart)}}
}

// Wait is that of carrier.Waiter. It borrows memory only in the middle of a capsule.
func (s *stream) Wait(idle func()) error {
	if len(s.unread) == 0 {
		idle()
	}
	for len(s.unread) == 0 { // a read may return nothing at all
		if err := s.next(); err != nil {
			return err
		}
	}
	return nil
}

// next waits for a part of a capsule of ours, and passes over those of other types, which may be for proxies on the way.
func (s *stream) next() error {
	for s.in.left == 0 {
		kind, _, err := s.in.next()
		if err == nil && kind != capsuleStream {
			err = s.in.skip()
		}
		if err != nil {
			return err
		}
	}
	s.part = parts.Get().(*[partSize]byte)
	most := int(min(s.in.left, partSize))
	n, _ := s.in.br.Read(s.part[:min(most, s.in.br.Buffered())])
	var err error
	if n < most { // it was sent as a whole
		var more int
		more, err = s.Conn.Read(s.part[n:most])
		n += more
	}
	s.in.left -= uint64(n)
	if s.unread = s.part[:n]; n == 0 {
		s.giveBack()
		return noEOF(err)
	}
	return nil // an error comes again
}

func (s *stream) giveBack() {
	parts.Put(s.part)
	s.part, s.unread = nil, nil
}

func (s *stream) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if err := s.Wait(func() {}); err != nil {
		return 0, err
	}
	n := copy(b, s.unread)
	if s.unread = s.unread[n:]; len(s.unread) == 0 {
		s.giveBack()
	}
	return n, nil
}

// Write sends b, in one capsule if it is no longer than capsulePart.
func (s *stream) Write(b []byte) (n int, err error) {
	out := outs.Get().(*[outSize]byte)
	defer outs.Put(out)
	for n < len(b) {
		part := b[n:min(n+capsulePart, len(b))]
		if _, err := s.Conn.Write(append(appendCapsuleHeader(out[:0], capsuleStream, len(part)), part...)); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// LocalAddr is that of the TCP connection.
func (s *stream) LocalAddr() net.Addr { return addrOf(s.Conn.LocalAddr(), scheme1) }

// RemoteAddr is that of the TCP connection: of a proxy, where there is one between.
func (s *stream) RemoteAddr() net.Addr { return addrOf(s.Conn.RemoteAddr(), scheme1) }

// A lane1 is that of a stock client by HTTP/1.1.
type lane1 struct {
	conn net.Conn
	out  *[outSize]byte // nil: nothing waits
	n    int            // bytes in out
}

// newStock1 is a stock client by HTTP/1.1.
func newStock1(conn net.Conn, routes []netip.Prefix) *Stock {
	remote := addrOf(conn.RemoteAddr(), scheme1)
	return newStock(&lane1{conn: conn}, conn, func() net.Addr { return remote }, routes)
}

func (l *lane1) packet(b []byte) error {
	if l.n+maxCapsuleHeader+len(b) > outSize {
		if err := l.flush(); err != nil {
			return err
		}
	}
	if l.out == nil {
		l.out = outs.Get().(*[outSize]byte)
	}
	l.n = len(append(appendCapsuleHeader(l.out[:l.n], capsuleDatagram, len(b)), b...))
	return nil
}

func (l *lane1) flush() error {
	if l.out == nil {
		return nil
	}
	_, err := l.conn.Write(l.out[:l.n])
	outs.Put(l.out)
	l.out, l.n = nil, 0
	return err
}

func (l *lane1) capsules(b []byte) error {
	if err := l.flush(); err != nil {
		return err
	}
	_, err := l.conn.Write(b)
	return err
}

func (l *lane1) max() int { return maxPacket }

func (l *lane1) end() { _ = l.conn.Close() }

// A Guest is what a request by HTTP/1.1 has come to: one of the two.
type Guest struct {
	Inside net.Conn // the byte stream of Ferry's own client, of which nothing was read
	Stock  *Stock
	Key    identity.Public // of a stock client; zero: it has shown none
}

// Accept answers a request for Token on a connection. r.TLS is the outer TLS; nil: there is none. Behind an error, which was
// answered, the connection is good for nothing.
func Accept(conn net.Conn, r *http.Request, g Gate) (guest Guest, err error) {
	if err = g.judge1(r, &guest.Key); err != nil {
		refuse1(conn, err)
		return guest, err
	}
	own := ours(r)
	text := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + Token + "\r\n" + headerCapsules + ": ?1\r\n"
	if own {
		text += headerFerry + ": " + r.Header.Get(headerFerry) + "\r\n"
	}
	if _, err = io.WriteString(conn, text+"\r\n"); err != nil {
		return guest, err
	}
	if own {
		guest.Inside = newStream(conn)
	} else {
		guest.Stock = newStock1(conn, g.Routes)
	}
	return guest, nil
}

// judge1 says what is wrong with a request by HTTP/1.1.
func (g *Gate) judge1(r *http.Request, key *identity.Public) (err error) {
	if why := check(r); why != nil {
		return why
	}
	switch {
	case r.Method != http.MethodGet || !r.ProtoAtLeast(1, 1):
		return &refusal{status: http.StatusMethodNotAllowed, what: "the method GET is expected, and HTTP/1.1"}
	case !strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade"):
		return &refusal{status: http.StatusBadRequest, what: "the header Connection: Upgrade is missing: does the reverse proxy hand it on?"}
	case !ours(r):
		*key, err = g.enter(r.TLS)
		return err
	case g.TLS == nil:
		return &refusal{status: http.StatusForbidden, what: noDevices}
	}
	return nil
}

// refuse1 answers why not.
func refuse1(conn net.Conn, err error) {
	why := new(refusal)
	if !errors.As(err, &why) {
		return
	}
	page := why.what + "\n"
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s",
		why.status, http.StatusText(why.status), len(page), page)
}
