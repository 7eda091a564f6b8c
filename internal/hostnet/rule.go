package hostnet

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// listRules returns our rules that lead to one of the tables, or stand before one that does.
func listRules(tables ...int) ([]rule, error) {
	all, err := allRules()
	return slices.DeleteFunc(all, func(r rule) bool { return !slices.Contains(tables, r.leadsTo()) }), err
}

func allRules() ([]rule, error) {
	var ours []rule
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		all, err := whole(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
		if err != nil && !isNoIPv6(err) {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, k := range all {
			if k.Protocol == protocol {
				ours = append(ours, rule{family, k.Priority, k.Table, k.Mark, k.SuppressPrefixlen})
			}
		}
	}
	return ours, nil
}

// leadsTo is the table whose rules have the priority of r.
func (r rule) leadsTo() int { return (r.priority - firstPriority) / 2 }

func addRules(want, have []rule) error {
	for _, r := range want {
		if slices.Contains(have, r) {
			continue
		}
		err := netlink.RuleAdd(r.toKernel())
		if err != nil && !errors.Is(err, unix.EEXIST) && !(r.family == unix.AF_INET6 && isNoIPv6(err)) {
			return fmt.Errorf("add rule %d for table %d: %w", r.priority, r.table, err)
		}
	}
	return nil
}

func delRules(want, have []rule) error {
	var errs []error
	for _, r := range have {
		if slices.Contains(want, r) {
			continue
		}
		if err := netlink.RuleDel(r.toKernel()); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("delete rule %d for table %d: %w", r.priority, r.table, err))
		}
	}
	return errors.Join(errs...)
}

func (r rule) toKernel() *netlink.Rule {
	k := netlink.NewRule()
	k.Family, k.Priority, k.Table, k.Protocol = r.family, r.priority, r.table, protocol
	k.Mark, k.Invert = r.mark, r.mark != 0
	k.SuppressPrefixlen = r.suppress
	return k
}
