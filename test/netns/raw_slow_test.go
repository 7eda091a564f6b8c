package netns

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"ferry/internal/gateway/settings"
	"ferry/test/rawvpn"
)

// TestTrickle sends a byte every 5 seconds, which must not buy more time: the deadlines are in total.
// exam: R2
func TestTrickle(t *testing.T) {
	t.Parallel()
	const limit, pause = settings.DefaultDeadline, 5 * time.Second
	slow := rawvpn.Ask{Features: rawvpn.All, Name: "slow"}.Bytes()
	n := newRawGateway(t)
	var all sync.WaitGroup
	for _, test := range []struct {
		name   string
		joined bool
		begin  []byte // sent at once
		rest   []byte // byte by byte
	}{
		{"nothing at all", false, nil, nil},
		{"keepalives", false, nil, bytes.Repeat(rawvpn.Keepalive(0), 20)},
		{"request", false, nil, rawvpn.Ask{}.Bytes()},
		{"hello", false, slow[:20], slow[20:]},
		{"packet", true, nil, rawvpn.Echo(gatewayAddr, gatewayAddr, 1, 1, make([]byte, 500))},
		{"half of a keepalive", true, rawvpn.Keepalive(0)[:7], rawvpn.Keepalive(0)[7:]},
	} {
		began, c := time.Now(), n.dialRaw()
		if test.joined {
			if err := c.Join(rawvpn.Ask{}); err != nil {
				t.Fatal(err)
			}
		}
		send(t, c, test.begin)
		stop := make(chan struct{})
		all.Go(func() { trickle(c, test.rest, pause, stop) })
		all.Go(func() {
			defer close(stop)
			if _, err := c.AwaitClose(2 * limit); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			if took := time.Since(began); took < limit-100*time.Millisecond || took > limit+2*time.Second {
				t.Errorf("%s: closed after %s, want %s", test.name, took, limit)
			}
		})
	}
	all.Wait()
	// The two deadlines are the same for those whose first request is not complete.
	closed := n.report().maps["closed"]
	if join, frame := closed["join_timeout"], closed["frame_timeout"]; join < 1 || frame < 2 || join+frame != 6 {
		t.Errorf("counted %v, want join_timeout and frame_timeout 6 times together", closed)
	}
	n.alive()
}

// trickle sends b byte by byte until the connection ends or stop is closed.
func trickle(c *rawvpn.Client, b []byte, pause time.Duration, stop <-chan struct{}) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for i := range b {
		if c.SendRaw(b[i:i+1]) != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-stop:
			return
		}
	}
}

// flood sends packets from c to another client at a rate of bits per second, until stop is closed. It
// returns how many it sent.
func flood(c, to *rawvpn.Client, rate int, stop <-chan struct{}) (int, error) {
	const size, interval = 1400, time.Millisecond
	packet := c.Wrap(rawvpn.IPv4(c.Lease.Addr, to.Lease.Addr, rawvpn.UDP, make([]byte, size-20)))
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	began, sent := time.Now(), 0
	for {
		select {
		case <-stop:
			return sent, nil
		case <-ticker.C:
		}
		due := int(time.Since(began).Seconds() * float64(rate) / 8 / size)
		if due > sent {
			if err := c.SendRaw(bytes.Repeat(packet, due-sent)); err != nil {
				return sent, err
			}
			sent = due
		}
	}
}

// percentile pings until stop says so, and returns the round trip that 99 of 100 do not exceed.
func percentile(c *rawvpn.Client, stop func() bool) (time.Duration, error) {
	const pause = 2 * time.Millisecond
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	var all []time.Duration
	for !stop() {
		rtt, err := c.Ping(gatewayAddr)
		if err != nil {
			return 0, err
		}
		all = append(all, rtt)
		<-ticker.C
	}
	slices.Sort(all)
	if len(all) < 100 {
		return 0, fmt.Errorf("%d pings only", len(all))
	}
	return all[len(all)*99/100], nil
}

// TestStalled floods a client, which then stops reading: it is closed when the write deadline is over,
// holds no more than its queue until then, and others hardly notice. A machine that does other
// things too adds to a round trip as it likes, so one round of three has to be good.
// exam: R3
func TestStalled(t *testing.T) {
	const slower, rounds = 5 * time.Millisecond, 3
	n := newRawGateway(t, fmt.Sprintf("write_timeout = '%s'\nqueue_bytes = %d", stallTime, stallQueue))
	for _, who := range []struct {
		name string
		ask  rawvpn.Ask
	}{{"2013", rawvpn.Ask{}}, {"extended", rawvpn.Ask{Features: rawvpn.Super}}} {
		t.Run(who.name, func(t *testing.T) {
			var before, then time.Duration
			for range rounds {
				if before, then = stall(t, n, who.ask); then <= before+slower {
					return
				}
			}
			t.Errorf("pings of another client took %s, before %s", then, before)
		})
	}
	n.alive()
}

const (
	stallTime  = 2 * time.Second
	stallQueue = 256 << 10
)

// stall floods a client that reads for a second and then no more. It returns the 99th percentile of
// another client's round trips in both parts.
func stall(t *testing.T, n *network, ask rawvpn.Ask) (before, then time.Duration) {
	t.Helper()
	const rate = 200_000_000 // bit/s
	other, sender, victim := n.joinRaw(rawvpn.Ask{}), n.joinRaw(rawvpn.Ask{Features: rawvpn.Super}), n.dialRaw()
	if err := victim.SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	if err := victim.Join(ask); err != nil {
		t.Fatal(err)
	}
	start := n.report()
	var working sync.WaitGroup
	stop, stopReading := make(chan struct{}), make(chan struct{})
	working.Go(func() {
		if sent, err := flood(sender, victim, rate, stop); err != nil {
			t.Errorf("flooding, after %d packets: %v", sent, err)
		}
	})
	working.Go(func() {
		for !isClosed(stopReading) {
			if _, err := victim.ReadItem(); err != nil {
				t.Errorf("reading: %v", err)
				return
			}
		}
	})
	end := time.Now().Add(time.Second)
	before, err := percentile(other, func() bool { return time.Now().After(end) })
	if err != nil {
		t.Fatal(err)
	}

	close(stopReading)
	stalled, looked := time.Now(), time.Now()
	var took time.Duration // until the victim was closed
	var queued uint64
	then, err = percentile(other, func() bool {
		if time.Since(looked) > 100*time.Millisecond {
			looked = time.Now()
			now := n.report()
			queued = max(queued, now.queued)
			if now.maps["closed"]["write_timeout"] > start.maps["closed"]["write_timeout"] {
				took = time.Since(stalled)
			}
		}
		return took > 0 || time.Since(stalled) > 2*stallTime
	})
	close(stop)
	working.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("p99 %s, then %s; %d bytes queued; closed after %s", before, then, queued, took)
	if took < stallTime-100*time.Millisecond {
		t.Errorf("closed after %s without progress, want %s; 0 is never", took, stallTime)
	}
	if queued > stallQueue+1500 || queued < stallQueue/2 {
		t.Errorf("%d bytes were queued, want %d at most, and half of it at least", queued, stallQueue)
	}
	if n.report().maps["drops"]["queue_full"] == start.maps["drops"]["queue_full"] {
		t.Error("no packet was counted as queue_full")
	}
	for _, c := range []*rawvpn.Client{other, sender, victim} {
		_ = c.Close()
	}
	return before, then
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
