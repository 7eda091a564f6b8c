package gateway

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"ferry/internal/api"
	"ferry/internal/gateway/settings"
	"ferry/internal/identity"
	"ferry/internal/policy"
	"ferry/internal/proto"
)

// A reload applies the configuration anew without dropping anybody who may stay:
//
//	Reread -> checked -> merged with what runs -> host -> leases -> router, limits, log
//	                                               \____ fails: as before ____/
//
// Who came before keeps the deadlines, the MTU and the routes that it was told. Who has an address that is
// another's now, or a network that is not its own any more, is ended and told so.

var errNoFile = errors.New("this gateway was started without a configuration that can be read again")

// reloads applies the configuration whenever the operator signals it.
func (g *Gateway) reloads(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.c().Reload:
			_, _ = g.reload() // which logs
		}
	}
}

// reload applies what the configuration says now. After an error nothing has changed.
func (g *Gateway) reload() (done api.Reloaded, err error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	defer func() {
		if err != nil {
			g.log.Error("configuration not applied, all is as before", "err", err)
			return
		}
		g.log.Info("configuration applied", "changed", done.Applied, "wait_for_restart", done.Waiting, "ended", done.Ended)
	}()
	old := g.c()
	if old.Reread == nil {
		return done, errNoFile
	}
	wanted, err := old.Reread()
	if err != nil {
		return done, err
	}
	if err := Check(wanted); err != nil {
		return done, err
	}
	wanted.SetDefaults()
	next, applied, waiting := settings.Merge(*old, wanted)
	sites := sitesWith(&next, g.routed)
	if err := g.exit.Apply(g.hostState(&next, sites)); err != nil {
		return done, errors.Join(err, g.exit.Apply(g.hostState(old, sitesWith(old, g.routed))))
	}
	displaced, err := g.leases.reconfigure(&next)
	if err != nil {
		return done, errors.Join(err, g.exit.Apply(g.hostState(old, sitesWith(old, g.routed))))
	}
	g.inForce.Store(&next)
	g.mu.Lock()
	g.waiting = waiting
	g.mu.Unlock()
	// They go before anybody can be sent what is for their successors.
	done = api.Reloaded{Applied: append([]string{}, applied...), Waiting: append([]string{}, waiting...), Ended: g.displace(displaced) + g.endSites(old, &next)}
	if err := g.table.SetSites(sites); err != nil {
		return done, err // only for a site outside of the pool, which Check has seen
	}
	g.table.SetPeers(next.Isolate, next.Mix)
	g.setEgress()
	if err := g.reconfigureForwards(old, &next); err != nil {
		return done, err
	}
	g.publisher.wake()
	g.gate.SetLimits(next.Limits)
	g.setBudgets()
	if wanted.Nameserver { // else what it says about names is for the next start, without one
		g.setNames(&next)
	}
	if next.NextKey != old.NextKey {
		g.announce(next.NextKey)
	}
	if next.SetLevel != nil {
		next.SetLevel(next.LogLevel)
	}
	return done, nil
}

// announce tells the devices that are connected of the gateway's next key, or that there is none any more. Whose
// queue is full hears of it when it comes again.
func (g *Gateway) announce(next identity.Pin) {
	g.mu.Lock()
	var all []*peer
	for _, p := range g.peers {
		if p.key != (identity.Public{}) && p.pushed.Load() {
			all = append(all, p)
		}
	}
	g.mu.Unlock()
	frame := proto.AppendConfig(nil, proto.PushedConfig{NextKey: next})
	for _, p := range all {
		if dropped, _ := p.queue.Send(frame); dropped == 0 {
			g.tell(p.key, next)
		}
	}
}

// displace ends the connections whose addresses are another's now.
func (g *Gateway) displace(owners []uint64) (n int) {
	for _, id := range owners {
		if p := g.peer(id); p != nil {
			g.dismiss(p, proto.GoodbyeMessage{Reason: proto.ReasonRefused, Text: "the address is for another client now"})
			n++
		}
	}
	return n
}

// endSites ends the connections of clients without a key that have routed networks which are not behind them
// any more.
func (g *Gateway) endSites(old, now *Config) (n int) {
	lost := map[netip.Addr]netip.Prefix{}
	for site, via := range old.Sites {
		if now.Sites[site] != via {
			lost[via] = site
		}
	}
	ends := map[*peer]netip.Prefix{}
	g.mu.Lock()
	for _, p := range g.peers {
		if site, ok := lost[p.port.Addr()]; ok && p.key == (identity.Public{}) && !p.isEnding() {
			ends[p] = site
		}
	}
	g.mu.Unlock()
	for p, site := range ends {
		g.dismiss(p, proto.GoodbyeMessage{Reason: proto.ReasonShutdown, Text: site.String() + " is not behind this client any more"})
	}
	return len(ends)
}

// dismiss ends a connection, which carries nothing from now on.
func (g *Gateway) dismiss(p *peer, bye proto.GoodbyeMessage) {
	p.end("reconfigured", bye)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.table.Unbind(p.port)
}

// setEgress brings about where clients may go. The caller holds changing.
func (g *Gateway) setEgress() {
	g.mu.Lock()
	host, known := g.host, g.knows
	g.mu.Unlock()
	if !known { // protect will be called
		return
	}
	c := g.c()
	deny := slices.Clone(c.Deny)
	for _, a := range host {
		if !c.Pool.Contains(a) {
			deny = append(deny, policy.Target{Prefix: netip.PrefixFrom(a, 32)})
		}
	}
	g.table.SetEgress(c.Allow, deny)
}

// setBudgets bounds what waits for all clients, and for those without a key: half of it where others have one.
func (g *Gateway) setBudgets() {
	c := g.c()
	g.budget.SetLimit(c.QueueTotal)
	plain := c.QueueTotal
	if !c.Key.IsZero() {
		plain /= 2
	}
	g.plain.SetLimit(plain)
}
