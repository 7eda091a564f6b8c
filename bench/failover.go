package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const (
	warm    = 3 * time.Second // of traffic before anything fails
	warmUps = 4               // times warm are waited for more, at most
	least   = 4 * time.Second // of traffic after it has failed: what comes late is seen as well
	settled = 1500 * time.Millisecond
	silence = 5 * time.Second
)

// A failure is what happens to the network while traffic passes.
type failure struct {
	name, about string
	ways        string // of ours: the first one is in use, the others are there
	strike      strike
	// undo, if there is one, ends the failure after silence, and what is measured is measured from there.
	undo  func(*road) error
	peers []subject
	limit time.Duration // nobody waits longer
	bars  bars
	// forgives says that what was on the way when it happened may be lost.
	forgives bool
}

// bars are those of the lines of a failure.
type bars struct{ pause, stall, lost, disorder, broken []bar }

var (
	everybody  = []subject{wireguardGo, openvpnUDP, openvpnTCP}
	reconnects = []subject{openvpnUDP, openvpnTCP}
	byUDP      = []subject{wireguardGo, openvpnUDP}
)

func within(seconds float64) []bar {
	return []bar{atMost(seconds, fmt.Sprintf("<= %g s", seconds))}
}

func none(what string) []bar { return []bar{atMost(0, what)} }

// moves are the targets when the client's own network changes.
var moves = bars{pause: within(0.5), broken: none("same address, TCP alive")}

// failures are most of the rows of bench/FAILOVER.md.
var failures = []failure{
	{"reset-standby", "the connection is reset, another carrier stands by", "tcp,wss", (*road).reset, nil, nil, 10 * time.Second,
		bars{pause: within(0.15), lost: none("0 lost")}, false},
	{"reset-cold", "the connection is reset, nothing stands by", "tcp", (*road).reset, nil, []subject{openvpnTCP}, 20 * time.Second,
		bars{pause: within(0.5), lost: none("0 lost")}, false},
	{"silence-udp", "udp goes silent, tcp stands by", "udp,tcp", block("udp", 2002, ""), nil, nil, 20 * time.Second, bars{pause: within(1)}, false},
	{"silence-tcp", "tcp goes silent, wss stands by", "tcp,wss", block("tcp", ferryPort, ""), nil, nil, 20 * time.Second, bars{pause: within(1)}, false},
	{"silence-cold", "the connection alone goes silent, nothing stands by (ferry: tcp)", "tcp", (*road).forsake, nil, reconnects, 30 * time.Second, bars{pause: within(2)}, false},
	{"silence-cold-udp", "the connection alone goes silent, nothing stands by (ferry: udp)", "udp", (*road).forsake, nil, nil, 30 * time.Second, bars{pause: within(2)}, false},
	{"blackhole", fmt.Sprintf("all goes silent for %s: after its end", silence), "udp,tcp", (*road).drop, (*road).pass, everybody, 30 * time.Second, bars{}, false},
	{"large", fmt.Sprintf("packets above %d bytes vanish (ferry: udp)", largest), "udp,tcp", (*road).shrink, nil, everybody, 15 * time.Second,
		bars{pause: within(2), stall: within(2)}, false},
	{"large-tcp", fmt.Sprintf("packets of tcp above %d bytes vanish, wss stands by", largest), "tcp,wss", block("tcp", ferryPort, fmt.Sprintf("meta length > %d", largest)), nil, nil,
		15 * time.Second, bars{pause: within(2), stall: within(2)}, false},
	{"address", "the client gets another address (ferry: udp, tcp)", "udp,tcp", (*road).renumber, nil, everybody, 30 * time.Second, moves, false},
	{"address-tcp", "the client gets another address (ferry: tcp alone)", "tcp", (*road).renumber, nil, nil, 30 * time.Second, moves, false},
	{"cable", "the cable is pulled, there is another way (ferry: udp, tcp)", "udp,tcp", (*road).pull, nil, everybody, 30 * time.Second, moves, false},
	{"cable-tcp", "the cable is pulled, there is another way (ferry: tcp alone)", "tcp", (*road).pull, nil, nil, 30 * time.Second, moves, false},
	{"route", "the default route moves to another link (ferry: udp, tcp)", "udp,tcp", (*road).reroute, nil, everybody, 30 * time.Second, moves, false},
	{"route-tcp", "the default route moves to another link (ferry: tcp alone)", "tcp", (*road).reroute, nil, nil, 30 * time.Second, moves, false},
	{"nat", "NAT forgets and maps to other ports (ferry: udp)", "udp", (*road).rebind, nil, byUDP, 20 * time.Second,
		bars{lost: none("none but those on the way")}, true},
	{"nat-quic", "NAT forgets and maps to other ports (ferry: quic)", "quic", (*road).rebind, nil, nil, 20 * time.Second,
		bars{lost: none("none but those on the way")}, true},
}

// group makes the lines of a failure.
func (f failure) group() *group {
	g := &group{name: f.name, about: f.about, lines: []*line{
		{what: f.about + ": pause, s", short: "pause", bars: f.bars.pause},
		{what: f.about + ": TCP inside stands still, s", short: "TCP stands still", bars: f.bars.stall},
		{what: f.about + ": pings lost", short: "lost", bars: f.bars.lost},
		{what: f.about + ": pings overtaken, or answered twice", short: "disorder", bars: f.bars.disorder},
		{what: f.about + ": TCP inside ended, or another address inside", short: "broken", bars: f.bars.broken},
	}}
	for _, s := range append([]subject{ours}, f.peers...) {
		g.trials = append(g.trials, trial{s, func(ctx context.Context, b *bench, seed uint64) ([]float64, error) { return b.strike(ctx, f, s, seed) }})
	}
	return g
}

// strike measures one subject.
func (b *bench) strike(ctx context.Context, f failure, s subject, seed uint64) ([]float64, error) {
	r, err := newRoad(seed)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	c, err := b.start(ctx, s, r, f.ways)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	defer func() { b.keep(f.name+"-"+subjectNames[s], c) }()
	t, err := startTraffic(ctx, r, c)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	addr, err := r.inside()
	if err != nil {
		return nil, err
	}
	if way := f.ways; s == ours && !strings.HasPrefix(c.way(), strings.Split(way, ",")[0]+"://") {
		return nil, fmt.Errorf("ferry has left the carrier that is to fail, and goes by %s", c.way())
	}

	began := time.Now()
	if err := f.strike(r, c); err != nil {
		return nil, err
	}
	from, counted := began, began.Add(-time.Second)
	if f.forgives {
		counted = time.Now()
	}
	if f.undo != nil {
		if !sleep(ctx, silence) {
			return nil, ctx.Err()
		}
		from = time.Now()
		if err := f.undo(r); err != nil {
			return nil, err
		}
	} else if !sleep(ctx, least) {
		return nil, ctx.Err()
	}
	on := t.goesOn(ctx, time.Now(), f.limit-time.Since(from))
	if !sleep(ctx, settled) {
		return nil, ctx.Err()
	}
	return f.figures(t, r, addr, from, counted, on)
}

// figures are those of the lines of group.
func (f failure) figures(t *traffic, r *road, addr string, from, counted time.Time, on bool) ([]float64, error) {
	now := time.Now()
	pause, still := t.pause(from, now), stall(t.since(from.Add(-warm)), from, now)
	if f.undo != nil { // since its end
		pause, still = f.limit, f.limit
		if first := t.firstSince(from); !first.IsZero() {
			pause = first.Sub(from)
		}
		if all := t.flow.since(from); len(all) > 0 {
			still = all[0].at.Sub(from)
		}
	}
	if !on {
		still = max(still, f.limit)
	}
	broken := 0.0
	if now, err := r.inside(); err != nil {
		return nil, err
	} else if now != addr || t.hasEnded() {
		broken = 1
	}
	return []float64{pause.Seconds(), still.Seconds(), float64(t.lost(counted, now)), float64(t.disorder()), broken}, nil
}

var interruptions = layout{
	title: "Interruptions", maker: "make bench-failover", file: "bench/FAILOVER.md", subjects: []subject{ours, wireguardGo, openvpnUDP, openvpnTCP, iodine}, targets: true,
	explanation: "Two ways of 20 ms round trip and 50 Mbit/s, each with NAT and a queue of 50 ms (test/wire; where packets get lost, delay and loss are those of test/wire, too). Inside of the tunnel " +
		"there are a TCP connection to the gateway that fills the line, and 20 pings a second. Figures are the median of the runs (least..greatest). Each one was measured in a network of its own, " +
		"several at the same time, and all of them once before any of them twice.",
	notes: []string{
		"pause: how late the answer to a ping was, counted from when it would have come after the one before it, 20 a second; after a silence that ends: from its end until the first answer.",
		"TCP inside stands still: the longest time in which nothing arrived at the gateway; its own retransmission timer is part of that. As long as was waited at most: it did not go on.",
		"pings lost: never answered. What is answered late is not lost. never: more than that share are lost.",
		"The connection has a window of 192 KiB: so the line is full, and the queue before it does not overflow, which would lose pings that no change has lost. (Not where 1 % is lost.)",
		"The carriers of Ferry are those named: the first one is in use, and the other one stands by, if it is of another class. Its times are those by default (keepalive 15 s).",
		"OpenVPN 2.6: keepalive 1 2, connect-retry 1 1, server-poll-timeout 2, tls-timeout 1, persist-tun, nobind; wireguard-go: persistent keepalives of 25 s, as its quick start recommends; " +
			"iodine 0.7: directly to its server, by DNS only.",
		"A dash: it does not apply. WireGuard keeps its port, so a middlebox that has lost its connection keeps it out for as long as it does; a reset means nothing to UDP; the others have one carrier each.",
		"Changes back and forth are counted for a shorter time than the 5 minutes of the target: 'go run ./bench -failover -only back -observe 5m' takes the whole.",
	},
}

// interrupt measures what the names in only begin with into r.
func (b *bench) interrupt(ctx context.Context, only []string, r *report) error {
	var chosen []*group
	for _, g := range b.groups() {
		if slices.ContainsFunc(only, func(o string) bool { return strings.HasPrefix(g.name, o) }) {
			chosen = append(chosen, g)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("there is no row that begins with %s", strings.Join(only, " or "))
	}
	b.watch = startWatch()
	defer b.watch.Close()
	err := b.tries(ctx, chosen)
	r.machine = append(r.machine,
		[2]string{"at the same time", fmt.Sprint(b.atOnce)},
		[2]string{"standstills", b.watch.summary()},
		[2]string{"OpenVPN", packaged(ctx, "openvpn")},
		[2]string{"iodine", packaged(ctx, "iodine")})
	for _, g := range chosen {
		r.lines = append(r.lines, g.lines...)
	}
	if err != nil {
		r.failures = strings.Split(err.Error(), "\n")
	}
	return err
}

// packaged is the version of a Debian package.
func packaged(ctx context.Context, name string) string {
	out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Version}", name).Output()
	if err != nil {
		return "not installed as a package of Debian"
	}
	return string(out)
}

// groups are the rows of bench/FAILOVER.md. What takes long comes first, so that it does not end alone.
func (b *bench) groups() (all []*group) {
	all = append(all, backGroups(b.observe)...)
	all = append(all, b.dnsGroups()...)
	for _, f := range failures {
		all = append(all, f.group())
	}
	all = append(all, b.firstGroups()...)
	all = append(all, lossyGroups()...)
	for _, g := range all {
		if b.wireguard == "" {
			g.trials = slices.DeleteFunc(g.trials, func(t trial) bool { return t.subject == wireguardGo })
		}
	}
	return all
}
