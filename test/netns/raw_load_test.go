package netns

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// A sample is what a process holds.
type sample struct{ rss, descriptors, threads int }

// TestLoad has 2,000 clients that send a packet in a second each, to one another, and come and go, for
// 3 minutes: nothing grows, nothing is lost, no address is given to two, and packets are fast. With
// -short it takes 20 seconds, and does not look at what grows slowly.
// exam: L1
func TestLoad(t *testing.T) {
	const (
		clients = "2000"
		churn   = "0.05"           // of the clients in a minute
		slope   = 1.05             // of the memory, from the first collection to the end
		slack   = 1 << 20          // bytes; what one collection more or less makes
		p99     = 20               // milliseconds
		settle  = 10 * time.Second // for connecting and the end
	)
	last := 3 * time.Minute
	if testing.Short() {
		last = 20 * time.Second
	}
	n := newRawGateway(t)
	tool := rawvpnTool(t)
	p := start(t, n.c1, tool, "-server", gatewayC1+":2002", "-n", clients, "-for", last.String(), "-rate", "1", "-churn", churn)
	// So few packets make hardly any garbage: the only collection is the one that the runtime makes
	// after two minutes, and what it needs itself then stays. Growth is looked for behind it.
	first := watchLoad(t, n.srv, p, last*25/36, last*30/36)
	end := watchLoad(t, n.srv, p, 0, last/6-settle/2)
	status, err := p.Wait(settle + patience)
	if status != 0 || err != nil {
		t.Fatalf("status %d, %v\n%s", status, err, p.Output())
	}
	r := loadResult(t, p)
	t.Logf("%s\nafter the first collection %+v, at the end %+v", p.Output(), first, end)
	if r.P99 > p99 {
		t.Errorf("99 of 100 packets took at most %.1f ms, want %d", r.P99, p99)
	}
	if want := int(last.Seconds() * 2000 * 0.9); r.Sent < want || r.Rejoined == 0 || r.Echoes < r.Keepalives-r.Rejoined-20 {
		t.Errorf("sent %d, %d joined again, %d keepalives with %d echoes: want %d sent, and the echoes of those who stayed", r.Sent, r.Rejoined, r.Keepalives, r.Echoes, want)
	}
	if float64(end.rss) > slope*float64(first.rss)+slack && !testing.Short() {
		t.Errorf("memory has grown from %d to %d bytes", first.rss, end.rss)
	}
	if end.descriptors > first.descriptors+5 || end.threads > first.threads+4 {
		t.Errorf("descriptors or threads have grown: %+v, then %+v", first, end)
	}
	until(t, patience, "all have left", func() bool { return n.report().counts["pool.live"] == 0 })
	n.alive()
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

// watchLoad looks at a program every second until p has ended or d is over, but not in the first part
// of it. Of the memory it takes the least, for that of a collected heap is a saw-tooth.
func watchLoad(t *testing.T, srv, p *lab.Proc, first, d time.Duration) (s sample) {
	t.Helper()
	began := time.Now()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-p.Done():
			return s
		case <-ticker.C:
		}
		if took := time.Since(began); took > d {
			return s
		} else if took < first {
			continue
		}
		least := s.rss
		s = sample{rss(t, srv), descriptors(t, srv), procStatus(t, srv, "Threads")}
		if least != 0 {
			s.rss = min(s.rss, least)
		}
	}
}
