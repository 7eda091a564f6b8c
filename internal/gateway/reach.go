package gateway

import (
	"net"
	"net/netip"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/dns"
)

// Where devices find this gateway.

// awaitHost waits until the addresses of this machine are known, which takes a moment after the start.
func (g *Gateway) awaitHost() {
	select {
	case <-g.hostKnown:
	case <-time.After(hostTime):
	}
}

// hostTime is how long the addresses of this machine may take to become known.
const hostTime = time.Second

// servers are where devices find this gateway: what the operator says, or else each address of the host
// on which a listener takes TLS by TCP.
func (g *Gateway) servers() []string {
	if len(g.c().Public) > 0 {
		return g.c().Public
	}
	const most = 4 // or the invitation is too long for a QR code
	var all, others, zone []string
	for _, l := range g.listeners {
		if !l.reaches() || l.at.Scheme == "ssh" { // by which no device joins
			continue
		}
		if e := l.at; e.Scheme == "dns" { // whose zone says where it is, and nothing else says which one that is
			e.Host, e.Port = "", dns.Port
			zone = []string{e.String()}
			continue
		}
		a, ok := addrPort(l.Addr())
		if !ok {
			continue
		}
		hosts := []netip.Addr{a.Addr()}
		if a.Addr().IsUnspecified() {
			hosts = g.reachable()
		}
		for _, h := range hosts {
			e := l.at
			e.Host, e.Port = h.String(), uint32(a.Port())
			if e.Scheme == "tcp" {
				all = append(all, e.String())
			} else {
				others = append(others, e.String())
			}
		}
	}
	all = append(all, others...)
	return append(all[:min(len(all), most-len(zone))], zone...)
}

// carriers are the URLs, without a host, by which a device can reach the gateway on the network where it does now.
func (g *Gateway) carriers() (all []string) {
	for _, l := range g.listeners {
		if !l.reaches() {
			continue
		}
		e := l.at
		e.Host = ""
		all = append(all, e.String())
		if e.Scheme == "tcp" && l.allow&carrier.Web != 0 {
			e.Scheme, e.Path = "wss", carrier.DefaultPath
			all = append(all, e.String())
		}
	}
	return all
}

// reaches tells whether devices on other hosts may come in by a listener: not by that behind a reverse proxy, for one.
func (l *listener) reaches() bool {
	if !l.at.OverIP() || l.allow&carrier.TLS == 0 {
		return false
	}
	a, ok := addrPort(l.Addr())
	return ok && !a.Addr().IsLoopback()
}

// addrPort returns an address of package net as a value.
func addrPort(a net.Addr) (netip.AddrPort, bool) {
	p, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}, false
	}
	at := p.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), at.IsValid()
}

// reachable are the host's addresses that others may reach.
func (g *Gateway) reachable() (all []netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.host {
		if a.IsGlobalUnicast() && !g.c().Pool.Contains(a) {
			all = append(all, a)
		}
	}
	return all
}
