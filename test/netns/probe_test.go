package netns

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/internal/client"
	"ferry/test/lab"
)

// probeWays are the listeners of a gateway by every carrier that is probed; there are two for UDP's port 2002, so QUIC has another.
var probeWays = []string{"--listen", "tcp://:2002", "--listen", "udp://:2002", "--listen", "quic://:2003", "--listen", "wss://:443", "--listen", "connect-ip://:443", "--listen", "ssh://:2022", "--listen", "icmp://"}

// probeFrom runs 'vpncli probe', and returns what came of each way by its URL.
func probeFrom(t *testing.T, ns *lab.Namespace, args string) (results map[string]client.ProbeResult, status string) {
	t.Helper()
	return probeWith(t, ns, "", args)
}

// probeWith is probeFrom with an environment, as env(1) takes it.
func probeWith(t *testing.T, ns *lab.Namespace, environment, args string) (results map[string]client.ProbeResult, status string) {
	t.Helper()
	out, err := ns.Run("env " + environment + " " + filepath.Join(bin, "vpncli") + " probe --config= --json " + args)
	if err != nil {
		status = err.Error()
	}
	begin, end := strings.Index(out, "{"), strings.LastIndex(out, "}") // there are remarks around it
	var all struct{ Ways []client.ProbeResult }
	if jsonErr := json.Unmarshal([]byte(out[max(begin, 0):end+1]), &all); jsonErr != nil {
		t.Fatalf("%v, %v: %s", jsonErr, err, out)
	}
	results = map[string]client.ProbeResult{}
	for _, r := range all.Ways {
		t.Logf("%+v", r)
		results[r.Way] = r
	}
	return results, status
}

// causes are how many connections have ended at the gateway, by cause.
func (n *network) causes() map[string]uint64 {
	n.t.Helper()
	var s struct{ Closed map[string]uint64 }
	if err := json.Unmarshal([]byte(n.vpnsrv("status --json")), &s); err != nil {
		n.t.Fatal(err)
	}
	return s.Closed
}

// A network that drops UDP and refuses port 443: the rows say so, and all others work. The gateway hears nothing
// that it would have to worry about.
func TestProbe(t *testing.T) {
	t.Parallel()
	n := newSecure(t, probeWays...)
	state := n.join(n.c1, "cam1")
	ways := "--state " + state + " -s " + gatewayC1 + ",quic://" + gatewayC1 + ":2003,connect-ip+h1://" + gatewayC1
	before := hostState(t, n.c1)
	open, status := probeFrom(t, n.c1, ways)
	if status != "" {
		t.Errorf("something works, and the status is %s", status)
	}
	for _, way := range []string{"tcp://192.168.101.1:2002", "udp://192.168.101.1:2002", "quic://192.168.101.1:2003", "wss://192.168.101.1:443/ferry", "connect-ip://192.168.101.1:443", "connect-ip+h1://192.168.101.1:443", "ssh://192.168.101.1:2022", "icmp://192.168.101.1"} {
		r := open[way]
		if !r.Works || r.RTT <= 0 || r.RTT > 0.5 || r.Largest < 1350 || r.Estimate < 1e6 || r.Reason != "" {
			t.Errorf("%s: got %+v", way, r)
		}
	}
	if r := open["quic://192.168.101.1:2002"]; r.Works || !strings.Contains(r.Reason, "no answer within 5s") {
		t.Errorf("QUIC where there is none: got %+v", r)
	}
	equalState(t, n.c1, before)
	until(t, patience, "all ended", func() bool { return n.causes()["closed"] >= 8 })
	for cause, count := range n.causes() {
		if cause != "closed" && cause != "joined" && count > 0 {
			t.Errorf("%d connections ended by %s", count, cause)
		}
	}

	run(t, n.gw, "nft add table inet hostile")
	run(t, n.gw, "nft add chain inet hostile in { type filter hook input priority 0 ; }")
	run(t, n.gw, "nft add rule inet hostile in iifname eth1 meta l4proto udp drop")
	run(t, n.gw, "nft add rule inet hostile in iifname eth1 tcp dport 443 reject with tcp reset")
	run(t, n.gw, "nft add rule inet hostile in iifname eth1 tcp dport 2022 drop")
	run(t, n.gw, "nft add rule inet hostile in iifname eth1 icmp type echo-request drop")
	hostile, status := probeFrom(t, n.c1, ways)
	if status != "" {
		t.Errorf("TCP works, and the status is %s", status)
	}
	for way, reason := range map[string]string{
		"udp://192.168.101.1:2002":       "UDP may be blocked",
		"quic://192.168.101.1:2003":      "UDP may be blocked",
		"wss://192.168.101.1:443/ferry":  "refused: nothing listens there",
		"ssh://192.168.101.1:2022":       "the port is filtered",
		"connect-ip://192.168.101.1:443": "UDP may be blocked",
		"icmp://192.168.101.1":           "pings may be blocked",
	} {
		if r := hostile[way]; r.Works || !strings.Contains(r.Reason, reason) {
			t.Errorf("%s: got %+v, want %q", way, r, reason)
		}
	}
	if r := hostile["tcp://192.168.101.1:2002"]; !r.Works {
		t.Errorf("tcp: got %+v", r)
	}
}

// A device that was disabled hears so, few times enough that the gateway goes on to listen to it.
func TestProbeDisabled(t *testing.T) {
	t.Parallel()
	n := newSecure(t, probeWays...)
	state := n.join(n.c1, "cam1")
	n.vpnsrv("peer disable cam1")
	refused := 0
	all, status := probeFrom(t, n.c1, "--state "+state+" -s "+gatewayC1)
	for way, r := range all {
		if r.Works {
			t.Errorf("%s: got %+v", way, r)
		}
		if strings.Contains(r.Reason, "does not take this device's key") {
			refused++
		}
	}
	if refused < 4 || !strings.Contains(status, "exit status 1") || !strings.Contains(status, "nothing gets through to the gateway from here") {
		t.Errorf("%d ways were refused, status %q", refused, status)
	}
	n.vpnsrv("peer enable cam1")
	if r := one(t, n.c1, "--state "+state+" -s tcp://"+gatewayC1); !r.Works {
		t.Errorf("enabled again: got %+v", r)
	}
}

// one probes one way.
func one(t *testing.T, ns *lab.Namespace, args string) (r client.ProbeResult) {
	t.Helper()
	all, _ := probeFrom(t, ns, args)
	if len(all) != 1 {
		t.Fatalf("got %d ways: %+v", len(all), all)
	}
	for _, r = range all {
	}
	return r
}

// Without keys there is TCP, and round trips.
func TestProbePlain(t *testing.T) {
	t.Parallel()
	n := newGateway(t)
	state := " --state " + filepath.Join(t.TempDir(), "none")
	if r := one(t, n.c1, "-s "+gatewayC1+state); !r.Works || r.RTT <= 0 || r.Largest != 0 || r.Estimate != 0 || r.Reason != "" {
		t.Errorf("got %+v", r)
	}
	until(t, patience, "the connection ended", func() bool { return n.causes()["closed"] == 1 })
	if leases := n.vpnsrv("leases"); strings.Contains(leases, "10.0.") {
		t.Errorf("a probe has a lease:\n%s", leases)
	}
}

// Beside a full tunnel a probe passes by it as vpncli itself does; without the mark it would go inside.
func TestProbeFullTunnel(t *testing.T) {
	t.Parallel()
	n := newSecure(t)
	state := n.join(n.c1, "cam1")
	c := newClient(t, n.c1, "--state", state, "--default-route")
	c.waitConnected()
	before := hostState(t, n.c1)
	ways := "--state " + state + " -s tcp://" + gatewayC1
	if r := one(t, n.c1, ways); !r.Works {
		t.Errorf("marked: got %+v", r)
	}
	if r := one(t, n.c1, ways+" --mark 0"); r.Works {
		t.Errorf("without a mark: got %+v", r)
	}
	equalState(t, n.c1, before)
	ping(t, n.c1, gatewayVPN, 3)
	if lost := c.Count(`"event":"lost"`); lost > 0 {
		t.Errorf("the tunnel was lost %d times", lost)
	}
}

// Large packets vanish without a word: by UDP the handshake still passes, and the row says what does not. Who has
// enough interrupts, and sees what is known.
func TestProbeHostile(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	run(t, h.gw, fmt.Sprintf("%s/vpnsrv init --state %s --config %s", bin, h.state, file))
	h.startSecure("--config", file, "--listen", "tcp://:2002", "--listen", "udp://:2002")
	ways := "--state " + h.join(h.c, "cam1") + " -s tcp://" + hostileGateway + ",udp://" + hostileGateway

	slow := h.set("delay 10ms, rate 20mbit", "delay 0s, rate 0")
	all, _ := probeFrom(t, h.c, ways)
	for way, r := range all {
		if !r.Works || r.RTT < 0.02 || r.RTT > 0.1 || r.Estimate < 5e6 || r.Estimate > 25e6 {
			t.Errorf("20 ms and 20 Mbit/s: %s: got %+v", way, r)
		}
	}
	slow()
	small := h.dropLargerThan(1300)
	all, _ = probeFrom(t, h.c, ways)
	if r := all["udp://203.0.113.10:2002"]; !r.Works || r.Largest != 1000 || !strings.Contains(r.Reason, "large packets are lost") {
		t.Errorf("large packets vanish: got %+v", r)
	}
	small()
	h.dropUDP()
	p := start(t, h.c, strings.Fields(filepath.Join(bin, "vpncli")+" probe --config= "+ways)...)
	time.Sleep(2 * time.Second) // UDP has 5
	if status, err := p.Stop(patience); status != 0 || err != nil {
		t.Errorf("interrupted: status %d, %v", status, err)
	}
	if out := p.Output(); !strings.Contains(out, "yes") || !strings.Contains(out, "not finished: interrupted") {
		t.Errorf("interrupted, it prints\n%s", out)
	}
}

// Where nothing but a proxy leads out, the row says what the proxy wants, and that it works with that.
func TestProbeProxy(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	h.proxies()
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	run(t, h.gw, fmt.Sprintf("%s/vpnsrv init --state %s --config %s", bin, h.state, file))
	h.startSecure("--config", file, "--listen", "tcp://:2002", "--listen", "wss://:443")
	ways := "--state " + h.join(h.c, "cam1") + " -s tcp://" + hostileGateway + ",wss://" + hostileGateway
	h.onlyHTTPProxy()
	const tcp, wss = "tcp://203.0.113.10:2002", "wss://203.0.113.10:443/ferry"
	for user, reason := range map[string]string{"": "the proxy wants a user name and password", proxyUser + "@": ""} {
		all, _ := probeWith(t, h.c, fmt.Sprintf("HTTPS_PROXY=http://%s%s:%d", user, hostileISP, httpAuthPort), ways)
		if r := all[wss]; r.Works != (reason == "") || !strings.Contains(r.Reason, reason) {
			t.Errorf("as %q: got %+v", user, r)
		}
		if r := all[tcp]; r.Works || !strings.Contains(r.Reason, "the port is filtered") {
			t.Errorf("past the proxy: got %+v", r)
		}
	}
}
