package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/l2port"
	"ferry/internal/policy"
	"ferry/internal/vtunnel"
)

var errNoIPv6 = errors.New("IPv6 inside the tunnel is not supported yet: use IPv4")

// parseDestination reads an address to which packets may go.
func parseDestination(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Errorf("%q is not an address: write it as 192.0.2.1", s)
	case !a.Is4():
		return a, fmt.Errorf("%q: %w", s, errNoIPv6)
	case a.IsUnspecified() || a.IsMulticast():
		return a, fmt.Errorf("%q is nobody's address", s)
	}
	return a, nil
}

// parseTarget reads a network, or ports of it: 192.168.7.0/24, 192.168.7.0/24:53, 192.168.7.0/24:53/udp.
func parseTarget(s string) (t policy.Target, err error) {
	network, port, has := strings.Cut(s, ":")
	if has && strings.Count(s, ":") > 1 { // an address of IPv6
		network, has = s, false
	}
	if t.Prefix, err = parsePrefix(network); err != nil || !has {
		return t, err
	}
	t.Port, t.Protocol, err = policy.ParsePort(port)
	return t, err
}

// parsePrefix reads an IPv4 network.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		if a, addrErr := netip.ParseAddr(s); addrErr == nil {
			return p, fmt.Errorf("%q has no prefix length: write %s/%d for this address alone, or the network it is in", s, a, a.BitLen())
		}
		return p, fmt.Errorf("%q is not a network: write it as 192.168.7.0/24", s)
	}
	if !p.Addr().Is4() {
		return p, fmt.Errorf("%q: %w", s, errNoIPv6)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%q has host bits set: write %s", s, p.Masked())
	}
	return p, nil
}

// Lengths of a pool's prefix: the router has 16 bits of addresses, and a shorter pool than /30 has
// no room for a gateway and a client.
const (
	poolBitsMin = 16
	poolBitsMax = 30
)

func parsePool(s string) (netip.Prefix, error) {
	p, err := parsePrefix(s)
	if err != nil {
		return p, err
	}
	if p.Bits() < poolBitsMin || p.Bits() > poolBitsMax {
		return p, fmt.Errorf("%q: a pool has a prefix length from /%d to /%d", s, poolBitsMin, poolBitsMax)
	}
	_, err = parseAddr(p.Addr().Next().String())
	return p, err
}

// parseAddr reads an IPv4 address that an interface can have.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil && strings.Contains(s, "/"):
		return a, fmt.Errorf("%q is not an address: leave out the prefix length", s)
	case err != nil:
		return a, fmt.Errorf("%q is not an address: write it as 10.0.3.7", s)
	case !a.Is4():
		return a, fmt.Errorf("%q: %w", s, errNoIPv6)
	}
	if first := a.As4()[0]; a.IsLoopback() || a.IsLinkLocalUnicast() || first == 0 || first >= 224 {
		return a, fmt.Errorf("%s is not an address for an interface: take one of the gateway's pool, as 10.0.3.7", a)
	}
	return a, nil
}

// optional makes the empty text a value: none.
func optional[T any](parse func(string) (T, error)) func(string) (T, error) {
	return func(s string) (v T, err error) {
		if s == "" {
			return v, nil
		}
		return parse(s)
	}
}

// parseInterface follows dev_valid_name of Linux; %d stands for a number that the kernel chooses.
func parseInterface(s string) (string, error) {
	base := strings.TrimSuffix(s, "%d")
	if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsFunc(base, notInInterface) {
		return s, fmt.Errorf("%q is not a name for an interface: use 1 to 15 characters without spaces, '/', ':' and '%%'", s)
	}
	return s, nil
}

func notInInterface(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("/:%", r) }

func parseDir(s string) (string, error) {
	if s == "" {
		return s, errors.New("no directory is named: write for example /var/lib/ferry")
	}
	return s, nil
}

func parseListen(s string) (string, error) {
	_, err := carrier.ParseListen(s)
	return s, err
}

func parseVTunnel(s string) (string, error) {
	_, err := vtunnel.ParseListen(s)
	return s, err
}

func parseL2Listen(s string) (string, error) {
	_, err := l2port.Parse(s)
	return s, err
}

// parseHostPort reads where to listen for HTTP.
func parseHostPort(s string) (string, error) {
	if _, err := netip.ParseAddrPort(s); err != nil {
		return s, fmt.Errorf("%q is not an address with a port: write 127.0.0.1:9102", s)
	}
	return s, nil
}

// parseNameServer reads the address of a name server for clients.
func parseNameServer(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Errorf("%q is not an address: write it as 10.0.0.1", s)
	case policy.NameServer(a, netip.Prefix{}, []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}) != "":
		return a, fmt.Errorf("%s is no address at which clients reach a name server: take one in the tunnel, as the gateway's own", a)
	}
	return a, nil
}

// parseDomain reads a domain for clients to take.
func parseDomain(s string) (string, error) {
	if why := policy.Domain(s); why != "" {
		return s, fmt.Errorf("%q is %s: no client would take it; write it as site.example", s, why)
	}
	return s, nil
}

// parsePublic reads where devices find a gateway.
func parsePublic(s string) (string, error) {
	_, err := carrier.ParseDial(s, 0)
	return s, err
}

// between returns a parser of durations in a range.
// parseCarriers reads the names of carriers; none stand for all.
func parseCarriers(s string) (all []string, err error) {
	if s == "auto" {
		return nil, nil
	}
	for name := range strings.SplitSeq(s, ",") {
		name = strings.TrimSpace(name)
		if name == "tls" { // tcp with keys, which is what a device with keys speaks
			name = "tcp"
		}
		if !slices.Contains(carrier.Names(), name) {
			return nil, fmt.Errorf("unknown carrier %q: use auto, or some of %s", name, strings.Join(carrier.Names(), ", "))
		}
		all = append(all, name)
	}
	return all, nil
}

func between(low, high time.Duration) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		switch {
		case err != nil:
			return d, fmt.Errorf(`%q is not a duration: write a number with a unit, as "60s", "1m30s" or "200ms"`, s)
		case d < low || d > high:
			return d, fmt.Errorf("%s is not between %s and %s", d, low, high)
		}
		return d, nil
	}
}
