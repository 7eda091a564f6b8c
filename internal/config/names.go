package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"ferry/internal/gateway/settings"
	"ferry/internal/policy"
)

// resolvConf says whom programs of this host ask for names (resolv.conf(5)).
const resolvConf = "/etc/resolv.conf"

// portDNS is where they are asked.
const portDNS = 53

// names reads what the gateway's name server does.
func (g *Gateway) names(s *source, c *settings.Config, open open) {
	c.Nameserver = g.Nameserver
	c.DNSDomain = read(s, "dns_domain", g.DNSDomain, parseDomain)
	own := c.Address().Addr()
	server := func(text string) (netip.AddrPort, error) {
		a, err := parseUpstream(text)
		if err == nil && a == netip.AddrPortFrom(own, portDNS) {
			err = fmt.Errorf("%s is this name server itself: questions would go round", own)
		}
		return a, err
	}
	c.DNSUpstream = readList(s, "dns_upstream", g.DNSUpstream, server)
	c.DNSForward = map[string][]netip.AddrPort{}
	for _, domain := range slices.Sorted(maps.Keys(g.DNSForward)) {
		key := "dns_forward." + domain
		if len(g.DNSForward[domain]) == 0 {
			s.fail(key, errors.New(`who is asked? Write ["192.0.2.53"]`))
		}
		c.DNSForward[read(s, key, domain, parseSuffix)] = readList(s, key, g.DNSForward[domain], server)
	}
	c.DNSZones = zones(s, g.DNSZones)
	if !c.Nameserver || s.err != nil {
		return
	}
	if len(c.DNSUpstream) == 0 {
		c.DNSUpstream = ofThisHost(s, open, own)
	}
}

// ofThisHost returns the name servers of this host, without the one that this program is.
func ofThisHost(s *source, open open, own netip.Addr) (all []netip.AddrPort) {
	text, err := readFile(open, resolvConf)
	if err != nil {
		s.fail("dns_upstream", fmt.Errorf("%w: name servers with dns_upstream", err))
	}
	for line := range bytes.Lines(text) {
		words := strings.Fields(string(line))
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil && a != own {
			all = append(all, netip.AddrPortFrom(a, portDNS))
		}
	}
	return all
}

// parseUpstream reads the address of a name server, with a port or without.
func parseUpstream(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil && !a.IsUnspecified() {
		return netip.AddrPortFrom(a.Unmap(), portDNS), nil
	}
	a, err := netip.ParseAddrPort(s)
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) // or it would not be seen to be this server's own
	if err != nil || a.Addr().IsUnspecified() || a.Port() == 0 {
		return a, fmt.Errorf("%q is not the address of a name server: write 192.0.2.53, or 192.0.2.53:5353", s)
	}
	return a, nil
}

// parseSuffix reads a domain that need not be one for clients to take: the whole of one label, or of addresses.
func parseSuffix(s string) (string, error) {
	if policy.Domain("x."+s) != "" {
		return s, fmt.Errorf("%q is not a domain name: write it as corp.example", s)
	}
	return strings.ToLower(strings.TrimSuffix(s, ".")), nil
}

// zones reads domains whose names the configuration says: name -> address, of which @ is the domain itself and * all others.
func zones(s *source, texts map[string]map[string]string) map[string]map[string]netip.Addr {
	all := map[string]map[string]netip.Addr{}
	for _, domain := range slices.Sorted(maps.Keys(texts)) {
		key := "dns_zones." + domain
		zone := map[string]netip.Addr{}
		for _, name := range slices.Sorted(maps.Keys(texts[domain])) {
			if name != "@" && name != "*" && policy.Domain(name+".example") != "" {
				s.fail(key+"."+name, fmt.Errorf("%q is not a name in a domain: write www, @ for the domain itself, or * for all others", name))
			}
			zone[name] = read(s, key+"."+name, texts[domain][name], netip.ParseAddr)
		}
		all[read(s, key, domain, parseSuffix)] = zone
	}
	return all
}
