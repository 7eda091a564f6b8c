package gateway

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"ferry/internal/addrpool"
	"ferry/internal/forward"
	"ferry/internal/identity"
	"ferry/internal/proto"
	"ferry/internal/publish"
)

// Services that clients announce get ports of this host:
//
//	publish frame --> announced --> wanted --due--> run: closes what is not wanted, opens what is --> forward.Table
//	                  left ------/                                   \--> files of publish_dir, published.json
//
// A client that has vanished keeps its ports for IdleTimeout, as its address. Which port a service had is in published.json, and comes first the next time.
type publisher struct {
	g     *Gateway
	due   chan struct{} // capacity 1: wanted has changed
	table *forward.Table
	files replacer     // those of PublishDir
	lines *strangerLog // bounded: clients change their services as often as they like

	mu      sync.Mutex // guards what follows
	wanted  map[netip.Addr]*announcement
	refused map[string]uint64
	listed  []listing // what is open, in the order of the files

	// Of run:
	ports *publish.Ports
	open  map[publish.Key]listing
	lost  map[publish.Key]bool // could not be opened, and is counted
	again bool                 // some may be opened later
}

// A replacer replaces files.
type replacer interface {
	Replace(path string, b []byte) error
}

// An announcement is what a client wants to be published.
type announcement struct {
	owner    uint64 // number of the session, or connection, that has said so
	tenant   tenant
	gone     <-chan struct{} // closed when the connection that has said so has ended
	name     string          // of the device, if it has a key
	serial   uint64
	services []proto.Service
	seen     []netip.Addr // addresses of the guest, and
	over     int          // how many services were left out, see publish.Bridges
	until    time.Time    // the owner is gone, and this is when it counts no more; zero: it is here
}

// A tenant is who has an address: a device with a key, or else whoever comes back with the token of the lease. The zero value is nobody who can be told again.
type tenant struct {
	key   identity.Public
	token addrpool.Token
}

// A listing is a service that is open, and its forward.
type listing struct {
	publish.Published
	from string // where the forward listens, as forward.Table knows it
}

const (
	// publishedFile remembers ports, in the state directory.
	publishedFile    = "published.json"
	maxPublishedFile = 2 << 20 // bytes
	// maxPublished is how many services there may be of all clients: what the feed has of them fits into a message to ferry-netadmin.
	maxPublished = 320
	// publishPace is how long what one client changes all the time keeps the others waiting at most.
	publishPace = 100 * time.Millisecond
	// publishRetry is when it is tried again to open what could not be, without anything having changed.
	publishRetry = 10 * time.Second
)

// Why a service is not published.
const (
	refusedOff     = "publish_off"     // nobody's are
	refusedWho     = "publish_who"     // this client's are not
	refusedStale   = "publish_stale"   // a list that another one has overtaken
	refusedLimit   = "publish_limit"   // more than a client may have
	refusedFull    = "publish_full"    // more than all may have
	refusedMap     = "publish_map"     // the port of its fixed map is taken
	refusedPort    = "publish_port"    // no port is free
	refusedBinding = "publish_binding" // the host does not let it
)

// openPublisher makes ready for services; they are published once run is called.
func (g *Gateway) openPublisher(ctx context.Context, files replacer, network forward.Network) error {
	c := g.c()
	p := &publisher{
		g: g, files: files, lines: newStrangerLog(g.log), due: make(chan struct{}, 1), wanted: map[netip.Addr]*announcement{}, refused: map[string]uint64{}, open: map[publish.Key]listing{}, lost: map[publish.Key]bool{},
		table: forward.NewTable(ctx, forward.Config{Network: network, Log: g.log, Forwards: maxPublished}),
		ports: &publish.Ports{Range: c.PublishPorts, Maps: c.PublishMaps, Expand: c.PublishExpand},
	}
	records, err := p.read()
	if err != nil {
		return err
	}
	p.ports.Remember(records)
	g.publisher = p
	return nil
}

// close ends what is published.
func (p *publisher) close() error {
	if p != nil {
		p.table.Close()
	}
	return nil
}

// announced takes the list of a client.
func (p *peer) announced(frame []byte) error {
	m, err := proto.ParsePublish(frame)
	if err != nil {
		return err
	}
	addr := p.lease.Addr
	if t := p.tunnel.Load(); t != nil {
		addr = t.port.Addr()
	}
	if !addr.IsValid() {
		return nil // no address was granted: as all that comes before, it is dropped
	}
	var name string
	if d, err := p.g.device(p.key); err == nil {
		name = d.Name
	}
	p.g.publisher.announce(addr, announcement{owner: p.owner().number(), tenant: p.tenant(), gone: p.ended, name: name, serial: m.Serial, services: m.Services})
	return nil
}

// announce replaces what a client has announced.
func (p *publisher) announce(client netip.Addr, a announcement) {
	if p == nil {
		return
	}
	c := p.g.c()
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.wanted[client]
	select {
	case <-a.gone: // another one may have its address by now
		return
	default:
	}
	switch {
	case c.Publish.IsZero() && before == nil: // who was not asked to announce anything
		p.refused[refusedOff] += uint64(len(a.services))
		return
	case before != nil && (a.owner < before.owner || a.owner == before.owner && a.serial < before.serial):
		p.refused[refusedStale]++
		return
	case before != nil && a.owner == before.owner && a.serial == before.serial:
		return
	}
	if !c.Publish.Allows(client, a.name) { // a reload may change that, and the client does not say it again
		p.refused[refusedWho] += uint64(len(a.services))
		p.g.strange.Info(refusedWho, "services of this client are not published", "addr", client, "name", a.name)
	}
	if n := len(a.services) - c.PublishLimit; n > 0 {
		p.refused[refusedLimit] += uint64(n)
		a.services = a.services[:c.PublishLimit]
	}
	if before != nil {
		a.seen = before.seen
	}
	p.wanted[client] = &a
	p.wake()
}

// tenant is who p's client is.
func (p *peer) tenant() tenant {
	if p.key != (identity.Public{}) {
		return tenant{key: p.key}
	}
	return tenant{token: p.lease.Token}
}

// takes gives p's client a lease, in the place of another that it may have had. What it has announced there, and what somebody else has here, is withdrawn.
func (p *peer) takes(l addrpool.Lease) {
	before := p.lease.Addr
	p.lease = l
	pub, owner := p.g.publisher, p.owner().number()
	if pub == nil {
		return
	}
	if before.IsValid() && before != l.Addr {
		pub.left(before, owner, false)
	}
	pub.mu.Lock()
	defer pub.mu.Unlock()
	a, now := pub.wanted[l.Addr], p.tenant()
	if a != nil && a.owner != owner && (a.tenant != now || now == tenant{}) {
		pub.wanted[l.Addr] = &announcement{owner: owner, tenant: now}
		pub.wake()
	}
}

// left notes that the session, or connection, of a client has ended. Who may come back keeps what it has for a while.
func (p *publisher) left(client netip.Addr, owner uint64, hold bool) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.wanted[client]
	if a == nil || a.owner != owner || !a.until.IsZero() {
		return
	}
	if a.until = time.Now(); hold {
		a.until = a.until.Add(p.g.c().IdleTimeout)
	}
	p.wake()
}

// wake lets run look at what is wanted.
func (p *publisher) wake() {
	if p == nil { // before it is open
		return
	}
	select {
	case p.due <- struct{}{}:
	default:
	}
}

// run publishes until ctx is done.
func (p *publisher) run(ctx context.Context) error {
	p.write()
	defer p.finish()
	for {
		next := p.settle(ctx, time.Now())
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-p.due:
		case <-timer.C:
		}
		timer.Stop()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(publishPace):
		}
	}
}

// settle makes true what is wanted, and returns when to look again.
func (p *publisher) settle(ctx context.Context, now time.Time) (next time.Duration) {
	bridges, names, next := p.bridges(now)
	changed := false
	for k, l := range p.open {
		b, ok := bridges[k]
		if ok && b.At == l.At {
			if b != l.Bridge || names[k.Client] != l.ClientName {
				l.Bridge, l.ClientName, changed = b, names[k.Client], true
				p.open[k] = l
			}
			continue
		}
		changed = true
		if _, err := p.table.Remove(l.from); err != nil {
			p.g.log.Warn("publish", "on", l.from, "err", err)
		}
		delete(p.open, k)
		p.ports.Freed(k)
		if !ok {
			p.lines.Info("service_withdrawn", "service withdrawn", "client", k.Client, "service", k.Protocol()+" "+k.Guest.String(), "on", l.Host)
		}
	}
	maps.DeleteFunc(p.lost, func(k publish.Key, _ bool) bool { _, ok := bridges[k]; return !ok })
	p.again = false
	for _, b := range sorted(bridges) {
		if _, ok := p.open[b.Key]; !ok && ctx.Err() == nil {
			changed = p.openOne(b, names[b.Client], now) || changed
		}
	}
	if changed {
		p.write()
		p.store()
	}
	if p.again {
		next = min(next, publishRetry)
	}
	return next
}

// bridges are what is to be open, and next is when that changes by itself.
func (p *publisher) bridges(now time.Time) (all map[publish.Key]publish.Bridge, names map[netip.Addr]string, next time.Duration) {
	c := p.g.c()
	all, names, next = map[publish.Key]publish.Bridge{}, map[netip.Addr]string{}, time.Hour
	p.mu.Lock()
	defer p.mu.Unlock()
	for client, a := range p.wanted {
		if !a.until.IsZero() {
			if !now.Before(a.until) {
				delete(p.wanted, client)
				continue
			}
			next = min(next, a.until.Sub(now))
		}
		if !c.Publish.Allows(client, a.name) {
			continue
		}
		names[client] = a.name
		found, seen, over := publish.Bridges(client, a.services, c.PublishMaps, c.PublishExpand, a.seen)
		if over > a.over {
			p.refused[refusedLimit] += uint64(over - a.over)
		}
		a.seen, a.over = seen, over
		for _, b := range found {
			all[b.Key] = b
		}
	}
	return all, names, next
}

// sorted are bridges in an order that does not depend on chance. Nobody gets the port of another's map: see publish.Ports.
func sorted(bridges map[publish.Key]publish.Bridge) []publish.Bridge {
	return slices.SortedFunc(maps.Values(bridges), func(a, b publish.Bridge) int {
		if c := a.Client.Compare(b.Client); c != 0 {
			return c
		}
		return a.Guest.Compare(b.Guest)
	})
}

// openOne finds a port for a service, and opens it.
func (p *publisher) openOne(b publish.Bridge, name string, now time.Time) bool {
	if len(p.open) >= maxPublished {
		p.refuse(b, refusedFull, errors.New("as many services are published as may be"))
		return false
	}
	host := p.g.c().PublishHost
	ports, fixed := p.ports.Candidates(b.Key)
	reason, last := refusedPort, error(nil)
	for port := range ports {
		spec := forward.Spec{From: forward.Entrance{Scheme: b.Protocol(), Host: host, Port: port}, To: forward.Target{Addr: b.Client, Port: b.At}}
		s, err := p.table.Add(spec, 0, false, false)
		if err == nil {
			l := listing{publish.Published{Bridge: b, Host: netip.AddrPortFrom(host, port), ClientName: name, Why: p.ports.Why(b.Key, port), Since: now}, s.Bound.String()}
			p.open[b.Key] = l
			p.ports.Took(b.Key, port)
			delete(p.lost, b.Key)
			p.lines.Info("service_published", "service published", "client", b.Client, "name", name, "program", b.Name, "service", b.Protocol()+" "+b.Guest.String(), "on", l.Host, "reason", l.Why)
			return true
		}
		if last = err; !isBusy(err) {
			reason = refusedBinding
			break
		}
	}
	if fixed && reason == refusedPort {
		reason = refusedMap
	}
	p.refuse(b, reason, last)
	return false
}

// isBusy tells whether another port may be had where one could not.
func isBusy(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) || errors.Is(err, forward.ErrTaken)
}

// refuse counts a service that is not published, and says so: once, however often it is tried again.
func (p *publisher) refuse(b publish.Bridge, reason string, err error) {
	p.again = true
	if p.lost[b.Key] {
		return
	}
	p.lost[b.Key] = true
	p.mu.Lock()
	p.refused[reason]++
	p.mu.Unlock()
	p.complain(reason, "service not published", "client", b.Client, "service", b.Protocol()+" "+b.Guest.String(), "reason", reason, "err", err)
}

// departed ends what a client has announced or exposed, unless it may come back. owner is the number of its session, which has ended for a cause.
func (g *Gateway) departed(client netip.Addr, owner uint64, cause string) {
	g.publisher.left(client, owner, comesBack(cause))
	if client.IsValid() && !comesBack(cause) {
		g.gvproxy.Left(client)
	}
}

// comesBack tells whether a client may come back whose session, or connection, has ended for a cause.
func comesBack(cause string) bool { return cause != "left" && cause != "revoked" }
