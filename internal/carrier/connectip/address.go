package connectip

import (
	"cmp"
	"net/netip"
	"slices"
)

// An address is an entry of ADDRESS_ASSIGN or ADDRESS_REQUEST: RFC 9484, sections 4.7.1 and 4.7.2.
//
//	[request ID varint][IP version 1][address 4 or 16][prefix length 1]
type address struct {
	id     uint64 // 0: of no request
	prefix netip.Prefix
}

// refused returns what stands for an address that is not given: all zero, for one host.
func (a address) refused() address {
	none := netip.IPv4Unspecified()
	if a.prefix.Addr().Is6() {
		none = netip.IPv6Unspecified()
	}
	return address{a.id, netip.PrefixFrom(none, none.BitLen())}
}

// appendAddress appends an entry.
func appendAddress(b []byte, a address) []byte {
	b = appendIP(appendVarint(b, a.id), a.prefix.Addr())
	return append(b, byte(a.prefix.Bits()))
}

// appendIP appends the version of an address, and the address.
func appendIP(b []byte, a netip.Addr) []byte {
	version := byte(4)
	if a.Is6() {
		version = 6
	}
	return append(append(b, version), a.AsSlice()...)
}

// appendAssign appends an ADDRESS_ASSIGN capsule.
func appendAssign(b []byte, all []address) []byte {
	var value []byte
	for _, a := range all {
		value = appendAddress(value, a)
	}
	return append(appendCapsuleHeader(b, capsuleAssign, len(value)), value...)
}

// parseAddresses reads the entries of a capsule.
func parseAddresses(b []byte) (all []address, err error) {
	for len(b) > 0 {
		a, n := consumeAddress(b)
		if n == 0 {
			return nil, errCapsule
		}
		all, b = append(all, a), b[n:]
	}
	return all, nil
}

// consumeAddress returns the entry at the start of b, and its length: 0 where it is malformed.
func consumeAddress(b []byte) (a address, n int) {
	if a.id, n = consumeVarint(b); n == 0 || len(b) < n+1 {
		return a, 0
	}
	size := map[byte]int{4: 4, 6: 16}[b[n]]
	n++
	if size == 0 || len(b) < n+size+1 {
		return a, 0
	}
	ip, _ := netip.AddrFromSlice(b[n : n+size])
	a.prefix = netip.PrefixFrom(ip, int(b[n+size]))
	if !a.prefix.IsValid() || a.prefix != a.prefix.Masked() {
		return a, 0
	}
	return a, n + size + 1
}

// appendRoutes appends a ROUTE_ADVERTISEMENT capsule (RFC 9484, section 4.7.3): ranges for all protocols, in order, of which none
// overlaps another.
//
//	[IP version 1][first address][last address][protocol 1: 0]
func appendRoutes(b []byte, all []netip.Prefix) []byte {
	all = slices.Clone(all)
	for i := range all {
		all[i] = all[i].Masked()
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int { // 4 before 6, then the widest first
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var value []byte
	var last netip.Addr
	for _, p := range all {
		if last.IsValid() && p.Addr().Compare(last) <= 0 {
			continue // within the one before: prefixes do not overlap otherwise
		}
		last = lastOf(p)
		value = append(appendIP(value, p.Addr()), last.AsSlice()...)
		value = append(value, 0)
	}
	return append(appendCapsuleHeader(b, capsuleRoutes, len(value)), value...)
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < p.Addr().BitLen(); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
