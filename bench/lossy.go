package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ferry/internal/carrier"
)

const (
	lossyRTT  = 50 * time.Millisecond
	lossyTime = 15 * time.Second
	lossyFlow = 8 // TCP connections whose goodput is counted together: that of one is a matter of luck
)

// lossyGroups measure a way that loses 1 % of the packets in each direction: how long pings take beside one TCP connection, and what
// several get through.
func lossyGroups() (all []*group) {
	const about = "1 % loss, 50 ms"
	for _, way := range []string{"tcp", "udp", "quic"} {
		pings := &group{name: "loss-" + way, patient: true, about: about + " (ferry: " + way + ")", lines: []*line{
			{what: about + " (ferry: " + way + "): ping beside a TCP connection, 95th percentile, s", short: "p95"},
			{what: about + " (ferry: " + way + "): pings lost of 100", short: "lost"},
			{what: about + " (ferry: " + way + "): goodput of one TCP connection, Mbit/s", short: "goodput"},
		}}
		if way == "tcp" {
			pings.lines[0].bars = []bar{atMost(3*lossyRTT.Seconds(), "<= 3 RTT")}
		}
		goodput := &group{name: "goodput-" + way, patient: true, about: pings.about, lines: []*line{
			{what: pings.about + ": goodput of 8 TCP connections, Mbit/s", short: "goodput"},
		}}
		if way != "tcp" {
			pings.lines[2].bars = []bar{timesWireguard(1)}
			goodput.lines[0].bars = []bar{timesWireguard(1)}
		}
		all = append(all, pings, goodput)
		if way != "tcp" {
			all = append(all, evenGroup(way, pings.about))
		}
		for _, s := range lossyPeers(way) {
			pings.trials = append(pings.trials, trial{s, func(ctx context.Context, b *bench, seed uint64) ([]float64, error) {
				return b.lossyPings(ctx, s, way, seed)
			}})
			goodput.trials = append(goodput.trials, trial{s, func(ctx context.Context, b *bench, seed uint64) ([]float64, error) {
				return b.goodput(ctx, s, way, seed)
			}})
		}
	}
	return all
}

// evenGroup measures goodput where the packets of both have the same length: at a loss of 1 % what TCP gets through grows with it.
func evenGroup(way, about string) *group {
	mtu := carrier.MTU(way)
	g := &group{name: "even-" + way, patient: true, about: about, lines: []*line{
		{what: fmt.Sprintf("%s: the same, MTU %d on both", about, mtu), short: "goodput", bars: []bar{timesWireguard(1)}},
	}}
	for _, s := range []subject{ours, wireguardGo} {
		g.trials = append(g.trials, trial{s, func(ctx context.Context, b *bench, seed uint64) ([]float64, error) {
			own := *b
			own.mtu = mtu
			return own.goodput(ctx, s, way, seed)
		}})
	}
	return g
}

// lossyPeers are those who do what Ferry does by a carrier. What is compared has to be measured at the same time.
func lossyPeers(way string) []subject {
	if way == "tcp" {
		return []subject{ours, openvpnTCP}
	}
	return []subject{ours, wireguardGo, openvpnUDP}
}

// lossyRoad starts a subject, and then loses packets.
func (b *bench) lossyRoad(ctx context.Context, s subject, way string, seed uint64) (*road, *contender, error) {
	r, err := newRoad(seed)
	if err != nil {
		return nil, nil, err
	}
	c, err := b.start(ctx, s, r, way)
	if err == nil {
		if err = r.lossy(c); err != nil {
			c.stop()
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return r, c, nil
}

// lossyPings returns the time that most pings take, and how many of a hundred are lost.
func (b *bench) lossyPings(ctx context.Context, s subject, way string, seed uint64) ([]float64, error) {
	r, c, err := b.lossyRoad(ctx, s, way, seed)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer c.stop()
	f, err := startFlow(&r.network, c.addr, false, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := startPings(r.c1, c.addr)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if !sleep(ctx, warm) {
		return nil, ctx.Err()
	}
	from := time.Now()
	if !sleep(ctx, lossyTime) {
		return nil, ctx.Err()
	}
	to := time.Now()
	rate := mbits(from, f)
	if !sleep(ctx, settled) {
		return nil, ctx.Err()
	}
	all := float64(lossyTime / pingPause)
	return []float64{p.slowest(0.95, from, to), 100 * float64(p.lost(from, to)) / all, rate}, nil
}

// goodput returns what several TCP connections get through, in Mbit/s.
func (b *bench) goodput(ctx context.Context, s subject, way string, seed uint64) ([]float64, error) {
	r, c, err := b.lossyRoad(ctx, s, way, seed)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer c.stop()
	var flows []*flow
	defer func() {
		for _, f := range flows {
			f.Close()
		}
	}()
	for range lossyFlow {
		f, err := startFlow(&r.network, c.addr, false, 0)
		if err != nil {
			return nil, err
		}
		flows = append(flows, f)
	}
	if !sleep(ctx, warm) {
		return nil, ctx.Err()
	}
	from := time.Now()
	if !sleep(ctx, lossyTime) {
		return nil, ctx.Err()
	}
	return []float64{mbits(from, flows...)}, nil
}

// mbits is what has arrived of some flows since a moment, in Mbit/s.
func mbits(from time.Time, flows ...*flow) float64 {
	bytes, took := 0, time.Since(from)
	for _, f := range flows {
		for _, a := range f.since(from) {
			bytes += a.n
		}
	}
	return float64(bytes) * 8 / 1e6 / took.Seconds()
}
