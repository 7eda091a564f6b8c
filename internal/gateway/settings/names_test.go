package settings

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestToldNames(t *testing.T) {
	other := netip.MustParseAddr("10.0.0.53")
	known := Config{Nameserver: true, DNSForward: map[string][]netip.AddrPort{"corp.example": nil, "com": nil}, DNSZones: map[string]map[string]netip.Addr{"lab.example": nil, "corp.example": nil}}
	long := Config{Nameserver: true, DNSZones: map[string]map[string]netip.Addr{}}
	for i := range 40 {
		long.DNSZones[strings.Repeat(string(rune('a'+i%26)), 20+i)+".example"] = nil
	}
	with := func(c Config, dns []netip.Addr, domains ...string) Config {
		c.PushDNS, c.PushDomains = dns, domains
		return c
	}
	for what, tt := range map[string]struct {
		c       Config
		server  string
		domains string
	}{
		"no name server":      {Config{}, "", ""},
		"another one":         {with(known, []netip.Addr{other}), "10.0.0.53", ""},
		"another one alone":   {with(Config{}, []netip.Addr{other}, "site.example"), "10.0.0.53", "site.example"},
		"this one":            {known, "10.0.0.1", "ferry.internal corp.example lab.example"},
		"this one, otherwise": {with(known, nil, "site.example"), "10.0.0.1", "site.example"},
	} {
		tt.c.SetDefaults()
		servers, domains := tt.c.ToldNames()
		var text string
		if len(servers) > 0 {
			text = servers[0].String()
		}
		if text != tt.server || len(servers) > 1 || strings.Join(domains, " ") != tt.domains {
			t.Errorf("%s: got %v %v, want %s %s", what, servers, domains, tt.server, tt.domains)
		}
	}
	long.SetDefaults()
	if _, domains := long.ToldNames(); len(strings.Join(domains, " ")) > 1024 || len(domains) < 10 || !slices.Contains(domains, "ferry.internal") {
		t.Errorf("%d domains that fit into no message", len(domains))
	}
}
