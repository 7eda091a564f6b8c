package hostnet

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Routing rules have no say over a packet whose sender names the interface: with SO_BINDTODEVICE or
// IPV6_PKTINFO, which take no rights, the kernel passes over a route that leads elsewhere, and takes any
// destination for a neighbour; multicast and broadcast go where the sender likes, too. So what leaves by
// another interface is looked at once more when it is on its way out:
//
//	table inet ferry-vpn0 {
//		chain output {
//			type filter hook output priority filter; policy drop;
//			oifname "vpn0" accept
//			oifname "lo" accept
//			meta mark 0x2002 accept                     the outer connection
//			oifname "vpn1" accept                       another full tunnel
//			udp sport 68 udp dport 67 accept            DHCP, DHCPv6, neighbours: what a link lives by
//			udp sport 546 udp dport 547 accept
//			icmpv6 type 135 accept                      and 131 to 136 but redirects and offers, 143
//			ip daddr 192.168.1.1 drop                   in the tunnel, though a LAN contains it
//			oif 2 ip daddr 192.168.1.0/24 accept        LocalNets, from here on
//			ip daddr 224.0.0.0/24 accept                stays on the link; so do
//			ip6 daddr fe80::/10 accept                  these, and ff02::/16
//		}
//	}
//
// What is forwarded has no such sender, and needs no chain.
const outputChain = "output"

// maxLocal is how many rules local networks may take, with what is cut out of them. Where there are more they
// are closed: neither they nor a gateway that pushes many routes may make the table too large to be set, which
// it is, in one transaction, from about 100 on (the answers to it have to fit into a socket's 208 KiB).
const maxLocal = 80

// linkScope are the destinations that no router passes on.
var linkScope = []netip.Prefix{
	netip.MustParsePrefix("224.0.0.0/24"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff02::/16"),
}

// neighbours are the types of ICMPv6 that a link needs: multicast reports, without which a switch may
// keep the rest away, solicitations of routers and neighbours, advertisements of neighbours.
var neighbours = []byte{131, 132, 143, 133, 135, 136}

// An output says what may leave beside a full tunnel.
type output struct {
	mark    uint32
	others  []string       // links of other full tunnels
	open    bool           // local networks are spared
	lans    []route        // these
	claimed []netip.Prefix // but for what is in the tunnel
}

// output is what a full tunnel with these copies lets out; nil for others.
func (p *plan) output(copies []route) *output {
	if !p.full {
		return nil
	}
	o := &output{mark: p.nft.mark, open: p.localNets, lans: copies}
	for _, r := range p.routes {
		inside := func(lan route) bool { return contains(lan.dst, r.dst) }
		if r.kind != unix.RTN_THROW && slices.ContainsFunc(copies, inside) && !slices.Contains(o.claimed, r.dst) {
			o.claimed = append(o.claimed, r.dst)
		}
	}
	if len(o.lans)+len(o.claimed) > maxLocal {
		o.lans, o.claimed = nil, nil
	}
	return o
}

// rules are those of the chain; what they do not accept is dropped.
func (o *output) rules(link string) (all [][]expr.Any) {
	accept := func(exprs ...[]expr.Any) {
		all = append(all, append(slices.Concat(exprs...), &expr.Verdict{Kind: expr.VerdictAccept}))
	}
	accept(ifName(expr.MetaKeyOIFNAME, expr.CmpOpEq, link))
	accept(ifName(expr.MetaKeyOIFNAME, expr.CmpOpEq, "lo"))
	accept(meta(expr.MetaKeyMARK, native(o.mark)...))
	for _, other := range o.others {
		accept(ifName(expr.MetaKeyOIFNAME, expr.CmpOpEq, other))
	}
	accept(meta(expr.MetaKeyNFPROTO, unix.NFPROTO_IPV4), udp(68, 67))
	accept(meta(expr.MetaKeyNFPROTO, unix.NFPROTO_IPV6), udp(546, 547))
	for _, kind := range neighbours {
		accept(meta(expr.MetaKeyNFPROTO, unix.NFPROTO_IPV6), meta(expr.MetaKeyL4PROTO, unix.IPPROTO_ICMPV6),
			payload(expr.PayloadBaseTransportHeader, 0, kind))
	}
	if !o.open {
		return all
	}
	for _, dst := range o.claimed {
		all = append(all, append(to(dst), &expr.Verdict{Kind: expr.VerdictDrop}))
	}
	for _, lan := range o.lans {
		accept(meta(expr.MetaKeyOIF, native(uint32(lan.via))...), to(lan.dst))
	}
	for _, dst := range linkScope {
		accept(to(dst))
	}
	return all
}

func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func meta(key expr.MetaKey, data ...byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}
}

func payload(base expr.PayloadBase, offset uint32, data ...byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(data))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
	}
}

// udp is for datagrams between two ports. Below 1024 an ordinary user has neither.
func udp(from, to uint16) []expr.Any {
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	return append(meta(expr.MetaKeyL4PROTO, unix.IPPROTO_UDP), payload(expr.PayloadBaseTransportHeader, 0, ports...)...)
}

// to is for packets to a network.
func to(p netip.Prefix) []expr.Any {
	family, offset := byte(unix.NFPROTO_IPV4), uint32(16)
	if p.Addr().Is6() {
		family, offset = unix.NFPROTO_IPV6, 24
	}
	size := uint32(p.Addr().BitLen() / 8)
	return append(meta(expr.MetaKeyNFPROTO, family),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: ipNet(p).Mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()})
}

// writeOutput adds the table of the chain to a transaction.
func writeOutput(c *nftables.Conn, link string, o *output) {
	t, drop := outputTableOf(link), nftables.ChainPolicyDrop
	c.AddTable(t)
	chain := c.AddChain(&nftables.Chain{Name: outputChain, Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	for _, exprs := range o.rules(link) {
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: exprs})
	}
}

func outputTableOf(link string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: tablePrefix + link}
}
