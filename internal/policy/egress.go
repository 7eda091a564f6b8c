package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// IANA, protocol numbers.
const (
	ICMP uint8 = 1
	TCP  uint8 = 6
	UDP  uint8 = 17
)

// A Target is where packets may go, or may not.
type Target struct {
	Prefix   netip.Prefix
	Port     uint16 // 0: all, and what has none
	Protocol uint8  // with a port: TCP or UDP; 0: both
}

// ParsePort parses what may stand behind a prefix, as in 192.168.7.0/24:53/udp: a port, and the protocol that it is one of.
func ParsePort(s string) (port uint16, protocol uint8, err error) {
	number, name, named := strings.Cut(s, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	switch {
	case err != nil || n == 0:
		return 0, 0, fmt.Errorf("%q is not a port: write 1 to 65535, with /tcp or /udp for one of them alone", number)
	case !named:
		return uint16(n), 0, nil
	case name == "tcp":
		return uint16(n), TCP, nil
	case name == "udp":
		return uint16(n), UDP, nil
	}
	return 0, 0, fmt.Errorf("%q has no ports: write tcp or udp", name)
}

// String writes t as it is parsed.
func (t Target) String() string {
	s := t.Prefix.String()
	if t.Port > 0 {
		s += ":" + strconv.Itoa(int(t.Port))
	}
	return s + map[uint8]string{TCP: "/tcp", UDP: "/udp"}[t.Protocol]
}

// A Rule says what may pass to the addresses of a prefix. It is not modified.
type Rule struct {
	base  bool             // what is said of no port
	ports map[portKey]bool // nil: nothing is
	some  bool             // a port is allowed
}

type portKey struct {
	protocol uint8
	port     uint16
}

// ByPort tells whether Allows depends on the port; else Base says it.
func (r *Rule) ByPort() bool { return r.ports != nil }

// Base tells whether what is said of no port may pass.
func (r *Rule) Base() bool { return r.base }

// Allows tells whether packets to a port may pass.
func (r *Rule) Allows(protocol uint8, port uint16) bool {
	if allowed, ok := r.ports[portKey{protocol, port}]; ok {
		return allowed
	}
	return r.base
}

// Some tells whether packets to any port may pass: then fragments that show none do. Without the first one, which does, they are nothing.
func (r *Rule) Some() bool { return r.base || r.some }

// Egress makes rules of what is allowed and denied: the longest prefix wins, in it what names a port, and of the same allow.
func Egress(allow, deny []Target) map[netip.Prefix]*Rule {
	type side struct {
		allowed bool
		target  Target
	}
	var all []side
	for _, t := range deny {
		all = append(all, side{false, t})
	}
	for _, t := range allow {
		all = append(all, side{true, t})
	}
	slices.SortStableFunc(all, func(a, b side) int { // what is said of all ports comes before what is said of one
		return cmp.Or(a.target.Prefix.Bits()-b.target.Prefix.Bits(), cmp.Compare(min(a.target.Port, 1), min(b.target.Port, 1)))
	})
	rules := map[netip.Prefix]*Rule{}
	for _, s := range all {
		p := s.target.Prefix.Masked()
		r := rules[p]
		if r == nil {
			r = inherit(rules, p)
			rules[p] = r
		}
		r.set(s.target, s.allowed)
	}
	return rules
}

// inherit returns a rule that says what the next shorter prefix does: everything may pass where there is none.
func inherit(rules map[netip.Prefix]*Rule, p netip.Prefix) *Rule {
	for bits := p.Bits() - 1; bits >= 0; bits-- {
		if shorter, _ := p.Addr().Prefix(bits); rules[shorter] != nil {
			r := *rules[shorter]
			r.ports = maps.Clone(r.ports)
			return &r
		}
	}
	return &Rule{base: true}
}

// set adds a target of the rule's own prefix. What names no port takes back what shorter prefixes say of any.
func (r *Rule) set(t Target, allowed bool) {
	if t.Port == 0 {
		r.base, r.ports, r.some = allowed, nil, false
		return
	}
	if r.ports == nil {
		r.ports = map[portKey]bool{}
	}
	for _, protocol := range []uint8{TCP, UDP} {
		if t.Protocol == 0 || t.Protocol == protocol {
			r.ports[portKey{protocol, t.Port}] = allowed
		}
	}
	r.some = r.some || allowed
}
