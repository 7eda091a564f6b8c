package publish

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ferry/internal/proto"
)

// A Key is a service of a client, for which a port of the host is kept.
type Key struct {
	Client netip.Addr // in the tunnel
	UDP    bool       // else TCP
	Guest  netip.AddrPort
}

// A Bridge is a service that gets a port of the host.
type Bridge struct {
	Key
	At   uint16 // the port of the client's address in the tunnel
	Name string // of its program; empty: not known
}

// Protocol returns tcp or udp.
func (k Key) Protocol() string { return proto.Service{UDP: k.UDP}.Protocol() }

// A Map gives a service a port of the host, or nothing.
type Map struct {
	UDP   bool   // else TCP
	Host  uint16 // port
	Guest netip.AddrPort
}

// String returns what ParseMaps reads.
func (m Map) String() string {
	return fmt.Sprintf("%s:%d:%s", proto.Service{UDP: m.UDP}.Protocol(), m.Host, m.Guest)
}

// ParseMaps reads fixed maps as Penguin has them: tcp:8080:192.168.0.1:80,UDP:53:[::]:53. The empty text has none. Unlike there, what is before
// and behind a map has to be nothing, and two of one port are an error.
func ParseMaps(text string) (all []Map, err error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		m, err := parseMap(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(all, func(o Map) bool { return o.UDP == m.UDP && (o.Host == m.Host || o.Guest == m.Guest) }); i >= 0 {
			return nil, fmt.Errorf("%q and %q contradict each other: a service has one port, and a port one service", all[i], part)
		}
		all = append(all, m)
	}
	return all, nil
}

func parseMap(text string) (m Map, err error) {
	protocol, rest, _ := strings.Cut(text, ":")
	host, rest, _ := strings.Cut(rest, ":")
	i := strings.LastIndexByte(rest, ':') // the address goes as far as it can, so that [::] is one
	if protocol = strings.ToLower(protocol); i < 0 || protocol != "tcp" && protocol != "udp" {
		return m, fmt.Errorf("%q is no map of a port: write tcp:HOSTPORT:ADDRESS:PORT, as tcp:8080:192.168.0.1:80", text)
	}
	to, err1 := strconv.ParseUint(host, 10, 16)
	port, err2 := strconv.ParseUint(rest[i+1:], 10, 16)
	addr, err3 := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(rest[:i], "["), "]"))
	if err1 != nil || err2 != nil || err3 != nil || to == 0 || port == 0 || addr.Zone() != "" {
		return m, fmt.Errorf("%q: ports are 1 to 65535, and the address is that of the guest, as 192.168.0.1, 0.0.0.0 or [::]", text)
	}
	return Map{protocol == "udp", uint16(to), netip.AddrPortFrom(addr.Unmap(), uint16(port))}, nil
}

// Bridges are the services of a client, each once. With expand those on all addresses are there again for each address of IPv4 that another service, or a map, names, as Penguin
// has it; seen are those of before, and what is returned as met those of now. There are MaxBridges at most; over is how many there would be beyond.
func Bridges(client netip.Addr, services []proto.Service, maps []Map, expand bool, seen []netip.Addr) (all []Bridge, met []netip.Addr, over int) {
	has := make(map[Key]bool, len(services))
	add := func(s proto.Service, at netip.Addr) {
		b := Bridge{Key{client, s.UDP, netip.AddrPortFrom(at, s.Port)}, s.At, s.Name}
		switch {
		case has[b.Key]:
		case len(all) == MaxBridges:
			over++
		default:
			has[b.Key] = true
			all = append(all, b)
		}
	}
	for _, s := range services {
		add(s, s.Addr)
	}
	if !expand {
		return all, nil, over
	}
	met = slices.Clone(seen)
	meet := func(a netip.Addr) {
		if a.Is4() && !a.IsUnspecified() && !slices.Contains(met, a) && len(met) < maxSeen {
			met = append(met, a)
		}
	}
	for _, m := range maps {
		meet(m.Guest.Addr())
	}
	for _, s := range services {
		meet(s.Addr)
	}
	for _, s := range services {
		if s.Addr != netip.IPv4Unspecified() {
			continue
		}
		for _, a := range met {
			add(s, a)
		}
	}
	return all, met, over
}

const (
	// MaxBridges is how many services of one client there are at most, those that are there more than once counted so.
	MaxBridges = 2 * proto.MaxServices
	// maxSeen bounds the addresses of one client that are remembered.
	maxSeen = 64
)

// fixed returns the map of a service. One for an address of the guest is for a service on all of them, too, unless the guest has another for that.
func fixed(maps []Map, k Key) (m Map, ok bool) {
	for _, m := range maps {
		if m.UDP == k.UDP && m.Guest == k.Guest {
			return m, true
		}
	}
	if !k.Guest.Addr().IsUnspecified() {
		return m, false
	}
	for _, m := range maps {
		if m.UDP == k.UDP && m.Guest.Port() == k.Guest.Port() && m.Guest.Addr().Is4() == k.Guest.Addr().Is4() {
			return m, true
		}
	}
	return m, false
}
