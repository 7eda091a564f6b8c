package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// How what is best comes and goes in backGroups.
const (
	blocked   = 12 * time.Second
	backLimit = 75 * time.Second
	pulse     = 3 * time.Second  // it is blocked again and again for so long,
	pulses    = 15 * time.Second // from the beginning of one to that of the next
	around    = 2 * time.Second  // of a change, in which what it costs is counted
)

// backGroups measure the best carrier blocked for a while: when it is used again, what that change costs, which is a planned one, and
// how often it is gone back to while it is blocked again and again.
func backGroups(observe time.Duration) (all []*group) {
	for _, ways := range []string{"udp,tcp", "tcp,wss"} {
		best, other, _ := strings.Cut(ways, ",")
		planned := fmt.Sprintf("planned change from %s to %s", other, best)
		all = append(all, &group{name: "back-" + best, about: fmt.Sprintf("%s is blocked for %s", best, blocked),
			lines: []*line{
				{what: planned + ": pings lost", short: "lost", bars: none("0 lost")},
				{what: planned + ": pings overtaken, or answered twice", short: "disorder", bars: none("0 reordered")},
				{what: planned + ": pause of pings, s", short: "pause"},
				{what: planned + ": TCP inside stands still, s", short: "TCP stands still"},
				{what: planned + ": TCP inside stands still, in round trips of the pings before it", short: "in round trips", bars: []bar{atMost(1, "<= 1 RTT")}},
				{what: planned + ": TCP inside stands still in the time before it, s", short: "before"},
				{what: planned + ": segments of TCP inside out of order", short: "out of order"},
				{what: planned + ": segments of TCP inside sent again", short: "sent again"},
				{what: fmt.Sprintf("back on %s after the end of its blockade, s", best), short: "back", bars: within(45)},
				{what: fmt.Sprintf("%s is blocked for %s of each %s: changes to it within %s", best, pulse, pulses, observe), short: "flaps", bars: []bar{atMost(2, "<= 2")}},
			},
			trials: []trial{{ours, func(ctx context.Context, b *bench, seed uint64) ([]float64, error) { return b.goBack(ctx, ways, seed) }}},
		})
	}
	return all
}

// goBack returns the figures for one of backGroups.
func (b *bench) goBack(ctx context.Context, ways string, seed uint64) ([]float64, error) {
	r, err := newRoad(seed)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	c, err := b.start(ctx, ours, r, ways)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	best, _, _ := strings.Cut(ways, ",")
	defer func() { b.keep("back-"+best, c) }()
	t, err := startTraffic(ctx, r, c)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	shut := block(best, carrierPorts[best], "")
	if err := shut(r, c); err != nil {
		return nil, err
	}
	if !sleep(ctx, blocked) {
		return nil, ctx.Err()
	}
	if way := c.way(); way == "" || strings.HasPrefix(way, best+"://") {
		return nil, fmt.Errorf("while %s is blocked ferry goes by %q", best, way)
	}
	began := time.Now()
	if err := r.unblock(); err != nil {
		return nil, err
	}
	got, err := t.planned(ctx, c, best, began)
	if err != nil || math.IsNaN(got[0]) {
		return append(got, math.NaN()), err
	}
	flaps, err := b.flaps(ctx, r, c, best, shut)
	return append(got, flaps), err
}

// planned waits for a change to the best carrier, and returns what it costs, and how long it took until then.
func (t *traffic) planned(ctx context.Context, c *contender, best string, began time.Time) ([]float64, error) {
	nan := math.NaN()
	disorder := t.disorder()
	var again, disordered [2]int // those of TCP a moment ago, and before that
	for {
		again[1], disordered[1] = again[0], disordered[0]
		again[0], disordered[0] = t.resent()
		if !sleep(ctx, around/2) {
			return nil, ctx.Err()
		}
		if time.Since(began) > backLimit {
			return []float64{nan, nan, nan, nan, nan, nan, nan, nan, backLimit.Seconds()}, nil
		}
		all := c.changesTo(best, began)
		if len(all) == 0 {
			continue
		}
		if !sleep(ctx, around) {
			return nil, ctx.Err()
		}
		at := all[0].at
		from, to := at.Add(-around/2), at.Add(around)
		sent, came := t.resent()
		arrivals := t.flow.since(at.Add(-2 * around))
		still := stall(arrivals, from, to).Seconds()
		return []float64{
			float64(t.lost(from, to)), float64(t.disorder() - disorder), t.pause(from, to).Seconds(), still, still / t.slowest(0.5, from.Add(-around), from),
			stall(arrivals, from.Add(-around), from).Seconds(), float64(came - disordered[1]), float64(sent - again[1]), at.Sub(began).Seconds(),
		}, nil
	}
}

// changesTo are those to a carrier since a moment.
func (c *contender) changesTo(name string, since time.Time) []change {
	return slices.DeleteFunc(c.changes(), func(e change) bool { return e.at.Before(since) || !strings.HasPrefix(e.way, name+"://") })
}

// flaps blocks the best carrier again and again, and returns how often it was changed to.
func (b *bench) flaps(ctx context.Context, r *road, c *contender, best string, shut strike) (float64, error) {
	began := time.Now()
	for time.Since(began) < b.observe {
		if err := shut(r, c); err != nil {
			return 0, err
		}
		if !sleep(ctx, pulse) {
			return 0, ctx.Err()
		}
		if err := r.unblock(); err != nil {
			return 0, err
		}
		if !sleep(ctx, pulses-pulse) {
			return 0, ctx.Err()
		}
	}
	return float64(len(c.changesTo(best, began))), nil
}
