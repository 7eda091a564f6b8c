package netns

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// A sample is what a process holds.
type sample struct{ descriptors, threads int }

// TestLoad has 2,000 clients that send a packet in a second each, to one another, and come and go, for half a
// minute: nothing is lost, no address is given to two, packets are fast, and files and threads do not grow.
// What grows slowly, as memory may, is for TestSoak of 'make exam'.
// exam: L1
func TestLoad(t *testing.T) {
	const (
		clients = 2000
		churn   = "0.05" // of the clients in a minute
		p99     = 20     // milliseconds
		last    = 30 * time.Second
		settle  = 10 * time.Second // for connecting and the end
	)
	n := newRawGateway(t)
	p := start(t, n.c1, rawvpnTool(t), "-server", gatewayC1+":2002", "-n", strconv.Itoa(clients), "-for", last.String(), "-rate", "1", "-churn", churn)
	await(t, p, "joined ", 0)
	first := n.sample()
	late := lateness(last * 5 / 6)
	end := n.sample()
	status, err := p.Wait(settle + patience)
	if status != 0 || err != nil {
		t.Fatalf("status %d, %v\n%s", status, err, p.Output())
	}
	r := loadResult(t, p)
	t.Logf("%s\nat first %+v, at the end %+v", p.Output(), first, end)
	if most := p99 + 4*late; r.P99 > most { // a packet is handed on by four processes' wake-ups
		t.Errorf("99 of 100 packets took at most %.1f ms, want %.1f: this machine wakes who sleeps within %.1f", r.P99, most, late)
	}
	if want := int(last.Seconds() * clients * 0.9); r.Sent < want || r.Rejoined == 0 || r.Echoes < r.Keepalives-r.Rejoined-20 {
		t.Errorf("sent %d, %d joined again, %d keepalives with %d echoes: want %d sent, and the echoes of those who stayed", r.Sent, r.Rejoined, r.Keepalives, r.Echoes, want)
	}
	if end.descriptors > first.descriptors+5 || end.threads > first.threads+4 {
		t.Errorf("descriptors or threads have grown: %+v, then %+v", first, end)
	}
	until(t, patience, "all have left", func() bool { return n.report().counts["pool.live"] == 0 })
	n.alive()
}

// lateness is by how much this machine is late to wake who sleeps, in 99 of 100 cases at most, in milliseconds. It takes as long as it is told.
func lateness(d time.Duration) float64 {
	const pause = 5 * time.Millisecond
	var all []time.Duration
	for began := time.Now(); time.Since(began) < d; {
		asleep := time.Now()
		time.Sleep(pause) // what is measured is a time
		all = append(all, time.Since(asleep)-pause)
	}
	slices.Sort(all)
	return float64(all[len(all)*99/100]) / float64(time.Millisecond)
}

// sample is what the gateway holds now.
func (n *network) sample() sample {
	n.t.Helper()
	return sample{descriptors(n.t, n.srv), procStatus(n.t, n.srv, "Threads")}
}

// rawvpnTool builds the command.
func rawvpnTool(t *testing.T) string {
	t.Helper()
	tool := filepath.Join(t.TempDir(), "rawvpn")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", tool, "ferry/test/tools/rawvpn")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return tool
}

// loadResult is the last line that the command prints.
func loadResult(t *testing.T, p *lab.Proc) (r rawvpn.Result) {
	t.Helper()
	out := p.Output()
	if err := json.Unmarshal([]byte(out[strings.LastIndex(out, "\n")+1:]), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return r
}
