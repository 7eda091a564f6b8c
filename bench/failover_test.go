package main

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestStall(t *testing.T) {
	began := time.Now()
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	for _, tt := range []struct {
		name     string
		arrivals []int // ms
		from, to int
		want     int
	}{
		{"nothing at all", nil, 100, 500, 400},
		{"a gap in the middle", []int{100, 110, 300, 310, 490}, 100, 500, 190},
		{"one before does not count", []int{-500, 90, 100, 130, 490}, 100, 500, 360},
		{"one that had begun before does", []int{20, 250, 260, 400, 495}, 100, 500, 230},
		{"one that has not ended", []int{100, 120, 140}, 100, 500, 360},
		{"what comes later does not count", []int{100, 300, 480, 900}, 100, 500, 200},
	} {
		var all []arrival
		for _, ms := range tt.arrivals {
			all = append(all, arrival{at(ms), 1})
		}
		if got, want := stall(all, at(tt.from), at(tt.to)), time.Duration(tt.want)*time.Millisecond; got != want {
			t.Errorf("%s: %s, want %s", tt.name, got, want)
		}
	}
}

func TestFlows(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name string
		ms   []int // before now
		want bool
	}{
		{"steady", []int{950, 850, 750, 650, 550, 450, 350, 250, 150, 50}, true},
		{"stands still", []int{950, 850, 750, 650, 550, 450}, false},
		{"has begun a moment ago", []int{50}, false},
		{"a gap", []int{950, 850, 750, 650, 550, 450, 350, 150, 50}, false},
	} {
		f := &flow{}
		for _, ms := range tt.ms {
			f.arrivals = append(f.arrivals, arrival{now.Add(-time.Duration(ms) * time.Millisecond), 1})
		}
		if got := f.flowed(now); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestPinger(t *testing.T) {
	began := time.Now().Add(-time.Minute)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	p := &pinger{}
	for i := range 10 {
		p.sent = append(p.sent, at(50*i))
		p.answered = append(p.answered, time.Time{})
	}
	for _, i := range []int{0, 1, 2, 8, 6, 9, 2} { // 2 comes twice, 8 before 6
		p.answer(i, at(50*i+20))
	}
	p.answer(99, at(0)) // somebody else's
	if n := p.lost(at(-1), at(1000)); n != 4 {
		t.Errorf("%d are lost, want 4", n)
	}
	if n := p.lost(at(220), at(320)); n != 1 { // 5, sent at 250; 7 is later
		t.Errorf("%d are lost from 220 to 320 ms, want 1", n)
	}
	if n := p.disorder(); n != 2 {
		t.Errorf("%d were overtaken or came twice, want 2", n)
	}
	if got := p.longest(at(0), at(500)); got != 300*time.Millisecond {
		t.Errorf("the longest pause is %s, want 300ms", got)
	}
	if got := p.longest(at(0), at(900)); got != 430*time.Millisecond {
		t.Errorf("the longest pause up to 900 ms is %s, want 430ms, which has not ended", got)
	}
	if got := p.firstSince(at(160)); got != at(320) {
		t.Errorf("the first answer after a failure came at %s, want 320ms", got.Sub(began))
	}
	if got := p.firstSince(at(470)); !got.IsZero() {
		t.Errorf("an answer at %s to nothing", got.Sub(began))
	}
	if got := p.slowest(0.5, at(-1), at(1000)); got < 0.0199 || got > 0.0201 {
		t.Errorf("half of all took %g s, want 0.02", got)
	}
	if got := p.slowest(0.95, at(-1), at(1000)); !math.IsInf(got, 1) {
		t.Errorf("nearly all took %g s, though four of ten were lost", got)
	}
}

// TestLayout: each line has as many cells as there are columns.
func TestLayout(t *testing.T) {
	for _, y := range []layout{measurements, interruptions, sessionsCost} {
		if got, want := len(y.cells(&line{})), len(y.columns()); got != want {
			t.Errorf("%s: %d cells, %d columns", y.title, got, want)
		}
	}
}

// TestTargets: each line with a bar is in the table of targets, and what was not measured is told from what never came.
func TestTargets(t *testing.T) {
	r := &report{layout: interruptions, lines: []*line{
		{what: "met", bars: within(1), got: [subjects]series{ours: {0.5, math.NaN(), 0.7}}},
		{what: "never", bars: within(1), got: [subjects]series{ours: {math.Inf(1)}}},
		{what: "nobody", bars: within(1), got: [subjects]series{ours: {math.NaN()}}},
		{what: "no target", got: [subjects]series{ours: {1}}},
	}}
	want := [][]string{
		{"what", "target", "ferry", "met"},
		{"met", "<= 1 s", "0.600 (0.500..0.700)", "yes"},
		{"never", "<= 1 s", "never", "NO"},
		{"nobody", "<= 1 s", "-", "not measured"},
	}
	all := r.tables()
	if len(all) != 2 || len(all[1]) != 5 || slices.Contains(all[1][0], "met") || !slices.EqualFunc(all[0], want, slices.Equal) {
		t.Errorf("the tables are %q", all)
	}
}

// What vpncli tells, as it tells it.
func TestToldByFerry(t *testing.T) {
	const told = `time=2026-11-21T15:40:43.208Z level=DEBUG msg=failover action="dial way 0"
{"time":"2026-11-21T15:40:42Z","event":"connecting","server":"tcp://192.168.101.1:2002"}
{"time":"2026-11-21T15:40:43Z","event":"connected","server":"192.168.101.1:2002","carrier":"tcp","way":"tcp://192.168.101.1:2002"}
{"time":"2026-11-21T15:40:46Z","event":"switched","server":"192.168.101.1:443","way":"wss://192.168.101.1:443/ferry","reason":"silent"}
`
	c := contender{changes: func() []change { return changesIn(told) }}
	if all := c.changes(); len(all) != 2 || all[1].way != "wss://192.168.101.1:443/ferry" || all[1].why != "silent" {
		t.Errorf("the changes are %v, want two", all)
	}
	began := time.Date(2026, 11, 21, 15, 40, 44, 0, time.UTC)
	if n := len(c.changesTo("wss", began)); n != 1 {
		t.Errorf("%d changes to wss, want 1", n)
	}
	if n := len(c.changesTo("tcp", began)); n != 0 {
		t.Errorf("%d changes to tcp since a moment, want none: it was before", n)
	}
	const status = `{"ways":[{"name":"tcp://a","state":"in use"},{"name":"udp://a","state":"idle"},{"name":"wss://a","state":"standby"}]}`
	if used, standby := waysIn(status); used != "tcp://a" || standby != "wss://a" {
		t.Errorf("by %q, and %q stands by", used, standby)
	}
}

// TestWatchman: a trial that the machine slept through does not count, and one that it did not does.
func TestWatchman(t *testing.T) {
	began := time.Now()
	w := &watchman{late: []lateness{{began.Add(time.Second), 2 * standstill}, {began.Add(3 * time.Second), standstill / 2}}}
	for _, tt := range []struct {
		since time.Duration
		ok    bool
	}{{0, false}, {2 * time.Second, true}, {4 * time.Second, true}} {
		if err := w.awake(began.Add(tt.since)); (err == nil) != tt.ok || err != nil && !errors.Is(err, errAsleep) {
			t.Errorf("since %s: %v, want none: %t", tt.since, err, tt.ok)
		}
	}
}

// TestTries: each trial is measured in each run, one that fails once is repeated, and one that fails again leaves a hole.
func TestTries(t *testing.T) {
	l := &line{what: "a figure"}
	var mu sync.Mutex
	calls := map[subject]int{}
	measure := func(s subject, fails func(call int) bool) trial {
		return trial{s, func(context.Context, *bench, uint64) ([]float64, error) {
			mu.Lock()
			defer mu.Unlock()
			calls[s]++
			if fails(calls[s]) {
				return nil, errors.New("the machine stood still")
			}
			return []float64{float64(calls[s])}, nil
		}}
	}
	g := &group{about: "something", lines: []*line{l}, trials: []trial{
		measure(ours, func(call int) bool { return call == 1 }),
		measure(openvpnUDP, func(call int) bool { return call <= again }),
	}}
	b := &bench{runs: 2, atOnce: 1, limit: time.Minute, watch: &watchman{}}
	err := b.tries(t.Context(), []*group{g})
	if err == nil || strings.Count(err.Error(), "stood still") != 1 {
		t.Errorf("%v, want one failure", err)
	}
	if got := l.got[ours].known(); !slices.Equal(got, series{2, 3}) {
		t.Errorf("ours is %v, want 2 and 3", got)
	}
	if got := l.got[openvpnUDP]; !math.IsNaN(got[0]) || got[1] != again+1 {
		t.Errorf("the other one is %v, want none and %d", got, again+1)
	}
	b.limit = -1
	if err := b.tries(t.Context(), []*group{{about: "something", lines: []*line{{}}, trials: slices.Repeat(g.trials, 100)}}); err == nil || !strings.Contains(err.Error(), "left out") {
		t.Errorf("%v, want trials left out", err)
	}
}
