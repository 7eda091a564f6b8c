package hostnet

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Every thing that others do to the link is told, and our own is not.
// exam: F9, F11, F13
func TestWatch(t *testing.T) {
	if !inNetns(t) {
		return
	}
	openTUN(t, "vpn0")
	full := fullTunnel
	full.MTU = 1400
	l := New("vpn0", nil)
	mustApply(t, l, full)
	events, stop := watch(t, l)
	for _, tt := range []struct {
		command string
		want    []Event
	}{
		{"ip addr del 10.0.0.5/16 dev vpn0", []Event{AddrRemoved}},
		{"ip route del 172.20.0.0/24 table 2002 metric 0", []Event{RouteRemoved}},
		{"ip route del 10.0.0.0/16 dev vpn0", []Event{RouteRemoved}},
		{"ip route del default table 2002 dev vpn0", []Event{RouteRemoved}},
		{"ip -6 route flush table 2002", []Event{RouteRemoved}},
		{"ip rule del priority 14005", []Event{RouteRemoved}},
		{"ip addr add 192.168.77.2/24 dev veth0", []Event{LocalNets}},
		{"ip route del 192.168.77.0/24 table 2002", []Event{RouteRemoved}},
		{"ip addr del 192.168.77.2/24 dev veth0", []Event{LocalNets}},
		{"ip link set vpn0 mtu 1280", []Event{MTUChanged}},
		{"ip link set vpn0 down", []Event{Down}},
	} {
		run(t, tt.command)
		wantEvents(t, tt.command, events, tt.want...)
		mustApply(t, l, full)
	}
	run(t, "ip link set vpn0 down")
	wantEvents(t, "down", events, Down)
	run(t, "ip link set vpn0 up")
	wantEvents(t, "up", events, Up)
	mustApply(t, l, full)

	mustApply(t, l, client)
	run(t, "ip link set vpn0 mtu 1300")
	wantEvents(t, "MTU", events, MTUChanged)
	asIs := client
	asIs.MTU = 0 // whoever accepts the change declares none, and hears no more of it
	mustApply(t, l, asIs)
	run(t, "ip addr add 10.50.0.1/24 dev vpn0", "ip link set veth0 down") // not our business
	run(t, "ip link del vpn0")
	wantEvents(t, "deleted", events, Gone)
	openTUN(t, "vpn0")
	wantEvents(t, "recreated", events, Down)
	mustApply(t, l, client)

	sleeper := exec.Command("unshare", "-n", "sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleeper.Wait()
	defer sleeper.Process.Kill()
	waitForNetns(t, sleeper.Process.Pid)
	run(t, "ip link set vpn0 netns "+strconv.Itoa(sleeper.Process.Pid))
	wantEvents(t, "moved to another namespace", events, Gone)
	mustClose(t, l)
	stop()
	if e, ok := <-events; ok {
		t.Errorf("got %v after the end", e)
	}
}

// The socket of a watcher that does not read runs over. What happened meanwhile must come out.
func TestWatchOverflow(t *testing.T) {
	if !inNetns(t) {
		return
	}
	openTUN(t, "vpn0")
	l := New("vpn0", nil)
	mustApply(t, l, client)
	events, stop := watch(t, l)
	run(t, "ip link set vpn0 mtu 1300")
	wantEvents(t, "first", events, MTUChanged)
	run(t, "ip link set vpn0 mtu 1301") // the watcher hangs in its report of this one
	storm := exec.Command("ip", "-batch", "-")
	storm.Stdin = strings.NewReader(strings.Repeat("route add 203.0.113.0/24 dev veth0\nroute del 203.0.113.0/24\n", 3000))
	if out, err := storm.CombinedOutput(); err != nil {
		t.Fatalf("storm: %v\n%s", err, out)
	}
	run(t, "ip addr del 10.0.0.5/16 dev vpn0")
	wantEvents(t, "overflow", events, MTUChanged, AddrRemoved)
	stop()
}

// watch sends what Watch reports; the channel holds none and is closed when Watch returned.
func watch(t *testing.T, l *Link) (<-chan Event, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan Event)
	go func() {
		defer close(events)
		if err := l.Watch(ctx, func(e Event) { events <- e }); err != nil {
			t.Errorf("Watch: %v", err)
		}
	}()
	t.Cleanup(cancel)
	return events, cancel
}

func wantEvents(t *testing.T, after string, events <-chan Event, want ...Event) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-events:
			if got == RouteRemoved && w == LocalNets {
				// The kernel lists routes without a lock while others are added, and may leave one out: whoever hears of it finds nothing to repair.
				got = <-events
			}
			if got != w {
				t.Fatalf("%s: got %q, want %q", after, got, w)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: no event, want %q", after, w)
		}
	}
}
