package connectip

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/datagram"
	"ferry/internal/carrier/quic"
	"ferry/internal/identity"
)

// answerTime is how long a client has to read why it was refused.
const answerTime = 500 * time.Millisecond

// A Listener takes connections by HTTP/3.
type Listener struct{ *quic.Listener }

// Listen serves an endpoint connect-ip://[host]:port. c is the outer TLS.
func Listen(ctx context.Context, e carrier.Endpoint, c *tls.Config) (*Listener, error) {
	l, err := quic.ListenRaw(ctx, e, tls3(c))
	if err != nil {
		return nil, err
	}
	return &Listener{l}, nil
}

// Addr returns where the listener is, an Addr.
func (l *Listener) Addr() net.Addr { return addrOf(l.Listener.Addr(), scheme3) }

// Accept waits for the next client. It is a stranger until Handshake has succeeded, and either that or Close has to be called.
func (l *Listener) Accept() (*Pending, error) {
	p, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &Pending{p}, nil
}

// A Pending is a client of which no more than its address is known.
type Pending struct{ *quic.Pending }

// RemoteAddr returns the address of the client, an Addr.
func (p *Pending) RemoteAddr() net.Addr { return addrOf(p.Pending.RemoteAddr(), scheme3) }

// Handshake waits for the request of the client and answers it, until ctx is done. It returns what both ends want to speak, and the
// key that the client has proven: none for a stock client that shows none where that is allowed.
func (p *Pending) Handshake(ctx context.Context, g Gate) (carrier.Link, identity.Protocol, identity.Public, error) {
	var none identity.Public
	raw, err := p.Connect(ctx)
	if err != nil {
		return nil, "", none, err
	}
	ctx, done := p.within(ctx)
	defer done()
	v, t := serve3(raw)
	l, protocol, key, err := v.handshake(ctx, t, g)
	if err != nil {
		t.close()
		return nil, "", none, err
	}
	return l, protocol, key, nil
}

// within returns a context that ends with ctx, with done, or when the gateway closes p: strangers have to go when there are too many.
func (p *Pending) within(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { // ends with done
		select {
		case <-p.Closed():
			cancel(net.ErrClosed)
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(nil); watching.Wait() }
}

// handshake answers the first request that comes. Where it fails the tunnel is to be closed.
func (v *visit3) handshake(ctx context.Context, t *tunnel3, g Gate) (l carrier.Link, protocol identity.Protocol, key identity.Public, err error) {
	var q request3
	select {
	case q = <-v.requests:
	case <-t.raw.Ended():
		err = t.raw.Cause()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil {
		err = v.answer(t, q, g, &key)
	}
	close(v.answered)
	switch {
	case errors.As(err, new(*refusal)):
		t.linger(ctx)
		return nil, "", key, err
	case err != nil:
		return nil, "", key, err
	case !ours(q.r):
		return newStock3(t, g.Routes), identity.Tunnel, key, nil
	}
	return accept3(ctx, t, g.TLS)
}

// answer refuses or grants a request. A stock client's key is known then.
func (v *visit3) answer(t *tunnel3, q request3, g Gate, key *identity.Public) (err error) {
	if err = g.judge3(q.r, key); err == nil && !t.datagrams() {
		err = &refusal{status: http.StatusNotImplemented, what: "packets travel in QUIC datagrams (RFC 9221): enable these"}
	}
	if err != nil {
		if why := new(refusal); errors.As(err, &why) {
			q.refuse(why)
		}
		return err
	}
	t.stream, err = q.grant()
	return err
}

// judge3 says what is wrong with a request by HTTP/3.
func (g *Gate) judge3(r *http.Request, key *identity.Public) (err error) {
	if why := check(r); why != nil {
		return why
	}
	switch {
	case r.Method != http.MethodConnect || r.Proto != Token:
		return &refusal{status: http.StatusNotImplemented, what: "the method CONNECT is expected, with the protocol " + Token}
	case !ours(r):
		*key, err = g.enter(r.TLS)
		return err
	case g.TLS == nil:
		return &refusal{status: http.StatusForbidden, what: noDevices}
	}
	return nil
}

// linger gives the client time to read why it was refused.
func (t *tunnel3) linger(ctx context.Context) {
	late := time.NewTimer(answerTime)
	defer late.Stop()
	select {
	case <-late.C:
	case <-t.raw.Ended():
	case <-ctx.Done():
	}
}

// accept3 makes the handshake with a client of Ferry's.
func accept3(ctx context.Context, t *tunnel3, c *tls.Config) (carrier.Link, identity.Protocol, identity.Public, error) {
	var none identity.Public
	way := newTransport(t)
	l := datagram.Listen(way, datagram.Config{Handshakes: 1})
	stop := context.AfterFunc(ctx, func() { _ = way.Close() })
	p, err := l.Accept()
	var link *datagram.Link
	var protocol identity.Protocol
	var key identity.Public
	if err == nil {
		link, protocol, key, err = p.Handshake(ctx, c)
	} else if why := t.raw.Cause(); why != nil { // the connection has ended before a packet came
		err = why
	}
	if !stop() && err == nil { // mutate: both end at one moment
		err = ctx.Err()
	}
	if err != nil {
		way.linger.Store(ctx.Err() == nil) // why is the last word
		_ = l.Close()
		if ctx.Err() != nil { // that the connection was closed follows from it
			err = context.Cause(ctx)
		}
		return nil, "", none, err
	}
	return &Link{Link: link, way: way, listener: l}, protocol, key, nil
}
