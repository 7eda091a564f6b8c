package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Numbers by which others can tell what is ours.
const (
	// protocol of routes and rules. 202 is free in iproute2's rt_protos.
	protocol = 202
	// A table T has its rules at firstPriority+2T and the one after it: below those of table
	// main (32766), above those that administrators number by hand.
	firstPriority = 10_000
	maxTable      = 9_999
	// lastResort is the metric of routes that count only when no other is left.
	lastResort = 1 << 30
)

var (
	everything4 = netip.MustParsePrefix("0.0.0.0/0")
	everything6 = netip.MustParsePrefix("::/0")
)

// A plan is a State worked out: each kernel object that it asks for.
type plan struct {
	addr       netip.Prefix
	mtu        int
	txQueueLen int
	table      int // 0: no rules, all routes are in table main
	routes     []route
	rules      []rule
	nat        netip.Prefix // source addresses to masquerade; invalid: none
}

// A route is one of ours. Two routes with the same key cannot both exist.
type route struct {
	routeKey
	kind int        // unix.RTN_UNICAST (to the link), RTN_THROW or RTN_UNREACHABLE
	src  netip.Addr // of packets that have no source yet; only for RTN_UNICAST
}

type routeKey struct {
	table  int
	dst    netip.Prefix
	metric int
}

// A rule is one of ours; its family is that of netlink.
type rule struct {
	family   int
	priority int
	table    int
	mark     uint32 // the rule is for packets without this mark; 0: for all
	suppress int    // ignore routes whose prefix has this length or less; -1: none
}

func (s State) plan() (*plan, error) {
	if !s.Addr.IsValid() || !s.Addr.Addr().Is4() {
		return nil, fmt.Errorf("address %s: not an IPv4 address with a prefix length", s.Addr)
	}
	p := &plan{addr: s.Addr, mtu: s.MTU, txQueueLen: s.TxQueueLen}
	if s.Masquerade {
		p.nat = s.Addr.Masked()
	}
	shortest := 33
	for _, dst := range s.Routes {
		if !dst.IsValid() || !dst.Addr().Is4() {
			return nil, fmt.Errorf("route %s: not an IPv4 prefix", dst)
		}
		dst = dst.Masked()
		if contains(s.Addr, dst) {
			continue
		}
		r := route{routeKey{unix.RT_TABLE_MAIN, dst, 0}, unix.RTN_UNICAST, s.Addr.Addr()}
		if s.Outer.isIn(dst) {
			r.table = s.Outer.Table
			shortest = min(shortest, dst.Bits())
		}
		if !slices.Contains(p.routes, r) {
			p.routes = append(p.routes, r)
		}
	}
	if shortest > 32 {
		return p, nil
	}
	return p, p.detour(s.Outer, shortest)
}

// detour lets the outer connection o, and the answers to it, pass by the routes in its table, of
// which the shortest has so many bits.
func (p *plan) detour(o Outer, shortest int) error {
	if o.Mark == 0 {
		return errors.New("routes contain the server, and its connection has no mark")
	}
	if o.Table < 1 || o.Table > maxTable || o.Table >= unix.RT_TABLE_COMPAT && o.Table <= unix.RT_TABLE_LOCAL {
		return fmt.Errorf("routing table %d: want 1 to %d, but not %d to %d",
			o.Table, maxTable, unix.RT_TABLE_COMPAT, unix.RT_TABLE_LOCAL)
	}
	p.table = o.Table
	full := shortest == 0
	for _, peer := range o.Peers {
		peer = peer.Unmap().WithZone("")
		if !peer.IsValid() || peer.Is6() && !full {
			continue
		}
		dst := netip.PrefixFrom(peer, peer.BitLen())
		if peer.Is4() && slices.ContainsFunc(p.routes, func(r route) bool { return r.dst == dst }) {
			return fmt.Errorf("route %s: is the server itself", dst)
		}
		p.block(dst, unix.RTN_THROW)
	}
	p.addRules(unix.AF_INET, o, shortest)
	if full {
		p.block(everything4, unix.RTN_UNREACHABLE)
		p.block(everything6, unix.RTN_UNREACHABLE)
		p.addRules(unix.AF_INET6, o, 0)
	}
	return nil
}

func (p *plan) block(dst netip.Prefix, kind int) {
	r := route{routeKey{p.table, dst, lastResort}, kind, netip.Addr{}}
	if !slices.Contains(p.routes, r) {
		p.routes = append(p.routes, r)
	}
}

func (p *plan) addRules(family int, o Outer, shortest int) {
	first := firstPriority + 2*o.Table
	p.rules = append(p.rules,
		rule{family: family, priority: first, table: unix.RT_TABLE_MAIN, suppress: shortest},
		rule{family: family, priority: first + 1, table: o.Table, mark: o.Mark, suppress: -1})
}

// isIn says whether a route to dst would take the outer connection with it.
func (o Outer) isIn(dst netip.Prefix) bool {
	return dst.Bits() == 0 || slices.ContainsFunc(o.Peers, func(a netip.Addr) bool {
		return dst.Contains(a.Unmap())
	})
}

// contains says whether p contains all of q.
func contains(p, q netip.Prefix) bool { return p.Bits() <= q.Bits() && p.Contains(q.Addr()) }
