package policy

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func target(prefix string, port uint16, protocol uint8) Target {
	return Target{netip.MustParsePrefix(prefix), port, protocol}
}

func TestEgress(t *testing.T) {
	rules := Egress(
		[]Target{target("10.1.0.0/16", 0, 0), target("192.0.2.1/32", 22, TCP), target("203.0.113.0/24", 53, 0)},
		[]Target{target("0.0.0.0/0", 25, 0), target("10.0.0.0/8", 0, 0), target("192.0.2.1/32", 0, 0), target("203.0.113.0/24", 53, UDP)})
	for _, tt := range []struct {
		name, prefix string
		protocol     uint8
		port         uint16
		want         bool
	}{
		{"everywhere else", "0.0.0.0/0", TCP, 443, true},
		{"a port that is denied everywhere", "0.0.0.0/0", TCP, 25, false},
		{"and by the other protocol", "0.0.0.0/0", UDP, 25, false},
		{"a network", "10.0.0.0/8", TCP, 443, false},
		{"of it a smaller one", "10.1.0.0/16", TCP, 443, true},
		{"there all ports, for it names none", "10.1.0.0/16", TCP, 25, true},
		{"a host", "192.0.2.1/32", TCP, 80, false},
		{"of it a port", "192.0.2.1/32", TCP, 22, true},
		{"by that protocol", "192.0.2.1/32", UDP, 22, false},
		{"the same port allowed and denied", "203.0.113.0/24", UDP, 53, true},
		{"what a longer prefix says nothing of", "203.0.113.0/24", TCP, 25, false},
	} {
		if got := rules[netip.MustParsePrefix(tt.prefix)].Allows(tt.protocol, tt.port); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
	}
	for prefix, want := range map[string][2]bool{"0.0.0.0/0": {true, true}, "10.0.0.0/8": {false, false}, "192.0.2.1/32": {true, true}, "203.0.113.0/24": {true, true}, "10.1.0.0/16": {false, true}} {
		if r := rules[netip.MustParsePrefix(prefix)]; r.ByPort() != want[0] || r.Some() != want[1] {
			t.Errorf("%s: by port %t, some %t; want %v", prefix, r.ByPort(), r.Some(), want)
		}
	}
}

// The rules say what a slow reading of the lists does: of all targets that fit, the one with the longest prefix, then the one with a port, then allow. A
// prefix without a port hides the ports of shorter ones.
func TestEgressModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		draw := rapid.Custom(func(r *rapid.T) Target {
			bits := rapid.IntRange(0, 4).Draw(r, "bits")
			p, _ := netip.AddrFrom4([4]byte{byte(rapid.IntRange(0, 15).Draw(r, "net") << 4)}).Prefix(bits)
			t := Target{Prefix: p}
			if rapid.Bool().Draw(r, "has port") {
				t.Port, t.Protocol = uint16(rapid.IntRange(1, 3).Draw(r, "port")), rapid.SampledFrom([]uint8{0, TCP, UDP}).Draw(r, "protocol")
			}
			return t
		})
		allow, deny := rapid.SliceOfN(draw, 0, 5).Draw(r, "allow"), rapid.SliceOfN(draw, 0, 5).Draw(r, "deny")
		rules := Egress(allow, deny)
		for host := range 16 {
			a := netip.AddrFrom4([4]byte{byte(host << 4)})
			for _, protocol := range []uint8{TCP, UDP} {
				for port := range uint16(4) {
					got := true
					for bits := 4; bits >= 0; bits-- {
						if p, _ := a.Prefix(bits); rules[p] != nil {
							got = rules[p].Allows(protocol, port+1)
							break
						}
					}
					if want := slowly(allow, deny, a, protocol, port+1); got != want {
						r.Fatalf("%s, protocol %d, port %d: %t, want %t", a, protocol, port+1, got, want)
					}
				}
			}
		}
	})
}

func slowly(allow, deny []Target, a netip.Addr, protocol uint8, port uint16) bool {
	best, allowed := -1, true
	look := func(all []Target, says bool) {
		for _, t := range all {
			fits := t.Prefix.Contains(a) && (t.Port == 0 || t.Port == port && (t.Protocol == 0 || t.Protocol == protocol))
			if weight := 2*t.Prefix.Bits() + int(min(t.Port, 1)); fits && weight >= best {
				best, allowed = weight, says
			}
		}
	}
	look(deny, false)
	look(allow, true)
	return allowed
}

func TestParsePort(t *testing.T) {
	for s, want := range map[string]Target{"53": {Port: 53}, "53/udp": {Port: 53, Protocol: UDP}, "443/tcp": {Port: 443, Protocol: TCP}} {
		if port, protocol, err := ParsePort(s); err != nil || port != want.Port || protocol != want.Protocol {
			t.Errorf("%s: %d, %d, %v", s, port, protocol, err)
		}
	}
	for _, s := range []string{"", "0", "65536", "-1", "http", "53/", "53/icmp", "53/udp/x"} {
		if _, _, err := ParsePort(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
	if got := target("192.0.2.0/24", 53, UDP).String(); got != "192.0.2.0/24:53/udp" {
		t.Error(got)
	}
}
