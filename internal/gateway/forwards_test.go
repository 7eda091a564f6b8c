package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/internal/api"
	"ferry/internal/forward"
	"ferry/internal/gateway/settings"
	"ferry/internal/hostnet"
	"ferry/internal/identity"
	"ferry/internal/peerstore"
)

// A shortcut is a network where each client is this host.
type shortcut struct{ forward.Sockets }

func (n shortcut) Dial(ctx context.Context, network string, _ netip.Addr, to string) (net.Conn, error) {
	return n.Sockets.Dial(ctx, network, netip.Addr{}, "127.0.0.1:"+to[strings.LastIndexByte(to, ':')+1:])
}

// forwarding starts the part of a gateway that publishes ports, until end.
func forwarding(t *testing.T, c Config) (g *Gateway, end func()) {
	t.Helper()
	c.SetDefaults()
	leases, err := openLeases(&c)
	if err != nil {
		t.Fatal(err)
	}
	g, err = newGateway(c, newMemory(), leases)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.openForwards(t.Context(), shortcut{}); err != nil {
		t.Fatal(err)
	}
	return g, func() {
		if err := errors.Join(g.closeForwards(), leases.Close()); err != nil {
			t.Error(err)
		}
	}
}

func fetch(t *testing.T, f api.Forward) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(f.Bound, "tcp://"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// greet is a service that says hello.
func greet(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "hello")
			_ = conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// penguin#313: what was added survives a restart with the port that it had, and what was removed does not.
func TestPenguinForwardsSurvive(t *testing.T) {
	c := Config{StateDir: t.TempDir(), Reserved: map[string]netip.Addr{"cam2": netip.MustParseAddr("10.0.0.9")}}
	port := greet(t)
	g, end := forwarding(t, c)
	stays, err := g.addForward(api.Publish{From: "tcp://127.0.0.1:0", To: "cam2:" + port})
	if err != nil {
		t.Fatal(err)
	}
	goes, err := g.addForward(api.Publish{From: "udp://127.0.0.1:0", To: "10.0.0.9:53"})
	if err != nil {
		t.Fatal(err)
	}
	if got := fetch(t, stays); got != "hello" {
		t.Errorf("got %q", got)
	}
	if _, err := g.removeForward(goes.Bound); err != nil {
		t.Fatal(err)
	}
	end()
	g, end = forwarding(t, c)
	defer end()
	if all := g.listForwards(); len(all) != 1 || all[0].Bound != stays.Bound || all[0].To != stays.To {
		t.Fatalf("got %+v, want %+v", all, stays)
	}
	if got := fetch(t, stays); got != "hello" {
		t.Errorf("got %q", got)
	}
}

// A forward to a device that is not known, as of a configuration that was made before, waits for it.
func TestForwardAwaitsDevice(t *testing.T) {
	spec, err := forward.Parse("tcp://127.0.0.1:0", "cam7:80")
	if err != nil {
		t.Fatal(err)
	}
	g, end := forwarding(t, Config{StateDir: t.TempDir(), Key: identity.NewKey(), Forwards: []forward.Spec{spec}})
	defer end()
	if all := g.listForwards(); len(all) != 1 || !strings.Contains(all[0].Err, "no device is called cam7") {
		t.Fatalf("got %+v", all)
	}
	if _, err := g.addPeer(api.Peer{Name: "cam7", Key: identity.NewKey().Public().String()}); err != nil {
		t.Fatal(err)
	}
	if all := g.listForwards(); len(all) != 1 || all[0].Bound == "" || all[0].Err != "" {
		t.Errorf("got %+v", all)
	}
}

// exam: H4
// A forward leads to a client, and nowhere else: not to the gateway, its loopback, its metadata service.
func TestForwardLeadsToClients(t *testing.T) {
	g, end := forwarding(t, Config{StateDir: t.TempDir(), Key: identity.NewKey(), Sites: map[netip.Prefix]netip.Addr{netip.MustParsePrefix("192.168.9.0/24"): netip.MustParseAddr("10.0.200.7")}})
	defer end()
	if _, err := g.devices.Add(peerstore.Peer{Name: "cam1", Key: identity.NewKey().Public(), Routes: []netip.Prefix{netip.MustParsePrefix("192.168.8.0/24")}}); err != nil {
		t.Fatal(err)
	}
	g.devicesChanged()
	for to, ok := range map[string]bool{
		"10.0.3.4:80": true, "cam1:80": true, "192.168.8.5:80": true, "192.168.9.5:80": true,
		"10.0.0.1:80": false, "127.0.0.1:80": false, "169.254.169.254:80": false, "192.168.7.1:80": false, "[::1]:80": false, "cam2:80": false, "localhost:80": false,
	} {
		f, err := g.addForward(api.Publish{From: "tcp://127.0.0.1:0", To: to})
		if (err == nil) != ok {
			t.Errorf("%s: got %+v, %v", to, f, err)
		}
	}
}

// A reload brings what the configuration has about, and leaves what the operator has added.
func TestReloadForwards(t *testing.T) {
	spec := func(from, to string) forward.Spec {
		s, err := forward.Parse(from, to)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := "tcp://" + l.Addr().String()
	c := Config{StateDir: t.TempDir(), Forwards: []forward.Spec{spec("udp://127.0.0.1:0", "10.0.0.9:53"), spec(taken, "10.0.0.9:80")}}
	next := c
	c.Reread = func() (Config, error) { return next, nil }
	g, end := forwarding(t, c)
	defer end()
	g.exit = fixedExit{newMemory()}
	own, err := g.addForward(api.Publish{From: "tcp://127.0.0.1:0", To: "10.0.0.9:80"})
	if err != nil {
		t.Fatal(err)
	}
	all := g.listForwards()
	if len(all) != 3 || all[0].Bound == "" || all[1].Err == "" || all[1].Bound != "" {
		t.Fatalf("got %+v", all)
	}
	if _, err := g.removeForward(all[0].Bound); !errors.Is(err, errFixed) {
		t.Errorf("got %v", err)
	}
	_ = l.Close()
	next.Forwards = []forward.Spec{c.Forwards[1], spec("udp://127.0.0.1:0", "10.0.0.10:53")}
	if done, err := g.reload(); err != nil || len(done.Applied) != 1 {
		t.Fatalf("got %+v, %v", done, err)
	}
	got := map[string]string{}
	for _, f := range g.listForwards() {
		if f.Err != "" {
			t.Errorf("%+v", f)
		}
		got[f.From] = f.To
	}
	want := map[string]string{taken: "10.0.0.9:80", "udp://127.0.0.1:0": "10.0.0.10:53", own.From: own.To}
	if len(got) != len(want) || got[taken] != want[taken] || got["udp://127.0.0.1:0"] != want["udp://127.0.0.1:0"] || got[own.From] != own.To {
		t.Errorf("got %v, want %v", got, want)
	}
}

type fixedExit struct{ *memory }

func (fixedExit) Apply(hostnet.State) error { return nil }

// A file that was damaged is named, and is not thrown away.
func TestForwardsFileDamaged(t *testing.T) {
	c := Config{StateDir: t.TempDir()}
	path := filepath.Join(c.StateDir, forwardsFile)
	if err := os.WriteFile(path, []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.SetDefaults()
	leases, err := openLeases(&c)
	if err != nil {
		t.Fatal(err)
	}
	defer leases.Close()
	g, err := newGateway(c, newMemory(), leases)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.openForwards(t.Context(), shortcut{}); err == nil || !strings.Contains(err.Error(), forwardsFile) {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "[{" {
		t.Errorf("got %q, %v", b, err)
	}
}

// A source that this host has not is refused when a forward is added, and not with each connection.
func TestForwardSource(t *testing.T) {
	for _, x := range []struct{ exit, source, want string }{
		{settings.ExitKernel, "127.0.0.1", ""},
		{settings.ExitKernel, "192.0.2.1", "no address of this host"},
		{settings.ExitUser, "127.0.0.1", "leave out source"},
	} {
		g, end := forwarding(t, Config{StateDir: t.TempDir(), Exit: x.exit})
		g.network = forward.Sockets{}
		_, err := g.addForward(api.Publish{From: "tcp://127.0.0.1:0?source=" + x.source, To: "10.0.0.9:80"})
		if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("--exit %s, source=%s: %v, want %q", x.exit, x.source, err, x.want)
		}
		end()
	}
}
