package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// WatchAddrs calls report with the IPv4 addresses of this network namespace: at once, and again
// whenever one came or went, until ctx is done. It returns nil then.
func WatchAddrs(ctx context.Context, report func([]netip.Addr)) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR)
	if err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	for {
		addrs, err := hostAddrs()
		if err != nil {
			return err
		}
		report(addrs)
		// What the message says does not matter, and none is missed by looking anew after each.
		_, _, err = s.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch addresses: %w", err)
		}
	}
}

func hostAddrs() (addrs []netip.Addr, err error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs, nil
}
