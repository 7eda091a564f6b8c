package hostnet

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// WatchAddrs calls report with the IPv4 addresses of this network namespace: at once, and again
// whenever one came or went, until ctx is done. It returns nil then.
func WatchAddrs(ctx context.Context, report func([]netip.Addr)) error {
	look := func() error {
		addrs, err := hostAddrs("")
		if err != nil {
			return err
		}
		only := make([]netip.Addr, len(addrs))
		for i, a := range addrs {
			only[i] = a.Addr()
		}
		report(only)
		return nil
	}
	if err := onChange(ctx, look, anything, unix.RTNLGRP_IPV4_IFADDR); err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	return nil
}

func anything(uint16, []byte) bool { return true }

// onChange calls look: at once, and again whenever the kernel tells one of these groups something that matters, until ctx is done.
func onChange(ctx context.Context, look func() error, matters func(kind uint16, data []byte) bool, groups ...uint) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	for {
		if err := look(); err != nil {
			return err
		}
		// A message is only a hint to look, so none is missed by looking anew after each.
		err := hint(s, matters)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Around returns what this network namespace has besides the interface link: its IPv4 addresses
// with the lengths of their networks, and the destination of the route that a socket with the mark reaches server by, if there is one.
func Around(link string, server netip.Addr, mark uint32) (addrs []netip.Prefix, way netip.Prefix, err error) {
	if addrs, err = hostAddrs(link); err != nil || !server.IsValid() {
		return addrs, way, err
	}
	routes, err := netlink.RouteGetWithOptions(server.Unmap().AsSlice(), &netlink.RouteGetOptions{FIBMatch: true, Mark: mark})
	if err == nil && len(routes) > 0 {
		way = prefix(routes[0].Dst)
	}
	return addrs, way, nil
}

// hostAddrs returns the addresses, with the lengths of their networks, of all interfaces but one.
func hostAddrs(but string) (addrs []netip.Prefix, err error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	index := 0
	for _, l := range links {
		if l.Attrs().Name == but {
			index = l.Attrs().Index
		}
	}
	all, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range all {
		if a.LinkIndex != index {
			addrs = append(addrs, prefix(a.IPNet))
		}
	}
	return addrs, nil
}
