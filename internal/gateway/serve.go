package gateway

import (
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"ferry/internal/admission"
	"ferry/internal/carrier"
	"ferry/internal/carrier/connectip"
	"ferry/internal/carrier/tls"
	"ferry/internal/carrier/ws"
	"ferry/internal/identity"
	"ferry/internal/peerstore"
)

// A listener is a place where clients come in, and what is spoken there.
type listener struct {
	entrance
	at    carrier.Endpoint // as it was named
	allow carrier.Modes
	admit func(net.Conn) error // nil: everybody
	// from returns the context ID or the user ID at the other end; nil where there is none.
	from   func(net.Conn) (uint32, error)
	number byte // among the listeners
}

// Why a connection ended before there was a client.
var (
	errPlain    = errors.New("the 2013 protocol on a listener for TLS only")
	errFrom     = errors.New("from where nobody is let in")
	errUnknown  = errors.New("a key that nobody has added")
	errDisabled = errors.New("the key of a device that is disabled")
	errJoined   = errors.New("joined")
)

// serve is the life of a connection.
func (g *Gateway) serve(ctx context.Context, l *listener, a arrival, visit *admission.Visit) {
	arrived := time.Now()
	defer func() { visit.Leave(time.Now()) }()
	var s carrier.Link
	var key identity.Public
	var err error
	// A handshake needs a large stack, which a goroutine keeps for long. The one that goes on to serve
	// the client for hours waits for another one, which has it and ends.
	var greeting sync.WaitGroup
	greeting.Go(func() { s, key, err = g.greet(ctx, l, a) })
	greeting.Wait()
	if err == nil && key != (identity.Public{}) {
		if why := visit.Known(false, time.Now()); why != admission.Admitted {
			err = crowdedError(why)
		}
	}
	if err != nil {
		if conn, ok := a.(net.Conn); ok {
			carrier.Drain(conn)
		}
		if s != nil { // which an arrival that has shaken hands does not close
			_ = s.Close()
			s.Release()
		}
		_ = a.Close()
		if isGuess(err) {
			visit.Failed(time.Now())
		}
		cause, _ := explain(err)
		g.closed.count(cause)
		if errors.Is(err, errJoined) { // mutate: only a line in the log
			return
		}
		g.strange.Info(cause, "connection refused", "from", a.RemoteAddr().String(), "err", err)
		return
	}
	if key != (identity.Public{}) { // the time for a request begins behind the handshake
		arrived = time.Now()
	}
	g.admit(s, key, visit, arrived).run(ctx)
}

// isGuess tells whether a client has shown a key or a secret that opens nothing.
func isGuess(err error) bool {
	for _, guess := range []error{errUnknown, identity.ErrCertificate, peerstore.ErrInvitation} {
		if errors.Is(err, guess) {
			return true
		}
	}
	return false
}

// greet finds out who a client is. The key is zero for one that speaks the 2013 protocol. Whoever has
// come to join has been served: errJoined.
func (g *Gateway) greet(ctx context.Context, l *listener, a arrival) (carrier.Link, identity.Public, error) {
	if s, ok := a.(shaker); ok {
		ctx, cancel := context.WithTimeout(ctx, g.c().JoinTimeout)
		defer cancel()
		link, protocol, key, err := s.Handshake(ctx)
		if err != nil {
			return nil, identity.Public{}, err
		}
		return g.proven(ctx, link, protocol, key)
	}
	var none identity.Public
	conn := a.(net.Conn)
	if l.admit != nil {
		if err := l.admit(conn); err != nil {
			return nil, none, err
		}
	}
	if l.allow == carrier.Plain {
		return carrier.NewStream(conn), none, nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.c().JoinTimeout)
	defer cancel()
	first, conn, err := carrier.FirstByte(ctx, conn)
	switch {
	case err != nil:
		return nil, none, err
	case l.allow&carrier.Web != 0 && (first == carrier.TLSByte || isLetter(first)):
		return g.greetWeb(ctx, l, conn, first)
	case first != carrier.TLSByte && l.allow&carrier.Plain == 0:
		return nil, none, errPlain
	case first != carrier.TLSByte:
		return carrier.NewStream(conn), none, nil
	}
	return g.shake(ctx, conn, conn)
}

// greetWeb greets a client that comes by HTTP or HTTPS, for a WebSocket or proxied IP, or directly by TLS.
func (g *Gateway) greetWeb(ctx context.Context, l *listener, conn net.Conn, first byte) (carrier.Link, identity.Public, error) {
	guest, others := g.guest(l)
	conn = carrier.Paced(conn)
	if first != carrier.TLSByte {
		inside, err := ws.Accept(ctx, conn, l.path(), others)
		return g.within(ctx, inside, conn, guest, err)
	}
	ours, again, err := tls.IsOurs(ctx, conn)
	if err != nil {
		return nil, identity.Public{}, err
	}
	if ours {
		return g.shake(ctx, again, conn)
	}
	inside, err := ws.AcceptTLS(ctx, again, l.path(), g.web, others)
	return g.within(ctx, inside, conn, guest, err)
}

// within is inside that closes a WebSocket which comes to nothing: the library's connections are never collected unless they are closed.
func (g *Gateway) within(ctx context.Context, inside, conn net.Conn, guest *connectip.Guest, err error) (carrier.Link, identity.Public, error) {
	s, key, err := g.inside(ctx, inside, guest, err)
	if err != nil && inside != nil {
		carrier.Drain(conn)
		_ = inside.Close()
	}
	return s, key, err
}

// shake makes the handshake by TLS over conn. What follows it is read from rest: the same connection, without what was read of
// it before.
func (g *Gateway) shake(ctx context.Context, conn, rest net.Conn) (carrier.Link, identity.Public, error) {
	records, protocol, key, err := tls.Server(ctx, conn, g.tls)
	if err != nil {
		return nil, identity.Public{}, err
	}
	return g.proven(ctx, carrier.NewSecureStream(rest, records), protocol, key)
}

// path is where a WebSocket is.
func (l *listener) path() string { return cmp.Or(l.at.Path, carrier.DefaultPath) }

// isLetter tells whether a connection may begin with a request of HTTP (RFC 9110, section 9.1).
func isLetter(b byte) bool { return 'A' <= b && b <= 'Z' }

// proven serves a device that has come to join, with a key that it has proven; all others are clients.
func (g *Gateway) proven(ctx context.Context, l carrier.Link, p identity.Protocol, key identity.Public) (carrier.Link, identity.Public, error) {
	if p == identity.Join {
		return nil, identity.Public{}, g.enrol(ctx, l, key)
	}
	return l, key, nil
}

// known decides about the key of a client in the handshake, whether or not it is the client's own.
func (g *Gateway) known(p identity.Protocol, key identity.Public) error {
	if p == identity.Join {
		return nil
	}
	_, err := g.device(key)
	return err
}
