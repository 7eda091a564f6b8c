package datagram

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/identity"
)

// Config bounds a Listener. Zero means the default.
type Config struct {
	Cookies    int // handshakes that may be open before whoever comes has to show a cookie; default 64
	Handshakes int // that may be open at all; default 1024
	// Proven says that the transport takes nothing from an address that is not proven, or answers it with less than came: so the first
	// packets need no padding, nobody has to show a cookie, and the gateway may say more than the client before the handshake is done.
	Proven bool
}

// A Listener takes the connections of clients.
type Listener struct {
	c      Config
	e      *endpoint
	accept chan *Pending // capacity c.Handshakes, so that sending never waits; sent to and closed by the reading goroutine
	open   atomic.Int64  // handshakes
	secret [32]byte      // of cookies
	start  time.Time
	static atomic.Pointer[[]byte] // what unknown packets are made of; nil: none are sent
	close  sync.Once
}

// Listen serves a transport, which belongs to the Listener from now on.
func Listen(t Transport, c Config) *Listener {
	if c.Cookies == 0 {
		c.Cookies = 64
	}
	if c.Handshakes == 0 {
		c.Handshakes = 1024
	}
	l := &Listener{c: c, e: newEndpoint(t), accept: make(chan *Pending, c.Handshakes), start: time.Now()}
	_, _ = rand.Read(l.secret[:]) // never fails
	l.e.listen = l
	l.e.reads.Go(func() {
		l.e.run()
		close(l.accept)
	})
	return l
}

// Answer makes the listener tell clients whose connection it does not know, since the gateway was restarted, that this is so.
// c is what Handshake will get. It may be called at any time; the first Handshake does so too.
func (l *Listener) Answer(c *tls.Config) {
	if b, err := staticSecret(c, l.Addr().String()); err == nil {
		l.static.Store(&b)
	}
}

// Addr returns where the listener is.
func (l *Listener) Addr() net.Addr { return l.e.t.Local() }

// Drops returns how many datagrams were dropped for which reason.
func (l *Listener) Drops() map[string]uint64 { return l.e.drops.stats() }

// Accept waits for a client. The error is net.ErrClosed: nobody comes any more, for the listener was closed, or the transport has ended.
func (l *Listener) Accept() (*Pending, error) {
	p, ok := <-l.accept
	if !ok {
		return nil, net.ErrClosed
	}
	return p, nil
}

// Close ends all connections. It returns when the reading goroutine has ended, and is idempotent.
func (l *Listener) Close() error {
	l.close.Do(func() {
		_ = l.e.t.Close()
		l.e.reads.Wait()
		for p := range l.accept {
			p.Close()
		}
	})
	return nil
}

// admit begins a connection with a client, if it may come. It is called by the reading goroutine.
func (l *Listener) admit(p []byte, from Addr) *Link {
	h, ok := parseLong(p)
	switch {
	case !ok || !l.c.Proven && len(p) < min(smallest, takes(l.e.t, from)):
		l.e.drop(DropMalformed)
		return nil
	case h.kind == typeHandshake:
		l.e.drop(DropUnknown)
		return nil
	case h.kind == typeCookie && !l.genuine(h, from):
		l.e.drop(DropCookie)
		return nil
	case h.kind == typeInitial && !l.c.Proven && (l.open.Load() >= int64(l.c.Cookies) || l.e.crowded(from)):
		l.e.reply(appendFixed(l.e.answer[:0], typeRetry, h.id, l.cookie(h.id, from, l.now())), from)
		return nil
	case l.open.Load() >= int64(l.c.Handshakes):
		l.e.drop(DropCrowd)
		return nil
	}
	l.e.come(from)
	link := newLink(l.e, newID(), h.id, from)
	link.isClient = false
	link.origin = origin{from.Remote, h.id}
	link.places.home = from
	if h.kind == typeCookie || l.c.Proven {
		link.path.prove()
	}
	if !l.e.add(link) {
		l.e.left(from)
		return nil
	}
	l.open.Add(1)
	l.accept <- &Pending{l: l, link: link}
	return link
}

// newID returns a number that nobody can guess. Its first bit is 0.
func newID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:]) >> 1
}

func (l *Listener) now() uint32 { return uint32(time.Since(l.start) / time.Second) }

// cookie is [seconds since start 4][HMAC 16]: whoever shows it was where it was sent, then.
func (l *Listener) cookie(client uint64, to Addr, at uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, at)
	h := hmac.New(sha256.New, l.secret[:])
	h.Write(b)
	h.Write(binary.BigEndian.AppendUint64(nil, client))
	a, _ := to.Remote.MarshalBinary() // never fails
	h.Write(a)
	return append(b, h.Sum(nil)[:cookieLen-4]...)
}

func (l *Listener) genuine(h longHeader, from Addr) bool {
	at := binary.BigEndian.Uint32(h.cookie)
	age := l.now() - at
	return age <= uint32(cookieLife/time.Second) && subtle.ConstantTimeCompare(h.cookie, l.cookie(h.id, from, at)) == 1
}

// A Pending is a client that has said hello. Either Handshake or Close has to be called.
type Pending struct {
	l    *Listener
	link *Link
	end  sync.Once
}

// RemoteAddr returns where the client seems to be: it is proven by the handshake.
func (p *Pending) RemoteAddr() net.Addr { return p.link.RemoteAddr() }

// Close turns the client away, without a word.
func (p *Pending) Close() {
	p.end.Do(func() { p.l.open.Add(-1) })
	p.link.fail(net.ErrClosed)
	_ = p.link.Close()
}

// Handshake makes the handshake, until ctx is done. It returns the connection, what both ends want to speak, and the key that
// the client has proven.
func (p *Pending) Handshake(ctx context.Context, c *tls.Config) (*Link, identity.Protocol, identity.Public, error) {
	defer p.end.Do(func() { p.l.open.Add(-1) })
	own := parameters{id: p.link.id, max: takes(p.l.e.t, p.link.path.at)}
	if p.l.static.Load() == nil {
		p.l.Answer(c)
	}
	if static, err := staticSecret(c, p.l.Addr().String()); err == nil {
		own.token = lostToken(static, own.id)
	}
	s, err := p.link.shake(ctx, c, own)
	if err == nil {
		var protocol identity.Protocol
		var key identity.Public
		if protocol, key, err = identity.Proven(s); err == nil {
			return p.link, protocol, key, nil
		}
	}
	p.link.Release()
	_ = p.link.Close()
	return nil, "", identity.Public{}, err
}

// Dial connects to an address and makes the handshake, until ctx is done. The transport belongs to the connection from now
// on, and is closed with it. Whether the gateway takes the client's key is known only when the first items have come: in TLS 1.3
// a client is done before.
func Dial(ctx context.Context, t Transport, to Addr, c *tls.Config) (*Link, error) {
	e := newEndpoint(t)
	id := newID()
	l := newLink(e, id, id, to)
	l.path.prove()
	e.add(l)
	e.reads.Go(e.run)
	if _, err := l.shake(ctx, c, parameters{id: id, max: takes(t, to)}); err != nil {
		l.Release()
		_ = l.Close()
		return nil, err
	}
	return l, nil
}
