// Package client assembles vpncli:
//
//	         Run: connects, again and again
//	                  |
//	gateway <--> connection <--> router.Uplink <--> exit (the TUN)
//
// The interface, its address and its routes belong to the client, not to a connection: they stay as
// they are while it connects again, and are taken back when Run returns.
//
// Forwards of package forward lead into the tunnel and out of it; see forwards.go.
//
// Goroutines, each waited for by the one that started it: Run has one that reads the TUN, one
// that answers 'vpncli status', one that looks for services to publish, if it is told to, and one that connects and reads the connection; a connection has one that writes what could not be sent at
// once, and one that keeps it alive.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"ferry/internal/carrier"
	"ferry/internal/durable"
	"ferry/internal/failover"
	"ferry/internal/hostdns"
	"ferry/internal/hostnet"
	"ferry/internal/policy"
	"ferry/internal/proto"
	"ferry/internal/router"
	"ferry/internal/session"
)

const (
	dialTimeout = 10 * time.Second
	joinTimeout = 10 * time.Second // until the lease is complete
)

// An Exit is this device's network: the TUN of package exit, or that of this process alone, of package netstack.
type Exit interface {
	Name() string
	Port() *router.Port
	Around(server netip.Addr, mark uint32) (addrs []netip.Prefix, way netip.Prefix, err error)
	Apply(hostnet.State) error
	Run(ctx context.Context, f *router.Forwarder) error
	// Close takes back what was done to the host. It is called after Run has returned.
	Close() error
}

// A Host does for a client what takes rights, until it gives those up that it has itself.
type Host interface {
	OpenExit() (Exit, error)
	// Opener makes the sockets that lead to a gateway; nil: this process makes them.
	Opener() carrier.Opener
	// Confine gives up all rights that are not needed any more. It is called once, before anything is read
	// from the network. No directory stays open.
	Confine(none *durable.Dir, files ...string) error
	files // of the Enrolment
	netHost
	// Publisher is used where services are published.
	Publisher
}

// A doer is what a client needs of its Host when that has given up its rights.
type doer interface {
	files
	netHost
}

// A client is what lives as long as Run.
type client struct {
	c       Config
	log     *slog.Logger
	servers []carrier.Endpoint
	reach   reacher
	pins    pins
	opener  carrier.Opener // nil: this process makes its sockets
	host    files          // nil: none
	exit    Exit
	uplink  *router.Uplink
	total   router.Counters
	tunnel  *tunnel                 // the session that outlives connections; nil: none
	last    session.Lease           // of the last connection that had one
	refused []policy.Refusal        // what was not taken of it
	state   hostnet.State           // of the host, as last applied
	applied bool                    // state is
	found   map[string][]netip.Addr // where hosts of servers are, as far as is known: the last one first; at most maxKnown
	story   *story
	// forwards are those of this device; nil: it has none.
	forwards  *forwards
	announcer *announcer                  // nil: nothing is published
	ways      func() []failover.WayStatus // nil: unknown
	due       chan struct{}               // capacity 1; sent to when traffic begins to wait for the gateway
}

// wake lets the roamer look at what waits.
func (c *client) wake() {
	select {
	case c.due <- struct{}{}:
	default:
	}
}

// Run keeps this device connected until ctx is done, and then takes back all that it did to the
// host. It returns nil after such a clean stop, and an error when connecting again has no point.
func Run(ctx context.Context, c Config, host Host) (err error) {
	c.setDefaults()
	c.Policy.Split = hostdns.CanSplit()
	servers, err := endpoints(c.Servers, c.Port)
	if err == nil {
		servers, err = usable(&c, servers)
	}
	if err != nil {
		return err
	}
	exit, err := host.OpenExit()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, exit.Close()) }()
	services, err := newAnnouncer(&c, host, exit.Name())
	if err != nil {
		return err
	}
	asked := listenStatus(ctx, exit.Name(), c.Log)
	if err := host.Confine(nil); err != nil {
		if asked != nil {
			_ = asked.Close()
		}
		return err
	}
	return run(ctx, c, servers, reaching(host.Opener()), exit, asked, host.Opener(), host, network(exit.Name()), services)
}

// A surrounding is the network that the host is on; nil: nobody knows.
type surrounding interface {
	Now() (hostnet.Network, error)
	// Watch calls f with it, and again whenever it changes, until ctx is done.
	Watch(ctx context.Context, f func(hostnet.Network)) error
}

// A network is what is around the interface of this name.
type network string

func (n network) Now() (hostnet.Network, error) { return hostnet.NetworkNow(string(n)) }

func (n network) Watch(ctx context.Context, f func(hostnet.Network)) error {
	return hostnet.WatchNetwork(ctx, string(n), f)
}

func run(ctx context.Context, c Config, servers []carrier.Endpoint, reach reacher, e Exit, asked net.Listener, opener carrier.Opener, host doer, around surrounding, services *announcer) (err error) {
	cl := &client{c: c, log: c.Log, servers: servers, reach: reach, exit: e, due: make(chan struct{}, 1), uplink: router.NewUplink(e.Port()), story: newStory(&c, e.Name()), opener: opener, host: host, announcer: services,
		found: make(map[string][]netip.Addr)}
	cl.pins = pins{c.Gateway, c.Next}
	if c.Key.IsZero() {
		cl.log.Warn("plain mode: no authentication and no encryption; 'vpncli join' with an invitation of the gateway has both")
	}
	roamer := newRoamer(cl)
	if around != nil {
		now, err := around.Now()
		if err != nil {
			return err
		}
		roamer.begin(now)
	}
	group, ctx := errgroup.WithContext(ctx)
	if err := cl.openForwards(ctx, host); err != nil {
		return err
	}
	defer cl.forwards.close()
	group.Go(func() error {
		return e.Run(ctx, router.NewForwarder(cl.uplink, e.Port(), &cl.total, netip.Addr{}))
	})
	group.Go(func() error { return roamer.run(ctx) })
	if around != nil {
		group.Go(func() error { return around.Watch(ctx, roamer.moved) })
	}
	if services != nil {
		group.Go(func() error { return services.run(ctx, roamer) })
	}
	group.Go(func() error { cl.reports(ctx); return nil })
	group.Go(func() error { cl.answer(ctx, asked); return nil })
	err = group.Wait()
	cl.forget()
	cl.report("stopped")
	cl.event(Event{Kind: EventStopped})
	return err
}

// hopeless errors come back however often one tries.
func hopeless(err error) bool {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.IsNotFound
	}
	var bye *byeError
	if errors.As(err, &bye) {
		return bye.Reason == proto.ReasonInUse || bye.Reason == proto.ReasonRefused
	}
	return errors.Is(err, errRefused) || errors.Is(err, errInterface) || errors.Is(err, errPolicy)
}

func retryAfter(err error) time.Duration {
	var bye *byeError
	if errors.As(err, &bye) {
		return bye.RetryAfter
	}
	return 0
}

func (c *client) apply(s hostnet.State) error {
	if err := c.exit.Apply(s); err != nil {
		return fmt.Errorf("%w: %w", errInterface, err)
	}
	c.state, c.applied = s, true
	return nil
}

// configure puts a lease on the interface, as far as the owner of this device agrees. The MTU of the
// lease becomes what was taken.
func (c *client) configure(l *session.Lease, server net.Addr) error {
	offer := policy.Offer{Prefix: l.Prefix, MTU: l.MTU, Routes: l.Routes, DNS: l.DNS, Domains: l.Domains}
	s := hostnet.State{Addr: l.Prefix, LocalNets: !c.c.CloseLAN, Guard: true, Outer: hostnet.Outer{Mark: c.c.Mark, Table: c.c.Table, Pings: Echo}}
	if offer.Server = hostOf(server); offer.Server.IsValid() {
		s.Outer.Peers = []netip.Addr{offer.Server}
	}
	addrs, way, err := c.exit.Around(offer.Server, c.c.Mark)
	if err != nil {
		return fmt.Errorf("%w: %w", errInterface, err)
	}
	v, err := c.c.Policy.Judge(offer, policy.Place{Addrs: addrs, Way: way})
	if err != nil {
		return fmt.Errorf("%w: %w", errPolicy, err)
	}
	c.tellRefused(v.Refused)
	l.MTU = v.MTU
	s.MTU, s.Routes, s.DNS, s.Domains = v.MTU, v.Routes, v.DNS, v.Domains
	if err := c.apply(s); err != nil {
		return err
	}
	c.story.setRoutes(s.Routes, v.Refused)
	return nil
}

// maxRefusals is how many lines of the log one lease can fill.
const maxRefusals = 20

// tellRefused logs what was not taken of the gateway: once, not again with each connection.
func (c *client) tellRefused(all []policy.Refusal) {
	told := 0
	for _, r := range all {
		switch {
		case slices.Contains(c.refused, r):
			continue
		case told == maxRefusals:
			c.log.Warn("more that the gateway pushes is refused", "refused", len(all))
			c.refused = all
			return
		}
		told++
		c.log.Warn("refused what the gateway pushes", "what", r.What, "value", proto.Printable(r.Value), "reason", r.Reason)
	}
	c.refused = all
}

func (c *client) event(e Event) {
	e.Time = time.Now()
	c.story.note(e)
	if c.c.Events != nil {
		c.c.Events(e)
	}
}

// reports logs all counters whenever the user asks for them.
func (c *client) reports(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.c.Report:
			c.report("report")
		}
	}
}

func (c *client) report(msg string) {
	s := c.total.Stats()
	c.log.Info(msg, "packets", s.Packets, "bytes", s.Bytes, "drops", s.Drops)
}
