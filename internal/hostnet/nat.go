package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table, as nft prints it:
//
//	table ip ferry-vpn0 {
//		chain ip_forward_was_0 { }          only if it was
//		chain postrouting {
//			type nat hook postrouting priority srcnat;
//			ip saddr 10.0.0.0/16 oifname != "vpn0" oifname != "lo" masquerade
//		}
//		chain forward {
//			type filter hook forward priority mangle;
//			oifname "vpn0" tcp flags syn tcp option maxseg size set rt mtu
//			iifname "vpn0" tcp flags syn tcp option maxseg size set rt mtu
//		}
//	}
//
// The empty chain remembers net.ipv4.ip_forward where it survives this process but no reboot, in
// the network namespace it belongs to, and is made by the same transaction as the rest.
const (
	tablePrefix = "ferry-"
	forwardWas0 = "ip_forward_was_0"
	ipForward   = "net/ipv4/ip_forward"
)

// applyNAT masquerades src, or takes that back if src is invalid. The table is replaced whole in
// one transaction, so there is nothing to compare and no packet passes in between.
func (l *Link) applyNAT(src netip.Prefix) error {
	if !src.IsValid() {
		if !l.nat {
			return nil
		}
		if err := dropNAT(l.name, l.wasOff); err != nil {
			return err
		}
		l.nat, l.wasOff = false, false
		return nil
	}
	l.nat = true // from here on something may be there
	tables, err := natTables()
	if err != nil {
		return err
	}
	was, err := sysctl{name: ipForward}.get()
	if err != nil {
		return fmt.Errorf("read net.ipv4.ip_forward: %w", err)
	}
	// Somebody may have flushed the table with its memory, and left forwarding on.
	l.wasOff = l.wasOff || tables[l.name] || was.value == "0"
	if err := replaceTable(l.name, src, l.wasOff); err != nil {
		return err
	}
	if _, err := (sysctl{ipForward, "1"}).set(); err != nil {
		return fmt.Errorf("turn on net.ipv4.ip_forward: %w", err)
	}
	return nil
}

// natTables returns the links that have a table, and whether it remembers that forwarding was off.
func natTables() (map[string]bool, error) {
	chains, err := new(nftables.Conn).ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list nft tables: %w", err)
	}
	tables := make(map[string]bool)
	for _, c := range chains {
		if link, ok := strings.CutPrefix(c.Table.Name, tablePrefix); ok {
			tables[link] = tables[link] || c.Name == forwardWas0
		}
	}
	return tables, nil
}

// dropNAT deletes the table of link. The last one of several turns forwarding off, if it was off
// before, which either the table or the caller knows.
func dropNAT(link string, wasOff bool) error {
	tables, err := natTables()
	if err != nil {
		return err
	}
	wasOff = wasOff || tables[link]
	_, exists := tables[link]
	delete(tables, link)
	c := new(nftables.Conn)
	for heir := range tables {
		if wasOff {
			c.AddChain(&nftables.Chain{Name: forwardWas0, Table: tableOf(heir)})
			wasOff = false
		}
	}
	if wasOff {
		if _, err := (sysctl{ipForward, "0"}).set(); err != nil {
			return fmt.Errorf("turn off net.ipv4.ip_forward: %w", err)
		}
	}
	if exists {
		c.DelTable(tableOf(link))
	}
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nft table %s: %w", tablePrefix+link, err)
	}
	return nil
}

func tableOf(link string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tablePrefix + link}
}

func replaceTable(link string, src netip.Prefix, wasOff bool) error {
	c, t := new(nftables.Conn), tableOf(link)
	c.AddTable(t) // else it could not be deleted
	c.DelTable(t)
	c.AddTable(t)
	if wasOff {
		c.AddChain(&nftables.Chain{Name: forwardWas0, Table: t})
	}
	nat := c.AddChain(&nftables.Chain{Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	c.AddRule(&nftables.Rule{Table: t, Chain: nat, Exprs: masquerade(link, src)})

	forward := c.AddChain(&nftables.Chain{Name: "forward", Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityMangle})
	for _, side := range []expr.MetaKey{expr.MetaKeyOIFNAME, expr.MetaKeyIIFNAME} {
		c.AddRule(&nftables.Rule{Table: t, Chain: forward, Exprs: clampMSS(side, link)})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("set nft table %s: %w", t.Name, err)
	}
	return nil
}

// masquerade leaves lo alone: a local connection to the link's own address would become one
// from 127.0.0.1.
func masquerade(link string, src netip.Prefix) []expr.Any {
	exprs := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: ipNet(src).Mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: src.Masked().Addr().AsSlice()},
	}
	exprs = append(exprs, ifName(expr.MetaKeyOIFNAME, expr.CmpOpNeq, link)...)
	exprs = append(exprs, ifName(expr.MetaKeyOIFNAME, expr.CmpOpNeq, "lo")...)
	return append(exprs, &expr.Masq{})
}

// clampMSS lowers the MSS option of SYNs to what the routes of both directions carry; "rt mtu"
// in nft is the smaller one of the two, less the headers.
func clampMSS(side expr.MetaKey, link string) []expr.Any {
	return append(ifName(side, expr.CmpOpEq, link),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x02}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0}},
		&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		// option 2 of TCP is the MSS, its value is at byte 2 (RFC 9293, 3.7.1)
		&expr.Exthdr{SourceRegister: 1, Type: 2, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt})
}

func ifName(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: data}}
}
