package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table, as nft prints it, with all that a State can ask for:
//
//	table ip ferry-vpn0 {
//		chain ip_forward_was_0 { }          only if it was
//		chain src_valid_mark_was_0 { }      only if it was
//		chain routing_table_2002 { }        the one that is ours
//		chain guard {
//			type filter hook prerouting priority raw;
//			iifname != "vpn0" iifname != "lo" ip daddr 10.0.0.5 drop
//		}
//		chain outer {
//			type filter hook prerouting priority mangle;
//			socket mark 0x2002 meta mark set 0x2002
//			icmp type echo-reply @th,64,32 0x46727921 meta mark set 0x2002
//		}
//		chain pings {
//			type filter hook output priority filter;
//			icmp type echo-reply @th,64,32 0x4672793f drop
//		}
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
// The empty chains remember sysctls where it survives this process but no reboot, in the network
// namespace they belong to, and are made by the same transaction as the rest.
const (
	tablePrefix = "ferry-"
	natChain    = "postrouting"
	outerChain  = "outer"
	guardChain  = "guard"
	pingsChain  = "pings"
	tableMemory = "routing_table_"
)

// An nftPlan is what a table has rules for.
type nftPlan struct {
	nat   netip.Prefix // source addresses to masquerade; invalid: none
	guard netip.Addr   // reached by the link only; invalid: none
	mark  uint32       // of the socket whose packets get it, too; 0: none
	echo  uint32       // with mark: how the payload of echo replies begins that get it; 0: none
	pings uint32       // how the payload of the kernel's echo replies begins that are dropped; 0: none
	table int          // the routing table, which is remembered; 0: none
	out   *output      // what may leave beside a full tunnel; nil: everything
}

// switches are the sysctls that have to be 1 for a table, which chain of it needs them, and which one
// remembers that they were 0.
var switches = [...]struct{ name, chain, memory string }{
	{"net/ipv4/ip_forward", natChain, "ip_forward_was_0"},
	{"net/ipv4/conf/all/src_valid_mark", outerChain, "src_valid_mark_was_0"},
}

// was0 says which switches were off before.
type was0 [len(switches)]bool

// A table is what is known of one in the kernel.
type table struct {
	was     was0
	uses    [len(switches)]bool
	routing int  // its routing table
	closed  bool // it has the chain output
}

func (p nftPlan) chains() map[string]bool {
	return map[string]bool{natChain: p.nat.IsValid(), outerChain: p.mark != 0, guardChain: p.guard.IsValid()}
}

// applyTable makes the table as p says, or takes it back if that is nothing. NAT that can not be had
// is an error; without the rest a tunnel works, so that is told.
func (l *Link) applyTable(p nftPlan) error {
	if p == (nftPlan{}) {
		if !l.nft {
			return nil
		}
		if err := dropTable(l.name, l.wasOff); err != nil {
			return err
		}
		l.nft, l.wasOff = false, was0{}
		return nil
	}
	err := l.replace(p)
	if err == nil || p.nat.IsValid() {
		return err
	}
	if p.pings != 0 {
		l.tell("no nftables: the kernel replies to what comes by icmp as well, and a firewall may let that reply pass and not the answer", err)
		p.pings = 0
		return l.applyTable(p)
	}
	const (
		noSocket = "this kernel has no nft_socket: where rp_filter is 1 the gateway's answers are dropped, so set it to 2"
		noInet   = "this kernel has no nft tables of family inet: a program that names another interface gets around the tunnel"
	)
	without := func(mark, out bool) bool {
		less := p
		if mark {
			less.mark = 0
		}
		if out {
			less.out = nil
		}
		return less != p && l.replace(less) == nil
	}
	switch {
	case without(true, false):
		l.tell(noSocket, err)
	case without(false, true):
		l.tell(noInet, err)
	case without(true, true):
		l.tell(noSocket+"; "+noInet, err)
	default:
		l.tell("no nftables: nothing keeps other interfaces' packets from the tunnel's address, a program that names another interface gets around a full tunnel, and where rp_filter is 1 that needs 2", err)
	}
	return nil
}

func (l *Link) tell(msg string, err error) {
	if !l.told {
		l.log.Warn(msg, "interface", l.name, "err", err)
	}
	l.told = true
}

// replace replaces the table whole in one transaction, so there is nothing to compare and no packet
// passes in between.
func (l *Link) replace(p nftPlan) error {
	tables, err := ourTables()
	if err != nil {
		return err
	}
	l.nft = true // from here on something may be there
	need := p.chains()
	var keep was0
	for i, s := range switches {
		// Somebody may have flushed the table with its memory, and left the switch on.
		l.wasOff[i] = l.wasOff[i] || tables[l.name].was[i]
		if !need[s.chain] {
			continue
		}
		was, err := sysctl{name: s.name}.get()
		if err != nil {
			return fmt.Errorf("read %s: %w", dotted(s.name), err)
		}
		l.wasOff[i] = l.wasOff[i] || was.value == "0"
		keep[i] = l.wasOff[i]
	}
	had := tables[l.name].closed
	delete(tables, l.name)
	if p.out != nil {
		p.out.others = closedBy(tables)
	}
	if err := writeTable(l.name, p, keep, had); err != nil {
		return err
	}
	for i, s := range switches {
		if !need[s.chain] {
			if l.wasOff[i] {
				err = errors.Join(err, turnOff(i, tables))
			}
			l.wasOff[i] = false
			continue
		}
		if _, setErr := (sysctl{s.name, "1"}).set(); setErr != nil {
			setErr = fmt.Errorf("turn on %s: %w", dotted(s.name), setErr)
			if s.chain == natChain {
				return errors.Join(err, setErr)
			}
			l.tell("where rp_filter is 1 the gateway's answers are dropped, so set it to 2", setErr)
		}
	}
	return err
}

// ourTables returns the links that have a table.
func ourTables() (map[string]table, error) {
	tables := make(map[string]table)
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyINet} {
		chains, err := new(nftables.Conn).ListChainsOfTableFamily(family)
		if err != nil {
			return nil, fmt.Errorf("list nft tables: %w", err)
		}
		for _, c := range chains {
			link, ok := strings.CutPrefix(c.Table.Name, tablePrefix)
			if !ok {
				continue
			}
			t := tables[link]
			t.closed = t.closed || family == nftables.TableFamilyINet
			for i, s := range switches {
				t.was[i] = t.was[i] || c.Name == s.memory
				t.uses[i] = t.uses[i] || c.Name == s.chain
			}
			if number, ok := strings.CutPrefix(c.Name, tableMemory); ok {
				t.routing, _ = strconv.Atoi(number)
			}
			tables[link] = t
		}
	}
	return tables, nil
}

// closedBy returns the links of full tunnels, in order.
func closedBy(tables map[string]table) (links []string) {
	for link, t := range tables {
		if t.closed {
			links = append(links, link)
		}
	}
	slices.Sort(links)
	return links
}

// dropTable deletes the table of link. The last one of several that use a switch turns it off, if it
// was off before, which either the table or the caller knows.
func dropTable(link string, was was0) error {
	tables, err := ourTables()
	if err != nil {
		return err
	}
	t, exists := tables[link]
	delete(tables, link)
	for i := range switches {
		if was[i] || t.was[i] {
			if err := turnOff(i, tables); err != nil {
				return err
			}
		}
	}
	if !exists {
		return nil
	}
	c := new(nftables.Conn)
	c.AddTable(tableOf(link)) // else it could not be deleted
	c.DelTable(tableOf(link))
	if t.closed {
		c.DelTable(outputTableOf(link))
	}
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nft table %s: %w", tablePrefix+link, err)
	}
	return nil
}

// turnOff turns switch i off, unless one of the other tables uses it: then that one remembers it.
func turnOff(i int, others map[string]table) error {
	s := switches[i]
	for heir, t := range others {
		if !t.uses[i] {
			continue
		}
		c := new(nftables.Conn)
		c.AddChain(&nftables.Chain{Name: s.memory, Table: tableOf(heir)})
		if err := c.Flush(); err != nil {
			return fmt.Errorf("hand %s over to nft table %s: %w", dotted(s.name), tablePrefix+heir, err)
		}
		return nil
	}
	if _, err := (sysctl{s.name, "0"}).set(); err != nil {
		return fmt.Errorf("turn off %s: %w", dotted(s.name), err)
	}
	return nil
}

func tableOf(link string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tablePrefix + link}
}

// writeTable sets the tables of link. had says that there is one of family inet; without any need that
// family is not spoken of, for a kernel may not have it.
func writeTable(link string, p nftPlan, keep was0, had bool) error {
	c, t := new(nftables.Conn), tableOf(link)
	c.AddTable(t) // else it could not be deleted
	c.DelTable(t)
	c.AddTable(t)
	for i, s := range switches {
		if keep[i] {
			c.AddChain(&nftables.Chain{Name: s.memory, Table: t})
		}
	}
	if p.table != 0 {
		c.AddChain(&nftables.Chain{Name: tableMemory + strconv.Itoa(p.table), Table: t})
	}
	if had {
		c.DelTable(outputTableOf(link))
	}
	if p.out != nil {
		writeOutput(c, link, p.out)
	}
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority, rules ...[]expr.Any) {
		added := c.AddChain(&nftables.Chain{Name: name, Table: t, Type: kind, Hooknum: hook, Priority: prio})
		for _, exprs := range rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: added, Exprs: exprs})
		}
	}
	if p.guard.IsValid() {
		chain(guardChain, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, guard(link, p.guard))
	}
	if p.mark != 0 {
		rules := [][]expr.Any{markAnswers(p.mark)}
		if p.echo != 0 {
			rules = append(rules, markEchoes(p.echo, p.mark))
		}
		chain(outerChain, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, rules...)
	}
	if p.pings != 0 {
		chain(pingsChain, nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter,
			append(echoes(p.pings), &expr.Verdict{Kind: expr.VerdictDrop}))
	}
	if p.nat.IsValid() {
		chain(natChain, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, masquerade(link, p.nat))
		chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityMangle,
			clampMSS(expr.MetaKeyOIFNAME, link), clampMSS(expr.MetaKeyIIFNAME, link))
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("set nft table %s: %w", t.Name, err)
	}
	return nil
}

// guard spares lo: this host speaks to its own address there.
func guard(link string, addr netip.Addr) []expr.Any {
	exprs := slices.Concat(ifName(expr.MetaKeyIIFNAME, expr.CmpOpNeq, link), ifName(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"))
	return append(exprs,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr.AsSlice()},
		&expr.Verdict{Kind: expr.VerdictDrop})
}

// markAnswers gives what comes for a socket with this mark, or is an ICMP error about what it sent, the
// same mark.
func markAnswers(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Socket{Key: expr.SocketKeyMark, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

// markEchoes does so for the replies to pings: nft knows no sockets of those.
func markEchoes(begin, mark uint32) []expr.Any {
	return append(echoes(begin),
		&expr.Immediate{Register: 1, Data: native(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
}

// echoes are ICMP echo replies (type 0, RFC 792) of which the payload, at byte 8, begins like that.
func echoes(begin uint32) []expr.Any {
	return slices.Concat(meta(expr.MetaKeyL4PROTO, unix.IPPROTO_ICMP), payload(expr.PayloadBaseTransportHeader, 0, 0),
		payload(expr.PayloadBaseTransportHeader, 8, binary.BigEndian.AppendUint32(nil, begin)...))
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
