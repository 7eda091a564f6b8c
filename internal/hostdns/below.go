package hostdns

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// uplinks is where systemd-resolved says which name servers it asks itself.
const uplinks = "/run/systemd/resolve/resolv.conf"

// Below returns the name servers that this host has without a tunnel: those that were there before our own took their place. inside are
// those of the tunnel, if it has any now.
func Below(inside []netip.Addr) []netip.Addr { return New("", nil).below(uplinks, inside) }

func (l *Link) below(uplinks string, inside []netip.Addr) []netip.Addr {
	c, err := l.read()
	if err != nil {
		return nil
	}
	for c.by != nil {
		c = c.before
	}
	text := c.text
	if file := c.link; file != "" {
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(l.file), file)
		}
		text = textOf(file)
	}
	if up := textOf(uplinks); up != "" && asksResolved(text) {
		return without(serversIn(up), inside)
	}
	return serversIn(text)
}

// without takes each address of some out of all, once: what systemd-resolved says has the name servers of every link, those of the tunnel's among them, and
// another link may have one of the same address.
func without(all, some []netip.Addr) []netip.Addr {
	for _, a := range some {
		if i := slices.Index(all, a); i >= 0 {
			all = slices.Delete(all, i, i+1)
		}
	}
	return all
}

// textOf returns what is in a file, if it is as short as one of a resolver; empty: nothing.
func textOf(file string) string {
	fi, err := os.Stat(file)
	if err != nil || fi.Size() > maxFile || !fi.Mode().IsRegular() {
		return ""
	}
	b, _ := os.ReadFile(file)
	return string(b)
}

// serversIn returns the name servers of a text.
func serversIn(text string) (all []netip.Addr) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				all = append(all, a)
			}
		}
	}
	return all
}
