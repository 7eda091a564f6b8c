package settings

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"ferry/internal/policy"
	"ferry/internal/proto"
)

// ToldNames returns the name servers that clients are told of, and the domains that those know best: what the configuration says, or else the gateway itself,
// where it is a name server, with the domains that it knows, of those that clients would take.
func (c *Config) ToldNames() (servers []netip.Addr, domains []string) {
	if len(c.PushDNS) > 0 || !c.Nameserver {
		return c.PushDNS, c.PushDomains
	}
	servers = []netip.Addr{c.Address().Addr()}
	if len(c.PushDomains) > 0 {
		return servers, c.PushDomains
	}
	all := slices.Concat([]string{c.DNSDomain}, slices.Sorted(maps.Keys(c.DNSForward)), slices.Sorted(maps.Keys(c.DNSZones)))
	for _, d := range all {
		more := append(slices.Clone(domains), d)
		if policy.Domain(d) == "" && len(strings.Join(more, " ")) <= proto.MaxDomains && !slices.Contains(domains, d) {
			domains = more
		}
	}
	return servers, domains
}
