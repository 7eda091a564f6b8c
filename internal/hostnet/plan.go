package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"ferry/internal/hostdns"
)

// Numbers by which others can tell what is ours.
const (
	// protocol of routes and rules. 202 is free in iproute2's rt_protos.
	protocol = 202
	// A table T has its rules at firstPriority+2T and the one after it: below those of table
	// main (32766), above those that administrators number by hand.
	firstPriority = 10_000
	maxTable      = 9_999
	// localMetric is that of copies of other links' routes, by which they are known. lastResort is
	// that of routes which count only when no other is left.
	localMetric = 1 << 29
	lastResort  = 1 << 30
)

var (
	everything4 = netip.MustParsePrefix("0.0.0.0/0")
	everything6 = netip.MustParsePrefix("::/0")
	linkLocal6  = netip.MustParsePrefix("fe80::/64")
)

// A plan is a State worked out: each kernel object that it asks for.
type plan struct {
	addr       netip.Prefix
	mtu        int
	txQueueLen int
	table      int // 0: no rules, all routes are in table main
	routes     []route
	rules      []rule
	full       bool // the table has everything
	localNets  bool // copy those of other links into the table
	nft        nftPlan
	dns        hostdns.State
}

// A route is one of ours. Two routes with the same key cannot both exist.
type route struct {
	routeKey
	kind int        // unix.RTN_UNICAST (to the link), RTN_THROW or RTN_UNREACHABLE
	src  netip.Addr // of packets that have no source yet; only for RTN_UNICAST
	via  int        // index of another link that it leads to; 0: ours, or none
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
	if !s.Addr.IsValid() && s.Full() {
		return s.closed()
	}
	if !s.Addr.IsValid() || !s.Addr.Addr().Is4() {
		return nil, fmt.Errorf("address %s: not an IPv4 address with a prefix length", s.Addr)
	}
	p := &plan{addr: s.Addr, mtu: s.MTU, txQueueLen: s.TxQueueLen}
	p.dns = hostdns.State{Servers: s.DNS, Domains: s.Domains, All: slices.Contains(s.Routes, everything4)}
	if s.Masquerade {
		p.nft.nat = s.Addr.Masked()
	}
	p.nft.pings = s.Pings
	if s.Guard {
		p.nft.guard = s.Addr.Addr()
	}
	shortest := 33
	for _, dst := range s.Routes {
		if !dst.IsValid() || !dst.Addr().Is4() {
			return nil, fmt.Errorf("route %s: not an IPv4 prefix", dst)
		}
		if s.Outer.isIn(dst) && !contains(s.Addr, dst) {
			shortest = min(shortest, dst.Bits())
		}
	}
	for _, dst := range s.Routes {
		dst = dst.Masked()
		switch {
		case contains(s.Addr, dst):
		case shortest == 0 || s.Outer.isIn(dst):
			p.toLink(s.Outer.Table, dst)
		default:
			p.toLink(unix.RT_TABLE_MAIN, dst)
		}
	}
	if shortest > 32 {
		return p, nil
	}
	p.localNets = s.LocalNets
	return p, p.detour(s.Outer, shortest)
}

// closed is the plan of a full tunnel that has no address yet: nothing has a way but the outer connection.
func (s State) closed() (*plan, error) {
	p := &plan{mtu: s.MTU, txQueueLen: s.TxQueueLen, localNets: s.LocalNets}
	p.add(route{routeKey: routeKey{s.Outer.Table, everything4, lastResort}, kind: unix.RTN_UNREACHABLE})
	return p, p.detour(s.Outer, 0)
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
	p.nft.mark, p.nft.echo, p.nft.table, p.full = o.Mark, o.Pings, o.Table, shortest == 0
	first := firstPriority + 2*o.Table
	byTable := rule{family: unix.AF_INET, priority: first + 1, table: o.Table, mark: o.Mark, suppress: -1}
	p.rules = append(p.rules, byTable)
	if shortest > 0 {
		p.localNets = false // they are reached by table main
		p.rules = append(p.rules, rule{family: unix.AF_INET, priority: first, table: unix.RT_TABLE_MAIN, suppress: shortest})
		return nil
	}
	byTable.family = unix.AF_INET6
	p.rules = append(p.rules, byTable)
	p.fill(o.Peers)
	return nil
}

// fill makes the table of a full tunnel complete: it has no other one behind it. What is sent to the
// link is unreachable when that is gone, for a local network may contain it.
func (p *plan) fill(peers []netip.Addr) {
	if p.addr.IsValid() {
		p.toLink(p.table, p.addr.Masked())
	}
	for _, peer := range peers {
		peer = peer.Unmap().WithZone("")
		switch dst := netip.PrefixFrom(peer, peer.BitLen()); {
		case peer.Is4() && p.addr.IsValid():
			p.toLink(p.table, dst)
		case peer.IsValid():
			p.add(route{routeKey: routeKey{p.table, dst, lastResort}, kind: unix.RTN_UNREACHABLE})
		}
	}
	for _, r := range slices.Clone(p.routes) {
		p.add(route{routeKey: routeKey{p.table, r.dst, lastResort}, kind: unix.RTN_UNREACHABLE})
	}
	p.add(route{routeKey: routeKey{p.table, everything6, lastResort}, kind: unix.RTN_UNREACHABLE})
	// Each link has this network, and only table main knows which one is meant.
	p.add(route{routeKey: routeKey{p.table, linkLocal6, lastResort}, kind: unix.RTN_THROW})
}

func (p *plan) toLink(table int, dst netip.Prefix) {
	p.add(route{routeKey: routeKey{table, dst, 0}, kind: unix.RTN_UNICAST, src: p.addr.Addr()})
}

func (p *plan) add(r route) {
	if !slices.Contains(p.routes, r) {
		p.routes = append(p.routes, r)
	}
}

// isIn says whether a route to dst would take the outer connection with it.
func (o Outer) isIn(dst netip.Prefix) bool {
	return dst.Bits() == 0 || slices.ContainsFunc(o.Peers, func(a netip.Addr) bool {
		return dst.Contains(a.Unmap())
	})
}

// contains says whether p contains all of q.
func contains(p, q netip.Prefix) bool { return p.Bits() <= q.Bits() && p.Contains(q.Addr()) }
