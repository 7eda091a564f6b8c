package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	dnsTime   = 10 * time.Second
	dnsOutage = 90 * time.Second
	dnsLimit  = 45 * time.Second // after the outage
)

// dnsGroups measure the carrier dns, where there is one: what it gets through, and an outage.
func (b *bench) dnsGroups() []*group {
	if !b.hasDNS() {
		return nil
	}
	const about = "DNS, the gateway asked directly"
	speed := &group{name: "dns", patient: true, about: about, lines: []*line{
		{what: about + ": download, KB/s", short: "down", bars: []bar{{">= 150 KB/s", own, func(x float64) bool { return x >= 150 }}}},
		{what: about + ": upload, KB/s", short: "up"},
	}}
	outage := &group{name: "dns-outage", patient: true, about: fmt.Sprintf("%s, an outage of %s", about, dnsOutage), lines: []*line{
		{what: fmt.Sprintf("%s, an outage of %s: first ping after its end, s", about, dnsOutage), short: "first ping", bars: []bar{atMost(dnsLimit.Seconds(), "survives")}},
		{what: fmt.Sprintf("%s, an outage of %s: TCP inside ended, or another address inside", about, dnsOutage), short: "broken", bars: none("survives")},
	}}
	for _, s := range []subject{ours, iodine} {
		speed.trials = append(speed.trials, trial{s, func(ctx context.Context, b *bench, seed uint64) ([]float64, error) { return b.dnsSpeed(ctx, s, seed) }})
		outage.trials = append(outage.trials, trial{s, func(ctx context.Context, b *bench, seed uint64) ([]float64, error) { return b.dnsOutage(ctx, s, seed) }})
	}
	return []*group{outage, speed} // what takes long comes first
}

// dnsRoad starts a subject that has nothing but DNS.
func (b *bench) dnsRoad(ctx context.Context, s subject, seed uint64) (*road, *contender, error) {
	r, err := newRoad(seed)
	if err != nil {
		return nil, nil, err
	}
	c, err := b.start(ctx, s, r, "dns")
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return r, c, nil
}

// dnsSpeed returns what one TCP connection gets through down and up, in KB/s.
func (b *bench) dnsSpeed(ctx context.Context, s subject, seed uint64) (got []float64, err error) {
	r, c, err := b.dnsRoad(ctx, s, seed)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer c.stop()
	defer func() { b.keep("dns-"+subjectNames[s], c) }()
	for _, down := range []bool{true, false} {
		f, err := startFlow(&r.network, c.addr, down, 0)
		if err != nil {
			return nil, err
		}
		ok := sleep(ctx, warm)
		from := time.Now()
		ok = ok && sleep(ctx, dnsTime)
		rate := mbits(from, f)
		f.Close()
		if !ok {
			return nil, ctx.Err()
		}
		got = append(got, 1000*rate/8)
	}
	return got, nil
}

// dnsOutage returns how long it takes after an outage until a ping passes, and whether something has ended.
func (b *bench) dnsOutage(ctx context.Context, s subject, seed uint64) ([]float64, error) {
	r, c, err := b.dnsRoad(ctx, s, seed)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer c.stop()
	defer func() { b.keep("dns-outage-"+subjectNames[s], c) }()
	f, err := startFlow(&r.network, c.addr, true, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := startPings(r.c1, c.addr)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	addr, err := r.inside()
	if err != nil {
		return nil, err
	}
	if !sleep(ctx, warm) {
		return nil, ctx.Err()
	}
	if err := r.drop(c); err != nil {
		return nil, err
	}
	if !sleep(ctx, dnsOutage) {
		return nil, ctx.Err()
	}
	from := time.Now()
	if err := r.pass(); err != nil {
		return nil, err
	}
	for p.firstSince(from).IsZero() && time.Since(from) < dnsLimit {
		if !sleep(ctx, 50*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
	first, broken := math.Inf(1), 0.0
	if at := p.firstSince(from); !at.IsZero() {
		first = at.Sub(from).Seconds()
	}
	now, err := r.inside()
	if now != addr || f.hasEnded() {
		broken = 1
	}
	return []float64{first, broken}, err
}
