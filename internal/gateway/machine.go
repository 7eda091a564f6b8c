package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"

	"ferry/internal/addrpool"
	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/keepalive"
	"ferry/internal/l2port"
	"ferry/internal/l2port/ether"
)

// A machine without a client is one of 2013 to the gateway, but for what is said here: its lease belongs to its MAC, and it may sleep.

// A plug is a machine that has been plugged in.
type plug struct {
	*l2port.Arrival
	keeper *doorkeeper
}

// Handshake implements shaker. A machine proves nothing.
func (p *plug) Handshake(context.Context) (carrier.Link, identity.Protocol, identity.Public, error) {
	g := p.keeper.of.Load()
	if g == nil {
		return nil, identity.Tunnel, identity.Public{}, errNotYet
	}
	return p.Link(g.cable()), identity.Tunnel, identity.Public{}, nil
}

// sockets are where machines are plugged in: sockets of their own, or the API of gvproxy.
type sockets struct {
	listening[*l2port.Arrival]
	keeper *doorkeeper
}

func (s sockets) Accept() (*plug, error) {
	a, err := s.listening.Accept()
	if err != nil {
		return nil, err
	}
	return &plug{a, s.keeper}, nil
}

// listenMachine opens one of Config.L2Listen.
func listenMachine(ctx context.Context, url string, k *doorkeeper) (*listener, error) {
	e, err := l2port.Parse(url)
	if err != nil {
		return nil, err
	}
	l, err := l2port.Listen(ctx, e)
	if err != nil {
		return nil, err
	}
	return &listener{entrance: entranceOf[*plug]{sockets{l, k}}, allow: carrier.Plain}, nil
}

// cable is what machines are told of their network.
func (g *Gateway) cable() ether.Config {
	c := g.c()
	servers, domains := c.ToldNames()
	return ether.Config{Gateway: g.gateway, Pool: c.Pool, MTU: c.MTU, DNS: servers, Domains: domains}
}

// machine returns the cable of p, if p is a machine without a client.
func (p *peer) machine() (*l2port.Link, bool) {
	l, ok := p.stream.(*l2port.Link)
	return l, ok
}

// sleeps is what the deadlines of a machine are judged by: nothing. It may take minutes to boot before it asks for an address, and be
// halted for hours; its end of the socket says when it is gone, and what does not fit into its queue meanwhile is dropped.
func sleeps() keepalive.Seen { return keepalive.Seen{} }

// machineToken proves the lease of a machine: nobody can guess it, and it has the MAC.
func machineToken(m ether.MAC) (t addrpool.Token) {
	_, _ = rand.Read(t[:]) // never fails: crypto/rand
	copy(t[len(t)-len(m):], m[:])
	return t
}

// ofMachine tells whether a lease is that of the machine with a MAC.
func ofMachine(l addrpool.Lease, m ether.MAC) bool {
	return l.Name == m.String() && ether.MAC(l.Token[len(l.Token)-len(m):]) == m
}

// grantMachine returns the lease of a machine: the one that is held for its MAC, or else the address that it would like to have, or
// else any. Of two that are there with the same MAC, as QEMU gives it to all, each gets its own.
func (l *leases) grantMachine(ctx context.Context, owner uint64, mac ether.MAC, wanted netip.Addr) (addrpool.Grant, error) {
	r := addrpool.Request{Owner: owner, Hint: wanted, Name: mac.String(), Token: machineToken(mac)}
	granted, err := l.grantBy(ctx, func(pool *addrpool.Pool) addrpool.Request {
		if held, ok := pool.Held(mac.String(), addrpool.Mark(mac)); ok {
			r.Resume, r.ResumeToken = held.Addr, held.Token
		}
		return r
	})
	if errors.Is(err, addrpool.ErrInUse) { // what is reserved for the MAC; the other one has the name, too
		r.Name = ""
		return l.grant(ctx, r)
	}
	return granted, err
}
