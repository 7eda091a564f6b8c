package netns

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"ferry/internal/client"
	"ferry/test/lab"
)

// A zone is a name server that knows one address for all names, or does not answer.
type zone struct{ addr atomic.Pointer[netip.Addr] }

// set changes the address. The zero address makes it silent.
func (z *zone) set(addr string) {
	if addr == "" {
		z.addr.Store(nil)
		return
	}
	a := netip.MustParseAddr(addr)
	z.addr.Store(&a)
}

// openUDP opens a socket in a namespace until the test ends.
func openUDP(t *testing.T, ns *lab.Namespace, addr string) (conn net.PacketConn) {
	t.Helper()
	err := ns.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// newForwarder is a name server of a host, on 127.0.0.1, that asks another one, as systemd-resolved does.
func newForwarder(t *testing.T, ns *lab.Namespace, to string) {
	t.Helper()
	conn, out := openUDP(t, ns, "127.0.0.1:53"), openUDP(t, ns, "0.0.0.0:0")
	upstream, err := net.ResolveUDPAddr("udp4", to)
	if err != nil {
		t.Fatal(err)
	}
	askers := make(chan net.Addr, 100) // of what was sent on; those who ask come one after the other
	go func() {                        // ends with the socket
		b := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if _, err := out.WriteTo(b[:n], upstream); err == nil {
				askers <- from
			}
		}
	}()
	go func() { // the same
		b := make([]byte, 512)
		for {
			n, _, err := out.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(b[:n], <-askers)
		}
	}()
}

// newZone serves names in a namespace, on 127.0.0.1.
func newZone(t *testing.T, ns *lab.Namespace) *zone { return newZoneOn(t, ns, "127.0.0.1:53") }

func newZoneOn(t *testing.T, ns *lab.Namespace, addr string) *zone {
	t.Helper()
	conn := openUDP(t, ns, addr)
	z := new(zone)
	go func() { // ends with the socket
		b := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if a := z.addr.Load(); a != nil && n > 12 {
				_, _ = conn.WriteTo(answer(b[:n], *a), from)
			}
		}
	}()
	return z
}

// answer makes an answer of a question for an A record; a question for another one has none (RFC 1035, 4.1).
func answer(question []byte, a netip.Addr) []byte {
	end := 12
	for question[end] != 0 {
		end += 1 + int(question[end])
	}
	end += 5 // the root, type and class
	b := append([]byte(nil), question[:end]...)
	b[2], b[3] = 0x85, 0x80 // an authoritative answer
	b[6], b[7], b[8], b[9], b[10], b[11] = 0, 0, 0, 0, 0, 0
	if question[end-3] == 1 {
		b[7] = 1
		b = append(b, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // the name of the question, A, IN, no TTL
		b = append(b, a.AsSlice()...)
	}
	return b
}

// TestNameMoves has a gateway whose name gets another address while DNS is down for a while, and then leads to
// somebody else: the device goes after it, tries again and again, and speaks to nobody without the key that
// it has pinned.
// exam: F20
func TestNameMoves(t *testing.T) {
	t.Parallel()
	n := newSecure(t, "--listen", "tcp://192.168.102.1:2002")
	names := newZone(t, n.c2)
	names.set("192.168.102.1")
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	writeFile(t, resolv, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
	dir := filepath.Join(t.TempDir(), "device")
	join := append(withFile(resolv, "/etc/resolv.conf", filepath.Join(bin, "vpncli")), "join",
		n.invite("cam1 --server tcp://gateway.test:2002"), "--state", dir)
	if status, err := start(t, n.c2, join...).Wait(patience); status != 0 || err != nil {
		t.Fatal(status, err)
	}
	p := start(t, n.c2, withFile(resolv, "/etc/resolv.conf", filepath.Join(bin, "vpncli"), "--json", "--config=", "--state", dir)...)
	d := &device{p, t, n.c2}
	addr := d.waitConnected()
	file := n.args[1]

	names.set("") // DNS is down, and the gateway moves meanwhile
	stop(t, n.srv)
	n.startSecure("--config", file, "--listen", "tcp://192.168.101.1:2002")
	until(t, patience, "it says that no name server answers", func() bool {
		return strings.Contains(p.Output(), "is a name server reachable?")
	})
	names.set("192.168.101.1")
	if e := d.event(client.EventConnected, 1); e.Address.String() != addr {
		t.Errorf("at the new address: got %s, want %s", e.Address, addr)
	}
	ping(t, n.c2, gatewayVPN, 1)

	// Somebody else gets the name, and has a gateway, too.
	stop(t, n.srv)
	honest := n.state
	n.state = filepath.Join(t.TempDir(), "state")
	other := filepath.Join(t.TempDir(), "vpnsrv.toml")
	run(t, n.gw, fmt.Sprintf("%s/vpnsrv init --state %s --config %s", bin, n.state, other))
	n.startSecure("--config", other, "--listen", "tcp://192.168.103.1:2002?allow=both")
	names.set("192.168.103.1")
	until(t, patience, "it says that the key is another one", func() bool {
		return strings.Contains(p.Output(), "not the one that is pinned")
	})
	if got := p.Count(`"event":"connected"`); got != 2 {
		t.Errorf("connected %d times, want 2: not to somebody else", got)
	}
	stop(t, n.srv)
	n.state = honest
	n.startSecure("--config", file, "--listen", "tcp://192.168.101.1:2002")
	names.set("192.168.101.1")
	if e := d.event(client.EventConnected, 2); e.Address.String() != addr {
		t.Errorf("back at home: got %s, want %s", e.Address, addr)
	}
}

// TestForwarder has a host whose name server asks another one on the Internet, by sockets like all others: a full
// tunnel, which closes the way out, finds its gateway all the same, and finds it again.
func TestForwarder(t *testing.T) {
	t.Parallel()
	n := newGateway(t, "--nat")
	newZoneOn(t, n.lan, lanHost+":53").set(gatewayC1)
	newForwarder(t, n.c1, lanHost+":53")
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	writeFile(t, resolv, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
	p := start(t, n.c1, withFile(resolv, "/etc/resolv.conf", filepath.Join(bin, "vpncli"), "--json", "--config=", "-s", "gateway.test", "--default-route")...)
	d := &device{p, t, n.c1}
	d.waitConnected()
	ping(t, n.c1, lanHost, 1)
	n.srv.Kill()
	d.event(client.EventReconnecting, 0)
	if answers(n.c1, lanHost) {
		t.Error("the Internet is reached without a gateway")
	}
	n.startGateway(n.args...)
	d.event(client.EventConnected, 1)
	ping(t, n.c1, lanHost, 1)
}
