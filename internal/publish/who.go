package publish

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Who says whose services a gateway publishes. The zero value: nobody's.
type Who struct {
	All   bool
	Nets  []netip.Prefix // of addresses in the tunnel
	Names []string       // of devices with a key
}

// IsZero reports whether nobody's services are published.
func (w Who) IsZero() bool { return !w.All && len(w.Nets)+len(w.Names) == 0 }

// Allows tells whether services of a client are published. name is proven, or empty.
func (w Who) Allows(client netip.Addr, name string) bool {
	return w.All || name != "" && slices.Contains(w.Names, name) || slices.ContainsFunc(w.Nets, func(p netip.Prefix) bool { return p.Contains(client) })
}

// Add reads one more of them: * for all, 10.0.3.0/24, 10.0.3.4, or the name of a device, which is not judged here.
func (w *Who) Add(text string) error {
	p, err := netip.ParsePrefix(text)
	if a, addrErr := netip.ParseAddr(text); addrErr == nil {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case text == "*":
		w.All = true
	case err == nil && p != p.Masked():
		return fmt.Errorf("%q has host bits set: write %s", text, p.Masked())
	case err == nil:
		w.Nets = append(w.Nets, p)
	case text == "" || strings.ContainsAny(text, "/:* \t"):
		return fmt.Errorf(`%q names no client: write the name of a device, an address or network of the pool, or "*" for all`, text)
	default:
		w.Names = append(w.Names, text)
	}
	return nil
}
