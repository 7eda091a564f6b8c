package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"

	"ferry/internal/addrpool"
	"ferry/internal/carrier"
	"ferry/internal/carrier/connectip"
	"ferry/internal/carrier/ws"
	"ferry/internal/identity"
)

// A visitor is a client that wants its IP proxied over HTTP/3: one of Ferry's, or any other that knows RFC 9484.
type visitor struct {
	*connectip.Pending
	keeper *doorkeeper
	allow  carrier.Modes
}

// Handshake implements shaker.
func (v *visitor) Handshake(ctx context.Context) (carrier.Link, identity.Protocol, identity.Public, error) {
	g := v.keeper.of.Load()
	if g == nil {
		return nil, "", identity.Public{}, errNotYet
	}
	return v.Pending.Handshake(ctx, g.proxying(v.allow))
}

// visitors are those of a listener.
type visitors struct {
	*connectip.Listener
	keeper *doorkeeper
	allow  carrier.Modes
}

func (v visitors) Accept() (*visitor, error) {
	p, err := v.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &visitor{p, v.keeper, v.allow}, nil
}

func listenConnectIP(ctx context.Context, e carrier.Listening, k *doorkeeper) (entrance, error) {
	l, err := connectip.Listen(ctx, e.Endpoint, k.key.Outer())
	if err != nil {
		return nil, err
	}
	return entranceOf[*visitor]{visitors{l, k, e.Allow}}, nil
}

// guest returns where a request for proxied IP by HTTP/1.1 leaves what it has come to, and what answers it.
func (g *Gateway) guest(l *listener) (*connectip.Guest, ws.Takers) {
	guest := new(connectip.Guest)
	return guest, ws.Takers{connectip.Token: func(conn net.Conn, r *http.Request) (_ net.Conn, err error) {
		*guest, err = connectip.Accept(conn, r, g.proxying(l.allow))
		return guest.Inside, err
	}}
}

// inside greets a client in what a request by HTTP/1.1 has become. A stock client has been greeted.
func (g *Gateway) inside(ctx context.Context, inside net.Conn, guest *connectip.Guest, err error) (carrier.Link, identity.Public, error) {
	switch {
	case err != nil:
		if guest.Stock != nil { // the connection has ended at this moment
			_ = guest.Stock.Close()
		}
		return nil, identity.Public{}, err
	case guest.Stock != nil:
		return guest.Stock, guest.Key, nil
	}
	return g.shake(ctx, inside, inside)
}

// proxying says who may come by RFC 9484 where these modes are allowed.
func (g *Gateway) proxying(allow carrier.Modes) connectip.Gate {
	way := connectip.Gate{Anybody: allow&carrier.Plain != 0, Routes: g.offered()}
	if allow&carrier.TLS != 0 {
		way.TLS = g.tls
		way.Admit = func(key identity.Public) error { return g.known(identity.Tunnel, key) }
	}
	return way
}

// offered is what clients reach by the gateway: its pool, and what it pushes.
func (g *Gateway) offered() []netip.Prefix {
	c := g.c()
	return append(slices.Clone(c.PushRoutes), c.Pool)
}

// keeps tells whether p stays with the address that it has when it can not have the one that it asks for: so does who comes by
// RFC 9484, where a request may be refused without the end of all.
func (p *peer) keeps(err error) bool {
	if _, ok := p.stream.(*connectip.Stock); !ok || !p.lease.Addr.IsValid() {
		return false
	}
	for _, taken := range []error{addrpool.ErrInUse, addrpool.ErrHeld, addrpool.ErrOutside, addrpool.ErrReserved, errNotOwn} {
		if errors.Is(err, taken) {
			return true
		}
	}
	return false
}

// mtu is that of a client that negotiates none; of one whose packets travel in datagrams, what these carry now.
func (p *peer) mtu() int {
	mtu := min(p.c.MTU, legacyMTU)
	if max := p.stream.Max(); max > 0 {
		mtu = min(mtu, max)
	}
	return mtu
}

// refit says how long packets may be by now, for QUIC finds that out while it is used. It is called by the goroutine that judges.
func (p *peer) refit() {
	if _, ok := p.stream.(*connectip.Stock); !ok || !p.port.Addr().IsValid() {
		return
	}
	caps, mtu := *p.port.Caps(), p.mtu()
	if caps.MTU != mtu {
		caps.MTU = mtu
		p.port.SetCaps(caps)
	}
}
