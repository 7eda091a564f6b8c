package netsock

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
)

// headStart is what one address of a name has before the next one is tried too (RFC 8305, section 5).
const headStart = 250 * time.Millisecond

// maxAddrs is how many addresses of a name are tried.
const maxAddrs = 6

// Dial looks the host of an endpoint up, among the addresses of a network of package net (ip, ip4), and tries its addresses side by side, until ctx
// is done. The first that try connects to wins.
func Dial[L interface{ Close() error }](ctx context.Context, e carrier.Endpoint, o carrier.Opener, network string, try func(ctx context.Context, to netip.Addr) (L, error)) (won L, err error) {
	addrs, err := carrier.Lookup(ctx, network, e, o)
	if err != nil {
		return won, err
	}
	addrs = addrs[:min(len(addrs), maxAddrs)]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		link L
		err  error
	}
	results := make(chan result, len(addrs))
	tried, open, done := 0, 0, false
	start := func() {
		to := addrs[tried]
		tried, open = tried+1, open+1
		go func() { // ends with ctx, and is waited for below
			l, err := try(ctx, to)
			results <- result{l, err}
		}()
	}
	start()
	next := time.NewTicker(headStart)
	defer next.Stop()
	var errs error
	for open > 0 {
		select {
		case r := <-results:
			open--
			switch {
			case r.err != nil:
				errs = errors.Join(errs, r.err)
			case !done:
				won, done = r.link, true
				cancel()
			default:
				_ = r.link.Close()
			}
		case <-next.C:
		}
		if !done && tried < len(addrs) && ctx.Err() == nil {
			start()
		}
	}
	if done {
		return won, nil
	}
	return won, fmt.Errorf("dial %s: %w", e, errs)
}

// Open returns a socket of an opener for a network that it knows (carrier.Opener), on the way to an address.
func Open(o carrier.Opener, network string, to netip.AddrPort) (fd int, err error) {
	f, err := o.Socket(network, to.String())
	if err != nil {
		return -1, err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(own uintptr) {
		if fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	})
	return fd, errors.Join(controlErr, err)
}

// UDP returns a socket for UDP on the way to an address, that of an opener if there is one.
func UDP(to netip.AddrPort, o carrier.Opener) (fd int, err error) {
	domain, network := unix.AF_INET, "udp4"
	if to.Addr().Is6() {
		domain, network = unix.AF_INET6, "udp6"
	}
	if o != nil {
		return Open(o, network, to)
	}
	fd, err = unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fd, os.NewSyscallError("socket", err)
}

// RouteMTU returns the MTU of the way to an address, as far as this machine knows it; 0: it does not.
func RouteMTU(to netip.AddrPort, o carrier.Opener) int {
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	fd, err := UDP(to, o)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	if unix.Connect(fd, Sockaddr(to)) != nil { // sends nothing
		return 0
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	if err != nil {
		return 0
	}
	return mtu
}
