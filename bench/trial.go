package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A group is some lines of the report that are measured together.
type group struct {
	name, about string
	lines       []*line
	trials      []trial
	patient     bool // takes so long that a standstill of the machine makes no difference
}

// A trial measures one subject once, on a road of its own: a figure for each line of its group, NaN for one that does not apply.
type trial struct {
	subject
	measure func(ctx context.Context, b *bench, seed uint64) ([]float64, error)
}

// A job is one of the trials of a run.
type job struct {
	*group
	trial
	run int
}

// again is how often a trial is begun at most that could not be measured, or while the machine stood still.
const again = 3

// tries measures the groups, all of them once before any of them twice, b.atOnce trials at the same time.
func (b *bench) tries(ctx context.Context, groups []*group) error {
	b.began = time.Now()
	for _, g := range groups {
		for _, l := range g.lines {
			for _, t := range g.trials {
				l.got[t.subject] = slices.Repeat(series{math.NaN()}, b.runs)
			}
		}
	}
	jobs := make(chan job) // closed when none is to be begun any more
	var workers sync.WaitGroup
	var mu sync.Mutex // guards the lines, and failed
	var failed []error
	for range b.atOnce {
		workers.Go(func() { // ends when jobs does, or ctx
			for j := range jobs {
				got, err := b.try(ctx, j)
				mu.Lock()
				if err != nil && ctx.Err() == nil {
					err = fmt.Errorf("%s, %s, run %d: %w", j.about, subjectNames[j.subject], j.run+1, err)
					progress("NOT MEASURED: %v", err)
					failed = append(failed, err)
				}
				if err == nil {
					for i, x := range got {
						j.lines[i].got[j.subject][j.run] = x
					}
				}
				mu.Unlock()
			}
		})
	}
	left := b.hand(ctx, groups, jobs)
	workers.Wait()
	if left > 0 && ctx.Err() == nil {
		failed = append(failed, fmt.Errorf("%d measurements were left out, since %s were over: more time by -limit, more at the same time by -parallel", left, b.limit))
	}
	return errors.Join(failed...)
}

// hand gives the trials to jobs, until the time is over, and returns how many it did not.
func (b *bench) hand(ctx context.Context, groups []*group, jobs chan<- job) (left int) {
	defer close(jobs)
	end := time.After(time.Until(b.began.Add(b.limit)))
	over := false
	for run := range b.runs {
		for _, g := range groups {
			for _, t := range g.trials {
				if !over {
					select {
					case jobs <- job{g, t, run}:
						continue
					case <-end:
						over = true
					case <-ctx.Done():
						over = true
					}
				}
				left++
			}
		}
	}
	return left
}

// try measures a trial, and says so. If the machine is never awake for as long as that takes, or the time is
// over, the last one counts all the same.
func (b *bench) try(ctx context.Context, j job) (got []float64, err error) {
	for n := range again {
		began := time.Now()
		got, err = j.measure(ctx, b, uint64(100*j.run+n+1))
		if err == nil && !j.patient {
			err = b.watch.awake(began)
		}
		if err == nil || ctx.Err() != nil || time.Since(b.began) > b.limit {
			break
		}
		progress("  run %d/%d  %s, %s: %v", j.run+1, b.runs, j.about, subjectNames[j.subject], err)
	}
	if errors.Is(err, errAsleep) {
		b.watch.excuse()
		err = nil
	}
	if err == nil {
		progress("  run %d/%d  %-12s  %s: %s", j.run+1, b.runs, subjectNames[j.subject], j.about, j.say(got))
	}
	return got, err
}

// say puts the figures of a trial into a line.
func (g *group) say(got []float64) string {
	var all []string
	for i, l := range g.lines {
		if !math.IsNaN(got[i]) {
			all = append(all, fmt.Sprintf("%s %s", l.short, figure(got[i])))
		}
	}
	return strings.Join(all, ", ")
}

// start starts a subject on a road; ways are those of ours.
func (b *bench) start(ctx context.Context, s subject, r *road, ways string) (*contender, error) {
	own := *b
	own.net = &r.network
	if s == ours {
		return own.startRoaming(ctx, ways)
	}
	return own.startPeer(s)
}

// keep writes what the programs of a trial have printed to where -logs says.
func (b *bench) keep(name string, c *contender) {
	if b.logs == "" || c.told == nil {
		return
	}
	file := filepath.Join(b.logs, strings.ReplaceAll(fmt.Sprintf("%s-%s.log", name, time.Now().Format("150405.000")), " ", "-"))
	if err := os.WriteFile(file, []byte(c.told()), 0o644); err != nil {
		progress("%v", err)
	}
}

// traffic is what passes the tunnel of a contender while something happens to the road.
type traffic struct {
	*flow
	*pinger
}

// startTraffic starts it, and waits until it flows.
func startTraffic(ctx context.Context, r *road, c *contender) (*traffic, error) {
	f, err := startFlow(&r.network, c.addr, false, window)
	if err != nil {
		return nil, err
	}
	p, err := startPings(r.c1, c.addr)
	if err != nil {
		f.Close()
		return nil, err
	}
	t := &traffic{f, p}
	if err := t.warmUp(ctx); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// warmUp waits until all is well for a while: a machine that stood still for a moment gets another chance.
func (t *traffic) warmUp(ctx context.Context) error {
	for n := 0; ; n++ {
		began := time.Now()
		if !sleep(ctx, warm) {
			return ctx.Err()
		}
		lost, flows := t.lost(began, time.Now()), t.flows()
		if lost == 0 && flows {
			return nil
		}
		if n == warmUps {
			return fmt.Errorf("before anything happened %d pings were lost, and the TCP connection inside goes on: %t", lost, flows)
		}
	}
}

func (t *traffic) Close() {
	t.flow.Close()
	t.pinger.Close()
}

// goesOn waits until a ping has passed that was sent after a moment, and the flow goes on; it returns false when that is not so within limit.
func (t *traffic) goesOn(ctx context.Context, since time.Time, limit time.Duration) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if !t.firstSince(since).IsZero() && t.flows() {
			return true
		}
		if !sleep(ctx, 50*time.Millisecond) {
			break
		}
	}
	return false
}
