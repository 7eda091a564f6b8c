package netns

import (
	"path/filepath"
	"strings"
	"testing"

	"ferry/internal/client"
	"ferry/internal/identity"
)

// The gateway's key is replaced: who was told of the next one goes on without anybody's help, and has no use for
// the old one afterwards; who was away has to be told.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	n := newSecure(t)
	dir, away := n.join(n.c1, "cam1 --server "+gatewayC1), n.join(n.c2, "away --server "+gatewayC2)
	c := newClient(t, n.c1, "--state", dir)
	c.waitConnected()
	key := filepath.Join(n.state, "gateway.key")
	step := func(command string) string {
		t.Helper()
		return run(t, n.gw, filepath.Join(bin, "vpnsrv")+" key "+command+" --key "+key)
	}
	next := pinOf(t, step("next"))
	if again := pinOf(t, step("next")); again != next {
		t.Errorf("a second call makes another key: %s, %s", next, again)
	}
	if out := n.vpnsrv("reload"); !strings.Contains(out, "next key") {
		t.Errorf("reload says %s", out)
	}
	until(t, patience, "the device has stored the next key", func() bool { return strings.Contains(string(readFile(t, dir+"/gateway.json")), next) })
	if out := n.vpnsrv("peer list"); strings.Count(out, "was told of the next key") != 1 {
		t.Errorf("one was told:\n%s", out)
	}

	ping(t, n.c1, gatewayVPN, 3)
	if c.Count(`"event":"lost"`) != 0 {
		t.Error("the device was dropped")
	}

	// Given up, and taken up again.
	run(t, n.gw, "mv "+key+".next "+key+".x")
	n.vpnsrv("reload")
	until(t, patience, "the device has forgotten the next key", func() bool { return !strings.Contains(string(readFile(t, dir+"/gateway.json")), next) })
	if out := n.vpnsrv("peer list"); strings.Contains(out, "was told of the next key") {
		t.Errorf("there is none:\n%s", out)
	}
	run(t, n.gw, "mv "+key+".x "+key+".next")
	stop(t, n.srv)
	n.startSecure(n.args...)
	c.event(client.EventConnected, 1)
	until(t, patience, "the device has stored the next key again", func() bool { return strings.Contains(string(readFile(t, dir+"/gateway.json")), next) })

	old := pinOf(t, strings.ReplaceAll(step("show"), key+".next", ""))
	change := "switch --state " + n.state
	if out, err := n.gw.Run(filepath.Join(bin, "vpnsrv") + " key " + change + " --key " + key); err == nil || !strings.Contains(out, "not heard of the next key: away:") {
		t.Errorf("one was not told: %v, %s", err, out)
	}
	step(change + " --force")
	stop(t, n.srv)
	n.startSecure(n.args...)
	c.event(client.EventConnected, 2)
	ping(t, n.c1, gatewayVPN, 3)
	until(t, patience, "the device has forgotten the old key", func() bool {
		e, err := client.LoadEnrolment(dir)
		return err == nil && e.Gateway.String() == next && e.Next == identity.Pin{}
	})
	if s := c.status(""); s.Fingerprint.String() != next {
		t.Errorf("status says %s", s.Fingerprint)
	}
	late := newClient(t, n.c2, "--state", away)
	if e := late.event(client.EventReconnecting, 0); !strings.Contains(e.Reason, "replaced while this device was away") {
		t.Errorf("who was away hears %q", e.Reason)
	}
	stop(t, late.Proc)
	n.vpnsrv("peer rm away")
	run(t, n.c2, filepath.Join(bin, "vpncli")+" join "+n.invite("away --server "+gatewayC2)+" --state "+away)
	newClient(t, n.c2, "--state", away).waitConnected()

	// A thief of the old key is no gateway any more.
	stop(t, n.srv)
	run(t, n.gw, "mv "+key+".old "+key)
	n.startSecure(n.args...)
	e := c.event(client.EventReconnecting, 2)
	for i := 3; !strings.Contains(e.Reason, "want"); i++ {
		e = c.event(client.EventReconnecting, i)
	}
	if !strings.Contains(e.Reason, "the gateway has "+old) {
		t.Errorf("the old key: %q", e.Reason)
	}
}

// pinOf returns the first fingerprint in a text.
func pinOf(t *testing.T, text string) string {
	t.Helper()
	for _, word := range strings.Fields(text) {
		if _, err := identity.ParsePin(word); err == nil {
			return word
		}
	}
	t.Fatalf("no fingerprint in %q", text)
	return ""
}
