package netns

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ferry/internal/api"
	"ferry/internal/flowlist"
)

// What goes through a gateway now is listed, whoever carries it: a client's connection and its datagrams to a host of the LAN, and who has come by a
// published port.
//
//	c1 -- tcp, udp --> gw --> lan        c1 <-- published port -- gw <-- lan
func TestFlows(t *testing.T) {
	t.Parallel()
	for exit, by := range map[string]string{"kernel": flowlist.ByKernel, "user": flowlist.ByUser} {
		t.Run(exit, func(t *testing.T) {
			t.Parallel()
			args := []string{"--exit", exit}
			if exit == "kernel" {
				args = append(args, "--nat")
			}
			n := newGateway(t, args...)
			run(t, n.gw, "sysctl -qw net.netfilter.nf_conntrack_acct=1 net.netfilter.nf_conntrack_timestamp=1")
			one := newClient(t, n.c1, "-s", "192.168.101.1", "--route", lanHost+"/32")
			client := netip.MustParseAddr(one.waitConnected())
			sums, names := listenSum(t, n.lan), serveEcho(t, n.lan)
			published := listenSum(t, n.c1)
			n.vpnsrv(fmt.Sprintf("forward add tcp://:8080 %s:%d", client, published))

			out := dial(t, n.c1, lanHost, sums)
			if _, err := out.Write(make([]byte, 5000)); err != nil {
				t.Fatal(err)
			}
			checkEcho(t, n.c1, fmt.Sprintf("%s:%d", lanHost, names))
			n.vpnsrv(fmt.Sprintf("forward add udp://:5353 %s:%d", client, serveEcho(t, n.c1)))
			checkEcho(t, n.lan, "198.51.100.1:5353")
			in := dial(t, n.lan, "198.51.100.1", 8080)
			if _, err := in.Write(make([]byte, 700)); err != nil {
				t.Fatal(err)
			}
			// Packets of SYN and FIN count as a byte, and the kernel counts headers, too.
			find := func(f api.Flows, by, protocol string, remote int, sent, received uint64) bool {
				for _, w := range f.Flows {
					if w.By == by && w.Protocol == protocol && w.Client.Addr() == client && (remote == 0 || w.Remote == netip.AddrPortFrom(netip.MustParseAddr(lanHost), uint16(remote))) &&
						w.Counted && w.Sent >= sent && w.Received >= received && time.Since(w.Since) < time.Minute && (protocol == "udp" || w.State == "established" || by == flowlist.ByForward) {
						return true
					}
				}
				return false
			}
			var f api.Flows
			until(t, patience, "flows", func() bool {
				if err := json.Unmarshal([]byte(n.vpnsrv("flows --json")), &f); err != nil {
					t.Fatal(err)
				}
				return find(f, by, "tcp", sums, 5000, 0) && find(f, by, "udp", names, 1, 1) && find(f, flowlist.ByForward, "tcp", 0, 0, 700) && find(f, flowlist.ByForward, "udp", 0, 1, 1)
			})
			if len(f.Missing) > 0 || f.Total != len(f.Flows) {
				t.Errorf("got %+v", f)
			}
			if text := n.vpnsrv("flows --peer " + client.String()); !strings.Contains(text, fmt.Sprintf("%s:%d", lanHost, sums)) || !strings.HasPrefix(text, "BY ") {
				t.Errorf("got %s", text)
			}
			if text := n.vpnsrv("flows --peer 10.0.77.77"); strings.Contains(text, lanHost) {
				t.Errorf("of nobody: %s", text)
			}
			for _, command := range []string{"flows --state %s --peer 1", "capture --state %s --peer 1", "forward add --state %s tcp://:8081 1"} {
				if text := run(t, n.gw, bin+"/vpnsrv __completeNoDesc "+fmt.Sprintf(command, n.state)); !strings.HasPrefix(text, client.String()) {
					t.Errorf("%s is completed by %s", command, text)
				}
			}
			_, _ = out.Close(), in.Close()
			until(t, patience, "the end of the connections", func() bool {
				var f api.Flows
				if err := json.Unmarshal([]byte(n.vpnsrv("flows --json")), &f); err != nil {
					t.Fatal(err)
				}
				return !find(f, by, "tcp", sums, 0, 0) && !find(f, flowlist.ByForward, "tcp", 0, 0, 0)
			})
		})
	}
}
