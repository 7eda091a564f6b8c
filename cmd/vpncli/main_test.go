package main

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/cli/clitest"
	"ferry/internal/client"
	"ferry/internal/identity"
)

func TestCommand(t *testing.T) {
	bin := clitest.Build(t, "vpncli")
	testCommand(t, bin)
	first := carrier.Names()[0]
	const ended = "Completion ended with directive: ShellCompDirectiveNoFileComp"
	clitest.Check(t, bin, []clitest.Call{
		{Name: "no root", Args: noRoot, Nobody: true, Status: 1, Stderr: noRootText + "; or with --user --socks5 127.0.0.1:1080, which needs neither rights nor an interface"},
		{Name: "names of programs", Args: noRoot + " --user --publish auto,names", Status: 2, Stderr: "vpncli: --publish: with --user the names of programs are out of reach: leave 'names' out"},
		{Name: "no way in", Args: noRoot + " --user", Status: 2, Stderr: "vpncli: --user: nothing would lead into the tunnel: add --socks5 127.0.0.1:1080, --http-proxy 127.0.0.1:3128, -L, -R or --publish auto"},
		{Name: "a proxy beside an interface", Args: noRoot + " --socks5 127.0.0.1:1080", Status: 2, Stderr: "vpncli: --socks5 and --http-proxy lead into a tunnel without an interface: add --user"},
		{Name: "a forward of -L", Args: noRoot + " -L 8080:localhost:80", Status: 2, Stderr: `vpncli: --local-forward: forward "8080:localhost:80": localhost:80 would be this device itself: write an address in the tunnel, as that of the gateway`},
		{Name: "a forward of -R", Args: noRoot + " -R /x:localhost:80", Status: 2, Stderr: `vpncli: --remote-forward: forward "/x:localhost:80": in the tunnel there are no unix sockets: write a port to listen on`},
		{Name: "complete a forward", Args: "__completeNoDesc -L u", Stdout: "udp:5353:\n:6\n", Stderr: "Completion ended with directive: ShellCompDirectiveNoSpace, ShellCompDirectiveNoFileComp"},
		{Name: "complete services", Args: "__completeNoDesc --publish a", Stdout: "auto\nauto,loopback\n", Stderr: "Completion ended with directive: ShellCompDirectiveNoSpace, ShellCompDirectiveNoFileComp"},
		{Name: "complete a socket", Args: "__completeNoDesc vtunnel --socket u", Stdout: "unix:///\n", Stderr: "Completion ended with directive: ShellCompDirectiveNoSpace, ShellCompDirectiveNoFileComp"},
		{Name: "complete a level", Args: "__completeNoDesc --log-level w", Stdout: "warn\nerror\n:4\n", Stderr: ended},
		{Name: "complete a carrier", Args: "__completeNoDesc --carrier w", Stdout: "auto\n" + strings.Join(carrier.Names(), "\n") + "\n:4\n", Stderr: ended},
		{Name: "complete a carrier behind another", Args: "__completeNoDesc probe --carrier " + first + ",u", Stdout: first + "," + strings.Join(carrier.Names()[1:], "\n"+first+",") + "\n:4\n", Stderr: ended},
		{Name: "complete no interface", Args: "__completeNoDesc --tun f", Stdout: ":4\n", Stderr: ended},
	})
	clitest.CheckCompletion(t, bin)
	t.Run("service", func(t *testing.T) { testService(t, bin) })
}

// The small build understands the same.
func TestMinimal(t *testing.T) {
	bin := clitest.Build(t, "vpncli", "-tags=minimal")
	testCommand(t, bin)
	clitest.Check(t, bin, []clitest.Call{
		{Name: "no root", Args: noRoot, Nobody: true, Status: 1, Stderr: noRootText},
		{Name: "no user mode", Args: noRoot + " --user --socks5 127.0.0.1:1080", Status: 1, Stderr: "vpncli: --user: this is the build for small devices, which is without it: take the whole one"},
		{Name: "forwards", Args: noRoot + " -L 8080:10.0.0.1:80", Status: 1, Stderr: "vpncli: -L, -R: this is the build for small devices, which is without forwards: take the whole one"},
		{Name: "help of a command", Args: "join -h", Stdout: "  vpncli join STRING [flags]"},
		{Name: "commands", Args: "-h", Stdout: "  key         Print this device's public key"},
	})
	t.Run("service", func(t *testing.T) { testService(t, bin) })
}

const (
	noRoot     = "-s 192.168.0.1 --state /nowhere"
	noRootText = "vpncli: needs CAP_NET_ADMIN to make the interface ferry0: run as root (sudo vpncli ...)"
)

func testCommand(t *testing.T, bin string) {
	file := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(file, []byte("server = 'x'\nrouts = []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "state")
	const noServer = `vpncli: no gateway is named: vpncli -s 192.168.0.1 (or 'server' in the file of --config, or 'vpncli join' with an invitation)`
	const nothing = "vpncli: nothing gets through to the gateway from here: the reasons are above"
	none, fingerprint := filepath.Join(t.TempDir(), "none"), identity.NewKey().Public().Pin().String()
	clitest.Check(t, bin, []clitest.Call{
		{Name: "key", Args: "key --state " + state, Stdout: "="},
		{Name: "a key and no gateway", Args: "-s x --state " + state, Status: 1, Stderr: `vpncli: this device has a key and knows no gateway: 'vpncli join' with an invitation, --gateway with its fingerprint, or --plain for the 2013 protocol without keys`},
		{Name: "join without a string", Args: "join", Status: 2, Stderr: `vpncli: got 0 arguments: write vpncli join STRING`},
		{Name: "join with half a string", Args: "join ferry1-AAAA", Status: 2, Stderr: `vpncli: this is not a whole invitation: copy the line that 'vpnsrv invite' printed, all of it`},
		{Name: "probe without a gateway", Args: "probe --config= --state /nowhere", Status: 2, Stderr: noServer},
		{Name: "probe with an argument", Args: "probe 192.168.0.1", Status: 2, Stderr: `vpncli: unexpected argument "192.168.0.1": name the gateway with -s, as in vpncli probe -s 192.168.0.1`},
		{Name: "probe by no carrier", Args: "probe --config= --plain -s 127.0.0.1 --carrier pigeon", Status: 2, Stderr: `vpncli: --carrier: unknown carrier "pigeon": use auto, or some of ` + strings.Join(carrier.Names(), ", ")},
		{Name: "probe makes no key", Args: "probe --config= -s 127.0.0.1 --state " + none + " --gateway " + fingerprint, Status: 1, Stderr: "vpncli: this device has no key in " + none + ": 'vpncli key' makes one, 'vpncli join' makes it known to a gateway"},
		{Name: "probe of nobody", Args: "probe --config= --plain -s unix:///nowhere/s", Status: 1,
			Stdout: "CARRIER  WAY                ", Stderr: nothing},
		{Name: "probe of nobody for scripts", Args: "probe --config= --plain --json -s unix:///nowhere/s", Status: 1,
			Stdout: `"reason": "there is no such socket: is vpnsrv running?"`, Stderr: nothing},
		{Name: "help of probe", Args: "probe --help", Stdout: "--mark mark"},
		{Name: "help", Args: "--help", Stdout: "-a, --address address"},
		{Name: "version", Args: "-V", Stdout: "vpncli devel ("},
		{Name: "no server", Args: "--state /nowhere", Status: 2, Stderr: noServer},
		{Name: "no server before no root", Args: "--state /nowhere", Nobody: true, Status: 2, Stderr: noServer},
		{Name: "server without flag", Args: "192.168.0.1", Status: 2, Stderr: `vpncli: unexpected argument "192.168.0.1": name the gateway with -s, as in vpncli -s 192.168.0.1`},
		{Name: "port", Args: "-s x -p no", Status: 2, Stderr: `vpncli: --port: "no" is not a whole number`},
		{Name: "unknown flag", Args: "--jsn", Status: 2, Stderr: `vpncli: unknown flag: --jsn (did you mean --json?)`},
		{Name: "unknown key", Args: "--config " + file, Status: 1, Stderr: `vpncli: ` + file + `:2: unknown key "routs" (did you mean "route"?)`},
	})
	if client.HasKey(none) {
		t.Error("a probe has made a key")
	}
}

// testService runs vpncli where there is no gateway.
func testService(t *testing.T, bin string) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := clitest.Start(t, w, bin, "--config=", "--state", t.TempDir(), "--json", "-s", "unix://"+filepath.Join(t.TempDir(), "nobody"))
	_ = w.Close()
	s.Await(t, "STATUS=reconnecting")
	s.Stop(t)
	var kinds []client.EventKind
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var e client.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		kinds = append(kinds, e.Kind)
	}
	if len(kinds) < 2 || kinds[len(kinds)-1] != client.EventStopped {
		t.Errorf("got events %q, want some, and stopped at the end", kinds)
	}
}

func TestState(t *testing.T) {
	for _, test := range []struct {
		event client.Event
		want  string
	}{
		{client.Event{Kind: client.EventConnecting, Server: "tcp://gw:2002"}, "STATUS=connecting via tcp://gw:2002"},
		{client.Event{Kind: client.EventAddress, Interface: "ferry0", Address: netip.MustParseAddr("10.0.254.254"),
			Prefix: netip.MustParsePrefix("10.0.0.0/16")}, "STATUS=address 10.0.254.254 on ferry0"},
		{client.Event{Kind: client.EventReconnecting, Reason: "dial: refused", RetryIn: 0.25}, "STATUS=reconnecting in 0.2s: dial: refused"},
	} {
		if got := state(test.event); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestProbeTable(t *testing.T) {
	var b strings.Builder
	table := newProbeTable(&b, []string{"tcp://gw:2002", "connect-ip://gw"})
	table.head()
	table.row(client.ProbeResult{Carrier: "tcp", Way: "tcp://gw:2002", Works: true, RTT: 0.0204, Largest: 1400, Estimate: 48.4e6})
	table.row(client.ProbeResult{Carrier: "connect-ip", Way: "connect-ip://gw", Reason: "\x1b[2J"})
	const want = "" +
		"CARRIER     WAY              WORKS  RTT       LARGEST  ESTIMATE     REASON\n" +
		"tcp         tcp://gw:2002    yes    20.4 ms   1400     48 Mbit/s\n" +
		"connect-ip  connect-ip://gw  no     -         -        -            \ufffd[2J\n"
	if b.String() != want || table.err != nil {
		t.Errorf("%v, got\n%s\nwant\n%s", table.err, b.String(), want)
	}
	table = newProbeTable(new(brokenWriter), nil)
	if table.head(); table.err == nil {
		t.Error("nobody hears that nothing could be printed")
	}
	for bits, want := range map[float64]string{0: "-", 64e3: "64 kbit/s", 1.26e6: "1.3 Mbit/s", 48.4e6: "48 Mbit/s", 2.44e9: "2.4 Gbit/s"} {
		if got := rateOf(bits); got != want {
			t.Errorf("%.0f: got %s, want %s", bits, got, want)
		}
	}
	for seconds, want := range map[float64]string{0: "-", 0.00002: "0.02 ms", 0.0204: "20.4 ms", 1.5: "1500.0 ms"} {
		if got := rttOf(seconds); got != want {
			t.Errorf("%f: got %s, want %s", seconds, got, want)
		}
	}
}

type brokenWriter struct{ writes int }

func (w *brokenWriter) Write([]byte) (int, error) {
	w.writes++
	return 0, io.ErrClosedPipe
}

func TestReaderOfEventsGoesAway(t *testing.T) {
	w := new(brokenWriter)
	tell := teller{lines: w, log: slog.New(slog.DiscardHandler)}
	tell.tell(client.Event{Kind: client.EventConnecting})
	tell.tell(client.Event{Kind: client.EventConnected})
	if w.writes != 1 {
		t.Errorf("got %d writes to a reader who went away, want 1", w.writes)
	}
}
