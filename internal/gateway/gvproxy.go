package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"ferry/internal/addrpool"
	"ferry/internal/api/gvproxy"
	"ferry/internal/api/gvproxy/endpoint"
	"ferry/internal/carrier"
	"ferry/internal/forward"
	"ferry/internal/l2port/ether"
	"ferry/internal/nameserver"
)

// gvproxy's API (package gvproxy) drives what the gateway has anyway:
//
//	/services/forwarder --> a forward.Table of its own, for what is exposed lasts as long as the gateway runs; shown beside the published ports
//	/services/dns       --> the zones of the name server
//	/connect            --> a listener of machines

// A door is where the API is served.
type door struct {
	*gvproxy.Listener
	plugs *gvproxy.Plugs // nil: no machines come by it
}

// listenGvproxy opens what the configuration names, all or none. machines are the listeners by which those come in.
func listenGvproxy(ctx context.Context, c *Config, k *doorkeeper) (doors []door, machines []*listener, err error) {
	defer func() {
		if err != nil {
			closeDoors(doors)
		}
	}()
	for i, url := range slices.Concat(c.GvproxyAPI, c.GvproxyListen) {
		e, err := endpoint.Parse(url)
		if err != nil {
			return doors, nil, err
		}
		l, err := gvproxy.Listen(ctx, e)
		if err != nil {
			return doors, nil, err
		}
		d := door{Listener: l}
		if i >= len(c.GvproxyAPI) {
			d.plugs = l.Plugs()
			machines = append(machines, &listener{entrance: entranceOf[*plug]{sockets{d.plugs, k}}, allow: carrier.Plain})
		}
		doors = append(doors, d)
	}
	return doors, machines, nil
}

func closeDoors(all []door) {
	for _, d := range all {
		_ = d.Close()
	}
}

// openInside listens on the gateway's own address, for clients, if the configuration wants that.
func (g *Gateway) openInside(ctx context.Context) error {
	if !g.c().GvproxyInside {
		return nil
	}
	l, err := g.listenTCP(ctx, gvproxy.InsidePort)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("gvproxy_inside: port %d of %s is taken ('ss -lntp sport = %d' shows by whom): %w", gvproxy.InsidePort, g.gateway, gvproxy.InsidePort, err)
	case err != nil:
		return fmt.Errorf("gvproxy_inside: %w", err)
	}
	g.clientDoor = gvproxy.Inside(l)
	return nil
}

func (g *Gateway) closeInside() error {
	if g.clientDoor != nil {
		_ = g.clientDoor.Close() // who has served it has closed it before
	}
	return nil
}

// serveGvproxy answers until ctx is done, by one door.
func (g *Gateway) serveGvproxy(ctx context.Context, d door) error {
	g.log.Info("gvproxy's API", "on", fmt.Sprintf("%s://%s", d.Addr().Network(), d.Addr()), "machines", d.plugs != nil)
	var h http.Handler = g.gvproxy.Services()
	if d.plugs != nil {
		h = g.gvproxy.Machines(d.plugs)
	}
	defer func() {
		if d.plugs != nil {
			_ = d.plugs.Close() // who came while nobody was accepted any more
		}
	}()
	return g.gvproxy.Serve(ctx, d.Listener, h)
}

// serveInside answers clients until ctx is done.
func (g *Gateway) serveInside(ctx context.Context) error {
	if g.clientDoor == nil {
		return nil
	}
	g.log.Info("gvproxy's API for clients", "on", g.clientDoor.Addr())
	return g.gvproxy.Serve(ctx, g.clientDoor, g.gvproxy.Inside())
}

// newGvproxy makes the API.
func (g *Gateway) newGvproxy() *gvproxy.API {
	c := gvproxy.Config{Ports: exposer{g}, Clients: inhabitants{g}, OpenKey: g.openKey, Log: g.log}
	if g.c().Nameserver {
		c.Names = zones{g}
	}
	return gvproxy.New(c)
}

// openKey opens one of the keys that the configuration names.
func (g *Gateway) openKey(path string) (*os.File, error) {
	c := g.c()
	if !slices.Contains(c.GvproxyKeys, filepath.Clean(path)) || c.OpenFile == nil {
		return nil, fmt.Errorf("%s is none of gvproxy_keys: name it there and start the gateway anew", path)
	}
	return c.OpenFile(filepath.Clean(path))
}

// zones implements gvproxy.Names.
type zones struct{ g *Gateway }

func (z zones) All() []nameserver.Zone          { return z.g.names.server.All() }
func (z zones) Add(added nameserver.Zone) error { return z.g.names.server.Zones().Add(added) }

// An exposer implements gvproxy.Ports.
type exposer struct{ g *Gateway }

func (e exposer) List() (own, others []forward.Status) {
	if e.g.forwards == nil {
		return nil, nil
	}
	return e.g.exposed.List(), e.g.forwards.List()
}

// published are the tables of published ports; none before they are opened.
func (g *Gateway) published() []*forward.Table {
	if g.forwards == nil {
		return nil
	}
	return []*forward.Table{g.forwards, g.exposed}
}

func (e exposer) Add(spec forward.Spec) (forward.Status, error) {
	e.g.changing.Lock()
	defer e.g.changing.Unlock()
	if e.g.exposed == nil {
		return forward.Status{}, errNotServing
	}
	return e.g.exposed.Add(spec, 0, false, false)
}

func (e exposer) Remove(from string) error {
	e.g.changing.Lock()
	defer e.g.changing.Unlock()
	if e.g.exposed == nil {
		return errNotServing
	}
	_, err := e.g.exposed.Remove(from)
	return err
}

func (e exposer) RemoveOther(from string) error {
	_, err := e.g.removeForward(from)
	return err
}

// inhabitants implements gvproxy.Clients.
type inhabitants struct{ g *Gateway }

func (i inhabitants) Check(a netip.Addr) error {
	i.g.changing.Lock()
	defer i.g.changing.Unlock()
	return i.g.leadsToClient(forward.Target{Addr: a})
}

func (i inhabitants) Present(a netip.Addr) bool { return i.g.table.Present(a) }

func (i inhabitants) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return i.g.network.Dial(ctx, "tcp", netip.Addr{}, to.String())
}

// Leases has the MACs of machines, also of those for which an address is reserved, and of others one that stands for the address.
func (i inhabitants) Leases() map[string]string {
	g := i.g
	all := map[string]string{g.gateway.String(): hardware(ether.Gateway)}
	for name, a := range g.c().Reserved {
		if m, err := net.ParseMAC(name); err == nil && len(m) == len(ether.MAC{}) {
			all[a.String()] = m.String()
		}
	}
	for _, h := range g.leases.holdings() {
		m := standIn(h.Lease.Addr)
		if own, err := net.ParseMAC(h.Lease.Name); err == nil && len(own) == len(m) && ofMachine(h.Lease, ether.MAC(own)) {
			m = ether.MAC(own)
		}
		all[h.Lease.Addr.String()] = hardware(m)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for a := range g.owners {
		all[a.String()] = hardware(standIn(a))
	}
	return all
}

func hardware(m ether.MAC) string { return net.HardwareAddr(m[:]).String() }

// standIn is the MAC that a client has who has none: the gateway's beginning, and the address.
func standIn(a netip.Addr) (m ether.MAC) {
	b := a.As4()
	copy(m[:], ether.Gateway[:2])
	copy(m[2:], b[:])
	return m
}

func (i inhabitants) Machines() map[string]uint64 {
	all := map[string]uint64{}
	i.g.mu.Lock()
	defer i.g.mu.Unlock()
	for _, p := range i.g.peers {
		if l, ok := p.machine(); ok && l.Name() != "" {
			all[hardware(l.MAC())] = p.id
		}
	}
	return all
}

// Stats has bytes to and from clients, and what the exit counts under the names of gVisor.
func (i inhabitants) Stats() map[string]any {
	all := map[string]any{}
	if e, ok := i.g.exit.(interface{ StackStats() map[string]any }); ok {
		maps.Copy(all, e.StackStats())
	}
	i.g.mu.Lock()
	sent, received := i.g.goneSent, i.g.goneReceived
	for _, p := range i.g.peers {
		sent, received = sent+p.stream.Sent(), received+p.stream.Received()
	}
	i.g.mu.Unlock()
	all["BytesSent"], all["BytesReceived"] = sent, received
	return all
}

// notify tells of the client of p.
func (p *peer) notify(what string) {
	m := standIn(p.lease.Addr)
	if l, ok := p.machine(); ok {
		m = l.MAC()
	}
	p.g.notify(what, m, p.lease)
}

// notify tells of the client with a lease. One that has come by another connection meanwhile is not gone; one that comes at this moment is told of as there
// behind that.
func (g *Gateway) notify(what string, m ether.MAC, l addrpool.Lease) {
	g.notifying.Lock()
	defer g.notifying.Unlock()
	if what == gvproxy.Closed && g.table.Present(l.Addr) {
		return
	}
	g.notifier.Send(gvproxy.Notification{Type: what, MAC: hardware(m), Address: l.Addr, Name: l.Name})
}

// insideAliases are those in the pool, in their order: no client gets them, and they lead out by the exit.
func insideAliases(c *Config) []netip.Addr {
	all := slices.DeleteFunc(slices.Collect(maps.Keys(c.Alias)), func(a netip.Addr) bool { return !c.Pool.Contains(a) })
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// hostName is what stands for this host inside: an alias for its loopback address, or else the gateway.
func hostName(c *Config) netip.Addr {
	for _, a := range insideAliases(c) {
		if c.Alias[a].IsLoopback() {
			return a
		}
	}
	return c.Address().Addr()
}
