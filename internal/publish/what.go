package publish

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ferry/internal/proto"
)

// A Port is one of a protocol.
type Port struct {
	UDP  bool // else TCP
	Port uint16
}

// String returns what ParsePort reads.
func (p Port) String() string {
	if p.UDP {
		return "udp:" + strconv.Itoa(int(p.Port))
	}
	return "tcp:" + strconv.Itoa(int(p.Port))
}

// ParsePort reads tcp:80 or udp:53.
func ParsePort(text string) (p Port, err error) {
	protocol, number, _ := strings.Cut(text, ":")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 || protocol != "tcp" && protocol != "udp" {
		return p, fmt.Errorf("%q is no port: write tcp:80 or udp:53", text)
	}
	return Port{protocol == "udp", uint16(n)}, nil
}

// What says which sockets of a device are published. The zero value: none.
type What struct {
	Auto     bool   // all that others may mean: see Wants
	Loopback bool   // with Auto: those, too, that only the device itself is meant to reach
	Names    bool   // the names of their programs are told
	Ports    []Port // wherever they listen
	Not      []Port // of what Auto has
}

// IsZero reports whether nothing is published.
func (w What) IsZero() bool { return !w.Auto && len(w.Ports) == 0 }

// maxPorts bounds how many ports are named.
const maxPorts = 256

// ParseWhat reads what is published, with commas between: auto, loopback, names, tcp:80, udp:53, and -tcp:22 for what auto leaves out.
func ParseWhat(text string) (w What, err error) {
	for part := range strings.SplitSeq(text, ",") {
		switch part = strings.TrimSpace(part); part {
		case "auto":
			w.Auto = true
		case "loopback":
			w.Loopback = true
		case "names":
			w.Names = true
		default:
			name, not := strings.CutPrefix(part, "-")
			p, err := ParsePort(name)
			if err != nil {
				return What{}, fmt.Errorf("%q: write auto, loopback, names, tcp:80, udp:53, or -tcp:22 to leave a port out, with commas between", part)
			}
			if not {
				w.Not = append(w.Not, p)
			} else {
				w.Ports = append(w.Ports, p)
			}
		}
	}
	switch {
	case w.IsZero():
		return What{}, fmt.Errorf("%q publishes nothing: add auto, or ports as tcp:80", text)
	case !w.Auto && (w.Loopback || len(w.Not) > 0):
		return What{}, fmt.Errorf("%q: loopback and ports to leave out are for auto: ports that are named are published wherever they listen", text)
	case len(w.Ports)+len(w.Not) > maxPorts:
		return What{}, fmt.Errorf("%d ports are named, more than %d: take auto", len(w.Ports)+len(w.Not), maxPorts)
	}
	return w, nil
}

// A Socket is one of the device that listens on TCP, or is bound on UDP without a peer.
type Socket struct {
	UDP   bool // else TCP
	Addr  netip.Addr
	Port  uint16
	Only6 bool   // Addr is :: and does not stand for addresses of IPv4
	Inode uint32 // by which its program is found
}

// Protocol returns tcp or udp.
func (s Socket) Protocol() string { return proto.Service{UDP: s.UDP}.Protocol() }

// A Range is one of ports, from First to Last.
type Range struct{ First, Last uint16 }

// Contains reports whether p is one of r.
func (r Range) Contains(p uint16) bool { return r.First <= p && p <= r.Last }

// String returns what ParseRange reads.
func (r Range) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// ParseRange reads 1024-65535.
func ParseRange(text string) (r Range, err error) {
	first, last, _ := strings.Cut(text, "-")
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || a == 0 || a > b {
		return r, fmt.Errorf("%q is no range of ports: write it as 1024-65535", text)
	}
	return Range{uint16(a), uint16(b)}, nil
}

// Wants tells whether a socket is published. Auto leaves out what nobody can mean: addresses that are no host's, or make sense on one link only, and
// UDP on ephemeral ports, which are those of programs that ask others.
func (w What) Wants(s Socket, ephemeral Range) bool {
	p := Port{s.UDP, s.Port}
	switch {
	case s.Port == 0 || s.Addr.IsMulticast() || s.Addr.IsLinkLocalUnicast():
		return false
	case slices.Contains(w.Ports, p):
		return true
	case !w.Auto || slices.Contains(w.Not, p):
		return false
	case s.UDP && ephemeral.Contains(s.Port):
		return false
	}
	return w.Loopback || !s.Addr.IsLoopback()
}

// Reach tells where a device serves who asks its address in the tunnel: direct, the socket is reached there as it is; else whoever relays has to ask
// the returned address.
func (s Socket) Reach(tunnel netip.Addr) (ask netip.AddrPort, direct bool) {
	switch {
	case s.Addr == tunnel, s.Addr.IsUnspecified() && !s.Only6:
		return netip.AddrPortFrom(tunnel, s.Port), true
	case s.Addr.IsUnspecified():
		return netip.AddrPortFrom(netip.IPv6Loopback(), s.Port), false
	}
	return netip.AddrPortFrom(s.Addr, s.Port), false
}
