package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	warm    = 2 * time.Second // of traffic before anything fails
	settled = time.Second     // of traffic after it has come back
	silence = 5 * time.Second
)

// A failure is what happens to the network while traffic passes.
type failure struct {
	name, about string
	strike      func(*road, *contender) error
	// undo, if there is one, ends the failure after silence, and what is measured is measured from there.
	undo     func(*road) error
	subjects []subject
	limit    time.Duration // nobody waits longer
	bars     [3][]bar      // for the pause, TCP inside, lost pings
}

var (
	everybody  = []subject{ours, wireguardGo, openvpnUDP, openvpnTCP}
	overTCP    = []subject{ours, openvpnTCP}
	reconnects = []subject{ours, openvpnUDP, openvpnTCP}
)

// failures are the rows of bench/FAILOVER.md.
var failures = []failure{
	{"reset", "the connection is reset", (*road).reset, nil, overTCP, 30 * time.Second,
		[3][]bar{{atMost(0.5, "<= 0.5 s (cold)")}, nil, {atMost(0, "none lost")}}},
	{"silence", "the connection alone goes silent", (*road).forsake, nil, reconnects, 120 * time.Second,
		[3][]bar{{atMost(2, "<= 2 s (cold)")}}},
	{"blackhole", fmt.Sprintf("all goes silent for %s: after its end", silence), (*road).drop, (*road).pass, everybody, 90 * time.Second, [3][]bar{}},
	{"large", "packets above 600 bytes vanish", (*road).shrink, nil, everybody, 20 * time.Second, [3][]bar{nil, {atMost(2, "<= 2 s")}}},
	{"address", "the client gets another address", (*road).renumber, nil, everybody, 120 * time.Second, [3][]bar{}},
	{"cable", "the cable is pulled, there is another way", (*road).pull, nil, everybody, 120 * time.Second,
		[3][]bar{{atMost(0.5, "<= 0.5 s")}}},
}

var interruptions = layout{
	title: "Interruptions", maker: "make bench-failover", file: "bench/FAILOVER.md", subjects: everybody,
	explanation: "Two ways of 20 ms round trip and 50 Mbit/s with a queue of 50 ms (test/wire), a TCP flow of iperf3 to the gateway and 20 pings a second inside of the tunnel. " +
		"Figures are the median of the runs (least..greatest). What stands in one row was measured at the same time, each in a network of its own.",
	notes: []string{
		"pause: the longest time between two answered pings, so 0.05 s is none; after a silence that ends: from its end until the first answer. " +
			"A figure as long as was waited at most means: not within that time.",
		"packets above 600 bytes vanish: pings are small, so only what was put into the same stream as large packets stands still.",
		"TCP inside: from the failure, or the end of the silence, until the flow of iperf3 arrives again at the gateway, in tenths of a second; its own retransmission timer is part of that.",
		"pings lost: never answered; a few may be lost where the flow fills the queue of the way.",
		"Ferry has one carrier, TLS over TCP, and no warm standby: what is compared with targets is the column that those call cold. Keepalive as by default, 15 s.",
		"OpenVPN 2.6 has 'keepalive 10 60' of its manual, persist-tun and nobind. wireguard-go has persistent keepalives of 25 s as its quick start recommends.",
		"the connection alone goes silent: a middlebox drops what it has a connection for, and lets new ones pass. WireGuard is not in that row, for it keeps " +
			"its port: it waits for as long as the middlebox does. A reset means nothing to UDP.",
	},
}

// failoverRows makes a row of each failure.
func failoverRows() (rows []row) {
	for _, f := range failures {
		rows = append(rows, row{f.name, f.about, func(ctx context.Context, b *bench) ([]*line, error) { return b.interrupt(ctx, f) }})
	}
	return rows
}

// interrupt measures a failure in each run, for all subjects at the same time.
func (b *bench) interrupt(ctx context.Context, f failure) ([]*line, error) {
	lines := []*line{
		{what: fmt.Sprintf("%s: pause, s (waited %s at most)", f.about, f.limit), bars: f.bars[0]},
		{what: f.about + ": TCP inside goes on after, s", bars: f.bars[1]},
		{what: f.about + ": pings lost", bars: f.bars[2]},
	}
	for run := range b.runs {
		var all sync.WaitGroup
		var mu sync.Mutex // guards lines and failed
		var failed error
		for _, s := range f.subjects {
			if s == wireguardGo && b.wireguard == "" {
				continue
			}
			all.Go(func() { // ends with ctx, or within the limits of f
				got, err := b.interruptOne(ctx, f, s)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed = fmt.Errorf("%s: %w", subjectNames[s], err)
					return
				}
				for i, l := range lines {
					l.got[s] = append(l.got[s], got[i])
				}
				progress("  run %d/%d  %-12s  pause %s s, TCP after %s s, %.0f pings lost", run+1, b.runs, subjectNames[s], figure(got[0]), figure(got[1]), got[2])
			})
		}
		all.Wait()
		if failed != nil {
			return nil, failed
		}
	}
	return lines, nil
}

// interruptOne measures one subject: the pause, when TCP went on, and how many pings were lost.
func (b *bench) interruptOne(ctx context.Context, f failure, s subject) ([]float64, error) {
	r, err := newRoad()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	own := *b
	own.net = &r.network
	c, err := contenders[s](&own)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	flow, err := startFlow(&r.network, c.addr)
	if err != nil {
		return nil, err
	}
	defer flow.Close()
	p, err := startPings(r.c1, c.addr)
	if err != nil {
		return nil, err
	}
	defer p.Close()

	if !sleep(ctx, warm) {
		return nil, ctx.Err()
	}
	if n := p.lost(); n > int(warm/pingPause)/4 || !flow.flows() {
		return nil, fmt.Errorf("before anything failed %d pings were lost, and the TCP flow arrives: %t: is the machine busy?", n, flow.flows())
	}
	began := time.Now()
	if err := f.strike(r, c); err != nil {
		return nil, err
	}
	if f.undo != nil {
		if !sleep(ctx, silence) {
			return nil, ctx.Err()
		}
		began = time.Now()
		if err := f.undo(r); err != nil {
			return nil, err
		}
	}
	mark := len(flow.rates())
	again := p.await(ctx, time.Now(), f.limit)
	on := flow.await(ctx, mark, f.limit)
	if !sleep(ctx, settled) {
		return nil, ctx.Err()
	}
	pause := p.longest(began.Add(-warm / 2))
	if f.undo != nil {
		pause = again.Sub(began)
	}
	if again.IsZero() {
		pause = f.limit
	}
	return []float64{pause.Seconds(), on.Seconds(), float64(p.lost())}, nil
}
