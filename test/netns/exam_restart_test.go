//go:build exam

package netns

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/test/rawvpn"
)

// TestFleetKilledOften is TestFleetKilled for a hundred rounds (EXAM_KILLS).
// exam: F1
func TestFleetKilledOften(t *testing.T) {
	rounds := times(t, "EXAM_KILLS", 100)
	var all []time.Duration
	killFleet(t, rounds, func(round int, took time.Duration) {
		all = append(all, took)
		if (round+1)%10 == 0 {
			progress(t, "killed %d of %d times, back after %s at most", round+1, rounds, slices.Max(all).Round(time.Millisecond))
		}
	})
	figure(t, "F1", "killed %d times, 1,000 clients back after %s at most", len(all), slices.Max(all).Round(time.Millisecond))
}

// TestOutOfMemory lets the kernel kill the gateway for want of memory, while clients join: those who had
// addresses have them again when it was started anew.
// exam: F17
func TestOutOfMemory(t *testing.T) {
	const count, strangers, limit = 1000, 100, 5 * time.Second
	n := newNetwork(t)
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	writeFile(t, file, crowd)
	g := newGroup(t)
	n.startGatewayIn(g, "--config", file)
	f := joinFleet(t, n, count)
	held := 0
	for _, pid := range processes(t, n.srv) {
		held += statusOf(t, pid, "VmRSS") << 10
	}
	before := g.killed(t)
	for size := held; ; size += 4 << 20 { // as little as the kernel lets us: what is in use can not be taken away
		if g.tryBound(size) {
			break
		} else if size > held*4 {
			t.Fatal("the memory of the gateway can not be bounded")
		}
	}
	for i := 0; !isClosed(n.srv.Done()); i++ {
		if i > 100_000 {
			t.Fatal("it goes on without memory")
		}
		c, err := n.tryRaw()
		if err != nil {
			continue
		}
		c.Timeout = 100 * time.Millisecond
		t.Cleanup(func() { _ = c.Close() })
		_ = c.Join(rawvpn.Ask{Features: rawvpn.All})
	}
	if now := g.killed(t); now == before {
		t.Fatalf("it ended, and the kernel did not kill it:\n%s", n.srv.Output())
	}
	began := time.Now()
	n.startGateway(n.args...)
	f.back(t, strangers)
	took := time.Since(began)
	if took > limit {
		t.Errorf("%s until all were back, want %s", took, limit)
	}
	figure(t, "F17", "1,000 clients back after %s", took.Round(time.Millisecond))
	n.alive()
}

// TestManyComeBack restarts the gateway with 10,000 clients (EXAM_CLIENTS), which come back with a jitter of 1 to
// 10 s: that is more than it lets in, 500 a second, so the limit is what they come back at.
// exam: L3
func TestManyComeBack(t *testing.T) {
	const rate, limit = 500, time.Minute
	clients := times(t, "EXAM_CLIENTS", 10_000)
	n := newRawGateway(t, "max_sessions = 12000") // all may join at once, at first
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	writeFile(t, file, strings.Replace(crowd, "accept_rate = 100000", "accept_rate = 500", 1)+"max_sessions = 12000\n")
	tools := n.tools(clients, 2, "-hold", "-jitter", "10s")
	progress(t, "%d clients: %s", clients, n.vitals())
	until(t, time.Minute, "all are there", func() bool { return n.status().Leases.Live == clients })
	if err := n.srv.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-n.srv.Done()
	began := time.Now()
	n.startGateway("--config", file)
	var rates []int
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for before := 0; ; {
		<-ticker.C
		live := n.status().Leases.Live
		rates = append(rates, live-before)
		before = live
		if len(rates)%5 == 0 {
			progress(t, "%s: %d of %d are back", time.Since(began).Round(time.Second), live, clients)
		}
		if live == clients {
			break
		}
		if time.Since(began) > 2*limit {
			t.Fatalf("%d of %d are back after %s", live, clients, time.Since(began))
		}
	}
	took := time.Since(began)
	slices.Sort(rates)
	plateau := rates[len(rates)*3/4]
	figure(t, "L3", "%d clients back after %s, %d a second on the plateau, %s", clients, took.Round(time.Second), plateau, n.vitals())
	if took > limit {
		t.Errorf("all are back after %s, want %s", took, limit)
	}
	// Half a second's worth of what was saved up while fewer came may come at once.
	if most := rates[len(rates)-1]; most > 2*rate+rate/5 || plateau > rate*6/5 || clients >= 5000 && plateau < rate*7/10 {
		t.Errorf("joins in each second: %v; want about %d", rates, rate)
	}
	for _, p := range tools {
		if status, err := p.Stop(time.Minute); status != 0 || err != nil {
			t.Fatalf("status %d, %v\n%s", status, err, p.Output())
		}
		var r rawvpn.Held
		out := p.Output()
		if err := json.Unmarshal([]byte(out[strings.LastIndex(out, "\n")+1:]), &r); err != nil {
			t.Fatal(err)
		}
		if r.Back != r.Clients || r.Moved > 0 || r.Doubles > 0 {
			t.Errorf("%+v: want each back once with its address", r)
		}
	}
	n.alive()
}
