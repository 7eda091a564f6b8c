package netns

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ferry/internal/client"
	"ferry/internal/proto"
	"ferry/test/lab"
)

// A script is what a gateway that is not to be trusted sends behind the request of one connection,
// which it closes when next is closed; at the end of the test, if that is nil.
type script struct {
	addr   string
	config []byte // fields, or a whole frame
	next   chan struct{}
}

// fakeGateway plays scripts, one connection after the other, and then refuses connections.
func fakeGateway(t *testing.T, ns *lab.Namespace, scripts ...script) {
	t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp4", ":2002"); return err }); err != nil {
		t.Fatal(err)
	}
	var playing sync.WaitGroup
	over := make(chan struct{})
	t.Cleanup(func() { close(over); _ = l.Close(); playing.Wait() })
	playing.Go(func() {
		for _, s := range scripts {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			ask := make([]byte, 20)
			if _, err := conn.Read(ask); err == nil {
				r := proto.Reply{Addr: netip.MustParseAddr(s.addr), Extended: true, Features: proto.FeatureConfig}
				_, _ = conn.Write(append(proto.AppendReply(nil, ask, r), s.config...))
				select {
				case <-s.next:
				case <-over:
				}
			}
			_ = conn.Close()
		}
	})
}

// frame makes a config frame of fields as they are.
func frame(fields ...[]byte) []byte {
	b := make([]byte, 4)
	for i, v := range fields {
		if v != nil {
			b = append(b, byte(i), 0, byte(len(v)))
			b = append(b, v...)
		}
	}
	binary.BigEndian.PutUint32(b, uint32(0x82)<<24|uint32(len(b)-4))
	return b
}

// TestPolicy is exam S11: a gateway pushes what it must not, and the device takes the rest. Nothing
// that it sends is ever a program's name or argument: no program is started.
// exam: S11
func TestPolicy(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	routes := func(list ...string) (all []netip.Prefix) {
		for _, r := range list {
			all = append(all, netip.MustParsePrefix(r))
		}
		return all
	}
	push := func(addr string, c proto.PushedConfig) []byte {
		c.Prefix = netip.PrefixFrom(netip.MustParseAddr(addr), 16)
		return proto.AppendConfig(nil, c)
	}
	closed := make(chan struct{})
	close(closed)
	hostile := make(chan struct{})
	fakeGateway(t, n.gw,
		script{"10.0.9.9", frame(nil, nil, nil, []byte{0, 1, 0, 0}), closed},                                  // MTU 65536
		script{"10.0.9.9", frame(nil, nil, nil, nil, nil, nil, nil, []byte("$(touch /tmp/ferry-x)")), closed}, // no addresses
		script{"10.0.9.9", push("10.0.9.9", proto.PushedConfig{
			MTU: 68,
			Routes: routes("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", gatewayC1+"/32",
				"10.0.0.0/8", "192.168.7.0/24"),
			DNS:     []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("8.8.8.8")},
			Domains: []string{"$(touch", "/tmp/ferry-x)", "com", "a\nb"},
		}), hostile},
		script{"203.0.113.7", push("203.0.113.7", proto.PushedConfig{}), closed},
		script{"10.0.9.9", push("10.0.9.9", proto.PushedConfig{}), nil},
	)
	trace := filepath.Join(t.TempDir(), "trace")
	cli := filepath.Join(bin, "vpncli")
	one := &device{start(t, n.c1, alone([]string{"strace", "-D", "-f", "-e", "trace=execve,execveat", "-o", trace,
		cli, "--json", "-s", gatewayC1, "--state", filepath.Join(t.TempDir(), "state")})...), t, n.c1}

	if e := one.event(client.EventConnected, 0); e.MTU != 1500 || e.Address.String() != "10.0.9.9" {
		t.Errorf("connected with %+v", e)
	}
	if got, want := strings.Join(strings.Fields(run(t, n.c1, "ip -4 route show dev ferry0")), " "),
		"10.0.0.0/16 proto kernel scope link src 10.0.9.9 192.168.7.0/24 proto 202 scope link src 10.0.9.9"; got != want {
		t.Errorf("routes: got %q, want %q", got, want)
	}
	if got := run(t, n.c1, "ip rule") + run(t, n.c1, "ip link show dev ferry0"); strings.Contains(got, "proto 202") || !strings.Contains(got, "mtu 1500") {
		t.Errorf("rules and link: %s", got)
	}
	for _, value := range []string{"68", "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4",
		gatewayC1 + "/32", "10.0.0.0/8", "$(touch", "/tmp/ferry-x)", "com"} {
		if got := one.Count("value="+value+" ") + one.Count(`value="`+value+`" `); got != 1 {
			t.Errorf("%s: refused in %d lines, want 1", value, got)
		}
	}
	close(hostile)
	await(t, one.Proc, "--accept-prefix 203.0.0.0/16", 0)
	one.event(client.EventConnected, 1)
	if addr := run(t, n.c1, "ip -4 address show dev ferry0"); !strings.Contains(addr, "10.0.9.9/16") || strings.Contains(addr, "203.0.113") {
		t.Errorf("addresses: %s", addr)
	}
	stop(t, one.Proc)

	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(calls)) {
		if strings.Contains(line, "exec") && !strings.Contains(line, " resumed>") { // the end of a call whose line is there
			if seen++; !strings.Contains(line, `"`+cli+`"`) && !strings.Contains(line, `"/proc/self/exe"`) {
				t.Errorf("started a program: %s", line)
			}
		}
	}
	if seen == 0 {
		t.Errorf("the trace saw not even vpncli itself:\n%s", calls)
	}
}

// TestForeignAddress has a gateway whose pool is not private: the owner of the device has to agree.
// exam: S11
func TestForeignAddress(t *testing.T) {
	t.Parallel()
	n := newGateway(t, "--pool", "203.0.113.0/24")
	one := newClient(t, n.c1, "-s", gatewayC1)
	if status, err := one.Wait(patience); status == 0 || err != nil || one.Count("--accept-prefix 203.0.113.0/24") == 0 {
		t.Errorf("got status %d, %v:\n%s", status, err, one.Output())
	}
	newClient(t, n.c1, "-s", gatewayC1, "--accept-prefix", "203.0.113.0/24").waitConnected()
	ping(t, n.c1, "203.0.113.1", 1)
}

// TestCollidingAddress has a gateway that gives the device an address which would cut it off: the one that
// it has in its LAN, the gateway's own, and one whose network contains the gateway.
func TestCollidingAddress(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	const server = "198.51.100.1" // behind the LAN's router
	pushed := func(prefix string) []byte {
		return proto.AppendConfig(nil, proto.PushedConfig{Prefix: netip.MustParsePrefix(prefix)})
	}
	closed := make(chan struct{})
	close(closed)
	fakeGateway(t, n.gw,
		script{"10.0.9.9", pushed("10.0.9.9/16"), closed}, // for the first lease alone an error is the end
		script{"192.168.101.2", pushed("192.168.101.2/30"), closed},
		script{server, pushed(server + "/30"), closed},
		script{"198.51.100.77", pushed("198.51.100.77/24"), closed},
		script{"10.0.9.9", pushed("10.0.9.9/16"), nil},
	)
	one := newClient(t, n.c1, "-s", server, "--accept-prefix", "198.51.100.0/24", "--accept-prefix", "192.168.0.0/16", "--accept-prefix", "10.0.0.0/8")
	one.waitConnected()
	for _, why := range []string{"another interface of this device has it", "it is that of the gateway itself", "add a route to 198.51.100.1/32"} {
		await(t, one.Proc, why, 0)
		ping(t, n.c1, server, 1)
	}
	one.event(client.EventConnected, 1)
}
