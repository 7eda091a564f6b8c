package quic

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/quic-go/quic-go"

	"ferry/internal/carrier"
	"ferry/internal/identity"
)

const (
	// maxHandshakes is how many handshakes may be open: a stranger who comes then is refused.
	maxHandshakes = 256
	// proveFrom is the number of open handshakes from which on a client has to prove its address first.
	proveFrom = 64
)

// errRefused ends the handshake of a client that the gateway does not want.
var errRefused = errors.New("refused before the handshake")

// A Listener takes connections of clients.
type Listener struct {
	socket   *socket
	accepted *acceptor

	open    atomic.Int64  // handshakes
	pending chan *Pending // capacity maxHandshakes; sent to by the library's goroutine, which refuses who finds no room
	closing chan struct{} // closed by Close

	entering  sync.WaitGroup // the goroutine that takes connections from the library
	closeOnce sync.Once
}

// Listen serves an endpoint quic://[host]:port, on IPv4 and IPv6 where no host is given. c decides who may come in.
func Listen(ctx context.Context, e carrier.Endpoint, c *tls.Config) (*Listener, error) {
	return listen(ctx, e, c, config(1))
}

func listen(ctx context.Context, e carrier.Endpoint, c *tls.Config, of *quic.Config) (*Listener, error) {
	udp, err := listenUDP(ctx, "udp", hostPort(e), func(string, string, syscall.RawConn) error { return nil })
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: UDP port %d is taken: stop the other program ('ss -lunp sport = %d' shows it) or use --listen with another port: %w", e, e.Port, e.Port, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s: this machine has no such address ('ip addr' shows what it has): %w", e, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	l := &Listener{socket: newSocket(udp), pending: make(chan *Pending, maxHandshakes), closing: make(chan struct{})}
	c = c.Clone()
	c.GetConfigForClient = l.admit
	if l.accepted, err = l.socket.listen(c, of, door{crowded: l.crowded, arrived: l.arrived}); err != nil {
		l.socket.leave()
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	l.entering.Go(func() { l.enter(context.WithoutCancel(ctx)) })
	return l, nil
}

// Addr returns the address that is listened on, an Addr.
func (l *Listener) Addr() net.Addr { return addrOf(l.socket.udp.LocalAddr()) }

// Accept waits for the next client. It is a stranger until Handshake has succeeded, and either that or Close has to be called.
func (l *Listener) Accept() (*Pending, error) {
	select {
	case <-l.closing:
	default:
		select {
		case p := <-l.pending:
			return p, nil
		case <-l.closing:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: "quic", Addr: l.Addr(), Err: errClosed}
}

// Close refuses who has not come in. Links stay, and the socket as long as there is one.
func (l *Listener) Close() error {
	l.closeOnce.Do(func() {
		close(l.closing)
		l.accepted.close()
		l.entering.Wait()
		l.socket.leave()
	})
	return nil
}

// A Pending is a client of which no more than its address is known, and not even that for sure.
//
//	arrived --Accept--> waiting --Handshake--> allowed --> Link, or an error
//	                           \--Close------> refused; a Handshake that is under way ends
type Pending struct {
	l    *Listener
	addr Addr
	ctx  context.Context // of the connection: done when that has ended. Set before anybody knows p

	decided sync.Once
	allowed bool          // set before answer is closed
	answer  chan struct{} // closed when the gateway has decided
	entered chan *conn    // capacity 1: the handshake has succeeded
	gone    atomic.Bool   // nobody waits for it any more
	closed  chan struct{} // closed by Close
	closing sync.Once
	settled sync.Once // it is no open handshake any more
}

// pendingKey is what a Pending is found by in the context of its connection.
type pendingKey struct{}

// crowded tells whether clients have to prove their addresses.
func (l *Listener) crowded() bool { return l.open.Load() >= proveFrom }

// arrived takes note of a stranger. It is called by the library before anything is computed for him.
func (l *Listener) arrived(ctx context.Context, from net.Addr) (context.Context, error) {
	if l.open.Load() >= maxHandshakes { // only this goroutine adds to it
		return nil, errRefused
	}
	p := &Pending{l: l, addr: addrOf(from), answer: make(chan struct{}), entered: make(chan *conn, 1), closed: make(chan struct{})}
	p.ctx = context.WithValue(ctx, pendingKey{}, p)
	select {
	case l.pending <- p:
	default: // nobody accepts
		return nil, errRefused
	}
	l.open.Add(1)
	context.AfterFunc(p.ctx, p.settle)
	return p.ctx, nil
}

// admit lets a handshake wait until the gateway has decided. Crypto/tls calls it when the first message of the client is
// complete, and has computed nothing with public keys yet; nobody else waits for this connection.
func (l *Listener) admit(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	p, ok := hello.Context().Value(pendingKey{}).(*Pending)
	if !ok {
		return nil, errRefused
	}
	select {
	case <-p.answer:
		if p.allowed {
			return nil, nil
		}
	case <-l.closing:
	}
	return nil, errRefused
}

// enter hands connections whose handshake has succeeded to who waits for them, until the listener is closed.
func (l *Listener) enter(ctx context.Context) {
	for {
		of, n, err := l.accepted.accept(ctx)
		if err != nil {
			return
		}
		p, ok := of.Value(pendingKey{}).(*Pending)
		if !ok {
			n.close()
			continue
		}
		p.settle()
		p.entered <- n
		if p.gone.Load() {
			p.abandon()
		}
	}
}

func (p *Pending) settle() { p.settled.Do(func() { p.l.open.Add(-1) }) }

func (p *Pending) decide(allowed bool) {
	p.decided.Do(func() {
		p.allowed = allowed
		close(p.answer)
	})
}

// abandon closes the connection that nobody waits for, if there is one already; if not, the library ends it, or it enters.
func (p *Pending) abandon() {
	select {
	case n := <-p.entered:
		n.close()
	default:
	}
}

// RemoteAddr returns the address of the client, an Addr. Unless many handshakes are open, it may be forged.
func (p *Pending) RemoteAddr() net.Addr { return p.addr }

// Close refuses the client, if Handshake was not called, and ends one that is under way. It does not close what Handshake has returned.
func (p *Pending) Close() error {
	p.decide(false)
	p.closing.Do(func() { close(p.closed) })
	return nil
}

// Closed is closed by Close.
func (p *Pending) Closed() <-chan struct{} { return p.closed }

// Handshake makes the handshake, until ctx is done. It returns what both ends want to speak, and the key that the client
// has proven.
func (p *Pending) Handshake(ctx context.Context) (carrier.Link, identity.Protocol, identity.Public, error) {
	var none identity.Public
	n, err := p.enter(ctx)
	if err != nil {
		return nil, "", none, err
	}
	protocol, key, err := identity.Proven(n.state())
	if err == nil {
		err = n.check()
	}
	if err != nil {
		n.close()
		return nil, "", none, err
	}
	p.l.socket.join()
	return newLink(n, p.l.socket, true), protocol, key, nil
}

// enter makes the handshake, until ctx is done.
func (p *Pending) enter(ctx context.Context) (n *conn, err error) {
	p.decide(true)
	select {
	case n = <-p.entered:
	case <-p.ctx.Done():
		err = meaning(context.Cause(p.ctx))
	case <-ctx.Done():
		err = ctx.Err()
	case <-p.closed:
		err = net.ErrClosed
	}
	if n == nil {
		p.gone.Store(true)
		p.abandon()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	return n, nil
}
