package netns

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// The tests in raw_*_test.go and fault_*_test.go have clients that do what no client should. Each
// ends with alive: the gateway serves others as before.

var (
	gatewayAddr = netip.MustParseAddr(gatewayVPN)
	anyAddr     netip.Addr // of a dynamic request
)

// crowd are limits for many clients behind one address, which never speak or come all at once.
const crowd = `
max_unauthenticated = 100000
source_unauthenticated = 100000
source_sessions = 100000
source_rate = 100000
source_burst = 100000
accept_rate = 100000
`

// newRawGateway makes a network and starts vpnsrv with lines in its file, and with room for a crowd.
func newRawGateway(t *testing.T, lines ...string) *network {
	t.Helper()
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	writeFile(t, file, crowd+strings.Join(lines, "\n"))
	return newGateway(t, "--config", file)
}

// dialRaw connects a scripted client from c1.
func (n *network) dialRaw() *rawvpn.Client {
	n.t.Helper()
	c, err := n.tryRaw()
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (n *network) tryRaw() (c *rawvpn.Client, err error) {
	err = n.c1.Do(func() error {
		c, err = rawvpn.Dial(context.Background(), gatewayC1+":2002")
		return err
	})
	return c, err
}

// dialMany connects clients from c1, all from one thread.
func (n *network) dialMany(count int) []*rawvpn.Client {
	n.t.Helper()
	all := make([]*rawvpn.Client, count)
	err := n.c1.Do(func() (err error) {
		for i := range all {
			if all[i], err = rawvpn.Dial(context.Background(), gatewayC1+":2002"); err != nil {
				return err
			}
		}
		return nil
	})
	n.t.Cleanup(func() {
		for _, c := range all {
			if c != nil {
				_ = c.Close()
			}
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return all
}

// joinRaw connects a scripted client that gets an address.
func (n *network) joinRaw(a rawvpn.Ask) *rawvpn.Client {
	n.t.Helper()
	c := n.dialRaw()
	if err := c.Join(a); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// alive checks that the gateway is still the same process, and that a new client gets an address and
// an answered ping within a second.
func (n *network) alive() {
	n.t.Helper()
	select {
	case <-n.srv.Done():
		n.t.Fatal("the gateway has ended")
	default:
	}
	began := time.Now()
	c := n.joinRaw(rawvpn.Ask{})
	defer c.Close()
	if _, err := c.Ping(gatewayAddr); err != nil {
		n.t.Errorf("a new client: %v", err)
	}
	if took := time.Since(began); took > time.Second {
		n.t.Errorf("a new client needed %s for an address and a ping", took)
	}
}

// A report is what the gateway logs when it is asked for its counters.
type report struct {
	counts map[string]uint64            // "peers", "pool.live", ...
	maps   map[string]map[string]uint64 // "drops", "closed"
	queued uint64                       // the most that waits for one client, bytes
}

var (
	logPair  = regexp.MustCompile(`(\S+?)=("[^"]*"|\S+)`)
	mapEntry = regexp.MustCompile(`([a-z0-9_]+):(\d+)`)
)

// report asks for the counters. It must not be called by two goroutines at the same time.
func (n *network) report() report {
	n.t.Helper()
	before, peers := n.srv.Count("msg=report"), n.srv.Count("msg=peer ")
	if err := n.srv.Signal(syscall.SIGUSR1); err != nil {
		n.t.Fatal(err)
	}
	r := parseReport(await(n.t, n.srv, "msg=report", before))
	for i := range r.counts["peers"] {
		peer := parseReport(await(n.t, n.srv, "msg=peer ", peers+int(i)))
		r.queued = max(r.queued, peer.counts["queued"])
	}
	return r
}

func parseReport(line string) report {
	r := report{counts: map[string]uint64{}, maps: map[string]map[string]uint64{}}
	for _, pair := range logPair.FindAllStringSubmatch(line, -1) {
		key, value := pair[1], strings.Trim(pair[2], `"`)
		if count, err := strconv.ParseUint(value, 10, 64); err == nil {
			r.counts[key] = count
		} else if strings.HasPrefix(value, "map[") {
			r.maps[key] = map[string]uint64{}
			for _, entry := range mapEntry.FindAllStringSubmatch(value[len("map"):], -1) {
				r.maps[key][entry[1]], _ = strconv.ParseUint(entry[2], 10, 64)
			}
		}
	}
	return r
}

// counted checks how often something was counted under a reason since before.
func (n *network) counted(before report, in, reason string, want uint64) {
	n.t.Helper()
	now := n.report().maps[in]
	if got := now[reason] - before.maps[in][reason]; got != want {
		n.t.Errorf("%s %s: counted %d, want %d: %v", in, reason, got, want, now)
	}
}

// tunCounters returns how many packets vpn0 has got from the gateway, and handed to it.
func (n *network) tunCounters() (rx, tx uint64) {
	n.t.Helper()
	var links []struct {
		Stats struct {
			RX, TX struct{ Packets uint64 }
		} `json:"stats64"`
	}
	if err := json.Unmarshal([]byte(run(n.t, n.gw, "ip -s -j link show dev vpn0")), &links); err != nil {
		n.t.Fatal(err)
	}
	return links[0].Stats.RX.Packets, links[0].Stats.TX.Packets
}

// nothingIn checks that no packet got to vpn0 while f ran.
func (n *network) nothingIn(what string, f func()) {
	n.t.Helper()
	before, _ := n.tunCounters()
	f()
	if after, _ := n.tunCounters(); after != before {
		n.t.Errorf("%s: %d packets got to vpn0", what, after-before)
	}
}

// quiet checks that the gateway has nothing to say to c, but for the echo of a keepalive, which it
// sends behind everything else. That shows too that it is in step with the stream.
func quiet(t *testing.T, c *rawvpn.Client, what string) {
	t.Helper()
	items, err := c.Fence()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for _, item := range items {
		t.Errorf("%s: got %s % x, want nothing", what, item.Kind, item.Raw)
	}
}

// closes checks that the gateway closes the connection of c, after at least a time and before another,
// without a byte more.
func closes(t *testing.T, c *rawvpn.Client, what string, least, most time.Duration) {
	t.Helper()
	had := c.Received()
	took, err := c.AwaitClose(most)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if took < least {
		t.Errorf("%s: closed after %s already, want %s", what, took, least)
	}
	if n := c.Received() - had; n > 0 {
		t.Errorf("%s: got %d bytes before the end, want none", what, n)
	}
}

// send sends b and fails the test when that does not work.
func send(t *testing.T, c *rawvpn.Client, b []byte) {
	t.Helper()
	if err := c.SendRaw(b); err != nil {
		t.Fatal(err)
	}
}

// rss returns the resident memory of a process in bytes.
func rss(t *testing.T, p *lab.Proc) int {
	t.Helper()
	return procStatus(t, p, "VmRSS") << 10
}

// procStatus returns a number of /proc/PID/status.
func procStatus(t *testing.T, p *lab.Proc, key string) int {
	t.Helper()
	return statusOf(t, p.Pid(), key)
}

func statusOf(t *testing.T, pid int, key string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in /proc/%d/status", key, pid)
	return 0
}

// descriptors returns how many files a process has open.
func descriptors(t *testing.T, p *lab.Proc) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
