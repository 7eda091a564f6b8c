// Package policy decides what a client takes of what its gateway pushes. The gateway carries the
// device's packets, and that is all it is trusted with: it must not be able to take over traffic, names
// or the address plan of the device beyond what its owner has agreed to. Each func judges one thing;
// Judge judges all.
package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

const (
	// MinMTU is what every host takes (RFC 791, section 3.2), MaxMTU what a TUN does.
	MinMTU, MaxMTU = 576, 65535
	// defaultMTU is for a gateway that pushes none, or nonsense.
	defaultMTU = 1500
	// longest is the shortest prefix of a route that is taken from a gateway.
	longest = 8
	// Name servers and domains beyond these are left out.
	maxDNS, maxDomains = 3, 32
)

// DefaultAccept are the networks of which a gateway may give an address: private and shared ones (RFC
// 1918, RFC 6598, RFC 2544).
var DefaultAccept = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("198.18.0.0/15"),
}

// Rules are what the owner of a device has agreed to.
type Rules struct {
	Accept       []netip.Prefix // networks of which the gateway may give an address
	MTU          int            // bytes; 0: as the gateway says
	Routes       []netip.Prefix // the owner's own, into the tunnel
	DefaultRoute bool           // everything goes into the tunnel
	RefuseRoutes bool           // all that the gateway pushes
	RefuseDNS    bool
	Split        bool // names of some domains can be asked for elsewhere than the rest
}

// An Offer is what a gateway pushes.
type Offer struct {
	Prefix  netip.Prefix // the address of the device
	Server  netip.Addr   // the gateway's outer address; invalid: it is not reached by IP
	MTU     int
	Routes  []netip.Prefix
	DNS     []netip.Addr
	Domains []string
}

// A Place is what a device has without the tunnel.
type Place struct {
	Addrs []netip.Prefix // of its other interfaces, with the lengths of their networks
	Way   netip.Prefix   // the route by which it reaches the gateway; invalid: not known, or none
}

// A Verdict is what becomes of an offer.
type Verdict struct {
	MTU     int
	Routes  []netip.Prefix // the owner's, and what was taken
	DNS     []netip.Addr   // none: names are looked up as without the tunnel
	Domains []string       // that DNS is asked for; with DefaultRoute it is asked for all names
	Refused []Refusal
}

// A Refusal is one thing that was not taken.
type Refusal struct {
	What   string `json:"what"`
	Value  string `json:"value"`
	Reason string `json:"reason"`
}

// Judge returns what a device takes of o where it is. Only an address that must not be is an error.
func (r Rules) Judge(o Offer, here Place) (v Verdict, err error) {
	if why := cmp.Or(Address(o.Prefix, r.Accept), Collision(o.Prefix, o.Server, here)); why != "" {
		return v, fmt.Errorf("the gateway gives the address %s: %s", o.Prefix, why)
	}
	refuse := func(what string, value any, why string) bool {
		if why != "" {
			v.Refused = append(v.Refused, Refusal{what, fmt.Sprint(value), why})
		}
		return why != ""
	}
	v.MTU = r.MTU
	if v.MTU == 0 {
		if v.MTU = o.MTU; v.MTU == 0 || refuse("MTU", o.MTU, MTU(o.MTU)) {
			v.MTU = defaultMTU
		}
	}
	v.Routes = slices.Clone(r.Routes)
	if r.DefaultRoute {
		v.Routes = append(v.Routes, netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	}
	if !r.RefuseRoutes {
		for _, p := range o.Routes {
			if !refuse("route", p, cmp.Or(Route(p, o.Prefix, o.Server), here.claims(p))) {
				v.Routes = append(v.Routes, p.Masked())
			}
		}
	}
	if !r.RefuseDNS && len(o.DNS) > 0 {
		r.names(o, &v, refuse)
	}
	return v, nil
}

// names takes name servers and domains: for all names in a full tunnel, else for those below the
// domains.
func (r Rules) names(o Offer, v *Verdict, refuse func(string, any, string) bool) {
	if extra := len(o.Domains) - maxDomains; extra > 0 {
		refuse("domains", extra, "too many")
		o.Domains = o.Domains[:maxDomains]
	}
	for _, d := range o.Domains {
		if !refuse("domain", d, Domain(d)) {
			v.Domains = append(v.Domains, strings.ToLower(strings.TrimSuffix(d, ".")))
		}
	}
	why := ""
	switch {
	case r.DefaultRoute:
	case len(v.Domains) == 0:
		why = "without domains they are for all names, which only --default-route sends to them"
	case !r.Split:
		why = "they are for some domains only, which needs systemd-resolved"
	}
	if why != "" {
		v.Domains = nil
		refuse("name servers", o.DNS, why)
		return
	}
	for _, a := range o.DNS {
		if len(v.DNS) == maxDNS || slices.Contains(v.DNS, a) || refuse("name server", a, NameServer(a, o.Prefix, v.Routes)) {
			continue
		}
		v.DNS = append(v.DNS, a)
		// A local network may contain it, and must not be asked in its place.
		if own := netip.PrefixFrom(a, a.BitLen()); !o.Prefix.Contains(a) && !slices.Contains(v.Routes, own) {
			v.Routes = append(v.Routes, own)
		}
	}
	if len(v.DNS) == 0 {
		v.Domains = nil
	}
}

// Address says why a gateway must not give the address p with its prefix; empty if it may.
func Address(p netip.Prefix, accept []netip.Prefix) string {
	inside := func(a netip.Prefix) bool { return a.Bits() <= p.Bits() && a.Contains(p.Addr()) }
	switch {
	case !p.IsValid() || special(p.Addr()):
		return "no interface can have it"
	case !slices.ContainsFunc(accept, inside):
		return fmt.Sprintf("it is not of a network that this device accepts: if the gateway is right, allow it with --accept-prefix %s", p.Masked())
	}
	return ""
}

// Collision says why the address own, with its prefix, would cut a device at p off, from the network or
// from its gateway at the address server; empty if it would not.
func Collision(own netip.Prefix, server netip.Addr, p Place) string {
	server = server.Unmap()
	switch {
	case slices.ContainsFunc(p.Addrs, func(a netip.Prefix) bool { return a.Addr() == own.Addr() }):
		return "another interface of this device has it: ask for another one, or change that of the interface"
	case own.Addr() == server:
		return "it is that of the gateway itself, by which it is reached: ask for another one"
	case p.Way.IsValid() && own.Contains(server) && p.Way.Bits() <= own.Bits():
		return fmt.Sprintf("its network contains the gateway's own address, %s, which would not be reached any more: ask for one of another network, or add a route to %s/32 by the interface that leads there",
			server, server)
	}
	return ""
}

// claims says why a device at p does not take the route r: all or a part of a network that it is in; empty if it
// is not. A larger one is taken, for the network itself is more specific.
func (p Place) claims(r netip.Prefix) string {
	inside := func(a netip.Prefix) bool { return !a.IsSingleIP() && a.Bits() <= r.Bits() && a.Contains(r.Addr()) }
	if slices.ContainsFunc(p.Addrs, inside) {
		return "this device is in that network itself"
	}
	return ""
}

// MTU says why an MTU is not taken; empty if it is.
func MTU(n int) string {
	if n < MinMTU || n > MaxMTU {
		return fmt.Sprintf("not between %d and %d", MinMTU, MaxMTU)
	}
	return ""
}

// Route says why a route is not taken of a gateway at the address server that gave the address own;
// empty if it is.
func Route(r, own netip.Prefix, server netip.Addr) string {
	switch {
	case !r.IsValid() || !r.Addr().Is4():
		return "not an IPv4 network"
	case r.Bits() < longest:
		return "so large a network is routed by --route or --default-route only"
	case special(r.Addr()):
		return "not a network that can be routed"
	case r.Overlaps(own.Masked()):
		return "inside the tunnel's own prefix, or around it"
	case r.Bits() == r.Addr().BitLen() && r.Addr() == server.Unmap():
		return "the gateway's own address, by which it is reached"
	}
	return ""
}

// NameServer says why a name server is not taken, where own is the device's address and routes leads
// into the tunnel; empty if it is. One that is reached outside of the tunnel would be somebody else's.
func NameServer(a netip.Addr, own netip.Prefix, routes []netip.Prefix) string {
	switch {
	case !a.Is4() || special(a):
		return "no name server can have this address"
	case a == own.Addr():
		return "this device itself"
	case !own.Contains(a) && !slices.ContainsFunc(routes, func(r netip.Prefix) bool { return r.Contains(a) }):
		return "not reached through the tunnel"
	}
	return ""
}

// special addresses are of this host, this link, a group, or nobody.
func special(a netip.Addr) bool {
	return !a.Is4() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.As4()[0] == 0 || a.As4()[0] >= 224
}

// oneLabel are the domains of one label that a gateway may answer for: those that the Internet will
// never have (RFC 6762 appendix G, RFC 6761, ICANN on .internal). All others belong to somebody.
var oneLabel = []string{"corp", "home", "internal", "intranet", "lan", "private", "test"}

// Domain says why d is not taken as a domain whose names a pushed name server is asked for; empty if it
// is. What passes is a host name (RFC 1123) and nothing else, for it goes into files and to services.
func Domain(d string) string {
	d = strings.ToLower(strings.TrimSuffix(d, "."))
	labels := strings.Split(d, ".")
	switch {
	case len(d) > 253 || slices.ContainsFunc(labels, notLabel):
		return "not a domain name"
	case strings.Trim(labels[len(labels)-1], "0123456789") == "":
		return "not a domain name" // the end of an address
	case len(labels) == 1 && !slices.Contains(oneLabel, d):
		return "a top-level domain"
	}
	return ""
}

func notLabel(l string) bool {
	other := func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }
	return l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.ContainsFunc(l, other)
}
