// Package gateway assembles vpnsrv:
//
//	listeners --> peers --> router <--> exit (the TUN)
//	                |
//	              leases --> disk
//
// Goroutines, each waited for by the one that started it:
//
//	Run ---- one per listener: accepts
//	    |--- one that judges all peers by their deadlines
//	    |--- one that reads the TUN
//	    +--- two per peer: one reads, one writes what could not be sent at once
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"ferry/internal/admission"
	"ferry/internal/api"
	"ferry/internal/api/gvproxy"
	"ferry/internal/buffer"
	"ferry/internal/capture"
	"ferry/internal/carrier"
	"ferry/internal/durable"
	"ferry/internal/forward"
	"ferry/internal/gateway/settings"
	"ferry/internal/hostnet"
	"ferry/internal/identity"
	"ferry/internal/keepalive"
	"ferry/internal/leasestore"
	"ferry/internal/metrics"
	"ferry/internal/peerstore"
	"ferry/internal/policy"
	"ferry/internal/proto"
	"ferry/internal/router"
)

// Config is everything a gateway can be told.
type Config = settings.Config

// A Gateway serves clients. It is made by Run.
type Gateway struct {
	inForce atomic.Pointer[Config]
	log     *slog.Logger
	strange *strangerLog
	gateway netip.Addr // its own address in the pool
	exit    Exit
	table   *router.Switch
	leases  *leases
	devices *peerstore.Store // nil without a key
	tls     *tls.Config      // nil without a key
	web     *tls.Config      // of HTTPS around a WebSocket, which proves nothing
	gate    *admission.Gate
	budget  buffer.Budget // of all queues
	plain   buffer.Budget // of the queues of clients without a key, a part of it
	offer   proto.Features

	total    router.Counters
	taps     router.Taps
	captures *capture.Set
	closed   closings

	metrics   http.Handler
	started   time.Time
	listeners []*listener // set by run
	names     *names      // nil: there is no name server

	// changing is held while what the configuration and the devices want is brought about; it guards
	// routed: the devices whose networks are routed.
	changing sync.Mutex
	routed   []peerstore.Peer
	forwards *forward.Table  // nil until run; changed under changing
	exposed  *forward.Table  // by gvproxy's API; likewise
	network  forward.Network // set with them

	gvproxy    *gvproxy.API
	clientDoor *gvproxy.Listener // nil: clients do not ask it
	notifier   *gvproxy.Notifier // nil: nobody is told
	notifying  sync.Mutex        // what is told is so until it stands in the notifier's queue, which nobody waits for

	publisher *publisher

	mu        sync.Mutex    // guards what follows
	host      []netip.Addr  // of this machine, IPv4
	knows     bool          // host is known
	hostKnown chan struct{} // closed when it is for the first time
	waiting   []string      // settings that were changed and wait for a restart
	peers     map[uint64]*peer
	owners    map[netip.Addr]owner // of the addresses of devices with a key
	tunnels   map[proto.SessionID]*tunnel
	told      map[identity.Public]identity.Pin // the next key of the gateway, since it was started

	goneSent, goneReceived uint64 // bytes, of connections that have ended
	ids                    atomic.Uint64
}

// c returns the configuration that is in force. It is replaced as a whole: who needs two settings that fit
// together takes them of one.
func (g *Gateway) c() *Config { return g.inForce.Load() }

// An Exit is the network behind the gateway: the TUN of package exit, or the sockets of package netstack.
type Exit interface {
	Port() *router.Port
	Apply(hostnet.State) error
	// Run hands what comes from the network to f until ctx is done.
	Run(ctx context.Context, f *router.Forwarder) error
	// Close takes back what was done to the host. It is called after Run has returned.
	Close() error
}

// A Host does for a gateway what takes rights, until it gives those up that it has itself.
type Host interface {
	OpenExit() (Exit, error)
	// Confine gives up all rights that are not needed any more. It is called once, before anything is read
	// from the network. state is the directory that stays open to the gateway, with the files of these prefixes.
	Confine(state *durable.Dir, files ...string) error
	// Network is for published ports. It is asked once, when the exit is open.
	Network() forward.Network
	// Replace writes a file of PublishDir.
	Replace(path string, b []byte) error
}

// Run serves clients until ctx is done, and then takes back all that it did to the host. It returns
// nil after such a clean stop.
func Run(ctx context.Context, c Config, host Host) (err error) {
	c.SetDefaults()
	if c.HeapLimit > 0 {
		debug.SetMemoryLimit(c.HeapLimit)
	}
	var undo []func() error
	defer func() {
		for _, f := range slices.Backward(undo) {
			err = errors.Join(err, f())
		}
	}()
	leases, err := openLeases(&c)
	if err != nil {
		return err
	}
	undo = append(undo, leases.Close)
	keeper := newDoorkeeper(c.Key)
	listeners, err := listenAll(ctx, &c, keeper)
	if err != nil {
		return err
	}
	undo = append(undo, func() error { closeAll(listeners); return nil })
	doors, machines, err := listenGvproxy(ctx, &c, keeper)
	if err != nil {
		return err
	}
	undo = append(undo, func() error { closeDoors(doors); return nil })
	for _, l := range machines {
		l.number = byte(len(listeners))
		listeners = append(listeners, l)
	}
	exit, err := host.OpenExit()
	if err != nil {
		return err
	}
	undo = append(undo, exit.Close)
	g, err := newGateway(c, exit, leases)
	if err != nil {
		return err
	}
	undo = append(undo, func() error { g.captures.Close(); return nil })
	keeper.of.Store(g)
	if err := g.openNames(ctx); err != nil {
		return err
	}
	undo = append(undo, func() error { g.names.close(); return nil })
	if err := g.openInside(ctx); err != nil {
		return err
	}
	undo = append(undo, g.closeInside)
	control, err := api.Listen(ctx, leases.dir)
	if err != nil {
		return err
	}
	undo = append(undo, func() error { _ = control.Close(); return nil }) // who serves it has closed it before
	var open net.Listener
	if c.Metrics != "" {
		if open, err = api.ListenOpen(ctx, c.Metrics); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	if err := host.Confine(leases.dir, leasestore.Prefix, peerstore.Prefix, forwardsFile, publishedFile, api.SocketName); err != nil {
		return err
	}
	// Until protect knows the host, nobody goes beyond it.
	g.table.SetEgress(nil, []policy.Target{{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}})
	undo = append(undo, g.closeForwards, func() error { return g.publisher.close() })
	network := host.Network()
	if err := errors.Join(g.openForwards(ctx, network), g.openPublisher(ctx, host, network)); err != nil {
		return err
	}
	serving := []func(context.Context) error{g.serveNames, g.serveInside, g.notifier.Run, g.publisher.run}
	for _, d := range doors {
		serving = append(serving, func(ctx context.Context) error { return g.serveGvproxy(ctx, d) })
	}
	return g.run(ctx, listeners, append(serving,
		func(ctx context.Context) error { return hostnet.WatchAddrs(ctx, g.protect) },
		func(ctx context.Context) error { return api.Serve(ctx, control, g.handler(), c.Log) },
		func(ctx context.Context) error { return g.serveMetrics(ctx, open) })...)
}

func newGateway(c Config, exit Exit, leases *leases) (*Gateway, error) {
	g := &Gateway{
		log: c.Log, strange: newStrangerLog(c.Log), gateway: c.Address().Addr(),
		exit: exit, leases: leases,
		gate:    admission.New(c.Limits),
		offer:   proto.FeatureSuper | proto.FeatureConfig | proto.FeaturePing | proto.FeatureGoodbye | proto.FeatureHello,
		started: time.Now(),
		peers:   map[uint64]*peer{}, owners: map[netip.Addr]owner{}, tunnels: map[proto.SessionID]*tunnel{}, told: map[identity.Public]identity.Pin{}, hostKnown: make(chan struct{}),
	}
	g.inForce.Store(&c)
	g.captures = capture.NewSet(&g.taps)
	g.plain.Above = &g.budget
	g.setBudgets()
	g.gvproxy = g.newGvproxy()
	leases.vacated = g.gvproxy.Left
	g.metrics = metrics.Handler(g.status)
	if exit.Port().Caps().USO {
		g.offer |= proto.FeatureUSO
	}
	var err error
	if g.notifier, err = gvproxy.NewNotifier(c.Notification, c.Log); err != nil {
		return nil, err
	}
	g.table, err = router.NewSwitch(router.SwitchConfig{
		Pool: c.Pool, Gateway: g.gateway, Exit: exit.Port(), Isolate: c.Isolate, Mix: c.Mix, Alias: insideAliases(&c),
	})
	if err != nil {
		return nil, err
	}
	if e, ok := exit.(interface {
		KnowOwners(func(netip.Addr) netip.Addr)
	}); ok { // the user-mode exit, which bounds what one client has
		e.KnowOwners(g.table.Owner)
	}
	if !c.Key.IsZero() {
		g.tls, g.web = c.Key.Server(g.known), c.Key.Outer()
		g.devices, err = peerstore.Open(leases.dir, peerstore.Config{Pool: c.Pool, Plain: c.PlainPool})
		if err != nil {
			return nil, err
		}
	}
	if err := g.route(&c, c.Sites); err != nil {
		return nil, err
	}
	g.devicesChanged()
	return g, nil
}

// run serves clients until ctx is done. The others run beside it: one calls protect whenever the host's
// addresses change, one answers the operator.
func (g *Gateway) run(ctx context.Context, listeners []*listener, others ...func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { closeAll(listeners) })
	defer stop()
	g.listeners = listeners
	for _, l := range listeners {
		g.log.Info("listening", "on", listenerURL(l), "allow", l.allow)
		group.Go(func() error { return g.accept(ctx, l) })
	}
	group.Go(func() error {
		return g.exit.Run(ctx, router.NewForwarder(g.table, g.exit.Port(), &g.total, g.gateway).Tapped(&g.taps))
	})
	group.Go(func() error { g.judge(ctx); return nil })
	group.Go(func() error { g.reports(ctx); return nil })
	group.Go(func() error { g.reloads(ctx); return nil })
	for _, f := range others {
		group.Go(func() error { return f(ctx) })
	}
	g.log.Info("serving", "pool", g.c().Pool, "gateway", g.gateway, "exit", g.c().Exit, "interface", g.c().TUN, "mtu", g.c().MTU, "state", g.c().StateDir, "nat", g.c().NAT)
	g.warnPlain(listeners)
	if g.c().Ready != nil {
		g.c().Ready()
	}
	g.notifier.Send(gvproxy.Notification{Type: gvproxy.Ready})
	err := group.Wait()
	g.report("stopped")
	return err
}

// accept serves a listener until ctx is done, and waits for the peers that came by it.
func (g *Gateway) accept(ctx context.Context, l *listener) error {
	var peers sync.WaitGroup
	defer peers.Wait()
	failed := func(err error, pause time.Duration) {
		g.closed.count("accept")
		g.log.Warn("accept", "listener", listenerURL(l), "err", err, "pause", pause)
	}
	return carrier.AcceptAll(ctx, l.Accept, failed, func(a arrival) {
		visit, why := g.gate.Enter(l.source(a), time.Now(), func() { _ = a.Close() })
		if why != admission.Admitted {
			g.closed.count(string(why))
			g.strange.Info(string(why), "connection refused", "from", a.RemoteAddr().String())
			refuse(a)
			return
		}
		peers.Go(func() { g.serve(ctx, l, a, visit) })
	})
}

// refuse closes an arrival for which there is no room, and keeps no trace of it.
func refuse(a arrival) {
	if conn, ok := a.(net.Conn); ok {
		carrier.Reset(conn)
		return
	}
	_ = a.Close()
}

// warnPlain says where anybody may come in.
func (g *Gateway) warnPlain(listeners []*listener) {
	switch open := slices.ContainsFunc(listeners, func(l *listener) bool { return l.allow&carrier.Plain != 0 }); {
	case open && g.c().Key.IsZero():
		g.log.Warn("plain mode: no authentication and no encryption; whoever reaches a listener joins; 'vpnsrv init' makes a key and closes it")
	case open:
		g.log.Warn("some listeners allow clients without a key: no authentication and no encryption for those", "pool", g.c().PlainPool)
	}
}

// admit makes a peer of a connection. key is zero for a client without one.
func (g *Gateway) admit(s carrier.Link, key identity.Public, visit *admission.Visit, arrived time.Time) *peer {
	p := newPeer(g, g.ids.Add(1), s, key, visit, arrived)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peers[p.id] = p
	return p
}

func (g *Gateway) forget(p *peer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.peers, p.id)
	g.goneSent, g.goneReceived = g.goneSent+p.stream.Sent(), g.goneReceived+p.stream.Received()
}

func (g *Gateway) peer(id uint64) *peer {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.peers[id]
}

// judge ends the connections that are over a deadline.
func (g *Gateway) judge(ctx context.Context) {
	tick := g.tick()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var all []*peer
	var tunnels []*tunnel
	var crowd crowd
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		g.mu.Lock()
		all = all[:0]
		for _, p := range g.peers {
			all = append(all, p)
		}
		tunnels = tunnels[:0]
		for _, t := range g.tunnels {
			tunnels = append(tunnels, t)
		}
		g.mu.Unlock()
		now := time.Now()
		for _, p := range all {
			if v := p.limits().Judge(now, p.seen()); v != keepalive.Alive {
				p.endPath(v.String(), proto.GoodbyeMessage{Reason: proto.ReasonSilent})
			}
			p.refit()
		}
		for _, t := range tunnels {
			t.judge(now)
		}
		clear(all)
		clear(tunnels)
		g.leases.expire(now)
		if crowd.settled(g.ids.Load()) {
			debug.FreeOSMemory()
		}
		if t := g.tick(); t != tick { // the configuration has changed
			tick = t
			ticker.Reset(tick)
		}
	}
}

// longestTick is how late a configuration with shorter deadlines may be heard of.
const longestTick = settings.DefaultDeadline / 8

func (g *Gateway) tick() time.Duration { return min(deadlines(g.c()).Tick(), longestTick) }

// deadlines are those of the clients that come under a configuration.
func deadlines(c *Config) keepalive.Limits {
	return keepalive.Limits{Join: c.JoinTimeout, Frame: c.FrameTimeout, Write: c.WriteTimeout, Idle: c.IdleTimeout}
}

// crowdSize is how many connections leave so much garbage that it is worth a collection at once.
const crowdSize = 500

// A crowd tells when many have joined and no more do. Their handshakes have left garbage and large stacks,
// which a gateway that makes hardly any garbage afterwards would keep for minutes.
type crowd struct{ served, before uint64 }

// settled is called every now and then with the number of connections that there ever were.
func (c *crowd) settled(n uint64) bool {
	quiet := n == c.before
	c.before = n
	if !quiet || n-c.served < crowdSize {
		return false
	}
	c.served = n
	return true
}

// protect keeps clients away from the other addresses of this machine, unless they are allowed.
func (g *Gateway) protect(host []netip.Addr) {
	g.changing.Lock()
	defer g.changing.Unlock()
	g.mu.Lock()
	if g.host = slices.Clone(host); !g.knows {
		g.knows = true
		close(g.hostKnown)
	}
	g.mu.Unlock()
	g.setEgress()
}

func closeAll(listeners []*listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

func listenerURL(l *listener) string {
	return fmt.Sprintf("%s://%s", l.Addr().Network(), l.Addr())
}
