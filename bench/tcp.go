package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"ferry/test/lab"
)

// tcpRow measures one flow from c1 to the gateway, and one back.
func tcpRow(ctx context.Context, b *bench) ([]*line, error) {
	return b.tcp(ctx, "TCP", b.startFerry, ofBare(0.60), timesWireguard(4))
}

// tlsRow measures the same inside of TLS.
func tlsRow(ctx context.Context, b *bench) ([]*line, error) {
	return b.tcp(ctx, "TCP in TLS", b.startSecure, ofBare(0.35), timesWireguard(2.5))
}

func (b *bench) tcp(ctx context.Context, what string, start func(...*lab.Namespace) (*ferry, error), bars ...bar) ([]*line, error) {
	p, err := b.openPaths(start)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	server, err := startIperf(b.net.gw)
	if err != nil {
		return nil, err
	}
	defer stop(server)
	up := &line{what: what + ", client to gateway, Gbit/s", ratios: true, bars: bars}
	down := &line{what: what + ", gateway to client, Gbit/s", ratios: true, bars: bars}
	err = b.inTurn(ctx, p.all, b.flowFrom(b.net.c1, false), up)
	if err == nil {
		err = b.inTurn(ctx, p.all, b.flowFrom(b.net.c1, true), down)
	}
	return []*line{up, down}, err
}

// forwardRow measures one flow from c1 to c2: through vpnsrv, and through the kernel of the gateway.
func forwardRow(ctx context.Context, b *bench) ([]*line, error) {
	f, err := b.startFerry(b.net.c1, b.net.c2)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	server, err := startIperf(b.net.c2)
	if err != nil {
		return nil, err
	}
	defer stop(server)
	l := &line{what: "TCP, client to client (bare: two hops), Gbit/s", ratios: true, bars: []bar{ofBare(0.35)}}
	over := []path{{bare, bareC2}, {ours, f.addrs[1].String()}}
	return []*line{l}, b.inTurn(ctx, over, b.flowFrom(b.net.c1, false), l)
}

// startIperf starts iperf3 as a server, for one test after the other.
func startIperf(ns *lab.Namespace) (*lab.Proc, error) {
	p, err := ns.Start("iperf3", "-s", "--forceflush")
	if err != nil {
		return nil, err
	}
	if _, err := p.Await("Server listening", 0, patience); err != nil {
		stop(p)
		return nil, err
	}
	return p, nil
}

// flowFrom measures one TCP flow from ns to the path's address, or back, in Gbit/s.
func (b *bench) flowFrom(ns *lab.Namespace, back bool) func(context.Context, path) ([]float64, error) {
	return func(ctx context.Context, p path) ([]float64, error) {
		gbits, err := iperf(ctx, ns, p.addr, b.flow, back)
		return []float64{gbits}, err
	}
}

// iperf runs one TCP flow to a server, an address with a port or without, and returns what was received, in Gbit/s.
func iperf(ctx context.Context, ns *lab.Namespace, addr string, d time.Duration, back bool) (float64, error) {
	args := []string{"iperf3", "-J", "-t", strconv.Itoa(int(d.Seconds()))}
	if host, port, err := net.SplitHostPort(addr); err == nil {
		args = append(args, "-c", host, "-p", port)
	} else {
		args = append(args, "-c", addr)
	}
	if back {
		args = append(args, "-R")
	}
	for try := 0; ; try++ {
		out, err := output(ctx, ns, args...)
		if try < 50 && strings.Contains(out, "server is busy") { // with the end of the last test
			if !sleep(ctx, 100*time.Millisecond) {
				return 0, ctx.Err()
			}
			continue
		}
		var exited *exec.ExitError
		if err != nil && !errors.As(err, &exited) {
			return 0, err
		}
		return parseIperf(out)
	}
}

// parseIperf takes the figure from iperf3's JSON. A flow that is not cubic does not count.
func parseIperf(out string) (float64, error) {
	var r struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
			Congestion string `json:"sender_tcp_congestion"`
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return 0, fmt.Errorf("parse what iperf3 printed: %w: %.200s", err, out)
	}
	switch {
	case r.Error != "":
		return 0, fmt.Errorf("iperf3: %s", r.Error)
	case r.End.Congestion != "" && r.End.Congestion != "cubic":
		return 0, fmt.Errorf("iperf3: congestion control is %s, want cubic", r.End.Congestion)
	case r.End.Received.Rate == 0:
		return 0, errors.New("iperf3: nothing was received")
	}
	return r.End.Received.Rate / 1e9, nil
}
