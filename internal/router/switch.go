package router

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/gaissmai/bart"

	"ferry/internal/packet"
	"ferry/internal/policy"
)

// A Table decides where a packet goes. from is the port it came in by.
type Table interface {
	Route(from *Port, ip packet.IPv4) (to *Port, why Reason)
}

// A Switch is the table of a gateway: an array of the pool's addresses, prefixes behind clients
// beside it, and everything else out by the exit.
type Switch struct {
	pool    netip.Prefix
	base    uint32 // of the pool
	mask    uint32
	gateway uint32
	exit    *Port
	isolate atomic.Bool
	mix     atomic.Bool
	sites   atomic.Pointer[bart.Table[uint32]]       // prefix -> address of the client that routes it
	egress  atomic.Pointer[bart.Table[*policy.Rule]] // of destinations outside the pool; unknown: allowed
	slots   [1 << 16]atomic.Pointer[Port]            // by the low 16 bits of the address
}

// SwitchConfig is what a Switch is made of.
type SwitchConfig struct {
	Pool    netip.Prefix // /16 or longer, IPv4
	Gateway netip.Addr
	Exit    *Port
	Isolate bool // no packets from client to client
	Mix     bool // packets pass between guests and others
	// Alias are addresses of the pool that lead out by the exit, which answers from them.
	Alias []netip.Addr
}

// NewSwitch returns a table without clients.
func NewSwitch(c SwitchConfig) (*Switch, error) {
	if !c.Pool.Addr().Is4() || c.Pool.Bits() < 16 {
		return nil, fmt.Errorf("pool %s: an IPv4 prefix of /16 or longer is needed", c.Pool)
	}
	s := &Switch{
		pool: c.Pool.Masked(), mask: ^uint32(0) << (32 - c.Pool.Bits()),
		gateway: fromAddr(c.Gateway), exit: c.Exit,
	}
	s.SetPeers(c.Isolate, c.Mix)
	s.base = fromAddr(s.pool.Addr())
	s.sites.Store(new(bart.Table[uint32]))
	s.SetEgress(nil, nil)
	for _, a := range c.Alias {
		if !s.pool.Contains(a) || a == c.Gateway {
			return nil, fmt.Errorf("alias %s: an address of the pool %s is needed, and not the gateway's", a, s.pool)
		}
		s.slots[uint16(fromAddr(a))].Store(s.exit)
	}
	return s, nil
}

// SetPeers says which clients reach each other, as SwitchConfig does. It may be called at any time.
func (s *Switch) SetPeers(isolate, mix bool) {
	s.isolate.Store(isolate)
	s.mix.Store(mix)
}

// SetSites replaces the networks behind clients: prefix -> address of the client that routes it. It may
// be called at any time.
func (s *Switch) SetSites(sites map[netip.Prefix]netip.Addr) error {
	t := new(bart.Table[uint32])
	for prefix, via := range sites {
		if !s.pool.Contains(via) || prefix.Overlaps(s.pool) {
			return fmt.Errorf("site %s via %s: the client's address must be in the pool %s, and the site outside of it", prefix, via, s.pool)
		}
		t.Insert(prefix.Masked(), fromAddr(via))
	}
	s.sites.Store(t)
	return nil
}

// Behind tells whether an address belongs to a client, to the gateway, or to a network behind a client.
func (s *Switch) Behind(a netip.Addr) bool {
	if s.pool.Contains(a) {
		return true
	}
	_, ok := s.sites.Load().Lookup(a)
	return ok
}

// Owner returns the address of the client that a source belongs to: the source itself, or who routes the network that it is in.
func (s *Switch) Owner(source netip.Addr) netip.Addr {
	if via, ok := s.sites.Load().Lookup(source); ok && !s.pool.Contains(source) {
		return toAddr(via)
	}
	return source
}

// Present tells whether the client is there that a source belongs to.
func (s *Switch) Present(source netip.Addr) bool {
	a := s.Owner(source)
	if !s.pool.Contains(a) {
		return false
	}
	p := s.slots[uint16(fromAddr(a))].Load()
	return p != nil && p != s.exit
}

// denied are destinations outside the pool that no client reaches unless they are allowed: this
// machine's own loopback, link-local (with the metadata services of clouds), reserved space.
var denied = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("240.0.0.0/4"),
}

// SetEgress replaces the policy for destinations outside the pool: the longest prefix wins.
// It may be called at any time.
func (s *Switch) SetEgress(allow, deny []policy.Target) {
	all := slices.Clone(deny)
	for _, p := range denied {
		all = append(all, policy.Target{Prefix: p})
	}
	t := new(bart.Table[*policy.Rule])
	for p, rule := range policy.Egress(allow, all) {
		t.Insert(p, rule)
	}
	s.egress.Store(t)
}

// passes tells whether a rule lets a packet pass.
func passes(r *policy.Rule, ip packet.IPv4) bool {
	if !r.ByPort() {
		return r.Base()
	}
	if ip.FragmentOffset() > 0 {
		return r.Some()
	}
	if port, ok := ip.DstPort(); ok {
		return r.Allows(ip.Protocol(), port)
	}
	return r.Base()
}

// Bind sends the packets for addr to p, and makes addr the source that p may use. What p held before
// is unbound.
func (s *Switch) Bind(p *Port, addr netip.Addr) {
	s.Unbind(p)
	a := fromAddr(addr)
	p.addr.Store(a)
	s.slots[uint16(a)].Store(p)
}

// Unbind takes away p's address, unless another port has taken it over already.
func (s *Switch) Unbind(p *Port) {
	if a := p.addr.Swap(0); a != 0 {
		s.slots[uint16(a)].CompareAndSwap(p, nil)
	}
}

// Route implements Table.
func (s *Switch) Route(from *Port, ip packet.IPv4) (*Port, Reason) {
	src, dst := ip.SrcUint32(), ip.DstUint32()
	if why := s.checkSource(from, src); why != None {
		return nil, why
	}
	switch {
	case dst&s.mask == s.base:
		return s.inPool(from, ip)
	case isMulticast(dst):
		return nil, DropMulticast
	case dst>>24 == 0:
		return nil, DropMartian
	}
	if via, ok := s.sites.Load().Lookup(toAddr(dst)); ok {
		return s.toPeer(from, via)
	}
	if from == s.exit {
		return nil, DropNoRoute
	}
	return s.beyond(ip)
}

// checkSource is the one place where a source is believed: a peer's own address, or one of a site
// that it routes. From the exit everything comes but the addresses of clients.
func (s *Switch) checkSource(from *Port, src uint32) Reason {
	if from == s.exit {
		if src&s.mask == s.base && src != s.gateway && s.slots[uint16(src)].Load() != s.exit {
			return DropSource
		}
		if src>>24 == 0 {
			return DropMartian // to a 2013 client it would be an address reply
		}
		return None
	}
	own := from.addr.Load()
	switch {
	case own == 0:
		return DropNoAddress
	case src == own:
		return None
	case isMartianSource(src):
		return DropMartian
	}
	if via, ok := s.sites.Load().Lookup(toAddr(src)); ok && via == own {
		return None
	}
	return DropSource
}

func (s *Switch) inPool(from *Port, ip packet.IPv4) (*Port, Reason) {
	dst := ip.DstUint32()
	switch dst {
	case s.gateway:
		if from == s.exit {
			return nil, DropHairpin
		}
		return s.exit, None
	case s.base, s.base | ^s.mask:
		return nil, DropMulticast // the pool's network and broadcast addresses
	}
	if from != s.exit && s.slots[uint16(dst)].Load() == s.exit { // an alias
		return s.beyond(ip)
	}
	return s.toPeer(from, dst)
}

// beyond is where a client's packet goes that is for the network behind the exit.
func (s *Switch) beyond(ip packet.IPv4) (*Port, Reason) {
	if rule, ok := s.egress.Load().Lookup(toAddr(ip.DstUint32())); ok && !passes(rule, ip) {
		return nil, DropDenied
	}
	return s.exit, None
}

func (s *Switch) toPeer(from *Port, addr uint32) (*Port, Reason) {
	to := s.slots[uint16(addr)].Load()
	switch {
	case to == nil:
		return nil, DropUnassigned
	case to == from:
		return nil, DropHairpin
	case from == s.exit:
	case s.isolate.Load(), from.Guest != to.Guest && !s.mix.Load():
		return nil, DropIsolated
	}
	return to, None
}

// An Uplink is the table of a client: what the TUN hands in goes to the gateway, and the other way
// round.
type Uplink struct {
	exit    *Port
	gateway atomic.Pointer[Port]
}

// NewUplink returns a table without a gateway.
func NewUplink(exit *Port) *Uplink { return &Uplink{exit: exit} }

// Connect sends what the TUN hands in to p; nil drops it.
func (u *Uplink) Connect(p *Port) { u.gateway.Store(p) }

// Route implements Table. A local process with a raw socket could put control packets into the
// stream; those patterns are dropped here. The gateway checks the source against the lease.
func (u *Uplink) Route(from *Port, ip packet.IPv4) (*Port, Reason) {
	src, dst := ip.SrcUint32(), ip.DstUint32()
	switch {
	case isMartianSource(src), dst>>24 == 0, dst>>24 == 127:
		return nil, DropMartian
	case isMulticast(dst):
		return nil, DropMulticast
	case from != u.exit:
		return u.exit, None
	}
	if to := u.gateway.Load(); to != nil {
		return to, None
	}
	return nil, DropNotConnected
}

// isMartianSource: "this network", loopback, multicast and reserved (RFC 1812, section 5.3.7).
func isMartianSource(a uint32) bool {
	return a>>24 == 0 || a>>24 == 127 || a >= 0xe0000000
}

// isMulticast: 224.0.0.0/4 and the limited broadcast address (RFC 1112, RFC 919).
func isMulticast(a uint32) bool { return a>>28 == 0xe || a == 0xffffffff }

func fromAddr(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func toAddr(a uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a)
	return netip.AddrFrom4(b)
}
