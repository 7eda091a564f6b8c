package main

import (
	"fmt"
	"math"
	"net"
	"os"
	"slices"
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
	highest  int         // of those that were answered
	// Answers that came behind a later one's, and those that came once more.
	overtaken, twice int
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
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == os.Getpid()&0xffff {
			p.answer(echo.Seq, time.Now())
		}
	}
}

func (p *pinger) answer(seq int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case seq >= len(p.answered):
		return
	case !p.answered[seq].IsZero():
		p.twice++
		return
	case seq < p.highest:
		p.overtaken++
	}
	p.highest = max(p.highest, seq)
	p.answered[seq] = now
	p.order = append(p.order, now)
}

// disorder returns how many answers came behind a later one's, or once more.
func (p *pinger) disorder() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.overtaken + p.twice
}

// firstSince returns when the first answer came to a ping that was sent since a moment; zero: none did.
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

// longest is the longest time without an answer from one moment to another.
func (p *pinger) longest(from, to time.Time) (pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := from
	for _, at := range p.order {
		switch {
		case at.After(to):
		case at.After(from):
			pause, last = max(pause, at.Sub(last)), at
		default:
			last = at
		}
	}
	return max(pause, to.Sub(last))
}

// pause is by how much longest is more than what lies between two pings.
func (p *pinger) pause(from, to time.Time) time.Duration {
	return max(0, p.longest(from, to)-pingPause)
}

// lost counts those without an answer that were sent from one moment to another; the last second's do not count.
func (p *pinger) lost(from, to time.Time) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, at := range p.answered {
		if sent := p.sent[i]; at.IsZero() && time.Since(sent) > time.Second && sent.After(from) && sent.Before(to) {
			n++
		}
	}
	return n
}

// slowest returns the time within which a share of those were answered that were sent from one moment to another; infinite where
// more are lost.
func (p *pinger) slowest(share float64, from, to time.Time) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []float64
	for i, sent := range p.sent {
		if sent.Before(from) || sent.After(to) {
			continue
		}
		took := math.Inf(1)
		if at := p.answered[i]; !at.IsZero() {
			took = at.Sub(sent).Seconds()
		}
		all = append(all, took)
	}
	if len(all) == 0 {
		return math.NaN()
	}
	slices.Sort(all)
	return all[min(len(all)-1, int(share*float64(len(all))))]
}
