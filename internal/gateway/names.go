package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"ferry/internal/gateway/settings"
	"ferry/internal/nameserver"
)

// names is the name server for clients, and where it listens.
type names struct {
	server *nameserver.Server
	udp    net.PacketConn
	tcp    net.Listener
}

// inside is an exit with a network of its own, in which the gateway's address is.
type inside interface {
	ListenUDP(port uint16) (net.PacketConn, error)
	ListenTCP(port uint16) (net.Listener, error)
}

// openNames makes the name server that the configuration asks for, if it does. The gateway has its address already, and still the rights to listen there.
func (g *Gateway) openNames(ctx context.Context) error {
	c := g.c()
	if !c.Nameserver {
		return nil
	}
	n := &names{server: nameserver.New(nameserver.Config{
		Domain: c.DNSDomain, Gateway: g.gateway, Pool: c.Pool, Directory: directory{g}, Asks: g.table.Behind, Log: g.log,
	})}
	err := n.server.Set(nameSettings(c))
	if c.Profile == settings.ProfileGvproxy {
		for _, z := range nameserver.GvproxyZones(g.gateway, hostName(c)) {
			err = errors.Join(err, n.server.Zones().Add(z))
		}
	}
	if err == nil {
		n.udp, err = g.listenUDP(ctx)
	}
	if err == nil {
		if n.tcp, err = g.listenTCP(ctx, nameserver.Port); err != nil {
			_ = n.udp.Close()
		}
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("nameserver: port %d of %s is taken ('ss -lnp sport = %d' shows by whom): let that listen on its own address alone, as in dns://192.0.2.1/t.example.org: %w", nameserver.Port, g.gateway, nameserver.Port, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("nameserver: port %d takes CAP_NET_BIND_SERVICE (or --exit user, which has ports of its own): %w", nameserver.Port, err)
	case err != nil:
		return fmt.Errorf("nameserver: %w", err)
	}
	g.names = n
	return nil
}

func (g *Gateway) listenUDP(ctx context.Context) (net.PacketConn, error) {
	if e, ok := g.exit.(inside); ok {
		return e.ListenUDP(nameserver.Port)
	}
	return new(net.ListenConfig).ListenPacket(ctx, "udp4", netip.AddrPortFrom(g.gateway, nameserver.Port).String())
}

func (g *Gateway) listenTCP(ctx context.Context, port uint16) (net.Listener, error) {
	if e, ok := g.exit.(inside); ok {
		return e.ListenTCP(port)
	}
	return new(net.ListenConfig).Listen(ctx, "tcp4", netip.AddrPortFrom(g.gateway, port).String())
}

// serveNames answers clients until ctx is done.
func (g *Gateway) serveNames(ctx context.Context) error {
	if g.names == nil {
		return nil
	}
	g.log.Info("nameserver", "on", netip.AddrPortFrom(g.gateway, nameserver.Port), "domain", g.c().DNSDomain, "upstream", g.c().DNSUpstream)
	return g.names.server.Serve(ctx, g.names.udp, g.names.tcp)
}

// close gives back the sockets of who has not come to serve.
func (n *names) close() {
	if n != nil {
		_, _ = n.udp.Close(), n.tcp.Close()
	}
}

// setNames brings about what a new configuration says about names. Check has seen that it is in order.
func (g *Gateway) setNames(c *Config) {
	if g.names == nil {
		return
	}
	if err := g.names.server.Set(nameSettings(c)); err != nil {
		g.log.Error("nameserver: all is as before", "err", err)
	}
}

func nameSettings(c *Config) nameserver.Settings {
	s := nameserver.Settings{Upstream: c.DNSUpstream, Forward: c.DNSForward}
	for _, domain := range slices.Sorted(maps.Keys(c.DNSZones)) {
		z := nameserver.Zone{Name: domain}
		for _, name := range slices.Sorted(maps.Keys(c.DNSZones[domain])) {
			switch a := c.DNSZones[domain][name]; name {
			case "*":
				z.DefaultIP = a
			case "@":
				z.Records = append(z.Records, nameserver.Record{IP: a})
			default:
				z.Records = append(z.Records, nameserver.Record{Name: name, IP: a})
			}
		}
		s.Zones = append(s.Zones, z)
	}
	// A zone below another comes before it.
	slices.SortStableFunc(s.Zones, func(a, b nameserver.Zone) int { return len(b.Name) - len(a.Name) })
	return s
}

// A directory knows devices with a key, and of the clients without one those whom the configuration names: what others call themselves is
// the word of strangers.
type directory struct{ g *Gateway }

// Lookup implements nameserver.Directory.
func (d directory) Lookup(name string) ([]netip.Addr, bool) {
	if d.g.devices != nil {
		if p, ok := d.g.devices.Named(name); ok && !p.Disabled {
			return p.Addrs, true
		}
	}
	for reserved, a := range d.g.c().Reserved {
		if strings.EqualFold(reserved, name) {
			return []netip.Addr{a}, true
		}
	}
	return nil, false
}

// Name implements nameserver.Directory.
func (d directory) Name(a netip.Addr) (string, bool) {
	if d.g.devices != nil {
		if p, ok := d.g.devices.At(a); ok && !p.Disabled {
			return p.Name, true
		}
	}
	for reserved, b := range d.g.c().Reserved {
		if a == b {
			return reserved, true
		}
	}
	return "", false
}
