package netns

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ferry/internal/client"
)

// newRoaming starts a gateway with these listeners, and a client that has joined by TCP and finds out itself what else there is.
func newRoaming(t *testing.T, listen ...string) (*hostile, *device) {
	t.Helper()
	h := newServed(t, listen...)
	return h, newClient(t, h.c, "--state", h.join(h.c, "cam1"))
}

// newServed starts a gateway with these listeners, and TCP.
func newServed(t *testing.T, listen ...string) *hostile {
	t.Helper()
	h := newHostile(t)
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	run(t, h.gw, fmt.Sprintf("%s/vpnsrv init --state %s --config %s", bin, h.state, file))
	args := []string{"--config", file, "--listen", "tcp://:2002?allow=tls"}
	for _, l := range listen {
		args = append(args, "--listen", l)
	}
	h.startSecure(args...)
	return h
}

// goesBy waits until the client uses a way with one of these parts in its URL, and returns how long that took.
func (d *device) goesBy(limit time.Duration, parts ...string) time.Duration {
	d.t.Helper()
	began := time.Now()
	for time.Since(began) < limit {
		way := d.way()
		if slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(way, p) }) {
			return time.Since(began)
		}
		time.Sleep(10 * time.Millisecond)
	}
	d.t.Fatalf("the client goes by %q after %s, want one of %v", d.way(), limit, parts)
	return 0
}

// way returns the URL that the client uses, as its events say; empty: none.
func (d *device) way() (url string) {
	for line := range strings.Lines(d.Output()) {
		for _, kind := range []client.EventKind{client.EventConnected, client.EventSwitched} {
			if strings.Contains(line, fmt.Sprintf(`"event":%q`, kind)) {
				_, rest, _ := strings.Cut(line, `"way":"`)
				url, _, _ = strings.Cut(rest, `"`)
			}
		}
		if strings.Contains(line, fmt.Sprintf(`"event":%q`, client.EventLost)) {
			url = ""
		}
	}
	return url
}

// TestRoam: ways are closed one after the other while a connection inside of the tunnel is in use, and opened again.
func TestRoam(t *testing.T) {
	t.Parallel()
	h, dev := newRoaming(t, "udp://:2002", "wss://:443")
	addr := dev.waitConnected()
	ssh := newSession(t, h.c, h.gw, gatewayVPN)
	ssh.say("before", patience)
	first := dev.goesBy(patience, "tcp://", "udp://")
	t.Logf("on %s after %s", dev.way(), first.Round(time.Millisecond))
	up := newNumberedStream(t, h.c, h.gw, gatewayVPN, 10*time.Millisecond)
	down := newNumberedStream(t, h.gw, h.c, addr, 10*time.Millisecond)
	time.Sleep(3 * time.Second) // a standby is found meanwhile

	undoUDP := h.dropUDP()
	t.Logf("without UDP: after %s", dev.goesBy(patience, "tcp://", "wss://").Round(time.Millisecond))
	ssh.say("without UDP", patience)
	time.Sleep(3 * time.Second)
	undoAll := h.onlyPort443()
	t.Logf("with port 443 alone: after %s", dev.goesBy(patience, ":443").Round(time.Millisecond))
	ssh.say("with port 443 alone", patience)
	undoAll()
	undoUDP()
	ssh.say("all is open again", patience)
	for name, tr := range map[string]*numberedStream{"to the gateway": up, "to the client": down} {
		lost, doubled, reordered, stall := tr.end()
		t.Logf("%s: %d packets, %d lost, %d overtaken, the longest pause %s", name, tr.sent, lost, reordered, stall.Round(time.Millisecond))
		if doubled > 0 || stall > 5*time.Second || lost > tr.sent/10 {
			t.Errorf("%s: %d lost, %d twice, %d overtaken, a pause of %s", name, lost, doubled, reordered, stall)
		}
	}
	if n := dev.Count(`"event":"address"`); n != 1 {
		t.Errorf("the client heard of %d addresses", n)
	}
}
