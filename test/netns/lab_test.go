// Package netns tests the programs as they are: vpnsrv and vpncli run in network namespaces, with
// real interfaces, and what passes between them is pings, iperf3 and files. It needs root, or a user
// namespace (unshare -Urnm). README.md says how to run one test.
//
// Each test has a network of its own:
//
//	       lan, the Internet      198.51.100.2 eth0
//	                                    |
//	                              198.51.100.1 lan0
//	                                   gw                     vpn0   10.0.0.1/16
//	192.168.101.1 eth1      192.168.102.1 eth2      192.168.103.1 eth3
//	    fd00:101::1
//	      |                       |                       |
//	192.168.101.2 eth0      192.168.102.2 eth0      192.168.103.2 eth0
//	    fd00:101::2
//	     c1                      c2                      c3   ferry0 10.0.x.y/16
//
// gw is the router of all the others, also without a tunnel: lan and the clients have their default
// route there. A packet that should be in the tunnel and is not would find its way.
package netns

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ferry/internal/client"
	"ferry/test/lab"
)

const (
	patience   = 15 * time.Second // for what should take milliseconds
	gatewayVPN = "10.0.0.1"       // inside the tunnel
	gatewayC1  = "192.168.101.1"  // what c1 dials
	gatewayC2  = "192.168.102.1"
	gatewayC3  = "192.168.103.1"
	lanHost    = "198.51.100.2"
)

// binDir names a directory with vpnsrv, vpncli and ferry-penguin; without it they are built.
const binDir = "FERRY_BIN"

// bin has the programs.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if bin = os.Getenv(binDir); bin == "" {
		dir, err := os.MkdirTemp("", "ferry-netns-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin = dir
		build := exec.Command("go", "build", "-o", bin+"/", "ferry/cmd/vpnsrv", "ferry/cmd/vpncli", "ferry/cmd/ferry-penguin")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		if err := os.Chmod(bin, 0o755); err != nil { // for the user nobody
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// A network is what the picture above shows.
type network struct {
	t                   *testing.T
	gw, c1, c2, c3, lan *lab.Namespace
	state               string // directory of the gateway
	srv                 *lab.Proc
	args                []string // of srv
}

// unable ends a test that this machine does not let run: for root it is a fault, or a machine on which nothing runs would look as if all was well.
func unable(t *testing.T, why error) {
	t.Helper()
	if os.Getuid() == 0 && mapsEverybody() {
		t.Fatal(why)
	}
	t.Skip(why)
}

// newNetwork makes the namespaces and links.
func newNetwork(t *testing.T) *network {
	t.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		unable(t, err)
	}
	n := &network{t: t, state: filepath.Join(t.TempDir(), "state")}
	for _, ns := range []struct {
		name string
		to   **lab.Namespace
	}{{"gw", &n.gw}, {"c1", &n.c1}, {"c2", &n.c2}, {"c3", &n.c3}, {"lan", &n.lan}} {
		made, err := lab.NewNamespace(ns.name)
		if err != nil {
			unable(t, err)
		}
		t.Cleanup(func() { _ = made.Close() })
		// Else IPv6 addresses are tentative for a second.
		run(t, made, "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0")
		*ns.to = made
	}
	run(t, n.gw, "sysctl -qw net.ipv4.ip_forward=1")
	for i, c := range []*lab.Namespace{n.c1, n.c2, n.c3} {
		join(t, n.gw, fmt.Sprintf("eth%d", i+1), fmt.Sprintf("192.168.10%d.1/24", i+1), c, "eth0", fmt.Sprintf("192.168.10%d.2/24", i+1))
		run(t, c, fmt.Sprintf("ip route add default via 192.168.10%d.1", i+1))
	}
	join(t, n.gw, "lan0", "198.51.100.1/24", n.lan, "eth0", lanHost+"/24")
	run(t, n.lan, "ip route add 192.168.0.0/16 via 198.51.100.1") // but none to 10.0.0.0/16
	run(t, n.gw, "ip address add fd00:101::1/64 dev eth1")
	run(t, n.c1, "ip address add fd00:101::2/64 dev eth0")
	return n
}

func join(t *testing.T, a *lab.Namespace, nameA, addrA string, b *lab.Namespace, nameB, addrB string) {
	t.Helper()
	if err := lab.Join(a, nameA, addrA, b, nameB, addrB); err != nil {
		t.Fatal(err)
	}
}

// newGateway makes a network and starts vpnsrv in it.
func newGateway(t *testing.T, args ...string) *network {
	t.Helper()
	n := newNetwork(t)
	n.startGateway(args...)
	return n
}

// startGateway starts vpnsrv, or starts it again with the same state, and waits until it serves.
func (n *network) startGateway(args ...string) {
	n.t.Helper()
	n.args = args
	if !slices.Contains(args, "--listen") { // vsock, which is there by default, knows no namespaces
		args = append([]string{"--listen", "tcp://:2002"}, args...)
	}
	n.srv = start(n.t, n.gw, alone(append([]string{filepath.Join(bin, "vpnsrv"), "--state", n.state}, args...))...)
	await(n.t, n.srv, "msg=serving", 0)
}

// alone keeps the settings of this machine out, unless a command line names a file.
func alone(args []string) []string {
	if slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--config") }) {
		return args
	}
	return append(args, "--config=")
}

// A device is a vpncli that runs.
type device struct {
	*lab.Proc
	t  *testing.T
	ns *lab.Namespace
}

// newClient starts vpncli. It does not wait for anything.
func newClient(t *testing.T, ns *lab.Namespace, args ...string) *device {
	t.Helper()
	if !slices.Contains(args, "--state") {
		args = append(args, "--state", filepath.Join(t.TempDir(), "state"))
	}
	return &device{start(t, ns, alone(append([]string{filepath.Join(bin, "vpncli"), "--json"}, args...))...), t, ns}
}

// newClientWith is newClient with a variable in its environment; empty: none.
func newClientWith(t *testing.T, ns *lab.Namespace, env string, args ...string) *device {
	t.Helper()
	if env == "" {
		return newClient(t, ns, args...)
	}
	return &device{start(t, ns, append([]string{"env", env, filepath.Join(bin, "vpncli"), "--json"}, args...)...), t, ns}
}

// event waits for an event of the kind, after the first skip ones.
func (d *device) event(kind client.EventKind, skip int) client.Event {
	d.t.Helper()
	line := await(d.t, d.Proc, fmt.Sprintf(`"event":%q`, kind), skip)
	var e client.Event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		d.t.Fatalf("%s: %v", line, err)
	}
	return e
}

// waitConnected waits for the first connection and returns the address inside the tunnel.
func (d *device) waitConnected() string {
	d.t.Helper()
	return d.event(client.EventConnected, 0).Address.String()
}

// start starts a program. When the test ends it is stopped, which has to work with status 0; its
// output is shown if the test has failed.
func start(t *testing.T, ns *lab.Namespace, args ...string) *lab.Proc {
	t.Helper()
	p, err := ns.Start(args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-p.Done():
		default:
			stop(t, p)
		}
		if t.Failed() {
			t.Logf("%s: %s\n%s", ns.Name, strings.Join(args, " "), p.Output())
		}
	})
	return p
}

// stop sends SIGTERM, to which the exit status must be 0.
func stop(t *testing.T, p *lab.Proc) {
	t.Helper()
	if status, err := p.Stop(patience); status != 0 || err != nil {
		t.Errorf("after SIGTERM: status %d, %v\n%s", status, err, p.Output())
	}
}

func await(t *testing.T, p *lab.Proc, text string, skip int) string {
	t.Helper()
	line, err := p.Await(text, skip, patience)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// run runs a command of words without quotes, which must succeed.
func run(t *testing.T, ns *lab.Namespace, command string) string {
	t.Helper()
	out, err := ns.Run(command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// until waits for something of the kernel that nobody tells of.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// settle waits until the kernel has done all that it does by itself with new links, so that states can
// be compared.
func (n *network) settle() {
	n.t.Helper()
	for _, ns := range []*lab.Namespace{n.gw, n.c1, n.c2, n.c3, n.lan} {
		until(n.t, patience, ns.Name+" has settled", func() bool {
			links := run(n.t, ns, "ip -o link show type veth")
			addrs := run(n.t, ns, "ip -o -6 address show scope link")
			return !strings.Contains(links, "NO-CARRIER") && !strings.Contains(links, "state DOWN") &&
				strings.Count(addrs, "\n") == strings.Count(links, "\n") &&
				run(n.t, ns, "ip -6 address show tentative") == ""
		})
	}
}

// hostState is everything that the programs could leave behind, as text.
func hostState(t *testing.T, ns *lab.Namespace) string {
	t.Helper()
	var all strings.Builder
	for _, cmd := range []string{
		"ip address", "ip route show table all", "ip -6 route show table all", "ip rule", "ip -6 rule",
		"nft list ruleset", "sysctl net.ipv4.ip_forward net.ipv4.conf.all.src_valid_mark",
	} {
		fmt.Fprintf(&all, "# %s\n%s\n", cmd, run(t, ns, cmd))
	}
	return all.String()
}

// equalState compares the state of a host with what it was before.
func equalState(t *testing.T, ns *lab.Namespace, want string) {
	t.Helper()
	if got := hostState(t, ns); got != want {
		t.Errorf("%s is not as before:\n%s\n%s", ns.Name, only("-", want, got), only("+", got, want))
	}
}

// only returns the lines of a that b does not have.
func only(sign, a, b string) string {
	lines := strings.Split(b, "\n")
	var all []string
	for _, line := range strings.Split(a, "\n") {
		if !slices.Contains(lines, line) {
			all = append(all, sign+line)
		}
	}
	return strings.Join(all, "\n")
}
