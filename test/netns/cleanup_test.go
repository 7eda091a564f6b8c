package netns

import "testing"

// TestCleanUp: after SIGTERM the hosts are as they were, and after kill -9 they are once
// the program was started again and stopped.
// exam: U1
func TestCleanUp(t *testing.T) {
	t.Parallel()
	for _, mode := range []struct {
		name     string
		srv, cli []string
	}{
		{"plain", nil, nil},
		{"routes", []string{"--nat", "--push-route", "198.51.100.0/24", "--mtu", "1400"}, []string{"--route", "192.168.0.0/16", "--route", "203.0.113.0/24"}},
		{"full tunnel", []string{"--nat"}, []string{"--default-route"}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			n := newNetwork(t)
			run(t, n.gw, "sysctl -qw net.ipv4.ip_forward=0")
			n.settle()
			gw, c1 := hostState(t, n.gw), hostState(t, n.c1)
			args := append([]string{"-s", gatewayC1}, mode.cli...)
			begin := func(srv, cli []string) *device {
				n.startGateway(srv...)
				d := newClient(t, n.c1, cli...)
				d.waitConnected()
				ping(t, n.c1, gatewayVPN, 1)
				return d
			}
			check := func() {
				equalState(t, n.gw, gw)
				equalState(t, n.c1, c1)
			}

			d := begin(mode.srv, args)
			if hostState(t, n.gw) == gw || hostState(t, n.c1) == c1 {
				t.Fatal("nothing can be compared: the state is as before already")
			}
			stop(t, d.Proc)
			stop(t, n.srv)
			check()

			d = begin(mode.srv, args) // the gateway goes first
			stop(t, n.srv)
			stop(t, d.Proc)
			check()

			d = begin(mode.srv, args)
			d.Kill()
			n.srv.Kill()
			d = begin(nil, args[:2]) // plain: what was left is not what is made now
			stop(t, d.Proc)
			stop(t, n.srv)
			check()
		})
	}
}
