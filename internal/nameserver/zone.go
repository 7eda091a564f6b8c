package nameserver

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// A Zone is a domain whose names are known here. Its JSON is that of gvproxy's API (/services/dns).
type Zone struct {
	Name      string
	Records   []Record
	DefaultIP netip.Addr // of names without a record; zero: there are no others
}

// A Record is one name, or all that match an expression. The first that fits wins.
type Record struct {
	Name   string // below the zone; empty: the zone itself, or what Regexp says
	IP     netip.Addr
	Regexp *regexp.Regexp `json:",omitempty"` // of what stands before the zone
}

// GvproxyZones are those that gvproxy has without a configuration: names of the gateway, and of the host behind it.
func GvproxyZones(gateway, host netip.Addr) (all []Zone) {
	for _, name := range []string{"containers.internal.", "docker.internal."} {
		all = append(all, Zone{Name: name, Records: []Record{{Name: "gateway", IP: gateway}, {Name: "host", IP: host}}})
	}
	return all
}

// Zones are zones in their order. The zero value has none.
type Zones struct {
	mu  sync.RWMutex // guards all, whose elements are not changed
	all []zone
}

// A zone is a Zone in the form in which names are compared.
type zone struct {
	Zone
	suffix  string // small letters, with a dot at the end
	records []record
}

type record struct {
	Record
	label string         // small letters
	match *regexp.Regexp // of any case; nil: none
}

// What may be added: each name is looked for in all of it.
const maxZones, maxRecords = 256, 4096

var (
	errZones   = fmt.Errorf("there are %d zones already: none can be removed until the gateway is started anew", maxZones)
	errRecords = fmt.Errorf("a zone has %d records at most: none can be removed until the gateway is started anew", maxRecords)
)

var errNoZone = errors.New("a zone has no name: write it as lab.example")

func compile(z Zone) (zone, error) {
	if z.Name == "" || z.Name == "." {
		return zone{}, errNoZone
	}
	if _, ok := dns.IsDomainName(z.Name); !ok {
		return zone{}, fmt.Errorf("zone %q is not a domain name: write it as lab.example", z.Name)
	}
	c := zone{Zone: z, suffix: dns.CanonicalName(z.Name)}
	for _, r := range z.Records {
		own := record{Record: r, label: strings.ToLower(r.Name)}
		if r.Regexp != nil {
			var err error
			if own.match, err = regexp.Compile("(?i)" + r.Regexp.String()); err != nil {
				return c, fmt.Errorf("zone %s: %w", z.Name, err)
			}
		}
		c.records = append(c.records, own)
	}
	c.only(nil)
	return c, nil
}

// only leaves each record once, and puts older ones behind that are not among them: what is added again makes nothing grow.
func (z *zone) only(older []record) {
	type same struct {
		label, expression string
		ip                netip.Addr
	}
	of := func(r record) same {
		s := same{label: r.label, ip: r.IP}
		if r.Regexp != nil {
			s.expression = r.Regexp.String()
		}
		return s
	}
	seen := make(map[same]bool, len(z.records))
	kept := make([]record, 0, len(z.records)+len(older))
	for _, r := range z.records {
		if !seen[of(r)] {
			seen[of(r)] = true
			kept = append(kept, r)
		}
	}
	for _, r := range older {
		if !seen[of(r)] {
			kept = append(kept, r)
		}
	}
	z.records, z.Records = kept, slices.Grow([]Record(nil), len(kept)) // none is null in JSON
	for _, r := range kept {
		z.Records = append(z.Records, r.Record)
	}
}

// Add puts a zone behind the others. If there is one of that name, it keeps its place, the new records stand before its own, and its
// default is replaced, also by none. So does gvproxy, which has a record as often as it was added.
func (z *Zones) Add(added Zone) error {
	if len(added.Records) > maxRecords {
		return errRecords
	}
	return z.add(added)
}

// add is Add for a zone of the configuration, which has as many records as the operator likes.
func (z *Zones) add(added Zone) error {
	fresh, err := compile(added)
	if err != nil {
		return err
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	i := slices.IndexFunc(z.all, func(old zone) bool { return old.suffix == fresh.suffix })
	if i < 0 {
		if len(z.all) >= maxZones {
			return errZones
		}
		z.all = append(slices.Clone(z.all), fresh)
		return nil
	}
	old := z.all[i]
	fresh.Name = old.Name
	if fresh.only(old.records); len(fresh.records) > max(maxRecords, len(old.records)) {
		return errRecords
	}
	z.all = slices.Clone(z.all)
	z.all[i] = fresh
	return nil
}

// All returns the zones in their order.
func (z *Zones) All() []Zone {
	z.mu.RLock()
	defer z.mu.RUnlock()
	all := make([]Zone, len(z.all))
	for i := range z.all {
		all[i] = z.all[i].Zone
	}
	return all
}

// find returns the zone that has a name, in small letters and with a dot at the end: of several the longest; nil: none does.
func (z *Zones) find(name string) (found *zone) {
	z.mu.RLock()
	defer z.mu.RUnlock()
	for i := range z.all {
		if one := &z.all[i]; dns.IsSubDomain(one.suffix, name) && (found == nil || len(one.suffix) > len(found.suffix)) {
			found = one
		}
	}
	return found
}

// lookup returns the addresses of a name that the zone has, one of each family at most; found: there is such a name.
func (z *zone) lookup(name string) (addrs []netip.Addr, found bool) {
	label := before(name, z.suffix)
	add := func(a netip.Addr) {
		found = true
		if a.IsValid() && !slices.ContainsFunc(addrs, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			addrs = append(addrs, a.Unmap())
		}
	}
	for i := range z.records {
		if z.records[i].fits(label) {
			add(z.records[i].IP)
		}
	}
	if !found && z.DefaultIP.IsValid() {
		add(z.DefaultIP)
	}
	return addrs, found || label == "" || z.isAbove(label)
}

func (r *record) fits(label string) bool {
	if r.match != nil && r.match.MatchString(label) {
		return true
	}
	return r.label == label && (r.match == nil || label != "")
}

// isAbove tells whether there are records below a name that has none itself: then it exists, too (RFC 8020).
func (z *zone) isAbove(label string) bool {
	return slices.ContainsFunc(z.records, func(r record) bool { return strings.HasSuffix(r.label, "."+label) })
}

// before returns what stands before a suffix of a name; empty: nothing.
func before(name, suffix string) string {
	return strings.TrimSuffix(strings.TrimSuffix(name, suffix), ".")
}
