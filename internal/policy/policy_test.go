package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var own = netip.MustParsePrefix("10.0.254.254/16")

// Exam S11: each row is something that a gateway may push.
func TestEach(t *testing.T) {
	server := netip.MustParseAddr("198.51.100.1")
	for _, tt := range []struct{ what, value, refused string }{
		{"address", "10.0.254.254/16", ""},
		{"address", "192.168.3.4/24", ""},
		{"address", "198.18.3.4/16", ""},
		{"address", "100.64.1.1/16", ""},
		{"address", "203.0.113.7/24", "allow it with --accept-prefix 203.0.113.0/24"},
		{"address", "8.8.8.8/32", "--accept-prefix 8.8.8.8/32"},
		{"address", "10.0.0.5/7", "--accept-prefix"},    // more than 10.0.0.0/8
		{"address", "192.168.3.4/8", "--accept-prefix"}, // a private address, and a public network
		{"address", "127.0.0.5/16", "no interface"},
		{"address", "169.254.1.1/16", "no interface"},
		{"address", "0.0.0.7/16", "no interface"},
		{"address", "224.0.0.5/16", "no interface"},
		{"mtu", "0", "between"}, {"mtu", "68", "between"}, {"mtu", "575", "between"}, {"mtu", "576", ""},
		{"mtu", "65535", ""}, {"mtu", "65536", "between"},
		{"route", "192.168.7.0/24", ""},
		{"route", "198.51.100.0/24", ""}, // around the gateway
		{"route", "198.51.100.1/32", "the gateway's own address"},
		{"route", "198.51.100.2/32", ""},
		{"route", "0.0.0.0/0", "so large"}, {"route", "128.0.0.0/1", "so large"}, {"route", "64.0.0.0/7", "so large"},
		{"route", "0.0.0.0/8", "not a network"}, {"route", "127.0.0.0/8", "not a network"},
		{"route", "169.254.0.0/16", "not a network"}, {"route", "224.0.0.0/8", "not a network"}, {"route", "255.255.255.255/32", "not a network"},
		{"route", "10.0.3.0/24", "own prefix"}, {"route", "10.0.0.0/8", "own prefix"},
		{"dns", "10.0.0.1", ""}, {"dns", "192.168.7.53", ""},
		{"dns", "8.8.8.8", "not reached through the tunnel"},
		{"dns", "10.0.254.254", "this device"},
		{"dns", "127.0.0.53", "no name server"}, {"dns", "0.0.0.0", "no name server"}, {"dns", "224.0.0.251", "no name server"},
		{"dns", "169.254.169.254", "no name server"}, {"dns", "fd00::1", "no name server"},
		{"domain", "site.example", ""}, {"domain", "Site.Example.", ""}, {"domain", "xn--bcher-kva.example", ""}, {"domain", "lan", ""},
		{"domain", "com", "top-level"}, {"domain", "", "not a domain"}, {"domain", ".", "not a domain"}, {"domain", "~.", "not a domain"},
		{"domain", "$(touch", "not a domain"}, {"domain", "a;b.example", "not a domain"}, {"domain", "a b.example", "not a domain"},
		{"domain", "a\nnameserver.example", "not a domain"}, {"domain", "-a.example", "not a domain"}, {"domain", "a..example", "not a domain"},
		{"domain", "192.0.2.1", "not a domain"}, {"domain", "a_b.example", "not a domain"},
		{"domain", strings.Repeat("a", 64) + ".example", "not a domain"}, {"domain", strings.Repeat("abc.", 64) + "example", "not a domain"},
	} {
		var got string
		switch tt.what {
		case "address":
			got = Address(netip.MustParsePrefix(tt.value), DefaultAccept)
		case "mtu":
			n := 0
			for _, c := range tt.value {
				n = 10*n + int(c-'0')
			}
			got = MTU(n)
		case "route":
			got = Route(netip.MustParsePrefix(tt.value), own, server)
		case "dns":
			got = NameServer(netip.MustParseAddr(tt.value), own, []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")})
		case "domain":
			got = Domain(tt.value)
		}
		if (got == "") != (tt.refused == "") || !strings.Contains(got, tt.refused) {
			t.Errorf("%s %q: got %q, want %q", tt.what, tt.value, got, tt.refused)
		}
	}
	if got := Route(netip.Prefix{}, own, server); got == "" {
		t.Error("no prefix at all is a route")
	}
	if got := Address(netip.Prefix{}, DefaultAccept); got == "" {
		t.Error("no prefix at all is an address")
	}
}

// exam: S11
func TestJudge(t *testing.T) {
	offer := Offer{
		Prefix: own, Server: netip.MustParseAddr("198.51.100.1"), MTU: 68,
		Routes:  []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("192.168.7.9/24"), netip.MustParsePrefix("198.51.100.1/32")},
		DNS:     []netip.Addr{netip.MustParseAddr("192.168.7.53"), netip.MustParseAddr("8.8.8.8")},
		Domains: []string{"Site.example.", "$(touch", "/tmp/x)"},
	}
	mine := netip.MustParsePrefix("172.20.0.0/16")
	for _, tt := range []struct {
		name    string
		rules   Rules
		change  func(*Offer)
		mtu     int
		routes  string
		dns     string
		domains string
		refused string // the values
	}{
		{"nothing is accepted", Rules{RefuseRoutes: true, RefuseDNS: true}, nil, 1500, "", "", "", "68"},
		{"the owner's own", Rules{MTU: 1280, Routes: []netip.Prefix{mine}, RefuseRoutes: true, RefuseDNS: true}, nil, 1280, "172.20.0.0/16", "", "", ""},
		{"routes", Rules{RefuseDNS: true}, nil, 1500, "192.168.7.0/24", "", "", "68 0.0.0.0/0 198.51.100.1/32"},
		{"split", Rules{Split: true, MTU: 1400}, nil, 1400, "192.168.7.0/24 192.168.7.53/32",
			"192.168.7.53", "site.example", "0.0.0.0/0 198.51.100.1/32 $(touch /tmp/x) 8.8.8.8"},
		{"split, not routed", Rules{RefuseRoutes: true, Split: true, MTU: 1400}, nil, 1400, "", "", "", "$(touch /tmp/x) 192.168.7.53 8.8.8.8"},
		{"no way to split", Rules{MTU: 1400}, nil, 1400, "192.168.7.0/24", "", "",
			"0.0.0.0/0 198.51.100.1/32 $(touch /tmp/x) [192.168.7.53 8.8.8.8]"},
		{"split without domains", Rules{RefuseRoutes: true, Split: true, MTU: 1400}, func(o *Offer) { o.Domains = nil }, 1400, "", "", "",
			"[192.168.7.53 8.8.8.8]"},
		{"full", Rules{DefaultRoute: true, RefuseRoutes: true, MTU: 1400}, func(o *Offer) { o.Domains = nil }, 1400,
			"0.0.0.0/0 192.168.7.53/32 8.8.8.8/32", "192.168.7.53 8.8.8.8", "", ""},
		{"no MTU", Rules{RefuseRoutes: true, RefuseDNS: true}, func(o *Offer) { o.MTU = 0 }, 1500, "", "", "", ""},
		{"a good MTU", Rules{RefuseRoutes: true, RefuseDNS: true}, func(o *Offer) { o.MTU = 1380 }, 1380, "", "", "", ""},
		{"many", Rules{DefaultRoute: true, RefuseRoutes: true, MTU: 1400}, func(o *Offer) {
			o.Domains = slices.Repeat([]string{"site.example"}, 40)
			o.DNS = slices.Repeat(o.DNS[:1], 8)
		}, 1400, "0.0.0.0/0 192.168.7.53/32", "192.168.7.53", strings.TrimSpace(strings.Repeat("site.example ", 32)), "8"},
	} {
		o := offer
		if tt.change != nil {
			tt.change(&o)
		}
		tt.rules.Accept = DefaultAccept
		v, err := tt.rules.Judge(o, Place{})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		var refused []string
		for _, r := range v.Refused {
			refused = append(refused, r.Value)
		}
		for _, c := range []struct{ what, got, want string }{
			{"routes", join(v.Routes), tt.routes}, {"DNS", join(v.DNS), tt.dns}, {"domains", join(v.Domains), tt.domains}, {"refused", join(refused), tt.refused},
		} {
			if c.got != c.want {
				t.Errorf("%s: %s: got %q, want %q", tt.name, c.what, c.got, c.want)
			}
		}
		if v.MTU != tt.mtu {
			t.Errorf("%s: got MTU %d, want %d", tt.name, v.MTU, tt.mtu)
		}
	}
	foreign := offer
	foreign.Prefix = netip.MustParsePrefix("203.0.113.5/24")
	if _, err := (Rules{Accept: DefaultAccept}).Judge(foreign, Place{}); err == nil || !strings.Contains(err.Error(), "--accept-prefix 203.0.113.0/24") {
		t.Errorf("a foreign address: got %v", err)
	}
	if _, err := (Rules{Accept: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}).Judge(foreign, Place{}); err != nil {
		t.Errorf("an address that is accepted: got %v", err)
	}
}

func TestCollision(t *testing.T) {
	for _, tt := range []struct {
		own, server, way string
		want             string
	}{
		{"10.0.0.5/16", "198.51.100.1", "0.0.0.0/0", ""},
		{"192.168.1.7/24", "198.51.100.1", "0.0.0.0/0", "another interface"},
		{"192.168.1.7/32", "198.51.100.1", "0.0.0.0/0", "another interface"},
		{"192.168.1.8/24", "198.51.100.1", "0.0.0.0/0", ""},
		{"10.1.2.3/32", "10.1.2.3", "10.1.2.0/24", "the gateway itself"},
		{"10.1.2.3/32", "::ffff:10.1.2.3", "10.1.2.0/24", "the gateway itself"},
		{"10.1.9.9/16", "10.1.2.3", "0.0.0.0/0", "add a route to 10.1.2.3/32"},
		{"10.1.9.9/16", "10.1.2.3", "10.1.0.0/16", "add a route to 10.1.2.3/32"},
		{"10.1.9.9/16", "10.1.2.3", "10.1.2.0/24", ""},
		{"10.1.9.9/16", "10.1.2.3", "", ""},
		{"10.1.9.9/16", "", "0.0.0.0/0", ""},
		{"10.1.9.9/16", "2001:db8::1", "::/0", ""},
	} {
		server, _ := netip.ParseAddr(tt.server)
		way, _ := netip.ParsePrefix(tt.way)
		place := Place{[]netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("192.168.1.7/24")}, way}
		_, err := Rules{Accept: DefaultAccept}.Judge(Offer{Prefix: netip.MustParsePrefix(tt.own), Server: server}, place)
		if got := fmt.Sprint(err); tt.want == "" && err != nil || tt.want != "" && !strings.Contains(got, tt.want) {
			t.Errorf("%s from %s by %s: got %s, want %q", tt.own, tt.server, tt.way, got, tt.want)
		}
	}
}

// A name server gets a route of its own where none leads to it alone, and the tunnel's network does not.
func TestServerRoutes(t *testing.T) {
	offer := Offer{Prefix: netip.MustParsePrefix("10.0.3.7/16"), Routes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24"), netip.MustParsePrefix("192.168.8.9/32")}}
	for server, want := range map[string]int{"10.0.0.1": 3, "192.168.7.53": 4, "192.168.8.9": 3} { // with the full tunnel's
		offer.DNS = []netip.Addr{netip.MustParseAddr(server)}
		v, err := Rules{Accept: DefaultAccept, DefaultRoute: true}.Judge(offer, Place{})
		if err != nil || len(v.DNS) != 1 || len(v.Routes) != want {
			t.Errorf("%s: %+v, %v; want %d routes", server, v, err, want)
		}
	}
}

// What is no IPv4 network is no route, valid or not.
func TestNoRoute(t *testing.T) {
	for _, r := range []netip.Prefix{{}, netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("fe80::/10")} {
		if got := Route(r, netip.MustParsePrefix("10.0.3.7/16"), netip.Addr{}); got != "not an IPv4 network" {
			t.Errorf("%s: %q", r, got)
		}
	}
}

// The network that a device is in stays its own.
func TestOwnNetwork(t *testing.T) {
	place := Place{Addrs: []netip.Prefix{netip.MustParsePrefix("192.168.1.7/24"), netip.MustParsePrefix("198.51.100.9/32")}}
	for route, taken := range map[string]bool{
		"192.168.1.0/24": false, "192.168.1.128/25": false, "192.168.1.9/32": false, "192.168.0.0/16": true, "192.168.2.0/24": true, "198.51.100.9/32": true,
	} {
		v, err := Rules{Accept: DefaultAccept}.Judge(Offer{Prefix: netip.MustParsePrefix("10.0.3.7/16"), Routes: []netip.Prefix{netip.MustParsePrefix(route)}}, place)
		if err != nil || (len(v.Routes) == 1) != taken || (len(v.Refused) == 0) != taken {
			t.Errorf("%s: %+v, %v; want it taken: %v", route, v, err, taken)
		}
	}
}

// What passes as a domain can stand in a file of lines and words.
func FuzzDomain(f *testing.F) {
	for _, s := range []string{"site.example", "lan", "$(touch /tmp/x)", "a\nb.c", "ü.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if Domain(s) == "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") != "" {
			t.Errorf("%q is a domain", s)
		}
	})
}

func join[T any](all []T) string {
	var b strings.Builder
	for i, v := range all {
		if i > 0 {
			b.WriteByte(' ')
		}
		switch v := any(v).(type) {
		case string:
			b.WriteString(v)
		case interface{ String() string }:
			b.WriteString(v.String())
		}
	}
	return b.String()
}
