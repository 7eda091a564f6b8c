//go:build exam

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ferry/test/lab"
)

// The tests in exam_*_test.go take minutes, and the machine for themselves: 'make exam' runs them. They are
// part of this package, for they use its networks and its clients, which no other package can import; and
// they have a build tag instead of a variable that makes them skip, so that no run is green without them.

// progress tells how far a long test is. The command that writes docs/exam.md shows it as it comes.
func progress(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf("exam: "+format, args...)
}

// figure tells what was measured for a case; it gets into docs/exam.md.
func figure(t *testing.T, id, format string, args ...any) {
	t.Helper()
	t.Logf("exam: "+id+": "+format, args...)
}

// lasting is a time that the environment may change, for a shorter run or a longer one.
func lasting(t *testing.T, variable string, usual time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 10*time.Second {
		t.Fatalf("%s=%q: write a time of at least 10s, as 30m", variable, text)
	}
	return d
}

// times is a number that the environment may change.
func times(t *testing.T, variable string, usual int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: write a whole number", variable, text)
	}
	return n
}

// vitals are what the gateway holds. What serves may be several processes: files and memory are those of all,
// goroutines those of the one that answers.
type vitals struct{ goroutines, files, rss int }

func (v vitals) String() string {
	return fmt.Sprintf("%d goroutines, %d files, %.1f MiB", v.goroutines, v.files, float64(v.rss)/(1<<20))
}

func (n *network) vitals() (v vitals) {
	n.t.Helper()
	v.goroutines = int(n.metric("go_goroutines"))
	for _, pid := range processes(n.t, n.srv) {
		all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			n.t.Fatal(err)
		}
		v.files += len(all)
		v.rss += statusOf(n.t, pid, "VmRSS") << 10
	}
	return v
}

// metric returns a number of the gateway's metrics.
func (n *network) metric(name string) float64 {
	n.t.Helper()
	_, text := n.get("/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			x, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return x
		}
	}
	n.t.Fatalf("no metric %s", name)
	return 0
}

// least is the least of each in a while: memory that waits for the collector, and connections that have just
// ended, come and go.
func (n *network) least(d time.Duration) vitals {
	n.t.Helper()
	v := n.vitals()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); {
		<-ticker.C
		now := n.vitals()
		v.goroutines, v.files, v.rss = min(v.goroutines, now.goroutines), min(v.files, now.files), min(v.rss, now.rss)
	}
	return v
}

// asBefore checks that the gateway holds what it held, with 5 % more at most.
func (v vitals) asBefore(t *testing.T, before vitals, what string) {
	t.Helper()
	const slack = 3 << 20 // bytes: a collection more or less
	if v.goroutines*100 > before.goroutines*105+100 || v.files*100 > before.files*105+100 || v.rss*100 > before.rss*105+100*slack {
		t.Errorf("%s: %s; before: %s", what, v, before)
	}
}

// A group is a control group that bounds memory.
type group struct{ dir, limit, events, event string }

// newGroup makes one in which there are programs to come, by either version of cgroup.
func newGroup(t *testing.T) *group {
	t.Helper()
	name := fmt.Sprintf("ferry-exam-%d", os.Getpid())
	g := &group{dir: "/sys/fs/cgroup/memory/" + name, limit: "memory.limit_in_bytes", events: "memory.oom_control", event: "oom_kill"}
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); errors.Is(err, fs.ErrNotExist) {
		g = &group{dir: "/sys/fs/cgroup/" + name, limit: "memory.max", events: "memory.events", event: "oom_kill"}
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Skipf("control group: %v", err)
	}
	t.Cleanup(func() { // when all in it have ended
		if err := os.Remove(g.dir); err != nil {
			t.Errorf("control group: %v", err)
		}
	})
	if _, err := os.Stat(filepath.Join(g.dir, g.limit)); err != nil {
		t.Skipf("control group: %v", err)
	}
	return g
}

func (g *group) bound(t *testing.T, bytes int) {
	t.Helper()
	if !g.tryBound(bytes) {
		t.Fatalf("control group: the memory can not be bounded to %d bytes", bytes)
	}
}

// tryBound reports whether the kernel takes a limit: it does not when more is in use.
func (g *group) tryBound(bytes int) bool {
	return os.WriteFile(filepath.Join(g.dir, g.limit), []byte(strconv.Itoa(bytes)), 0) == nil
}

// killed tells how many processes of the group the kernel has killed.
func (g *group) killed(t *testing.T) int {
	t.Helper()
	text := string(readFile(t, filepath.Join(g.dir, g.events)))
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, g.event+" "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in %q", g.event, text)
	return 0
}

// startGatewayIn is startGateway in a control group, with the arguments that it had.
func (n *network) startGatewayIn(g *group, args ...string) {
	n.t.Helper()
	n.args = args
	join := fmt.Sprintf(`echo $$ >%s/cgroup.procs && exec "$@"`, g.dir)
	command := append([]string{"sh", "-c", join, "sh", filepath.Join(bin, "vpnsrv"), "--state", n.state, "--listen", "tcp://:2002"}, args...)
	n.srv = start(n.t, n.gw, command...)
	await(n.t, n.srv, "msg=serving", 0)
}

// tools starts as many rawvpn commands in c1 as share the clients; a process may have 20,000 files at most.
func (n *network) tools(clients, processes int, args ...string) (all []*lab.Proc) {
	n.t.Helper()
	tool := rawvpnTool(n.t)
	for range processes {
		command := append([]string{tool, "-server", gatewayC1 + ":2002", "-n", strconv.Itoa(clients / processes)}, args...)
		all = append(all, start(n.t, n.c1, command...))
	}
	for _, p := range all {
		if _, err := p.Await("joined ", 0, 2*time.Minute); err != nil {
			n.t.Fatal(err)
		}
	}
	return all
}
