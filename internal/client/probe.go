package client

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"ferry/internal/carrier"
	"ferry/internal/identity"
)

// A Probe finds out by which ways a gateway can be reached from here. It makes connections and asks for nothing by them, so
// there is no lease, no session and no interface:
//
//	            with keys: pings                                              without: keepalives
//	dial, handshake ─▶ the first comes back: it works ─▶ round trips ─▶ sizes ─▶ a full line ─▶ sizes ─▶ close
//	      5 s                                            └──── up to probeAtOnce together ┘     alone       └─ those for which
//	                                                                                                           there was no room yet
//
// The rules are:
//
//   - Who measures round trips shares the line with others who do; who fills it has it alone.
//   - What is under way comes back before a connection is closed, which is an end in order for the gateway then.
//   - Once a gateway has refused the key of this device nothing more is begun: it counts refusals, and after five of them it
//     would hear nothing from this address for a while.
type Probe struct {
	c       Config
	ways    []probeWay
	reach   reacher
	line    *semaphore.Weighted // of probeAtOnce: all of it for who fills the line
	refused atomic.Bool         // the key of this device was
}

// A probeWay is one to be tried; err says why it can not be.
type probeWay struct {
	endpoint carrier.Endpoint
	err      error
}

const (
	probeAtOnce = 4
	probeDial   = 5 * time.Second // until the handshake is over
	// probeTime is how long a way may take in all; with probeLinger behind it these are 10 s.
	probeTime   = 9500 * time.Millisecond
	probeLinger = 500 * time.Millisecond // until all has come back that is under way
)

// probedCarriers are those of which the usual port is tried too, where a gateway is known without one.
var probedCarriers = []string{"tcp", "udp", "quic", "wss", "connect-ip", "ssh", "icmp"}

// A ProbeResult is what came of one way.
type ProbeResult struct {
	Carrier string `json:"carrier"`
	Way     string `json:"way"`
	Works   bool   `json:"works"`
	// RTT is the shortest round trip in seconds; Loss the share of pings that did not come back, of datagrams only.
	RTT  float64 `json:"rtt,omitempty"`
	Loss float64 `json:"loss,omitempty"`
	// Largest is the length of the longest frame that came back, in bytes; Estimate roughly how many bits a second the way
	// carries in each direction while it carries as many in the other. Both are 0 without keys.
	Largest  int     `json:"largest,omitempty"`
	Estimate float64 `json:"estimate,omitempty"`
	Reason   string  `json:"reason,omitempty"` // why it does not work, or not well
	Error    string  `json:"error,omitempty"`  // as it was reported
}

// NewProbe returns a probe of the ways that c names, with the sockets of an opener, which may be nil.
func NewProbe(c Config, o carrier.Opener) (*Probe, error) {
	c.setDefaults()
	ways, err := probeWays(&c)
	if err != nil {
		return nil, err
	}
	return &Probe{c: c, ways: ways, reach: reaching(o), line: semaphore.NewWeighted(probeAtOnce)}, nil
}

// Ways are the URLs that will be tried.
func (p *Probe) Ways() (urls []string) {
	for _, w := range p.ways {
		urls = append(urls, w.endpoint.String())
	}
	return urls
}

// probeWays are those that are named, and beside each that is known without a carrier, the usual ones on that host.
func probeWays(c *Config) (all []probeWay, err error) {
	named, err := endpoints(c.Servers, c.Port)
	if err != nil {
		return nil, err
	}
	for i, e := range named {
		if _, err := usable(c, []carrier.Endpoint{e}); err == nil || len(c.Carriers) == 0 || slices.Contains(c.Carriers, e.Scheme) {
			all = addProbeWay(all, probeWay{e, err})
		}
		if e.Host == "" || !e.OverIP() || e.Scheme == "dns" || !c.Found && strings.Contains(c.Servers[i], "://") {
			continue
		}
		usual := probedCarriers
		if len(c.Carriers) > 0 {
			usual = c.Carriers
		}
		some, _ := usable(c, usualOn(e.Host, usual, c.Port))
		for _, e := range some {
			all = addProbeWay(all, probeWay{endpoint: e})
		}
	}
	if len(all) == 0 {
		_, err = usable(c, named)
	}
	return all, err
}

func addProbeWay(all []probeWay, w probeWay) []probeWay {
	if len(all) == maxWays || slices.ContainsFunc(all, func(o probeWay) bool { return o.endpoint == w.endpoint }) {
		return all
	}
	return append(all, w)
}

// usualOn returns the endpoints of carriers on a host, each with its usual port.
func usualOn(host string, schemes []string, port int) (all []carrier.Endpoint) {
	for _, scheme := range schemes {
		e, err := carrier.ParseDial(scheme+"://x", port)
		if err != nil || !e.OverIP() { // x is no context ID, and no path
			continue
		}
		e.Host = host
		all = append(all, e)
	}
	return all
}

// Run tries all ways until ctx is done, and returns what came of each, in their order. tell is called for each one as soon as it
// is known, one after the other; it may be nil.
func (p *Probe) Run(ctx context.Context, tell func(ProbeResult)) []ProbeResult {
	all := make([]ProbeResult, len(p.ways))
	todo, done := make(chan int), make(chan int) // closed when there is nothing more
	var work sync.WaitGroup
	for range min(probeAtOnce, len(all)) {
		work.Go(func() {
			for i := range todo {
				all[i] = p.try(ctx, p.ways[i])
				done <- i
			}
		})
	}
	work.Go(func() {
		defer close(todo)
		for i := range all {
			todo <- i
		}
	})
	go func() {
		work.Wait()
		close(done)
	}()
	for i := range done {
		if tell != nil {
			tell(all[i])
		}
	}
	return all
}

// try tries one way.
func (p *Probe) try(ctx context.Context, w probeWay) ProbeResult {
	r := ProbeResult{Carrier: w.endpoint.Scheme, Way: w.endpoint.String()}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	err := w.err
	switch {
	case err != nil:
	case ctx.Err() != nil:
		err = ctx.Err()
	case p.refused.Load():
		err = errNotTried
	default:
		err = p.measure(ctx, w.endpoint, &r)
	}
	if errors.Is(err, tls.AlertError(alertBadCertificate)) {
		err = errKey
	}
	if errors.Is(err, errKey) {
		p.refused.Store(true)
	}
	if err != nil {
		r.Reason, r.Error = whyNot(w.endpoint, p.c.Key.IsZero(), err), oneLine(err)
	}
	if r.Works && isTimeout(err) {
		r.Reason = "not finished within 10 s"
	}
	return r
}

func (p *Probe) keys() *keyring {
	if p.c.Key.IsZero() {
		return nil
	}
	return &keyring{key: p.c.Key, protocol: identity.Tunnel, pins: pins{p.c.Gateway, p.c.Next}.all()}
}

// measure reaches the gateway and finds out what r says, as far as it gets.
func (p *Probe) measure(ctx context.Context, e carrier.Endpoint, r *ProbeResult) error {
	dialing, cancel := context.WithTimeout(ctx, probeDial)
	defer cancel()
	link, err := p.reach(dialing, e, p.keys())
	if err != nil {
		return err
	}
	x := newEchoes(ctx, link, p.c.Key.IsZero())
	defer x.close(ctx)
	if err := p.small(ctx, x, r); err != nil || x.plain {
		return err
	}
	if r.Largest > 0 && (x.stuck == 0 || !x.ordered) {
		if r.Estimate, err = p.full(ctx, x, r.Largest); err != nil {
			return err
		}
		if err := x.sizes(ctx, r); err != nil { // a carrier of datagrams finds out meanwhile how long they may be
			return err
		}
	}
	x.judge(r)
	return nil
}

// small measures what takes next to nothing of the line, which it shares with others who do the same.
func (p *Probe) small(ctx context.Context, x *echoes, r *ProbeResult) error {
	if err := p.line.Acquire(ctx, 1); err != nil {
		return err
	}
	defer p.line.Release(1)
	if err := x.trips(ctx, r); err != nil || x.plain {
		return err
	}
	return x.sizes(ctx, r)
}

// full fills the line, which nobody else uses meanwhile.
func (p *Probe) full(ctx context.Context, x *echoes, size int) (bits float64, err error) {
	if err := p.line.Acquire(ctx, probeAtOnce); err != nil {
		return 0, err
	}
	defer p.line.Release(probeAtOnce)
	return x.fill(ctx, size)
}
