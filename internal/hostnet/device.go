package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A device is the link as the kernel has it.
type device struct {
	link       netlink.Link
	index      int
	up         bool
	mtu        int // bytes
	txQueueLen int // packets
}

func findDevice(name string) (device, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return device{}, fmt.Errorf("%s: %w", name, ErrNoLink)
	}
	if err != nil {
		return device{}, fmt.Errorf("find %s: %w", name, err)
	}
	a := link.Attrs()
	return device{link, a.Index, a.Flags&net.FlagUp != 0, a.MTU, a.TxQLen}, nil
}

// applyDevice sets what belongs to the link itself, up last: IPv6 has to be off before.
func (l *Link) applyDevice(p *plan, dev device) error {
	if p.mtu != 0 && p.mtu != dev.mtu {
		if err := netlink.LinkSetMTU(dev.link, p.mtu); err != nil {
			return fmt.Errorf("set mtu %d on %s: %w", p.mtu, l.name, err)
		}
	}
	if p.txQueueLen != 0 && p.txQueueLen != dev.txQueueLen {
		if err := netlink.LinkSetTxQLen(dev.link, p.txQueueLen); err != nil {
			return fmt.Errorf("set queue length %d on %s: %w", p.txQueueLen, l.name, err)
		}
	}
	l.calm()
	if dev.up {
		return nil
	}
	if err := netlink.LinkSetUp(dev.link); err != nil {
		return fmt.Errorf("set %s up: %w", l.name, err)
	}
	return nil
}

// calm sets sysctls of the link. Without any of them things work, if less well. They are set
// again each time, for an MTU below 1280 makes the kernel forget those of IPv6.
func (l *Link) calm() {
	for _, s := range []sysctl{
		// No router solicitations or multicast reports in the tunnel, which carries no IPv6.
		{"net/ipv6/conf/" + l.name + "/disable_ipv6", "1"},
		// A new address stays when the old one, of the same prefix, is deleted.
		{"net/ipv4/conf/" + l.name + "/promote_secondaries", "1"},
	} {
		was, err := s.set()
		if err != nil {
			l.log.Debug("sysctl left as it is", "link", l.name, "sysctl", s.name, "err", err)
			continue
		}
		known := slices.ContainsFunc(l.made.sysctls, func(k sysctl) bool { return k.name == s.name })
		if was.value != s.value && !known {
			l.made.sysctls = append(l.made.sysctls, was)
		}
	}
}

func (l *Link) addAddr(addr netip.Prefix) error {
	if !addr.IsValid() {
		return nil
	}
	have, err := hasAddr(l.made.index, addr)
	if err != nil || have {
		return err
	}
	a := netlink.Addr{IPNet: ipNet(addr), LinkIndex: l.made.index, Broadcast: net.IPv4zero} // none
	if err := netlink.AddrAdd(nil, &a); err != nil {
		return fmt.Errorf("set address %s on %s: %w", addr, l.name, err)
	}
	if !slices.Contains(l.made.addrs, addr) {
		l.made.addrs = append(l.made.addrs, addr)
	}
	return nil
}

// delOldAddrs deletes those addresses of earlier States that are not addr, and says if there
// were any.
func (l *Link) delOldAddrs(addr netip.Prefix) (done bool, err error) {
	for i := len(l.made.addrs) - 1; i >= 0; i-- {
		old := l.made.addrs[i]
		if old == addr {
			continue
		}
		err := netlink.AddrDel(nil, &netlink.Addr{IPNet: ipNet(old), LinkIndex: l.made.index})
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return done, fmt.Errorf("delete address %s on %s: %w", old, l.name, err)
		}
		l.made.addrs = slices.Delete(l.made.addrs, i, i+1)
		done = true
	}
	return done, nil
}

func hasAddr(index int, addr netip.Prefix) (bool, error) {
	all, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	return slices.ContainsFunc(all, func(a netlink.Addr) bool {
		return a.LinkIndex == index && prefix(a.IPNet) == addr
	}), nil
}

// restoreDevice gives the link back as Apply met it.
func (l *Link) restoreDevice() error {
	was := l.made.was
	if was.link == nil {
		return nil
	}
	_, err := l.delOldAddrs(netip.Prefix{})
	errs := []error{err}
	if !was.up {
		errs = append(errs, netlink.LinkSetDown(was.link))
	}
	errs = append(errs, netlink.LinkSetMTU(was.link, was.mtu), netlink.LinkSetTxQLen(was.link, was.txQueueLen))
	for _, s := range l.made.sysctls {
		if _, err := s.set(); !errors.Is(err, fs.ErrNotExist) { // as with an MTU below 1280
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("restore %s: %w", l.name, err)
	}
	l.made = onLink{}
	return nil
}
