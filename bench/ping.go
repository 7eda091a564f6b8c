package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

const (
	pings      = 100
	pingEvery  = "0.02"                 // seconds
	loadBefore = 500 * time.Millisecond // of the flow, until the first ping beside it
	loadTime   = 3 * time.Second        // of the flow: longer than loadBefore and the pings
)

// pingRow measures the time of pings from c1 to the gateway inside the tunnels: idle, and while one TCP
// flow fills the tunnel in the same or in the other direction.
func pingRow(ctx context.Context, b *bench) ([]*line, error) {
	p, err := b.openPaths(b.startFerry)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	server, err := startIperf(b.net.gw)
	if err != nil {
		return nil, err
	}
	defer stop(server)
	var all []*line
	for _, load := range []struct {
		name string
		ping func(context.Context, path) ([]float64, error)
		bars []bar
	}{
		{"idle", b.ping, nil},
		{"beside a flow to the gateway", b.pingBeside(false), []bar{atMost(2, "<= 2 ms")}},
		{"beside a flow to the client", b.pingBeside(true), []bar{atMost(2, "<= 2 ms")}},
	} {
		lines := []*line{
			{what: "ping " + load.name + ", average, ms", bars: load.bars},
			{what: "ping " + load.name + ", greatest, ms"},
		}
		measure := load.ping
		if load.bars != nil {
			lines = append(lines, &line{what: fmt.Sprintf("ping %s, lost of %d", load.name, pings)})
		}
		if err := b.inTurn(ctx, p.all[1:], measure, lines...); err != nil { // without bare
			return nil, err
		}
		all = append(all, lines...)
	}
	return all, nil
}

var (
	pingTimes = regexp.MustCompile(`min/avg/max/mdev = [\d.]+/([\d.]+)/([\d.]+)/`)
	pingCount = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)
)

// ping returns the average and the greatest time in ms, and how many were lost.
func (b *bench) ping(ctx context.Context, p path) ([]float64, error) {
	out, err := output(ctx, b.net.c1, "ping", "-q", "-n", "-c", strconv.Itoa(pings), "-i", pingEvery, "-W", "2", p.addr)
	if err != nil {
		return nil, err
	}
	return parsePing(out)
}

func parsePing(out string) ([]float64, error) {
	times, count := pingTimes.FindStringSubmatch(out), pingCount.FindStringSubmatch(out)
	if times == nil || count == nil {
		return nil, fmt.Errorf("parse what ping printed: %q", out)
	}
	var v [4]float64
	for i, text := range []string{times[1], times[2], count[1], count[2]} {
		var err error
		if v[i], err = strconv.ParseFloat(text, 64); err != nil {
			return nil, fmt.Errorf("parse what ping printed: %w", err)
		}
	}
	return []float64{v[0], v[1], v[2] - v[3]}, nil
}

// pingBeside is ping while a TCP flow runs on the same path.
func (b *bench) pingBeside(back bool) func(context.Context, path) ([]float64, error) {
	return func(ctx context.Context, p path) (got []float64, err error) {
		for range 3 { // a machine that stood still for a while gets another chance
			if got, err = b.pingBesideOnce(ctx, p, back); !errors.Is(err, errFlowEnded) {
				break
			}
		}
		return got, err
	}
}

var errFlowEnded = errors.New("the flow ended before the pings beside it")

func (b *bench) pingBesideOnce(ctx context.Context, p path, back bool) ([]float64, error) {
	flow := make(chan error, 1)
	go func() { // ends after loadTime, or with ctx
		_, err := iperf(ctx, b.net.c1, p.addr, loadTime, back)
		flow <- err
	}()
	var got []float64
	var err error
	if sleep(ctx, loadBefore) {
		got, err = b.ping(ctx, p)
	}
	tooShort := len(flow) > 0
	if err := errors.Join(err, <-flow); err != nil {
		return nil, err
	}
	if tooShort {
		return nil, errFlowEnded
	}
	return got, nil
}
