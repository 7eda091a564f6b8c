//go:build exam

package netns

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/api"
	"ferry/test/rawvpn"
)

// forGrowth is the shortest time in which growth of memory says something: the runtime collects after two
// minutes without any other reason, and until then memory only grows.
const forGrowth = 10 * time.Minute

// TestSoak has 10,000 clients (EXAM_CLIENTS) in two processes that send a packet in a second each, to one another,
// and come and go, for half an hour (EXAM_SOAK): nothing grows, nothing is lost, no address is given to two,
// and packets are fast.
// exam: L1
func TestSoak(t *testing.T) {
	const (
		p99   = 20      // milliseconds
		slope = 0.01    // of the memory, in an hour
		slack = 3 << 20 // bytes; what one collection more or less makes
	)
	last, clients := lasting(t, "EXAM_SOAK", 30*time.Minute), times(t, "EXAM_CLIENTS", 10_000)
	n := newRawGateway(t, fmt.Sprintf("max_sessions = %d", clients+2000))
	tools := n.tools(clients, 2, "-for", last.String(), "-rate", "1", "-churn", "0.01")
	began := time.Now()
	progress(t, "%d clients: %s", clients, n.vitals())
	// Growth is looked for between two parts: one behind the start, and the last one.
	var early, late []vitals
	ticker := time.NewTicker(max(last/360, time.Second))
	defer ticker.Stop()
	for told := 0; time.Since(began) < last-5*time.Second; {
		<-ticker.C
		v, part := n.vitals(), float64(time.Since(began))/float64(last)
		switch {
		case part > 0.4 && part < 0.55:
			early = append(early, v)
		case part > 0.85:
			late = append(late, v)
		}
		if done := int(part * 20); done > told {
			told = done
			all := n.uniqueSessions()
			progress(t, "%d %%: %d connections, %s", done*5, all, v)
		}
	}
	var p99s []float64
	for i, p := range tools {
		status, err := p.Wait(time.Minute)
		if status != 0 || err != nil {
			t.Fatalf("status %d, %v\n%s", status, err, p.Output())
		}
		r := loadResult(t, p)
		progress(t, "process %d: sent %d, lost %d, joined again %d, p50 %.1f ms, p99 %.1f ms, at most %.0f ms", i, r.Sent, r.Lost, r.Rejoined, r.P50, r.P99, r.Max)
		p99s = append(p99s, r.P99)
		if r.P99 > p99 {
			t.Errorf("99 of 100 packets took at most %.1f ms, want %d", r.P99, p99)
		}
		if want := int(last.Seconds() * float64(clients) / 2 * 0.9); r.Sent < want || r.Rejoined == 0 || r.Doubles > 0 {
			t.Errorf("sent %d, %d joined again, %d addresses twice: want %d sent", r.Sent, r.Rejoined, r.Doubles, want)
		}
	}
	a, b := leastOf(early), leastOf(late)
	figure(t, "L1", "%d clients for %s, p99 %.1f ms, memory %s", clients, last, slices.Max(p99s), growth(early, late, last))
	hours := last.Hours() * 0.45
	if allowed := float64(a.rss)*(1+slope*hours) + slack; float64(b.rss) > allowed && last >= forGrowth {
		t.Errorf("memory has grown from %s to %s", a, b)
	}
	if b.goroutines > a.goroutines+a.goroutines/100+10 || b.files > a.files+a.files/100+10 {
		t.Errorf("goroutines or files have grown from %s to %s", a, b)
	}
	until(t, patience, "all have left", func() bool { return n.status().Leases.Live == 0 })
	n.alive()
}

func leastOf(all []vitals) vitals {
	least := vitals{math.MaxInt, math.MaxInt, math.MaxInt}
	for _, v := range all {
		least = vitals{min(least.goroutines, v.goroutines), min(least.files, v.files), min(least.rss, v.rss)}
	}
	return least
}

// growth is that of memory, in percent of an hour.
func growth(early, late []vitals, last time.Duration) string {
	a, b := leastOf(early), leastOf(late)
	if last < forGrowth {
		return "not judged, in so short a time"
	}
	return fmt.Sprintf("%.1f to %.1f MiB (%+.1f %%/h)", float64(a.rss)/(1<<20), float64(b.rss)/(1<<20),
		100*(float64(b.rss)/float64(a.rss)-1)/(last.Hours()*0.45))
}

// uniqueSessions checks that no two connections have the same address, and returns how many there are.
func (n *network) uniqueSessions() int {
	n.t.Helper()
	all, err := api.NewClient(n.state).Sessions(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	seen := map[netip.Addr]uint64{}
	for _, s := range all {
		if other, twice := seen[s.Address]; twice && s.Address.IsValid() {
			n.t.Errorf("connections %d and %d have %s", other, s.ID, s.Address)
		}
		seen[s.Address] = s.ID
	}
	return len(all)
}

// TestJoins lets 500 clients a second join, ask the gateway something, and leave, for 5 minutes (EXAM_JOINS): they
// wait no longer at the end than at the start, and nothing of them stays.
// exam: L2
func TestJoins(t *testing.T) {
	const rate, limit = 500, 200 * time.Millisecond
	last := lasting(t, "EXAM_JOINS", 5*time.Minute)
	n := newRawGateway(t, "idle_timeout = '10s'") // so that what is held has its level soon
	s := newSwarm(t, n, 200)
	var joined, failed atomic.Int64
	var mu sync.Mutex
	var took []time.Duration
	join := func(i int) {
		began := time.Now()
		d := net.Dialer{Timeout: rawvpn.DefaultTimeout, LocalAddr: &net.TCPAddr{IP: s.source(i).AsSlice()}}
		conn, err := d.Dial("tcp", gatewayC1+":2002")
		if err != nil {
			failed.Add(1)
			return
		}
		c := rawvpn.New(conn)
		ask := rawvpn.Ask{}
		if i%2 == 0 {
			ask.Features = rawvpn.All
		}
		if err := c.Join(ask); err != nil {
			failed.Add(1)
			_ = c.Close()
			return
		}
		d99 := time.Since(began)
		if _, err := c.Ping(gatewayAddr); err != nil {
			failed.Add(1)
		}
		switch i % 4 {
		case 0:
			_ = c.SendRaw(rawvpn.Frame(0x86, []byte{1, 0, 0}))
			_ = c.Close()
		case 1:
			_ = c.Abort()
		default:
			_ = c.Close()
		}
		joined.Add(1)
		mu.Lock()
		defer mu.Unlock()
		took = append(took, d99)
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	const threads = 32
	began := time.Now()
	for thread := range threads {
		all.Go(func() {
			err := n.c1.Do(func() error {
				ticker := time.NewTicker(time.Second * threads / rate)
				defer ticker.Stop()
				for i := thread; !isClosed(stop); i += threads {
					<-ticker.C
					join(i)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	warm := max(last/4, 20*time.Second) // what is held for those who vanished has its level then
	time.Sleep(warm)                    // under load
	before := n.least(last / 8)
	for time.Since(began) < last-last/8 {
		time.Sleep(min(10*time.Second, last/8)) // between lines
		progress(t, "%d joined, %d failed, %s", joined.Load(), failed.Load(), n.vitals())
	}
	after := n.least(last / 8)
	close(stop)
	all.Wait()
	seconds := time.Since(began).Seconds()
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	figure(t, "L2", "%.0f joins a second for %.0f s, p99 %s, %s, then %s", float64(joined.Load())/seconds, seconds, p99.Round(10*time.Microsecond), before, after)
	after.asBefore(t, before, "under the same load")
	if p99 > limit || failed.Load() > 0 || float64(joined.Load()) < rate*seconds*0.95 {
		t.Errorf("%d joins in %.0f s, %d failed, p99 %s; want %d a second, none and %s", joined.Load(), seconds, failed.Load(), p99, rate, limit)
	}
	until(t, time.Minute, "nothing of them stays", func() bool {
		st := n.status()
		return st.Leases.Live == 0 && st.Leases.Held == 0 && st.Sessions == 0
	})
	n.alive()
}
