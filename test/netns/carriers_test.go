package netns

import (
	"fmt"
	"testing"
	"time"
)

// TestCarriers: a device joins and connects by each carrier alone, packets of all sizes pass, and its session goes on when
// the connection is killed.
func TestCarriers(t *testing.T) {
	t.Parallel()
	const reset = "ss -K dst 192.168.101.2"
	for _, tt := range []struct{ name, listen, server, kill string }{
		{"wss", "wss://:443", "wss://" + gatewayC1, reset},
		{"ws", "ws://:80/x", "ws://" + gatewayC1 + "/x", reset},
		{"ssh", "ssh://:2022", "ssh://" + gatewayC1, reset},
		{"quic", "quic://:2002", "quic://" + gatewayC1, ""},
		{"udp", "udp://:2002", "udp://" + gatewayC1, ""},
		{"icmp", "icmp://", "icmp://" + gatewayC1, ""},
		{"connect-ip", "connect-ip://:443", "connect-ip://" + gatewayC1, ""},
		{"connect-ip+h1", "connect-ip+h1://:443", "connect-ip+h1://" + gatewayC1, reset},
		{"connect-ip+h1 by the port of wss", "wss://:443", "connect-ip+h1://" + gatewayC1, reset},
		{"dns", "dns://" + tunnelZone, "dns://" + gatewayC1 + "/" + tunnelZone, ""},
		{"tls by the port of wss", "wss://:443", "tcp://" + gatewayC1 + ":443", reset},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := newSecure(t, "--listen", "tcp://:2002", "--listen", tt.listen)
			dev := newClient(t, n.c1, "--state", n.join(n.c1, "cam1"), "-s", tt.server)
			addr := dev.waitConnected()
			ping(t, n.c1, gatewayVPN, 3)
			run(t, n.gw, fmt.Sprintf("ping -n -q -c 3 -i 0.05 -s 8000 %s", addr))
			up := newNumberedStream(t, n.c1, n.gw, gatewayVPN, time.Millisecond)
			time.Sleep(300 * time.Millisecond)
			if tt.kill != "" {
				run(t, n.gw, tt.kill)
				dev.event("connected", 1)
				time.Sleep(300 * time.Millisecond)
			}
			if lost, doubled, _, stall := up.end(); lost+doubled > 0 {
				t.Errorf("of %d packets %d are lost, %d came twice, the longest pause was %s", up.sent, lost, doubled, stall)
			}
		})
	}
}
