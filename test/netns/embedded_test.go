package netns

import (
	"os/exec"
	"strings"
	"testing"
)

// TestEmbeddedClient runs the client of docs/protocol.md, chapter "Write a client for an embedded
// device", beside vpncli. It speaks the protocol of 2013, so it must get whole packets of at most
// 1500 bytes with complete checksums, whatever vpncli sends.
func TestEmbeddedClient(t *testing.T) {
	t.Parallel()
	const script = "../../docs/client.py"
	if _, err := exec.LookPath("python3"); err != nil {
		unable(t, err)
	}
	n := newGateway(t)
	one := newClient(t, n.c1, "-s", gatewayC1)
	a := one.waitConnected()
	embedded := start(t, n.c3, "python3", script, gatewayC3, "--tun", "tun0")
	b := strings.TrimPrefix(await(t, embedded, "address ", 0), "address ")
	if b != "10.0.254.253" {
		t.Fatalf("got address %s, want 10.0.254.253", b)
	}
	until(t, patience, "the interface is up", func() bool { return answers(n.c3, gatewayVPN) })
	ping(t, n.c3, gatewayVPN, 3)
	ping(t, n.gw, b, 3)
	ping(t, n.c1, b, 3)
	ping(t, n.c3, a, 3)
	transfer(t, n.c1, n.c3, b, 1<<20, patience)
	transfer(t, n.c3, n.c1, a, 1<<20, patience)
	transfer(t, n.gw, n.c3, b, 1<<20, patience)
	transfer(t, n.c3, n.gw, gatewayVPN, 1<<20, patience)

	// A static address, and what happens when somebody has it.
	if out, err := n.c2.Run("timeout 2 python3 " + script + " " + gatewayC2 + " --address " + b); err == nil || !strings.Contains(out, "refused") {
		t.Errorf("got %q, %v, want a refusal", out, err)
	}

	// It comes back by itself and asks for its address again.
	n.srv.Kill()
	await(t, embedded, "not connected", 0)
	n.startGateway(n.args...)
	if again := strings.TrimPrefix(await(t, embedded, "address ", 1), "address "); again != b {
		t.Errorf("came back with %s, had %s", again, b)
	}
	until(t, patience, "the way back", func() bool { return answers(n.gw, b) })
}
