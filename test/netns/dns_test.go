package netns

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ferry/internal/client"
	"ferry/test/lab"
)

// resolvConf is what a client finds before it starts.
const resolvConf = "# by hand\nnameserver " + gatewayC1 + "\nsearch home.example\n"

// TestDNS has a gateway that pushes name servers. A client with a full tunnel has them in its
// resolv.conf until it ends, or until the next start after a kill -9. The file is one that can be
// replaced, or a mount, as containers have it.
func TestDNS(t *testing.T) {
	t.Parallel()
	n := newGateway(t, "--nat", "--push-dns", gatewayVPN, "--push-domains", "site.example")
	for _, mount := range []string{"directory", "file"} {
		dir := t.TempDir()
		file := filepath.Join(dir, "resolv.conf")
		writeFile(t, file, resolvConf)
		inside := []string{dir, "/etc"}
		if mount == "file" {
			inside = []string{file, "/etc/resolv.conf"}
		}
		begin := func(args ...string) *device {
			args = append([]string{filepath.Join(bin, "vpncli"), "--json", "-s", gatewayC1, "--config=", "--state", filepath.Join(t.TempDir(), "state")}, args...)
			d := &device{start(t, n.c1, withFile(inside[0], inside[1], args...)...), t, n.c1}
			d.waitConnected()
			return d
		}
		want := func(when string, pushed bool) {
			t.Helper()
			b, err := os.ReadFile(file)
			got := string(b)
			if err != nil || !pushed && got != resolvConf || pushed && !strings.Contains(got, "\nnameserver "+gatewayVPN+"\nsearch site.example\n") {
				t.Errorf("%s, %s: got %q, %v", mount, when, got, err)
			}
		}
		d := begin("--default-route")
		want("connected", true)
		stop(t, d.Proc)
		want("stopped", false)

		d = begin("--default-route")
		d.Kill()
		want("killed", true)
		d = begin() // for some names only, which a file can not say
		want("started again without a full tunnel", false)
		stop(t, d.Proc)

		d = begin("--default-route", "--accept-dns=false")
		want("refused", false)
		stop(t, d.Proc)
	}
}

// TestDNSOfTheGatewayIsGone finds the gateway again by its name, though the name servers in place are
// those behind it: where it was, and where it has moved to.
func TestDNSOfTheGatewayIsGone(t *testing.T) {
	t.Parallel()
	listen := func(addr string) []string {
		return []string{"--nat", "--push-dns", "10.0.0.53", "--listen", "tcp://" + addr + ":2002"}
	}
	n := newGateway(t, listen(gatewayC1)...)
	var where atomic.Pointer[netip.Addr]
	first, second := netip.MustParseAddr(gatewayC1), netip.MustParseAddr(gatewayC2)
	where.Store(&first)
	answeringServer(t, n.gw, gatewayC1+":53", &where)
	file := filepath.Join(t.TempDir(), "resolv.conf")
	writeFile(t, file, resolvConf)
	one := &device{start(t, n.c1, withFile(file, "/etc/resolv.conf", filepath.Join(bin, "vpncli"), "--json", "-s", "gw.test",
		"--default-route", "--config=", "--state", filepath.Join(t.TempDir(), "state"))...), t, n.c1}
	one.waitConnected()
	if b, err := os.ReadFile(file); err != nil || !strings.Contains(string(b), "nameserver 10.0.0.53\n") {
		t.Errorf("resolv.conf: %q, %v", b, err)
	}
	away := func(since time.Time) { // for longer than Go's resolver goes by what it has read of resolv.conf
		until(t, patience, "resolv.conf is read anew", func() bool { return time.Since(since) > 6*time.Second })
	}
	n.srv.Kill()
	away(time.Now())
	n.startGateway(n.args...)
	one.event(client.EventConnected, 1)
	stop(t, n.srv)
	where.Store(&second)
	away(time.Now())
	n.startGateway(listen(gatewayC2)...)
	if e := one.event(client.EventConnected, 2); e.Server != gatewayC2+":2002" {
		t.Errorf("connected to %s", e.Server)
	}
	stop(t, one.Proc)
	if b, err := os.ReadFile(file); err != nil || string(b) != resolvConf {
		t.Errorf("resolv.conf: %q, %v", b, err)
	}
}

// answeringServer says that every name is at one address, until the test ends.
func answeringServer(t *testing.T, ns *lab.Namespace, addr string, where *atomic.Pointer[netip.Addr]) {
	t.Helper()
	var conn net.PacketConn
	if err := ns.Do(func() (err error) { conn, err = net.ListenPacket("udp4", addr); return err }); err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = conn.Close(); serving.Wait() })
	serving.Go(func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			answer := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
			if q.Type == dnsmessage.TypeA {
				answer.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}, Body: &dnsmessage.AResource{A: where.Load().As4()},
				}}
			}
			if b, err := answer.Pack(); err == nil {
				_, _ = conn.WriteTo(b, from)
			}
		}
	})
}
