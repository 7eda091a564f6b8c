package hostnet

import (
	"context"
	"strings"
	"testing"
	"time"
)

// What changes the way out is told once, with the name of the network; what does not is not told.
func TestWatchNetwork(t *testing.T) {
	if !inNetns(t) {
		return
	}
	openTUN(t, "vpn0")
	run(t, "ip link del veth0", "ip link add wifi0 type veth peer name ap", "ip link add lte0 type veth peer name cell",
		"ip link set ap up", "ip link set cell up", "ip link set vpn0 up")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	networks, done := make(chan Network, 100), make(chan error, 1)
	go func() { done <- WatchNetwork(ctx, "vpn0", func(n Network) { networks <- n }) }()
	next := func(what string) Network {
		t.Helper()
		select {
		case n := <-networks:
			return n
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: nothing is told", what)
			panic("not reached")
		}
	}
	if first := next("at first"); first != (Network{}) {
		t.Errorf("at first: %+v", first)
	}
	for _, tt := range []struct {
		commands []string
		id       string // what the network is called
	}{
		{[]string{"ip link set wifi0 up", "ip addr add 192.168.7.2/24 dev wifi0"}, "192.168.7.0/24"},
		{[]string{"ip route add default via 192.168.7.1 dev wifi0 metric 600"}, "wifi0 via 192.168.7.1 192.168.7.0/24"},
		{[]string{"ip link set lte0 up", "ip addr add 100.64.9.9/30 dev lte0"}, "wifi0 via 192.168.7.1 100.64.9.8/30 192.168.7.0/24"},
		{[]string{"ip route add default via 100.64.9.10 dev lte0 metric 700"}, "wifi0 via 192.168.7.1 100.64.9.8/30 192.168.7.0/24"},
		{[]string{"ip route del default dev wifi0"}, "lte0 via 100.64.9.10 100.64.9.8/30 192.168.7.0/24"},
		{[]string{"ip route del default dev lte0"}, "100.64.9.8/30 192.168.7.0/24"},
		{[]string{"ip link set ap down"}, "100.64.9.8/30"}, // the cable of wifi0
		{[]string{"ip link set lte0 down"}, ""},
	} {
		run(t, tt.commands...)
		what := strings.Join(tt.commands, "; ")
		got := next(what)
		for settled := false; !settled; { // the steps of a command may be seen one by one
			select {
			case got = <-networks:
			case <-time.After(300 * time.Millisecond):
				settled = true
			}
		}
		if got.ID != tt.id {
			t.Errorf("%s: got %+v, want it called %q", what, got, tt.id)
		}
	}
	// Nothing of this leads out, or it is our own.
	run(t, "ip addr add 10.9.0.1/24 dev vpn0", "ip route add 172.30.0.0/16 dev vpn0", "ip route add default dev vpn0 metric 5", "ip link add br9 type bridge")
	select {
	case n := <-networks:
		t.Errorf("told of what leads nowhere: %+v", n)
	case <-time.After(500 * time.Millisecond):
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
