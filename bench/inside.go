package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"ferry/test/lab"
)

const pingPause = 50 * time.Millisecond

// A pinger sends pings through a tunnel until it is closed.
type pinger struct {
	conn net.PacketConn
	stop chan struct{}
	work sync.WaitGroup

	mu       sync.Mutex
	sent     []time.Time
	answered []time.Time // of each sent one; zero: not yet
	order    []time.Time // of answers, as they came
}

// startPings begins to send a ping every pingPause.
func startPings(ns *lab.Namespace, addr string) (*pinger, error) {
	p := &pinger{stop: make(chan struct{})}
	err := ns.Do(func() (err error) {
		p.conn, err = net.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open socket for pings: %w", err)
	}
	p.work.Go(func() { p.send(&net.IPAddr{IP: net.ParseIP(addr)}) })
	p.work.Go(p.receive)
	return p, nil
}

func (p *pinger) Close() {
	close(p.stop)
	_ = p.conn.Close()
	p.work.Wait()
}

func (p *pinger) send(to net.Addr) {
	ticker := time.NewTicker(pingPause)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
		}
		p.mu.Lock()
		seq := len(p.sent)
		p.sent = append(p.sent, time.Now())
		p.answered = append(p.answered, time.Time{})
		p.mu.Unlock()
		b, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: seq}}).Marshal(nil)
		if err == nil {
			_, _ = p.conn.WriteTo(b, to) // fails while there is no route
		}
	}
}

func (p *pinger) receive() {
	b := make([]byte, 1500)
	for {
		n, _, err := p.conn.ReadFrom(b)
		if err != nil {
			return
		}
		m, err := icmp.ParseMessage(ipv4.ICMPTypeEcho.Protocol(), b[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok {
			p.answer(echo.Seq, time.Now())
		}
	}
}

func (p *pinger) answer(seq int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if seq < len(p.answered) && p.answered[seq].IsZero() {
		p.answered[seq] = now
		p.order = append(p.order, now)
	}
}

// await waits until a ping that was sent since is answered, and returns when that was; zero: not within limit.
func (p *pinger) await(ctx context.Context, since time.Time, limit time.Duration) time.Time {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if at := p.firstSince(since); !at.IsZero() {
			return at
		}
		if !sleep(ctx, 5*time.Millisecond) {
			break
		}
	}
	return time.Time{}
}

func (p *pinger) firstSince(since time.Time) (first time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.sent) - 1; i >= 0 && p.sent[i].After(since); i-- {
		if at := p.answered[i]; !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// longest is the longest time without an answer since a moment.
func (p *pinger) longest(since time.Time) (pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, at := range p.order {
		if i > 0 && p.order[i-1].After(since) {
			pause = max(pause, at.Sub(p.order[i-1]))
		}
	}
	return pause
}

// lost counts those without an answer; the last second's do not count.
func (p *pinger) lost() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, at := range p.answered {
		if at.IsZero() && time.Since(p.sent[i]) > time.Second {
			n++
		}
	}
	return n
}

// A flow is a TCP flow of iperf3 from c1 to an address of the gateway.
type flow struct{ server, client *lab.Proc }

func startFlow(n *network, addr string) (*flow, error) {
	server, err := n.gw.Start("iperf3", "-s", "-i", "0.1", "-f", "k", "--forceflush")
	if err != nil {
		return nil, err
	}
	f := &flow{server: server}
	if _, err = server.Await("Server listening", 0, patience); err == nil {
		f.client, err = n.c1.Start("iperf3", "-c", addr, "-t", "600", "-i", "10", "--forceflush")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Close ends it without a word to the other end, which may be out of reach.
func (f *flow) Close() {
	for _, p := range []*lab.Proc{f.server, f.client} {
		if p != nil {
			p.Kill()
		}
	}
}

// flowEvery is the interval of the lines that iperf3 prints.
const flowEvery = 100 * time.Millisecond

var flowRate = regexp.MustCompile(`sec .* ([\d.]+) Kbits/sec`)

// rates returns what has arrived in each interval so far.
func (f *flow) rates() []float64 { return ratesIn(f.server.Output()) }

// ratesIn finds the intervals in what iperf3 prints.
func ratesIn(out string) (all []float64) {
	for line := range strings.Lines(out) {
		if rate := flowRate.FindStringSubmatch(line); rate != nil {
			kbits, _ := strconv.ParseFloat(rate[1], 64)
			all = append(all, kbits)
		}
	}
	return all
}

// flows tells whether something has arrived in the last ten intervals: a flow that finds its retransmission timer pauses
// for two or three.
func (f *flow) flows() bool {
	all := f.rates()
	return slices.ContainsFunc(all[max(0, len(all)-10):], func(rate float64) bool { return rate > 0 })
}

// await waits until the flow goes on, and returns after which time it did, counted from the interval with the number
// mark; limit if it does not.
func (f *flow) await(ctx context.Context, mark int, limit time.Duration) time.Duration {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if after, ok := goesOn(f.rates(), mark); ok {
			return after
		}
		if !sleep(ctx, flowEvery) {
			break
		}
	}
	return limit
}

// goesOn tells when the last interval without anything was over, once there are ten intervals and the last one has something.
func goesOn(rates []float64, mark int) (after time.Duration, ok bool) {
	if len(rates) < mark+10 || rates[len(rates)-1] == 0 {
		return 0, false
	}
	for i, rate := range rates[mark:] {
		if rate == 0 {
			after = time.Duration(i+1) * flowEvery
		}
	}
	return after, true
}
