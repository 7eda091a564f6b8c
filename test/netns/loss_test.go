package netns

import (
	"fmt"
	"testing"
	"time"

	"ferry/test/lab"
)

// lose drops a share of what a host gets of the tunnel's connection.
func lose(t *testing.T, ns *lab.Namespace, percent int) {
	t.Helper()
	run(t, ns, "nft add table inet loss")
	run(t, ns, "nft add chain inet loss in { type filter hook input priority 0 ; }")
	for _, port := range []string{"sport", "dport"} {
		run(t, ns, fmt.Sprintf("nft add rule inet loss in tcp %s 2002 numgen random mod 100 < %d counter drop", port, percent))
	}
}

// TestBadNetwork is exam F8 as far as this kernel can do it: what comes through is right, and comes.
// exam: F8
func TestBadNetwork(t *testing.T) {
	t.Parallel()
	n := newGateway(t)
	a := newClient(t, n.c1, "-s", gatewayC1).waitConnected()
	newClient(t, n.c2, "-s", gatewayC2).waitConnected()

	t.Run("1 Mbit/s", func(t *testing.T) {
		run(t, n.c1, "tc qdisc add dev eth0 root tbf rate 1mbit burst 5kb latency 200ms")
		run(t, n.gw, "tc qdisc add dev eth1 root tbf rate 1mbit burst 5kb latency 200ms")
		began := time.Now()
		transfer(t, n.c1, n.gw, gatewayVPN, 200<<10, 20*time.Second)
		transfer(t, n.c2, n.c1, a, 200<<10, 20*time.Second)
		if took := time.Since(began); took < 2*time.Second {
			t.Errorf("the network was not as bad as it should be: %s", took)
		}
		run(t, n.c1, "tc qdisc del dev eth0 root")
		run(t, n.gw, "tc qdisc del dev eth1 root")
	})
	t.Run("1% loss", func(t *testing.T) {
		lose(t, n.gw, 1)
		lose(t, n.c1, 1)
		lose(t, n.c2, 1)
		transfer(t, n.c1, n.gw, gatewayVPN, 8<<20, 30*time.Second)
		transfer(t, n.gw, n.c1, a, 8<<20, 30*time.Second)
		transfer(t, n.c2, n.c1, a, 8<<20, 30*time.Second)
		for _, ns := range []*lab.Namespace{n.gw, n.c1, n.c2} {
			t.Log(ns.Name, run(t, ns, "nft list table inet loss"))
		}
		for range 3 { // one each: ping waits for the last of several no longer than for those before
			ping(t, n.c2, a, 1)
		}
	})
}
