package main

import (
	"context"
	"math"
)

var sessionsCost = layout{
	title: "What sessions cost", maker: "make bench-sessions", file: "bench/SESSIONS.md", subjects: []subject{bare, former, ours}, ratios: true,
	explanation: "TCP in TLS by one connection, with sessions (numbers, acknowledgements, a log of what may have to be sent again) and as it was before there were any. " +
		"Figures are the median of the runs (least..greatest). What stands in one line was measured in turn within each run, each time with programs that were started anew; ratios were taken within a run.",
	notes: []string{
		"Before sessions: the programs of a commit of that time, built with the same Go.",
		"Processor time is that of the program, user and system, for what iperf3 received both ways.",
		"A profile (perf, 2026-11-21, a busy machine, both programs together): memmove, which makes the copy for the log, has 2.1 % of the samples before and 5.3 % now; " +
			"multipath.Sender.Send has 4 % beyond what it calls in the carrier. The rest was not taken apart; acknowledgements, one for each 512 KiB, are a likely part of it.",
	},
}

// cost measures this Ferry beside the programs in a directory, which are older.
func (b *bench) cost(ctx context.Context, before string, r *report) error {
	lines := []*line{
		{what: "TCP in TLS, client to gateway, Gbit/s", ratios: true},
		{what: "TCP in TLS, gateway to client, Gbit/s", ratios: true},
		{what: "vpnsrv, processor time, s/GB", ratios: true},
		{what: "vpncli, processor time, s/GB", ratios: true},
		{what: "UDP in TLS, 64-byte packets delivered, k/s", ratios: true},
	}
	server, err := startIperf(b.net.gw)
	if err != nil {
		return err
	}
	defer stop(server)
	over := []path{{bare, bareGateway}, {former, ferryAddr}, {ours, ferryAddr}}
	err = b.inTurn(ctx, over, func(ctx context.Context, p path) ([]float64, error) {
		own := *b
		if p.subject == former {
			own.bin = before
		}
		return own.costOf(ctx, p)
	}, lines...)
	r.lines = lines
	return err
}

// costOf returns the figures of cost for one subject.
func (b *bench) costOf(ctx context.Context, p path) ([]float64, error) {
	nan := math.NaN()
	if p.subject == bare {
		up, err := iperf(ctx, b.net.c1, p.addr, b.flow, false)
		if err != nil {
			return nil, err
		}
		down, err := iperf(ctx, b.net.c1, p.addr, b.flow, true)
		return []float64{up, down, nan, nan, nan}, err
	}
	f, err := b.startSecure(b.net.c1)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	got := make([]float64, 5)
	programs := []int{f.srv.Pid(), f.clients[0].Pid()}
	if err := spend(programs, got[2:4], func() (err error) {
		if got[0], err = iperf(ctx, b.net.c1, p.addr, b.flow, false); err == nil {
			got[1], err = iperf(ctx, b.net.c1, p.addr, b.flow, true)
		}
		return err
	}); err != nil {
		return nil, err
	}
	gigabytes := (got[0] + got[1]) / 8 * b.flow.Seconds()
	got[2] /= gigabytes
	got[3] /= gigabytes
	packets, err := b.flood(ctx, p)
	if err != nil {
		return nil, err
	}
	got[4] = packets[0]
	return got, nil
}

// spend returns how many seconds of processor time programs spend while f runs.
func spend(pids []int, seconds []float64, f func() error) error {
	for i, pid := range pids {
		before, err := cpuTime(pid)
		if err != nil {
			return err
		}
		seconds[i] = -before.Seconds()
	}
	if err := f(); err != nil {
		return err
	}
	for i, pid := range pids {
		after, err := cpuTime(pid)
		if err != nil {
			return err
		}
		seconds[i] += after.Seconds()
	}
	return nil
}
