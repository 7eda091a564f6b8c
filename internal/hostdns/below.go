package hostdns

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// uplinks is where systemd-resolved says which name servers it asks itself.
const uplinks = "/run/systemd/resolve/resolv.conf"

// Below returns the name servers that this host has without a tunnel: those that were there before our own took their place.
func Below() []netip.Addr { return New("", nil).below(uplinks) }

func (l *Link) below(uplinks string) []netip.Addr {
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
		text = up
	}
	return serversIn(text)
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
