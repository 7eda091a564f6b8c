package quic

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"ferry/internal/carrier"
	"ferry/internal/carrier/netsock"
)

// What other protocols over QUIC need of this package: sockets, how strangers are let in, how a name is dialled, what
// errors mean. Package connectip makes HTTP/3 of it.

const (
	// rawStreams is how many streams of each kind the other end may have open: HTTP/3 needs three of one direction.
	rawStreams = 8
	// rawKeepAlive is how often an end without traffic is asked whether it is there.
	rawKeepAlive = 20 * time.Second
)

func rawConfig(streams int64) *quic.Config {
	c := config(streams)
	c.MaxIncomingUniStreams = rawStreams
	c.KeepAlivePeriod = rawKeepAlive
	return c
}

// A Raw is a connection of the library whose handshake is over. It ends with Close.
type Raw struct {
	Conn   *quic.Conn
	socket *socket
	once   sync.Once
}

// ListenRaw is Listen for another protocol: c has its ALPN. Its clients come in by Pending.Connect.
func ListenRaw(ctx context.Context, e carrier.Endpoint, c *tls.Config) (*Listener, error) {
	return listen(ctx, e, c, rawConfig(rawStreams))
}

// Connect makes the handshake with a client, until ctx is done.
func (p *Pending) Connect(ctx context.Context) (*Raw, error) {
	n, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	p.l.socket.join()
	return &Raw{Conn: n.q, socket: p.l.socket}, nil
}

// DialRaw is Dial for another protocol.
func DialRaw(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c *tls.Config) (*Raw, error) {
	r, err := netsock.Dial(ctx, e, o, "ip", func(ctx context.Context, addr netip.Addr) (*Raw, error) {
		to := netip.AddrPortFrom(addr, uint16(e.Port))
		s, err := socketTo(ctx, to, o)
		if err != nil {
			return nil, err
		}
		q, err := s.connect(ctx, net.UDPAddrFromAddrPort(to), c, rawConfig(-1))
		if err != nil {
			s.leave()
			return nil, fmt.Errorf("%w: %w", ErrHandshake, err)
		}
		return &Raw{Conn: q, socket: s}, nil
	})
	if err != nil {
		return nil, explain(err)
	}
	return r, nil
}

// RemoteAddr returns where the other end is now.
func (r *Raw) RemoteAddr() Addr { return addrOf(r.Conn.RemoteAddr()) }

// Ended is closed when the connection is.
func (r *Raw) Ended() <-chan struct{} { return r.Conn.Context().Done() }

// Cause returns why it has ended.
func (r *Raw) Cause() error { return meaning(context.Cause(r.Conn.Context())) }

// Close ends the connection, with no error to tell.
func (r *Raw) Close() error { return r.CloseWith(0) }

// CloseWith ends the connection with an error of its protocol. The first call counts.
func (r *Raw) CloseWith(code quic.ApplicationErrorCode) error {
	r.once.Do(func() {
		_ = r.Conn.CloseWithError(code, "")
		r.socket.leave()
	})
	return nil
}
