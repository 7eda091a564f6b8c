// Package hostnet keeps the network state of the host around one TUN link: it is declared as a
// State, compared with what the kernel has, applied, repaired when somebody breaks it, and taken
// back on Close.
//
//	                        ip rule                             covering routes: P and P+1
//	packet ─ 0 local ─ P   main, but no route as short as  ──▶  LAN, site prefixes dev vpn0 (proto 202)
//	                        the shortest one in TABLE            default via the router: never touched
//	                 ─ P+1 not fwmark MARK: TABLE ──────────▶  198.51.0.0/16 dev vpn0
//	                 ─ 32766 main                              P = 10000 + 2*TABLE
//
//	                        ip rule                             full tunnel: P+1 alone
//	packet ─ 0 local ─ P+1 not fwmark MARK: TABLE ──────────▶  table TABLE
//	                                                             default dev vpn0
//	                                                             SERVER, site prefixes dev vpn0
//	                                                             192.168.1.0/24 dev eth0       LocalNets
//	                                                             unreachable all but the last: link gone
//	                 ─ 32766 main: the outer connection only
//
// Routes go into table main, where the longest prefix wins. A route that would swallow the
// connection which carries the tunnel (it contains an address of Outer.Peers, or is 0.0.0.0/0)
// goes into a table of its own, which packets with the connection's mark do not look at.
//
// With 0.0.0.0/0 everything is in that table, and nothing but the marked connection ever sees table
// main: whatever routes DHCP, router advertisements or an attacker in the LAN bring there, traffic
// stays in the tunnel (TunnelVision, CVE-2024-3661). So it does if the LAN claims a public prefix, or
// the server's name leads to somebody else's address (TunnelCrack, CVE-2023-36672 and -36671). With
// LocalNets the private networks that this host has an address in are copied into the table, and
// Watch tells when they change; what the tunnel's own routes contain is never copied. All IPv6 but
// that to such a network is unreachable, since none is carried, and while the link is away, or its
// process was killed, so is IPv4: until Apply, Close or CleanUp.
//
// A sender that names its interface, which any user can, and multicast pass by routing rules. Therefore an
// nft chain drops what leaves by another interface and is not of the marked connection, for a local network
// or what a link lives by: see output.go.
//
// A strict rp_filter asks for the way back of what the server sends, and finds the tunnel. Therefore
// an nft rule gives packets for the marked socket its mark, ICMP errors included, and
// net.ipv4.conf.all.src_valid_mark makes rp_filter look at it. A kernel without nft_socket can have a
// full tunnel too, with rp_filter 0 or 2.
//
// What is made can be told from what others made: routes and rules have protocol 202 (unassigned
// in rt_protos), the nft table is called ferry-LINK, and the priority of a rule gives its table.
// That is how CleanUp finds what a killed process left, without a file. The nft table remembers which
// routing table is its link's, so that another link's full tunnel is neither taken back nor taken over.
//
// The link belongs to whoever holds its TUN descriptor; it is neither made nor deleted here.
//
// Limits: IPv4 inside; rules of others below P win; when routes of different lengths contain the server, the shortest decides
// which routes of table main beat all of them; a FORWARD policy of another firewall (Docker's is
// drop) is not overruled; an nft table that someone flushes is noticed by the next Apply only;
// of two full tunnels at once, in different tables, the one that started later knows of the other, and that one of it
// only when it is applied anew; ip_forward goes back to what it was even if somebody else came to rely on it meanwhile.
package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ferry/internal/hostdns"
)

// ErrNoLink is in the error of Apply when the link does not exist in this network namespace.
var ErrNoLink = errors.New("no such link")

// A State is what should be true of the host around a link.
type State struct {
	// Addr is the IPv4 address of the link with its prefix length. A full tunnel may have none yet: then it lets
	// nothing out.
	Addr       netip.Prefix
	MTU        int // bytes; 0 leaves it
	TxQueueLen int // packets; 0 leaves it

	// Routes are sent to the link. What Addr's own prefix contains needs none. 0.0.0.0/0 is the
	// full tunnel, which also blocks IPv6.
	Routes []netip.Prefix
	Outer  Outer

	// LocalNets lets private networks of this host's other links by a full tunnel.
	LocalNets bool

	// Guard drops what comes for Addr by another link than this one: nobody but the far end of the
	// tunnel can speak to it, or find out whether it is there (CVE-2019-14899). It needs nftables;
	// without them it is left out, and the log says so.
	Guard bool

	// DNS are name servers that are asked through the tunnel: in a full tunnel for all names, else for
	// those in Domains. Package hostdns says how; the tunnel works without.
	DNS     []netip.Addr
	Domains []string

	// Pings is how the payload of ICMP echo requests begins that are answered by another program: the kernel's replies to those are dropped, and
	// no others. It needs nftables; without them it is left out, and the log says so. 0: none.
	Pings uint32

	// Masquerade gives packets from Addr's prefix the address of the interface they leave by,
	// clamps the MSS of TCP to the path, and turns on net.ipv4.ip_forward.
	Masquerade bool
}

// Full reports whether s is a full tunnel.
func (s State) Full() bool { return slices.Contains(s.Routes, everything4) }

// Outer describes the connection that carries the tunnel. It matters only if Routes would swallow
// it. Its Peers have to be up to date before a new one is dialled.
type Outer struct {
	Mark  uint32       // SO_MARK of its socket
	Table int          // a routing table that nobody else uses, 1 to 9999
	Peers []netip.Addr // the far end
	Pings uint32       // how the payload of echo replies begins that it is made of; 0: of none
}

// A Link is the state made around one link. Its methods may be called from any goroutine.
type Link struct {
	name string
	log  *slog.Logger
	dns  *hostdns.Link

	// mu is held over netlink calls, on purpose: Watch must not see a half-applied state.
	mu     sync.Mutex
	want   *plan // last one that Apply tried; nil before it and after Close
	tables []int // routing tables that may hold something of ours, besides main
	nft    bool  // there may be an nft table
	wasOff was0  // of switches that we turned on
	told   bool  // that nftables are missing
	made   onLink
	seen   sight // what Watch reported last, or Apply made
}

// onLink is what was changed on the link itself and is gone when the link is.
type onLink struct {
	index   int
	was     device
	addrs   []netip.Prefix // more than one only if a change of address failed half-way
	sysctls []sysctl       // as they were
}

// New returns a Link for the interface name, which need not exist yet. A nil log discards.
func New(name string, log *slog.Logger) *Link {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Link{name: name, log: log, dns: hostdns.New(name, log)}
}

// Apply makes s true. It changes only what differs, and adds before it deletes, so that it is
// also the way to change a part of the state and to repair it: after the link was down, was
// recreated under its name, or after somebody removed a route. After an error part of s may be
// true; Apply again or Close.
func (l *Link) Apply(s State) error {
	p, err := s.plan()
	if err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want = p
	again, err := l.apply(p)
	if again && err == nil {
		// Deleting the old address of a link may have taken the new one with it, and its routes.
		_, err = l.apply(p)
	}
	if err == nil {
		l.dns.Apply(l.made.index, p.dns)
	}
	return advise(err)
}

// apply brings the kernel to p in the order in which packets need things: routes before the
// rules that lead to them. again says that it must be repeated.
func (l *Link) apply(p *plan) (again bool, err error) {
	dev, err := findDevice(l.name)
	if err != nil {
		return false, err
	}
	if dev.index != l.made.index {
		l.made = onLink{index: dev.index, was: dev}
	}
	if err := l.claim(p.table); err != nil {
		return false, err
	}
	lans, err := localNets(dev.index)
	if err != nil {
		return false, err
	}
	copies := p.copies(lans)
	if err := l.applyDevice(p, dev); err != nil {
		return false, err
	}
	if err := l.addAddr(p.addr); err != nil {
		return false, err
	}
	routes, err := listRoutes(l.made.index, l.tables...)
	if err != nil {
		return false, err
	}
	rules, err := listRules(l.tables...)
	if err != nil {
		return false, err
	}
	if err := addRoutes(l.name, l.made.index, p.routes, routes); err != nil {
		return false, err
	}
	l.copyRoutes(copies, routes)
	if err := addRules(p.rules, rules); err != nil {
		return false, err
	}
	nft := p.nft
	if nft.out = p.output(copies); nft.out != nil && len(copies) > 0 && len(nft.out.lans) == 0 {
		l.log.Warn("too many local networks, or routes inside of them: they are closed", "interface", l.name, "networks", len(copies))
	}
	if err := l.applyTable(nft); err != nil {
		return false, err
	}
	if err := errors.Join(delRules(p.rules, rules), delRoutes(slices.Concat(p.routes, copies), routes)); err != nil {
		return false, err
	}
	l.tables = []int{p.table}
	if again, err = l.delOldAddrs(p.addr); again || err != nil {
		return again, err
	}
	if err := addPrefixRoute(l.name, l.made.index, p.addr); err != nil {
		return false, err
	}
	l.seen = sight{index: dev.index, up: true, mtu: cmp.Or(p.mtu, dev.mtu), lans: text(copies)}
	return false, nil
}

// claim makes a routing table ours, unless another link's tunnel is in it: a living one, or one whose
// process was killed and which stays closed. What CleanUp has left of ours is our own.
func (l *Link) claim(table int) error {
	if slices.Contains(l.tables, table) {
		return nil
	}
	holder, err := l.holder(table)
	if err != nil {
		return err
	}
	if holder != "" && holder != l.name {
		return fmt.Errorf("routing table %d is used by the tunnel of %s: choose another --table", table, holder)
	}
	l.tables = append(l.tables, table)
	return nil
}

// holder returns the link whose tunnel has something in table; none for an empty one.
func (l *Link) holder(table int) (string, error) {
	if table == 0 {
		return "", nil
	}
	rules, err := listRules(table)
	if err != nil {
		return "", err
	}
	routes, err := routesBy(protocol, table)
	if err != nil || len(rules)+len(routes) == 0 {
		return "", err
	}
	tables, err := ourTables()
	if err != nil {
		l.log.Debug("routing table is not sought in nft tables", "table", table, "err", err)
	}
	if tables[l.name].routing == table {
		return l.name, nil
	}
	for link, t := range tables {
		if t.routing == table {
			return link, nil
		}
	}
	for _, k := range routes {
		if link, err := netlink.LinkByIndex(k.LinkIndex); toOurs(k) && err == nil {
			return link.Attrs().Name, nil
		}
	}
	return "another program", nil
}

// Close takes back what Apply made, as far as it is still there. It may be called again, which
// retries what failed, and Apply may be called after it.
func (l *Link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want, l.seen = nil, sight{}
	l.dns.Close()
	dev, err := findDevice(l.name)
	if err != nil || dev.index != l.made.index {
		l.made = onLink{}
	}
	if errors.Is(err, ErrNoLink) {
		err = nil
	}
	return advise(errors.Join(err, l.dropRouting(), l.applyTable(nftPlan{}), l.restoreDevice()))
}

// dropRouting takes rules before routes: until the last rule is gone, nothing of a full tunnel
// leaks, and after it nothing is blocked.
func (l *Link) dropRouting() error {
	rules, err := listRules(l.tables...)
	if err != nil {
		return err
	}
	routes, err := listRoutes(l.made.index, l.tables...)
	if err != nil {
		return err
	}
	if err := errors.Join(delRules(nil, rules), delRoutes(nil, routes)); err != nil {
		return err
	}
	l.tables = nil
	return nil
}

// advise tells the user what to do about a lack of rights.
func advise(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: run as root or with CAP_NET_ADMIN", err)
	}
	return err
}
