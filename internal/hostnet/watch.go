package hostnet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// An Event is what somebody else did to the link or to the state declared for it.
type Event int

// The events. After Gone the link has to be made again; Apply repairs what any other one broke.
const (
	Gone         Event = iota // deleted, renamed, or moved to another network namespace
	Down                      // set down, which drops its routes; or it is back, and down
	Up                        // set up by somebody else; or it is back. Routes are missing
	MTUChanged                // by somebody else
	AddrRemoved               // the address that was applied is missing
	RouteRemoved              // a route or a rule that was applied is missing
	LocalNets                 // a local network came or went beside a full tunnel that spares them
)

func (e Event) String() string {
	return [...]string{"gone", "down", "up", "mtu changed", "address removed", "route removed", "local network changed"}[e]
}

// A sight is the part of the kernel's state that events are about.
type sight struct {
	index   int // of the link; 0: gone
	up      bool
	mtu     int
	noAddr  bool
	noRoute bool
	lans    string // local networks, where a full tunnel spares them
}

// Watch calls report for each event since the last Apply until ctx is done, and then returns nil.
// It holds no lock meanwhile, so report may call Apply. Before the first Apply and after Close
// there is nothing to report. One Watch at a time.
//
// A message of the kernel is only taken as a hint to look: events come from comparing what is
// with what was applied. So none is lost when messages are, but what was undone before anyone
// looked is not reported either.
func (l *Link) Watch(ctx context.Context, report func(Event)) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return fmt.Errorf("watch %s: %w", l.name, err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	for {
		events, err := l.check()
		if err != nil {
			return fmt.Errorf("watch %s: %w", l.name, err)
		}
		for _, e := range events {
			report(e)
		}
		err = hint(s, func(kind uint16, data []byte) bool { return concerns(kind, data, l.index()) })
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch %s: %w", l.name, err)
		}
	}
}

// hint returns when the kernel told of something that matters.
func hint(s *nl.NetlinkSocket, matters func(kind uint16, data []byte) bool) error {
	for {
		msgs, from, err := s.Receive()
		if errors.Is(err, unix.ENOBUFS) { // messages were lost; the socket goes on
			return nil
		}
		if err != nil {
			return err
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for _, m := range msgs {
			if matters(m.Header.Type, m.Data) {
				return nil
			}
		}
	}
}

func (l *Link) index() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.made.index
}

// concerns spares a busy router a look at each of its routes. Links come and go rarely, and one
// that comes back has another index; rules are few.
func concerns(kind uint16, data []byte, index int) bool {
	switch kind {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		m := nl.DeserializeRtMsg(data)
		return m.Protocol == protocol || m.Protocol == unix.RTPROT_KERNEL || m.Protocol == unix.RTPROT_RA
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return int(nl.DeserializeIfAddrmsg(data).Index) == index
	}
	return true
}

// check compares the kernel with what was seen before.
func (l *Link) check() ([]Event, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.want == nil {
		return nil, nil
	}
	now, err := l.look()
	for err == nil { // until nothing changed between the first and the last question of a look
		before := now
		if now, err = l.look(); now == before {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	events := now.since(l.seen)
	l.seen = now
	return events, nil
}

func (l *Link) look() (sight, error) {
	dev, err := findDevice(l.name)
	if errors.Is(err, ErrNoLink) {
		return sight{}, nil
	}
	if err != nil {
		return sight{}, err
	}
	addr, err1 := true, error(nil)
	if l.want.addr.IsValid() {
		addr, err1 = hasAddr(dev.index, l.want.addr)
	}
	connected, err2 := hasPrefixRoute(dev.index, l.want.addr)
	routes, err3 := listRoutes(dev.index, l.want.table)
	rules, err4 := listRules(l.want.table)
	lans, err5 := localNets(dev.index)
	copies := l.want.copies(lans)
	return sight{
		index:   dev.index,
		up:      dev.up,
		mtu:     dev.mtu,
		noAddr:  !addr,
		noRoute: addr && !connected || !hasAll(routes, l.want.routes) || !hasAll(routes, copies) || !hasAll(rules, l.want.rules),
		lans:    text(copies),
	}, errors.Join(err1, err2, err3, err4, err5)
}

// since returns what happened between before and now. A change of the link itself explains
// missing routes, which are then no event of their own.
func (now sight) since(before sight) (events []Event) {
	if now.index != before.index && before.index != 0 {
		events = append(events, Gone)
	}
	switch {
	case now.index == 0:
	case (now.index != before.index || !before.up) && now.up:
		events = append(events, Up)
	case (now.index != before.index || before.up) && !now.up:
		events = append(events, Down)
	case now.up:
		if now.mtu != before.mtu {
			events = append(events, MTUChanged)
		}
		if now.noAddr && !before.noAddr {
			events = append(events, AddrRemoved)
		}
		switch {
		case now.lans != before.lans: // which may well explain a missing route
			events = append(events, LocalNets)
		case now.noRoute && !before.noRoute:
			events = append(events, RouteRemoved)
		}
	}
	return events
}

func hasAll[T comparable](have, want []T) bool {
	return !slices.ContainsFunc(want, func(w T) bool { return !slices.Contains(have, w) })
}
