package gateway

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ferry/internal/addrpool"
	"ferry/internal/carrier/icmp"
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
func (g *Gateway) claim(p *peer, ask session.Ask) (lease addrpool.Lease, displaced owner, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.isEnding() { // a request that was in its buffer when another connection took over
		return lease, nil, net.ErrClosed
	}
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
	if displaced = g.owners[addr]; displaced == p.owner() {
		displaced = nil
	}
	g.disown(p.owner(), p.lease.Addr)
	g.owners[addr] = p.owner()
	return addrpool.Lease{Addr: addr, Name: d.Name}, displaced, nil
}

// nextAddr returns the address that nobody uses, or that of the oldest connection. The caller holds mu.
func (g *Gateway) nextAddr(addrs []netip.Addr) netip.Addr {
	return slices.MinFunc(addrs, func(a, b netip.Addr) int {
		return int(g.ownerID(a)) - int(g.ownerID(b))
	})
}

func (g *Gateway) ownerID(a netip.Addr) uint64 {
	if o := g.owners[a]; o != nil {
		return o.number()
	}
	return 0
}

// tell notes that a device was told of the gateway's next key, or that there is none.
func (g *Gateway) tell(key identity.Public, next identity.Pin) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told[key] = next
}

// knowsNext tells whether a device was told of the key that is the next one now.
func (g *Gateway) knowsNext(key identity.Public) bool {
	next := g.c().NextKey
	g.mu.Lock()
	defer g.mu.Unlock()
	return next != identity.Pin{} && g.told[key] == next
}

// revoke ends the sessions of a device that may not be here any more.
func (g *Gateway) revoke(key identity.Public) {
	g.mu.Lock()
	var all []owner
	for _, p := range g.peers {
		if p.key == key {
			all = append(all, p)
		}
	}
	for _, t := range g.tunnels {
		if t.key == key {
			all = append(all, t)
		}
	}
	g.mu.Unlock()
	for _, o := range all {
		o.end("revoked", proto.GoodbyeMessage{Reason: proto.ReasonRevoked})
	}
}

// devicesChanged brings the networks behind devices to where packets are routed. Those that the host can
// not have, for example since one of them is its own, are left out: they are returned, by the device's name.
func (g *Gateway) devicesChanged() map[string]error {
	g.changing.Lock()
	defer g.changing.Unlock()
	defer g.retryForwards() // which may lead to one that is known now
	var peers []peerstore.Peer
	if g.devices != nil {
		peers, _ = g.devices.List(time.Now())
	}
	c := g.c()
	if g.route(c, sitesWith(c, peers)) == nil {
		g.routed = peers
		return nil
	}
	failed := map[string]error{}
	var good []peerstore.Peer
	for _, d := range peers {
		if len(d.Routes) == 0 {
			continue
		}
		if err := g.route(c, sitesWith(c, append(good, d))); err != nil {
			failed[d.Name] = err
			g.log.Error("network behind a device can not be routed", "name", d.Name, "routes", d.Routes, "err", err)
			continue
		}
		good = append(good, d)
	}
	if err := g.route(c, sitesWith(c, good)); err != nil { // mutate: only a line in the log
		g.log.Error("networks behind devices can not be routed", "err", err)
	}
	g.routed = good
	return failed
}

// sitesWith are the networks behind clients without a key, and behind devices.
func sitesWith(c *Config, devices []peerstore.Peer) map[netip.Prefix]netip.Addr {
	sites := map[netip.Prefix]netip.Addr{}
	maps.Copy(sites, c.Sites)
	for _, d := range devices {
		for _, r := range d.Routes {
			sites[r] = d.Addrs[0]
		}
	}
	return sites
}

// route sends what is for networks behind clients to them.
func (g *Gateway) route(c *Config, sites map[netip.Prefix]netip.Addr) error {
	return errors.Join(g.table.SetSites(sites), g.exit.Apply(g.hostState(c, sites)))
}

// hostState is what the gateway wants of its host's network.
func (g *Gateway) hostState(c *Config, sites map[netip.Prefix]netip.Addr) hostnet.State {
	return hostnet.State{
		Addr: c.Address(), MTU: c.MTU,
		Masquerade: c.NAT, Routes: slices.Collect(maps.Keys(sites)),
		Pings: Echo(c.Listen),
	}
}

// Echo is how pings begin that the kernel must not reply to, since a listener does; 0: none does.
func Echo(listen []string) uint32 {
	if slices.ContainsFunc(listen, func(url string) bool { return strings.HasPrefix(url, "icmp:") }) {
		return icmp.Question
	}
	return 0
}
