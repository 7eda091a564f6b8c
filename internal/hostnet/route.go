package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// listRoutes returns our routes to the link with this index, and those of ours in the tables that lead
// to no link or to another one as copies.
func listRoutes(index int, tables ...int) ([]route, error) {
	all, err := routesBy(protocol, unix.RT_TABLE_UNSPEC)
	var ours []route
	for _, k := range all {
		if toOurs(k) && k.LinkIndex == index || !toOurs(k) && slices.Contains(tables, k.Table) {
			ours = append(ours, fromKernel(k))
		}
	}
	return ours, err
}

// toOurs tells a route to the link that it was made for from copies and from dead ends.
func toOurs(k netlink.Route) bool { return k.Type == unix.RTN_UNICAST && k.Priority != localMetric }

// routesBy returns the routes of both families in table (RT_TABLE_UNSPEC: in all) that have this
// protocol. Since Linux 4.20 the kernel does the selecting, which a router of the whole Internet
// notices.
func routesBy(protocol netlink.RouteProtocol, table int) (all []netlink.Route, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	defer h.Close()
	_ = h.SetStrictCheck(true)
	filter := netlink.Route{Protocol: protocol, Table: table}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := whole(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if err != nil && !isNoIPv6(err) && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		all = append(all, routes...)
	}
	return all, nil
}

// addRoutes makes what want has and have lacks. A route of ours that differs in its source is
// replaced in place; one of somebody else with the same key is an error.
func addRoutes(link string, index int, want, have []route) error {
	for _, r := range want {
		if slices.Contains(have, r) {
			continue
		}
		add := netlink.RouteAdd
		if slices.ContainsFunc(have, func(h route) bool { return h.routeKey == r.routeKey }) {
			add = netlink.RouteReplace
		}
		err := add(r.toKernel(index))
		switch {
		case errors.Is(err, unix.EEXIST):
			return fmt.Errorf("add route %s dev %s: another interface has it: %w", r.dst, link, err)
		case err != nil && !(r.dst.Addr().Is6() && isNoIPv6(err)):
			return fmt.Errorf("add route %s dev %s: %w", r.dst, link, err)
		}
	}
	return nil
}

// delRoutes deletes what have has and want lacks. What the kernel has already dropped with an
// address or a link is no error.
func delRoutes(want, have []route) error {
	var errs []error
	for _, r := range have {
		if slices.ContainsFunc(want, func(w route) bool { return w.routeKey == r.routeKey }) {
			continue
		}
		if err := netlink.RouteDel(r.toKernel(0)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("delete route %s: %w", r.dst, err))
		}
	}
	return errors.Join(errs...)
}

// addPrefixRoute brings back the route which the kernel made with the address of the link, exactly
// as it was, if somebody removed it.
func addPrefixRoute(link string, index int, addr netip.Prefix) error {
	have, err := hasPrefixRoute(index, addr)
	if have || err != nil {
		return err
	}
	r := route{routeKey{unix.RT_TABLE_MAIN, addr.Masked(), 0}, unix.RTN_UNICAST, addr.Addr(), 0}.toKernel(index)
	r.Protocol = unix.RTPROT_KERNEL
	if err := netlink.RouteAdd(r); err != nil {
		return fmt.Errorf("add route %s dev %s: %w", addr.Masked(), link, err)
	}
	return nil
}

func hasPrefixRoute(index int, addr netip.Prefix) (bool, error) {
	if !addr.IsValid() || addr.IsSingleIP() {
		return true, nil
	}
	all, err := routesBy(unix.RTPROT_KERNEL, unix.RT_TABLE_MAIN)
	return slices.ContainsFunc(all, func(k netlink.Route) bool {
		return k.LinkIndex == index && prefix(k.Dst) == addr.Masked()
	}), err
}

// toKernel translates r; index is that of the link and unused for other kinds than RTN_UNICAST.
func (r route) toKernel(index int) *netlink.Route {
	k := &netlink.Route{
		Table:    r.table,
		Dst:      ipNet(r.dst),
		Priority: r.metric,
		Type:     r.kind,
		Protocol: protocol,
	}
	if r.kind == unix.RTN_UNICAST {
		k.LinkIndex, k.Src = cmp.Or(r.via, index), r.src.AsSlice()
		// Where a new route's gateway is reached, the kernel asks routes of scope link only: with none
		// in our table, DHCP clients can still replace the default route behind a full tunnel.
		if r.table == unix.RT_TABLE_MAIN {
			k.Scope = netlink.SCOPE_LINK
		}
	}
	return k
}

func fromKernel(k netlink.Route) route {
	src, _ := netip.AddrFromSlice(k.Src)
	via := 0
	if k.Type == unix.RTN_UNICAST && !toOurs(k) {
		via = k.LinkIndex
	}
	return route{routeKey{k.Table, prefix(k.Dst), k.Priority}, k.Type, src, via}
}

// whole repeats a dump that the kernel says was cut by a change.
func whole[T any](dump func() ([]T, error)) (all []T, err error) {
	for range 10 {
		if all, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, err
}

// isNoIPv6 says that err is how a kernel without IPv6 answers. It cannot leak any.
func isNoIPv6(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	a, _ := netip.AddrFromSlice(n.IP)
	if len(n.Mask) == net.IPv4len {
		a = a.Unmap() // net.IPv4zero has 16 bytes
	}
	return netip.PrefixFrom(a, bits)
}
