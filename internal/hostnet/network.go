package hostnet

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Network is what a host is connected to, as far as the host can tell.
type Network struct {
	// ID is the same whenever the host is there, and seldom elsewhere: the router that leads out, and the networks that the host
	// has addresses in. Empty: it is connected to nothing. The router's hardware address would say more, but is not known
	// yet when a host arrives, which is when it is asked for.
	ID string
	// State differs when something has changed by which packets leave the host: addresses, default routes, links.
	State string
}

// WatchNetwork calls report with the network of this network namespace, without the interface but: at once, and again whenever
// its State has changed, until ctx is done. It returns nil then.
func WatchNetwork(ctx context.Context, but string, report func(Network)) error {
	var last *Network
	look := func() error {
		now, err := NetworkNow(but)
		if err == nil && (last == nil || now.State != last.State) {
			last = &now
			report(now)
		}
		return err
	}
	err := onChange(ctx, look, leadsOut, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("watch the network: %w", err)
	}
	return nil
}

// leadsOut spares a busy router a look at each of its routes: default routes count alone.
func leadsOut(kind uint16, data []byte) bool {
	switch kind {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return nl.DeserializeRtMsg(data).Dst_len == 0
	}
	return true
}

// NetworkNow returns the network of this network namespace, without the interface but.
func NetworkNow(but string) (Network, error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return Network{}, fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{} // of links that something can be sent by
	for _, l := range links {
		a := l.Attrs()
		if a.Name != but && a.Flags&net.FlagUp != 0 && a.Flags&net.FlagLoopback == 0 && a.OperState != netlink.OperDown && a.OperState != netlink.OperLowerLayerDown {
			names[a.Index] = a.Name
		}
	}
	inside, state, err := addressesOn(names)
	if err != nil {
		return Network{}, err
	}
	best, ways, err := defaultsOn(names)
	if err != nil {
		return Network{}, err
	}
	n := Network{ID: strings.Join(sorted(inside), " "), State: strings.Join(sorted(append(state, ways...)), "; ")}
	if best != "" {
		n.ID = best + " " + n.ID
	}
	return n, nil
}

func sorted(all []string) []string {
	slices.Sort(all)
	return slices.Compact(all)
}

// addressesOn returns the networks that these links have addresses in, and the addresses. Of IPv6 the network alone counts: an
// address of it is replaced every day (RFC 8981), while the one before goes on.
func addressesOn(names map[int]string) (networks, addrs []string, err error) {
	all, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range all {
		p := prefix(a.IPNet)
		name, ok := names[a.LinkIndex]
		if !ok || !p.Addr().IsGlobalUnicast() {
			continue
		}
		networks = append(networks, p.Masked().String())
		if p.Addr().Is6() {
			p = p.Masked()
		}
		addrs = append(addrs, name+" "+p.String())
	}
	return networks, addrs, nil
}

// defaultsOn returns the default routes by these links as text, and the one that is used: empty if there is none.
func defaultsOn(names map[int]string) (best string, ways []string, err error) {
	metric, of := 0, 0
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Table: unix.RT_TABLE_MAIN}
		all, err := whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE)
		})
		if isNoIPv6(err) {
			continue
		}
		if err != nil {
			return "", nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range all {
			for _, hop := range hops(r) {
				name, ok := names[hop.LinkIndex]
				if p := prefix(r.Dst); !ok || p.IsValid() && p.Bits() > 0 || hop.Flags&(unix.RTNH_F_LINKDOWN|unix.RTNH_F_DEAD) != 0 {
					continue
				}
				way := name
				if hop.Gw != nil {
					way += " via " + hop.Gw.String()
				}
				ways = append(ways, fmt.Sprintf("%s metric %d", way, r.Priority))
				if best == "" || family == of && r.Priority < metric {
					best, metric, of = way, r.Priority, family
				}
			}
		}
	}
	return best, ways, nil
}

// hops returns where a route leads, which may be to several.
func hops(r netlink.Route) []netlink.NexthopInfo {
	if len(r.MultiPath) == 0 {
		return []netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Flags: r.Flags}}
	}
	all := make([]netlink.NexthopInfo, len(r.MultiPath))
	for i, hop := range r.MultiPath {
		all[i] = *hop
	}
	return all
}
