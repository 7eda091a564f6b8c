package nameserver

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// Seconds that answers hold. Names and zones change at any time, by the operator.
const (
	ttl         = 30
	ttlNegative = 10
)

// gatewayName is the gateway's own, which no client has.
const gatewayName = "gateway"

// reverseZone is where addresses are names (RFC 1035 section 3.5).
const reverseZone = "in-addr.arpa."

// A Directory knows the clients. Its methods are called at any time.
type Directory interface {
	// Lookup returns the addresses of a client, by its name in small letters.
	Lookup(name string) ([]netip.Addr, bool)
	// Name returns the name of the client that has an address.
	Name(netip.Addr) (string, bool)
}

// A finding is what is known here about a name.
type finding struct {
	zone    string // that has the name; empty: none that could be named in an SOA
	missing bool   // there is no such name
	records []dns.RR
}

// find returns what is known about a question; known: nobody else is to be asked. Of what the configuration says, the longest suffix wins.
func (s *Server) find(t *table, q dns.Question) (f finding, known bool) {
	name := dns.CanonicalName(q.Name)
	suffix := t.group(name).suffix
	z := s.zones.find(name)
	if z == nil {
		z = t.zones.find(name)
	}
	if z != nil && len(suffix) > len(z.suffix) {
		z = nil
	}
	switch {
	case dns.IsSubDomain(s.domain, name) && len(suffix) <= len(s.domain) && (z == nil || len(z.suffix) <= len(s.domain)):
		return s.client(q, before(name, s.domain)), true
	case dns.CountLabel(name) == 1 && !ofDelegation(q.Qtype):
		if addrs, ok := s.lookup(strings.TrimSuffix(name, ".")); ok {
			return s.addresses(q, "", addrs), true
		}
	case dns.IsSubDomain(reverseZone, name):
		if f, known := s.reverse(q, before(name, reverseZone)); known {
			return f, true
		}
	}
	if z == nil {
		return f, false
	}
	addrs, found := z.lookup(name)
	if !found {
		return finding{zone: z.suffix, missing: true}, true
	}
	return s.addresses(q, z.suffix, addrs), true
}

// ofDelegation tells the types that say who has a top-level domain, and how it is signed. A client may be called as one is (dev, app): what is below it
// would be forged to a resolver that verifies.
func ofDelegation(kind uint16) bool {
	return kind == dns.TypeNS || kind == dns.TypeSOA || kind == dns.TypeDS || kind == dns.TypeDNSKEY
}

// client finds what stands below the domain of clients.
func (s *Server) client(q dns.Question, label string) finding {
	if label == "" {
		return s.addresses(q, s.domain, nil)
	}
	addrs, ok := s.lookup(label)
	if !ok {
		return finding{zone: s.domain, missing: true}
	}
	return s.addresses(q, s.domain, addrs)
}

func (s *Server) lookup(label string) ([]netip.Addr, bool) {
	if label == gatewayName {
		return []netip.Addr{s.c.Gateway}, true
	}
	return s.c.Directory.Lookup(label)
}

// addresses answers with those of the family that was asked for.
func (s *Server) addresses(q dns.Question, zone string, addrs []netip.Addr) finding {
	f := finding{zone: zone}
	head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
	switch apex := zone != "" && dns.CanonicalName(q.Name) == zone; {
	case q.Qtype == dns.TypeANY:
		head.Rrtype = dns.TypeHINFO
		f.records = append(f.records, &dns.HINFO{Hdr: head, Cpu: "RFC8482"})
	case q.Qtype == dns.TypeSOA && apex:
		f.records = append(f.records, s.soa(q.Name, zone))
	case q.Qtype == dns.TypeNS && apex:
		f.records = append(f.records, &dns.NS{Hdr: head, Ns: gatewayName + "." + s.domain})
	}
	for _, a := range addrs {
		switch {
		case q.Qtype == dns.TypeA && a.Is4():
			f.records = append(f.records, &dns.A{Hdr: head, A: a.AsSlice()})
		case q.Qtype == dns.TypeAAAA && a.Is6():
			f.records = append(f.records, &dns.AAAA{Hdr: head, AAAA: a.AsSlice()})
		}
	}
	return f
}

// soa says for how long an empty answer holds.
func (s *Server) soa(name, zone string) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttlNegative},
		Ns:  gatewayName + "." + s.domain, Mbox: "hostmaster." + zone,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttlNegative,
	}
}

// reverse finds the name of an address of the pool. What stands above all addresses of a part of it is there, and empty.
func (s *Server) reverse(q dns.Question, text string) (f finding, known bool) {
	p, ok := reversed(text)
	if !ok || p.Bits() < s.c.Pool.Bits() || !s.c.Pool.Contains(p.Addr()) {
		return f, false
	}
	f = s.addresses(q, s.reverseOf(p), nil)
	if p.Bits() < 32 {
		return f, true
	}
	name, ok := gatewayName, p.Addr() == s.c.Gateway
	if !ok {
		name, ok = s.c.Directory.Name(p.Addr())
	}
	full := name + "." + s.domain
	if _, fits := dns.IsDomainName(full); !ok || !fits || !s.leadsTo(name, p.Addr()) { // a client may be called "a..b"
		return finding{zone: f.zone, missing: true}, true
	}
	if q.Qtype == dns.TypePTR {
		head := dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttl}
		f.records = append(f.records, &dns.PTR{Hdr: head, Ptr: full})
	}
	return f, true
}

// leadsTo tells whether a name has an address. That of a client may have not: it is the gateway's, or another client has it as well.
func (s *Server) leadsTo(name string, a netip.Addr) bool {
	addrs, ok := s.lookup(strings.ToLower(name))
	return ok && slices.Contains(addrs, a)
}

// reversed reads 3.0.10, which stands before in-addr.arpa, as 10.0.3.0/24.
func reversed(text string) (netip.Prefix, bool) {
	labels := strings.Split(text, ".")
	if text == "" || len(labels) > 4 {
		return netip.Prefix{}, false
	}
	var a [4]byte
	for i, l := range labels {
		n, err := strconv.ParseUint(l, 10, 8)
		if err != nil || l != strconv.FormatUint(n, 10) {
			return netip.Prefix{}, false
		}
		a[len(labels)-1-i] = byte(n)
	}
	return netip.PrefixFrom(netip.AddrFrom4(a), 8*len(labels)), true
}

// reverseOf returns the zone of an address: the shortest that has no addresses of others.
func (s *Server) reverseOf(p netip.Prefix) string {
	octets := (s.c.Pool.Bits() + 7) / 8
	a, zone := p.Addr().As4(), reverseZone
	for _, o := range a[:octets] {
		zone = strconv.Itoa(int(o)) + "." + zone
	}
	return zone
}
