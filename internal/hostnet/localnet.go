package hostnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// private are the ranges that a local network may have to be spared by a full tunnel: RFC 1918, shared
// addresses (RFC 6598), link-local ones, ULA (RFC 4193). A LAN that claims anything else wants
// somebody else's traffic.
var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fc00::/7"),
}

// localNets returns the private networks that other links than this one have an address in, as their
// routes in table main. Only those that came with an address count, or with a router advertisement
// that says "on-link": a route via a router, or one that DHCP brought, is not a network of this host.
func localNets(index int) ([]route, error) {
	var nets []route
	for _, by := range []netlink.RouteProtocol{unix.RTPROT_KERNEL, unix.RTPROT_RA} {
		all, err := routesBy(by, unix.RT_TABLE_MAIN)
		if err != nil {
			return nil, err
		}
		for _, k := range all {
			if k.Type != unix.RTN_UNICAST || k.Gw != nil || k.Via != nil || k.LinkIndex == 0 || k.LinkIndex == index || k.Flags&unix.RTNH_F_LINKDOWN != 0 {
				continue
			}
			r := fromKernel(k)
			r.via = k.LinkIndex
			if slices.ContainsFunc(private, func(p netip.Prefix) bool { return contains(p, r.dst) }) {
				nets = append(nets, r)
			}
		}
	}
	return nets, nil
}

// copies returns those of lans that p wants in its table. What the tunnel routes itself, other than
// everything, is not given to a LAN.
func (p *plan) copies(lans []route) (all []route) {
	if !p.localNets {
		return nil
	}
	slices.SortStableFunc(lans, func(a, b route) int { return a.metric - b.metric })
	for _, r := range lans {
		r.table, r.metric = p.table, localMetric
		claimed := slices.ContainsFunc(p.routes, func(own route) bool {
			return own.kind == unix.RTN_UNICAST && own.dst.Bits() > 0 && contains(own.dst, r.dst)
		})
		double := slices.ContainsFunc(all, func(other route) bool { return other.dst == r.dst })
		if !claimed && !double {
			all = append(all, r)
		}
	}
	return all
}

// copyRoutes makes what is missing of the copies. One that can not be made closes a network, which
// is the safe side: its link may just have gone.
func (l *Link) copyRoutes(copies, have []route) {
	for _, r := range copies {
		if slices.Contains(have, r) {
			continue
		}
		if err := netlink.RouteReplace(r.toKernel(0)); err != nil {
			l.log.Info("local network is not reached beside the tunnel", "interface", l.name, "network", r.dst, "err", err)
		}
	}
}

// text is different for different copies.
func text(copies []route) string {
	var all []string
	for _, r := range copies {
		all = append(all, fmt.Sprintf("%s %d %s", r.dst, r.via, r.src))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
