package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"ferry/test/lab"
)

// firstGroups measure how long a start takes in a bad network: from the start of the program to the first answered ping.
func (b *bench) firstGroups() []*group {
	const holes = "first connection, udp and quic blackholed (ferry: udp, quic, tcp)"
	all := []*group{{name: "first", about: holes, lines: []*line{{what: holes + ": first ping after, s", short: "first ping", bars: within(1)}}, trials: []trial{{ours, firstBehindHoles}}}}
	if !b.hasDNS() {
		return all
	}
	const dns = "first connection, all but DNS blocked (ferry: udp, quic, tcp, wss, ssh, dns)"
	return append(all, &group{name: "first-dns", about: dns, lines: []*line{{what: dns + ": first ping after, s", short: "first ping", bars: within(5)}},
		trials: []trial{{ours, firstByDNS}, {iodine, firstIodine}}})
}

func firstBehindHoles(ctx context.Context, b *bench, seed uint64) ([]float64, error) {
	return b.first(ctx, seed, "udp,quic,tcp", func(r *road) error {
		return errors.Join(block("udp", carrierPorts["udp"], "")(r, nil), block("udp", carrierPorts["quic"], "")(r, nil))
	})
}

func firstByDNS(ctx context.Context, b *bench, seed uint64) ([]float64, error) {
	return b.first(ctx, seed, "udp,quic,tcp,wss,ssh,dns", (*road).onlyDNS)
}

// first starts a vpncli that has joined before.
func (b *bench) first(ctx context.Context, seed uint64, ways string, shut func(*road) error) ([]float64, error) {
	r, err := newRoad(seed)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	own := *b
	own.net = &r.network
	f, err := own.serveRoad(ways)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	defer func() { b.keep("first", &contender{told: f.told}) }()
	if err := shut(r); err != nil {
		return nil, err
	}
	return own.untilPing(ctx, ferryAddr, func() (*lab.Proc, error) { return f.launch(&own, r.c1) })
}

func firstIodine(ctx context.Context, b *bench, seed uint64) ([]float64, error) {
	r, err := newRoad(seed)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	own := *b
	own.net = &r.network
	c, start, err := own.serveIodine()
	if err != nil {
		return nil, err
	}
	defer c.stop()
	if err := r.onlyDNS(); err != nil {
		return nil, err
	}
	return own.untilPing(ctx, iodineAddr, start)
}

// untilPing starts a program, and returns after how many seconds an address inside answers.
func (b *bench) untilPing(ctx context.Context, addr string, start func() (*lab.Proc, error)) ([]float64, error) {
	var conn net.PacketConn
	err := b.net.c1.Do(func() (err error) {
		conn, err = net.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open socket for pings: %w", err)
	}
	defer conn.Close()
	began := time.Now()
	p, err := start()
	if err != nil {
		return nil, err
	}
	if err := firstPing(ctx, conn, p, addr); err != nil {
		return nil, fmt.Errorf("%w:\n%s", err, p.Output())
	}
	return []float64{time.Since(began).Seconds()}, nil
}
