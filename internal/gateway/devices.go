package gateway

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"ferry/internal/addrpool"
	"ferry/internal/hostnet"
	"ferry/internal/identity"
	"ferry/internal/peerstore"
	"ferry/internal/proto"
	"ferry/internal/session"
)

// A device with a key has the addresses that are written down for it, and nobody else ever has: there is
// nothing to lease. Of its connections the newest wins.

var errNotOwn = errors.New("not an address of this device")

// device returns the peer that a key belongs to, if it may connect.
func (g *Gateway) device(key identity.Public) (peerstore.Peer, error) {
	if g.devices == nil {
		return peerstore.Peer{}, errUnknown
	}
	d, ok := g.devices.Lookup(key)
	switch {
	case !ok:
		return d, errUnknown
	case d.Disabled:
		return d, fmt.Errorf("%s: %w", d.Name, errDisabled)
	}
	return d, nil
}

// claim gives p an address of its device, and returns the connection that had it until now, if any. It
// looks the key up again: who was removed since the handshake gets nothing, and who is removed later is
// found by revoke.
func (g *Gateway) claim(p *peer, ask session.Ask) (lease addrpool.Lease, displaced *peer, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d, err := g.device(p.key)
	if err != nil {
		return lease, nil, err
	}
	addr := p.lease.Addr
	switch {
	case ask.Static.IsValid():
		addr = ask.Static
	case !addr.IsValid():
		addr = g.nextAddr(d.Addrs)
	}
	if !slices.Contains(d.Addrs, addr) {
		return lease, nil, fmt.Errorf("%s: %w: it has %v", addr, errNotOwn, d.Addrs)
	}
	if displaced = g.owners[addr]; displaced == p {
		displaced = nil
	}
	g.disown(p)
	g.owners[addr] = p
	return addrpool.Lease{Addr: addr, Name: d.Name}, displaced, nil
}

// nextAddr returns the address that nobody uses, or that of the oldest connection. The caller holds mu.
func (g *Gateway) nextAddr(addrs []netip.Addr) netip.Addr {
	return slices.MinFunc(addrs, func(a, b netip.Addr) int {
		return int(g.ownerID(a)) - int(g.ownerID(b))
	})
}

func (g *Gateway) ownerID(a netip.Addr) uint64 {
	if p := g.owners[a]; p != nil {
		return p.id
	}
	return 0
}

// disown takes the address of p back, unless another connection has it. The caller holds mu.
func (g *Gateway) disown(p *peer) {
	if g.owners[p.lease.Addr] == p {
		delete(g.owners, p.lease.Addr)
	}
}

// revoke ends the connections of a device that may not be here any more.
func (g *Gateway) revoke(key identity.Public) {
	g.mu.Lock()
	var all []*peer
	for _, p := range g.peers {
		if p.key == key {
			all = append(all, p)
		}
	}
	g.mu.Unlock()
	for _, p := range all {
		p.end("revoked", proto.GoodbyeMessage{Reason: proto.ReasonRevoked})
	}
}

// devicesChanged brings the networks behind devices to where packets are routed.
func (g *Gateway) devicesChanged() error {
	sites := maps.Clone(g.c.Sites)
	if sites == nil {
		sites = map[netip.Prefix]netip.Addr{}
	}
	if g.devices != nil {
		peers, _ := g.devices.List(time.Now())
		for _, d := range peers {
			for _, r := range d.Routes {
				sites[r] = d.Addrs[0]
			}
		}
	}
	if err := g.table.SetSites(sites); err != nil {
		return err
	}
	return g.exit.Apply(g.hostState(slices.Collect(maps.Keys(sites))))
}

// hostState is what the gateway wants of its host's network.
func (g *Gateway) hostState(sites []netip.Prefix) hostnet.State {
	return hostnet.State{
		Addr: netip.PrefixFrom(g.gateway, g.c.Pool.Bits()), MTU: g.c.MTU,
		Masquerade: g.c.NAT, Routes: sites,
	}
}
