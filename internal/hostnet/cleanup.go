package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ferry/internal/hostdns"
)

// CleanUp takes back what killed processes left in this network namespace: everything of ours that
// belongs to the link name, or to a link that does not exist any more. But the full tunnel of another
// dead link stays, to let nothing out beside it, until its own name is opened again; only nftables tell
// whose it is. Call CleanUp when the TUN name has been opened, which proves that no other process lives
// behind it, and before anything is dialled, for the rest of a full tunnel blocks the way. dns says that
// name servers are looked after, too. An address left on a persistent TUN stays: it cannot be told from
// a user's.
func CleanUp(name string, dns bool, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	alive := make(map[int]bool) // by index of the link
	names := make(map[string]bool)
	links, err := whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		if a := link.Attrs(); a.Name != name {
			alive[a.Index], names[a.Name] = true, true
		}
	}
	if dns {
		hostdns.CleanUp(name, log)
	}
	all, err := routesBy(protocol, unix.RT_TABLE_UNSPEC)
	if err != nil {
		return advise(err)
	}
	tables, err := ourTables()
	if err != nil { // a kernel without nftables has none of ours
		log.Debug("nft tables left as they are", "err", err)
	}
	used := make(map[int]bool) // routing tables
	for link, t := range tables {
		blocks := slices.ContainsFunc(all, func(k netlink.Route) bool {
			return t.routing != 0 && k.Table == t.routing && k.Type == unix.RTN_UNREACHABLE && prefix(k.Dst) == everything4
		})
		switch {
		case link == name:
		case names[link]:
			used[t.routing] = true
		case blocks:
			log.Info("a full tunnel whose process was killed stays closed until that interface is opened again", "interface", link)
			used[t.routing], names[link] = true, true
		}
	}
	return advise(errors.Join(cleanRouting(all, alive, used, log), cleanTables(tables, names, log)))
}

// cleanRouting deletes our routes to links that are not alive, and all of ours in tables that are not
// used and through which no living link is reached, with the rules that lead there.
func cleanRouting(all []netlink.Route, alive, used map[int]bool, log *slog.Logger) error {
	rules, err := allRules()
	if err != nil {
		return err
	}
	for _, k := range all {
		if toOurs(k) && alive[k.LinkIndex] {
			used[k.Table] = true
		}
	}
	rules = slices.DeleteFunc(rules, func(r rule) bool { return used[r.leadsTo()] })
	var routes []route
	for _, k := range all {
		if toOurs(k) && !alive[k.LinkIndex] || !toOurs(k) && !used[k.Table] {
			routes = append(routes, fromKernel(k))
		}
	}
	if len(rules)+len(routes) > 0 {
		log.Info("removing leftovers of a dead process", "rules", len(rules), "routes", len(routes))
	}
	return errors.Join(delRules(nil, rules), delRoutes(nil, routes))
}

func cleanTables(tables map[string]table, keep map[string]bool, log *slog.Logger) error {
	var errs []error
	for link := range tables {
		if !keep[link] {
			log.Info("removing leftovers of a dead process", "nft", tablePrefix+link)
			errs = append(errs, dropTable(link, was0{}))
		}
	}
	return errors.Join(errs...)
}
