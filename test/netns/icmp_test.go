package netns

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/test/lab"
	"ferry/test/wire"
)

// icmpTable is what the gateway drops of the kernel's.
const icmpTable = "icmp type echo-reply @th,64,32 0x4672793f drop"

// TestICMPPings: ordinary pings are answered once, and those of the carrier by the gateway alone; what that took is gone when the gateway has stopped,
// and when it was killed and has stopped the next time.
func TestICMPPings(t *testing.T) {
	t.Parallel()
	n := newSecure(t, "--listen", "tcp://:2002", "--listen", "icmp://")
	// This one has a socket for pings, the others of these tests have raw ones: no group may ping in a new namespace.
	if out, err := n.c1.Output(exec.Command("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")); err != nil {
		t.Fatal(out, err)
	}
	dev := newClient(t, n.c1, "--state", n.join(n.c1, "cam1 --server icmp://"+gatewayC1)) // which is all that it knows
	dev.waitConnected()
	if sockets := run(t, n.c1, "cat /proc/net/icmp"); strings.Count(sockets, "\n") != 2 || !strings.Contains(dev.way(), "icmp") {
		t.Errorf("by %s, and not one socket for pings:\n%s", dev.way(), sockets)
	}
	for ns, addr := range map[*lab.Namespace]string{n.c1: gatewayC1, n.c2: gatewayC2} {
		if out := run(t, ns, "ping -n -c 10 -i 0.02 "+addr); strings.Contains(out, "DUP!") || !strings.Contains(out, "10 received") {
			t.Errorf("ordinary pings: %s", out)
		}
	}
	dump := start(t, n.c1, "tcpdump", "-n", "-l", "-i", "eth0", "-c", "2000", "icmp and host "+gatewayC1)
	await(t, dump, "listening on", 0)
	ping(t, n.c1, gatewayVPN, 20)
	until(t, patience, "answers are seen", func() bool { return strings.Count(dump.Output(), "echo reply") >= 20 })
	dump.Kill()
	answered := map[string]int{}
	for line := range strings.Lines(dump.Output()) {
		if _, what, ok := strings.Cut(line, "ICMP echo reply, "); ok {
			id, _, _ := strings.Cut(what, ", length")
			if answered[id]++; answered[id] > 1 {
				t.Fatalf("a question has two answers: %s\n%s", id, dump.Output())
			}
		}
	}
	if rules := run(t, n.gw, "nft list ruleset"); !strings.Contains(rules, icmpTable) {
		t.Errorf("the kernel's replies are not dropped:\n%s", rules)
	}
	none := func(when string) {
		t.Helper()
		until(t, patience, "no rules are left when "+when, func() bool { return strings.TrimSpace(run(t, n.gw, "nft list ruleset")) == "" })
	}
	stop(t, n.srv)
	none("the gateway has stopped")
	n.startSecure(n.args...)
	netadmin := n.srv.Child("ferry-netadmin")
	if err := unix.Kill(netadmin, unix.SIGKILL); err != nil { // which would tidy up after the other one
		t.Fatal(err)
	}
	n.srv.Kill()
	if rules := run(t, n.gw, "nft list ruleset"); !strings.Contains(rules, icmpTable) {
		t.Errorf("nothing is left of what was killed, so the next step shows nothing:\n%s", rules)
	}
	n.startSecure(slices.DeleteFunc(slices.Clone(n.args), func(a string) bool { return strings.Contains(a, "icmp") })[:4]...)
	if rules := run(t, n.gw, "nft list ruleset"); strings.Contains(rules, icmpTable) {
		t.Errorf("left by a gateway that was killed:\n%s", rules)
	}
	stop(t, n.srv)
	none("the next one has stopped")
}

// TestICMPWithoutNft: where the kernel replies to each question as well, the client tells its replies from answers.
func TestICMPWithoutNft(t *testing.T) {
	t.Parallel()
	n := newSecure(t, "--listen", "tcp://:2002", "--listen", "icmp://")
	run(t, n.gw, "nft flush ruleset")
	newClient(t, n.c1, "--state", n.join(n.c1, "cam1"), "-s", "icmp://"+gatewayC1).waitConnected()
	ping(t, n.c1, gatewayVPN, 20)
	transfer(t, n.c1, n.gw, gatewayVPN, 3<<20, patience)
}

// TestOnlyPing: a device finds its gateway where nothing passes but pings, by itself, through a NAT.
func TestOnlyPing(t *testing.T) {
	t.Parallel()
	h := newServed(t, "udp://:2002", "quic://:2003", "wss://:443", "ssh://:2022", "icmp://")
	state := h.join(h.c, "cam1")
	dev := newClient(t, h.c, "--state", state)
	dev.waitConnected()
	dev.goesBy(patience, "udp", "quic", "tcp", "wss")
	until(t, patience, "the device knows icmp", func() bool { return strings.Contains(run(t, h.c, bin+"/vpncli status"), "icmp://") })
	ssh := newSession(t, h.c, h.gw, gatewayVPN)
	ssh.say("before", patience)
	defer h.filter(nothingBut([]string{"icmp type { echo-request, echo-reply } accept"})...)()
	began := time.Now()
	took := dev.goesBy(patience, "icmp")
	ssh.say("behind the wall", patience)
	t.Logf("by icmp after %s, and a connection inside goes on after %s", took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	stop(t, dev.Proc)

	began = time.Now()
	again := newClient(t, h.c, "--state", state, "-s", "udp://"+hostileGateway+",tcp://"+hostileGateway+",wss://"+hostileGateway+",icmp://"+hostileGateway)
	again.waitConnected()
	t.Logf("a new client is connected after %s, by %s", time.Since(began).Round(time.Millisecond), again.way())
	if took := time.Since(began); took > 10*time.Second || !strings.Contains(again.way(), "icmp") {
		t.Errorf("by %q after %s", again.way(), took)
	}
	ping(t, h.c, gatewayVPN, 3)
}

// TestICMPFullTunnel: all goes into the tunnel but what carries it, and its answers pass where the host looks from where packets come.
func TestICMPFullTunnel(t *testing.T) {
	t.Parallel()
	n := newSecure(t, "--listen", "tcp://:2002", "--listen", "icmp://", "--nat")
	run(t, n.c1, "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1")
	newClient(t, n.c1, "--state", n.join(n.c1, "cam1"), "-s", "icmp://198.51.100.1", "--default-route").waitConnected() // which is in no network of this host
	ping(t, n.c1, lanHost, 3)
	transfer(t, n.c1, n.lan, lanHost, 1<<20, patience)
	if route := run(t, n.c1, "ip route get "+lanHost); !strings.Contains(route, "ferry0") {
		t.Errorf("it went by %s", route)
	}
}

// TestICMPRate says how much passes by icmp, up and down, without a delay and with one.
func TestICMPRate(t *testing.T) {
	for _, tt := range []struct {
		name, set string
		least     float64 // bits per second, on a busy machine
	}{{"no delay", "", 100e6}, {"20 ms", "delay 10ms", 20e6}} {
		t.Run(tt.name, func(t *testing.T) {
			n := newSecure(t, "--listen", "tcp://:2002", "--listen", "icmp://")
			state := n.join(n.c1, "cam1")
			server := gatewayC1
			if tt.set != "" {
				server = n.wire(t, tt.set)
			}
			newClient(t, n.c1, "--state", state, "-s", "icmp://"+server).waitConnected()
			for direction, reverse := range map[string]bool{"up": false, "down": true} {
				rate := iperf(t, n.c1, n.gw, gatewayVPN, reverse)
				t.Logf("%s, %s: %.1f MB/s", tt.name, direction, rate/8e6)
				if rate < tt.least {
					t.Errorf("%s, %s: %.1f Mbit/s", tt.name, direction, rate/1e6)
				}
			}
		})
	}
}

// wire joins c1 and the gateway by a second cable, and returns the gateway's address there.
func (n *network) wire(t *testing.T, set string) (gateway string) {
	t.Helper()
	w, err := wire.New(wire.End{In: n.c1.Do, Name: "far0"}, wire.End{In: n.gw.Do, Name: "far0"}, 1, set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	for ns, addr := range map[*lab.Namespace]string{n.c1: "192.168.111.2/24", n.gw: "192.168.111.1/24"} {
		run(t, ns, fmt.Sprintf("ip address add %s dev far0", addr))
		run(t, ns, "ip link set far0 up")
	}
	return "192.168.111.1"
}
