package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What passes a gateway from client to client is seen there, though it never passes its TUN: as lines, and as a file that tcpdump reads and finds no
// fault with.
//
//	c1 -- ping, 8 MiB of TCP --> gw --> c2        vpnsrv capture
func TestCapture(t *testing.T) {
	t.Parallel()
	for _, exit := range []string{"kernel", "user"} {
		t.Run(exit, func(t *testing.T) {
			t.Parallel()
			n := newGateway(t, "--exit", exit)
			one, two := newClient(t, n.c1, "-s", "192.168.101.1"), newClient(t, n.c2, "-s", "192.168.102.1")
			from, to := one.waitConnected(), two.waitConnected()
			file := filepath.Join(t.TempDir(), "all.pcap")
			capture := func(args ...string) func() string {
				p := start(t, n.gw, append([]string{filepath.Join(bin, "vpnsrv"), "capture", "--state", n.state}, args...)...)
				await(t, p, "capturing", 0)
				return func() string {
					stop(t, p)
					return p.Output()
				}
			}
			all, lines, others := capture("-w", file), capture("--peer", to, "icmp and src", from), capture("--peer", "10.0.77.77")
			run(t, n.c1, "ping -c 3 -i 0.2 "+to)
			checkSum(t, n.c1, fmt.Sprintf("%s:%d", to, listenSum(t, n.c2)))

			// On a busy machine a capture misses packets, so that the others do not wait; it says how many.
			var captured, dropped int
			_, end, _ := strings.Cut(all(), "limit\n")
			if n, err := fmt.Sscanf(strings.TrimSpace(end), "%d packets captured, %d dropped", &captured, &dropped); n != 2 || err != nil || dropped > captured {
				t.Errorf("at its end it says %q", end)
			}
			text := lines()
			if want := "IP " + from + " > " + to + ": ICMP echo request"; strings.Count(text, want) != 3 || strings.Contains(text, "reply") || !strings.Contains(text, "3 packets captured, 0 dropped") {
				t.Errorf("got %s", text)
			}
			if text := others(); !strings.Contains(text, "0 packets captured, 0 dropped") {
				t.Errorf("of nobody: %s", text)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || info.Size() < 8<<20-int64(dropped)<<16 { // none is longer than 64 KiB
				t.Errorf("%v, %v, %d dropped", info, err, dropped)
			}
			read := run(t, n.gw, "tcpdump -nvvr "+file)
			if strings.Count(read, "ICMP echo request") != 3 || strings.Count(read, "ICMP echo reply") != 3 {
				t.Error("tcpdump does not show the pings")
			}
			if n := len(regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\.`).FindAllString(read, -1)); n != captured {
				t.Errorf("the file has %d packets of %d", n, captured)
			}
			for line := range strings.Lines(read) {
				if strings.Contains(line, "incorrect") || strings.Contains(line, "bad cksum") {
					t.Errorf("tcpdump finds a fault: %s", line)
				}
			}
			if !strings.Contains(read, "(correct)") {
				t.Error("tcpdump has verified no checksum")
			}
		})
	}
}
