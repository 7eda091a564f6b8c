package wire

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/test/lab"
)

// cable joins two namespaces, 10.9.0.1 and 10.9.0.2.
func cable(t *testing.T, set string) (w *Wire, a, b *lab.Namespace) {
	t.Helper()
	var ends [2]*lab.Namespace
	for i := range ends {
		ns, err := lab.NewNamespace(fmt.Sprintf("wire%d-%c", os.Getpid(), 'a'+i))
		if err != nil {
			if os.Getuid() == 0 {
				t.Fatal(err)
			}
			t.Skip(err)
		}
		t.Cleanup(func() { _ = ns.Close() })
		ends[i] = ns
	}
	w, err := New(End{ends[0].Do, "eth0"}, End{ends[1].Do, "eth0"}, 1, set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	for i, ns := range ends {
		run(t, ns, fmt.Sprintf("ip address add 10.9.0.%d/24 dev eth0", i+1))
		run(t, ns, "ip link set eth0 up")
	}
	return w, ends[0], ends[1]
}

func run(t *testing.T, ns *lab.Namespace, command string) string {
	t.Helper()
	out, err := ns.Run(command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func set(t *testing.T, w *Wire, commands string) {
	t.Helper()
	if err := w.Set(commands); err != nil {
		t.Fatal(err)
	}
}

// pings returns how many of 10 pings were answered.
func pings(ns *lab.Namespace, args string) (n int) {
	out, _ := ns.Run("ping -n -q -c 10 -i 0.02 -W 1 " + args + " 10.9.0.2") // its status says whether any was
	if _, after, ok := strings.Cut(out, "transmitted, "); ok {
		_, _ = fmt.Sscan(after, &n)
	}
	return n
}

// answered tells whether all pings are. On a busy machine ping goes when the answers are late, so there are other chances.
func answered(ns *lab.Namespace, args string) bool {
	for range 5 {
		if pings(ns, args) == 10 {
			return true
		}
	}
	return false
}

// TestWire goes through what a kernel has to do with it: it resolves addresses, cuts into segments, sees the carrier go.
func TestWire(t *testing.T) {
	t.Parallel()
	w, a, _ := cable(t, "")
	if !answered(a, "-s 1472") {
		t.Error("pings were lost by a good cable")
	}
	set(t, w, "mtu 600")
	if large, small := pings(a, "-s 1000"), answered(a, "-s 500"); large != 0 || !small {
		t.Errorf("mtu 600: %d of the large pings were answered; all of the small ones: %t", large, small)
	}
	set(t, w, "clear, <drop icmp")
	if n := pings(a, ""); n != 0 {
		t.Errorf("%d pings were answered over a line that drops the answers", n)
	}
	if there, back := w.Stats(); there.Dropped != 0 || back.Dropped < 10 { // IPv6 has its own
		t.Errorf("dropped: %+v there, %+v back", there, back)
	}
	set(t, w, "pass, duplicate 100%")
	if out, _ := a.Run("ping -n -q -c 10 -i 0.02 10.9.0.2"); !strings.Contains(out, "duplicates") {
		t.Errorf("none came twice: %s", out)
	}
	set(t, w, "clear, unplug")
	if out := run(t, a, "ip link show eth0"); !strings.Contains(out, "NO-CARRIER") {
		t.Errorf("unplugged: %s", out)
	}
	set(t, w, "plug")
	if !answered(a, "") {
		t.Error("pings were lost after it was plugged in again")
	}
	if err := w.Set("delay 5ms, loss 200%"); err == nil {
		t.Error("a wrong command was taken")
	} else if w.faults[0].Delay != 0 {
		t.Error("half of a wrong line was taken")
	}
}

// TestTimes: a round trip takes twice the delay, and not much more.
func TestTimes(t *testing.T) {
	t.Parallel()
	w, a, _ := cable(t, "delay 25ms")
	pings(a, "") // ARP
	var least, average float64
	for range 3 { // a busy machine gets other chances: what counts is the least
		out := run(t, a, "ping -n -q -c 10 -i 0.1 10.9.0.2")
		_, after, _ := strings.Cut(out, "mdev = ")
		if _, err := fmt.Sscanf(after, "%f/%f/", &least, &average); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Logf("round trip %.2f ms at the least, %.2f on average", least, average)
		if least >= 50 && least < 52 {
			return
		}
	}
	t.Errorf("a round trip takes %.2f ms, want 50: %v", least, w.faults)
}

// TestThroughput: TCP at 50 ms round trip, and the rate that was set, are not held up by the cable. Figures are
// logged; the bars are what a busy machine with a race detector still passes.
func TestThroughput(t *testing.T) {
	w, a, b := cable(t, "delay 25ms")
	for _, ns := range []*lab.Namespace{a, b} {
		const buffers = "=4096 131072 33554432"
		if _, err := ns.Output(exec.Command("sysctl", "-qw", "net.ipv4.tcp_rmem"+buffers, "net.ipv4.tcp_wmem"+buffers)); err != nil {
			t.Fatal(err)
		}
	}
	server, err := b.Start("iperf3", "-s", "--forceflush")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Signal(unix.SIGKILL); <-server.Done() }()
	if _, err := server.Await("Server listening", 0, 15*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		set         string
		least, most float64 // Mbit/s
	}{
		{"rate 0", 150, 100_000},
		{"rate 20mbit, queue 256kb", 15, 20},
	} {
		set(t, w, tt.set)
		var got float64
		for try := 0; try < 5 && got < tt.least; try++ { // a busy machine gets other chances, but none to be too fast
			var used [2]unix.Rusage
			_ = unix.Getrusage(unix.RUSAGE_SELF, &used[0])
			got = flow(t, a)
			_ = unix.Getrusage(unix.RUSAGE_SELF, &used[1])
			cpu := time.Duration(unix.TimevalToNsec(used[1].Utime) + unix.TimevalToNsec(used[1].Stime) - unix.TimevalToNsec(used[0].Utime) - unix.TimevalToNsec(used[0].Stime))
			there, back := w.Stats()
			t.Logf("%s: %.0f Mbit/s, %s of CPU; %+v there, %+v back", tt.set, got, cpu.Round(time.Millisecond), there, back)
		}
		if got < tt.least || got > tt.most {
			t.Errorf("%s: %.1f Mbit/s, want %.0f to %.0f", tt.set, got, tt.least, tt.most)
		}
	}
}

// flow returns Mbit/s of TCP, for 2 s after the first one. There are eight flows, for cubic's slow start ends early where
// round trips differ, as they do on a busy machine.
func flow(t *testing.T, from *lab.Namespace) float64 {
	t.Helper()
	var result struct {
		End struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(run(t, from, "iperf3 -J -P 8 -O 1 -t 2 -c 10.9.0.2")), &result); err != nil {
		t.Fatal(err)
	}
	return result.End.Received.Rate / 1e6
}

// TestInterfaceTakenAway: Close returns when the interfaces have gone before.
func TestInterfaceTakenAway(t *testing.T) {
	t.Parallel()
	w, a, b := cable(t, "")
	run(t, a, "ip link del eth0")
	run(t, b, "ip link del eth0")
	closed := make(chan error, 1)
	go func() { closed <- w.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("Close does not return")
	}
	_ = w.Close() // once more is nothing
}

func TestNameTaken(t *testing.T) {
	t.Parallel()
	_, a, b := cable(t, "")
	if _, err := New(End{b.Do, "eth1"}, End{a.Do, "eth0"}, 1, ""); err == nil || !strings.Contains(err.Error(), "eth0") {
		t.Errorf("a name that is taken: %v", err)
	}
	err := b.Do(func() error { _, err := net.InterfaceByName("eth1"); return err })
	if err == nil {
		t.Error("the other end is left behind")
	}
}
