//go:build !minimal

package client

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ferry/internal/forward"
	"ferry/internal/hostnet"
	"ferry/internal/proto"
	"ferry/internal/publish"
)

// A Publisher is what a Host has for a device whose services are published.
type Publisher interface {
	netHost
	// Names are those of the programs that have sockets, by inode, as far as they may be seen.
	Names(inodes []uint32) (map[uint32]string, error)
	// HasAddress tells whether the address in the tunnel is one of this device, where a socket on all addresses is reached, as with an interface.
	HasAddress() bool
}

// An announcer tells the gateway which services this device has.
//
//	sockets --What, Debounce--> announced --> services --> roamer: a publish frame by the connection in use
//	                                     \--> relays, from the address in the tunnel to those that are not reached there
//
// Its fields belong to the goroutine of run, but for those that mu guards.
type announcer struct {
	c         *Config
	list      func() ([]publish.Socket, error)
	close     func() error // what list needs
	ephemeral publish.Range
	host      Publisher
	network   forward.Network // of -R: from the address in the tunnel to what is not reached there
	debounce  publish.Debounce
	start     time.Time

	relays  *forward.Table
	relayed map[publish.Socket]relay // by key
	tunnel  netip.Addr               // of the relays
	names   map[uint32]string
	fault   string // that was logged last

	message proto.PublishMessage // what was told last; Serial 0: nothing

	mu     sync.Mutex // guards what follows
	shown  []proto.Service
	failed uint64 // relays that could not be opened
	many   uint64
}

// A relay leads from a port of the address in the tunnel to a service.
type relay struct {
	bound forward.Entrance
	err   error // it could not be opened
}

// newAnnouncer returns one, for the tunnel whose interface is tun; nil where nothing is published. It is called before this process is confined.
func newAnnouncer(c *Config, host Publisher, tun string) (*announcer, error) {
	if c.Publish.IsZero() {
		return nil, nil
	}
	s, err := hostnet.OpenSockets()
	if err != nil {
		return nil, err
	}
	_, remote := host.Networks(tun)
	a := &announcer{c: c, host: host, network: remote, close: s.Close, ephemeral: publish.Range{First: s.FirstEphemeral, Last: s.LastEphemeral}}
	a.list = func() ([]publish.Socket, error) {
		found, err := s.List()
		all := make([]publish.Socket, len(found))
		for i, f := range found {
			all[i] = publish.Socket(f)
		}
		return all, err
	}
	return a, nil
}

// How often sockets are looked at: several times while one has to last.
const (
	minLook = 100 * time.Millisecond
	maxLook = 500 * time.Millisecond
)

// run announces until ctx is done.
func (a *announcer) run(ctx context.Context, r *roamer) error {
	defer a.close()
	a.start = time.Now()
	a.debounce = publish.Debounce{Wait: a.c.PublishDebounce, Limit: a.c.PublishLimit}
	a.relays = forward.NewTable(ctx, forward.Config{Network: a.network, Log: a.c.Log, Forwards: proto.MaxServices})
	defer a.relays.Close()
	a.relayed, a.names = map[publish.Socket]relay{}, map[uint32]string{}
	tick := time.NewTicker(min(max(a.c.PublishDebounce/4, minLook), maxLook))
	defer tick.Stop()
	for {
		if a.look(time.Now(), r.story.address()) {
			m := a.message
			r.do(func() {
				r.services, r.servicesOn = m, nil
				r.tellServices()
			})
		} else if r.untold.Load() {
			r.do(r.tellServices)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look finds out what there is to announce, and tells whether that is something else than before.
func (a *announcer) look(now time.Time, tunnel netip.Addr) (changed bool) {
	all, err := a.list()
	if err != nil {
		a.complain("sockets", err)
	}
	if err != nil && !errors.Is(err, hostnet.ErrNoDiag) {
		return false
	}
	wanted := all[:0]
	for _, s := range all {
		if a.c.Publish.Wants(s, a.ephemeral) {
			wanted = append(wanted, s)
		}
	}
	a.debounce.Saw(wanted, now)
	if !tunnel.IsValid() || now.Sub(a.start) < a.c.PublishDebounce { // the first list is a whole one, or a restart would withdraw
		return false
	}
	announced := slices.DeleteFunc(a.debounce.Announced(), a.doubles)
	a.relay(announced, tunnel)
	a.learnNames(announced)
	services := make([]proto.Service, 0, len(announced))
	for _, s := range announced {
		if at := a.reached(s, tunnel); at != 0 {
			services = append(services, proto.Service{UDP: s.UDP, At: at, Addr: s.Addr, Port: s.Port, Name: a.names[s.Inode]})
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.many = a.debounce.TooMany
	if a.message.Serial > 0 && slices.Equal(services, a.shown) {
		return false
	}
	a.shown = services
	a.message = proto.PublishMessage{Serial: a.message.Serial + 1, Services: services}
	return true
}

// doubles tells whether a service on all addresses of IPv6 is there on all of IPv4, too: it is announced once.
func (a *announcer) doubles(s publish.Socket) bool {
	return s.Only6 && slices.ContainsFunc(a.debounce.Announced(), func(o publish.Socket) bool {
		return o.UDP == s.UDP && o.Port == s.Port && o.Addr == netip.IPv4Unspecified()
	})
}

// relay opens what lets services be reached at the address in the tunnel, and closes what is not needed any more. A relay has a port that nobody
// chose: a program of this device that wants all addresses finds its own free. Where that address is none of this device it has the service's, if that is free.
func (a *announcer) relay(announced []publish.Socket, tunnel netip.Addr) {
	needed := map[publish.Socket]bool{}
	for _, s := range announced {
		if _, direct := a.reach(s, tunnel); !direct {
			needed[key(s)] = true
		}
	}
	for s, r := range a.relayed {
		if !needed[s] || tunnel != a.tunnel {
			if r.err == nil {
				_, _ = a.relays.Remove(r.bound.String()) // which is there
			}
			delete(a.relayed, s)
		}
	}
	a.tunnel = tunnel
	for s := range needed {
		before, ok := a.relayed[s]
		if ok && before.err == nil {
			continue
		}
		ask, _ := a.reach(s, tunnel)
		from, prefer := forward.Entrance{Scheme: s.Protocol(), Host: tunnel}, uint16(0)
		if !a.host.HasAddress() {
			prefer = s.Port
		}
		status, err := a.relays.Add(forward.Spec{From: from, To: forward.Target{Addr: ask.Addr(), Port: ask.Port()}}, prefer, false, false)
		a.relayed[s] = relay{status.Bound, err}
		if err != nil && (!ok || err.Error() != before.err.Error()) { // it is tried again at the next look
			a.tell("relay", fmt.Errorf("to %s: %w", ask, err))
			a.mu.Lock()
			a.failed++
			a.mu.Unlock()
		}
	}
}

// reach tells where a service is: direct, at the address in the tunnel as it is; else whoever relays has to ask the returned address.
func (a *announcer) reach(s publish.Socket, tunnel netip.Addr) (ask netip.AddrPort, direct bool) {
	if ask, direct = s.Reach(tunnel); direct && !a.host.HasAddress() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), s.Port), false
	}
	return ask, direct
}

// key is a service whatever program has it, which may start anew.
func key(s publish.Socket) publish.Socket {
	s.Inode = 0
	return s
}

// reached is the port of the address in the tunnel where a service is; 0: it is not reached.
func (a *announcer) reached(s publish.Socket, tunnel netip.Addr) uint16 {
	if _, direct := a.reach(s, tunnel); direct {
		return s.Port
	}
	if r := a.relayed[key(s)]; r.err == nil {
		return r.bound.Port
	}
	return 0
}

// learnNames finds the programs of what is announced, where they are wanted.
func (a *announcer) learnNames(announced []publish.Socket) {
	if !a.c.Publish.Names {
		return
	}
	known := make(map[uint32]string, len(announced))
	var unknown []uint32
	for _, s := range announced {
		if name, ok := a.names[s.Inode]; ok {
			known[s.Inode] = name
		} else {
			unknown = append(unknown, s.Inode)
		}
	}
	if len(unknown) > 0 {
		found, err := a.host.Names(unknown)
		if err != nil {
			a.complain("names", err)
		}
		for _, i := range unknown { // whose program is not shown has an empty one, and is not asked for again
			known[i] = found[i]
		}
	}
	a.names = known
}

// complain logs a fault once, not again every half second.
func (a *announcer) complain(what string, err error) {
	if text := what + ": " + err.Error(); text != a.fault {
		a.fault = text
		a.tell(what, err)
	}
}

func (a *announcer) tell(what string, err error) {
	a.c.Log.Warn("services of this device are not published as they should be", "what", what, "err", err)
}

// show adds to a Status what is published.
func (a *announcer) show(s *Status) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.shown {
		s.Published = append(s.Published, p.Protocol()+" "+netip.AddrPortFrom(p.Addr, p.Port).String())
	}
	s.Unpublished = map[string]uint64{"limit": a.many, "relay": a.failed}
}
