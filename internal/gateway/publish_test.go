package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/csv"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/internal/api"
	"ferry/internal/durable"
	"ferry/internal/gateway/settings"
	"ferry/internal/proto"
	"ferry/internal/publish"
)

// open files are those of a process that may write them itself.
type openFiles struct{}

func (openFiles) Replace(path string, b []byte) error { return durable.ReplaceOpen(path, b) }

var cam, other = netip.MustParseAddr("10.0.3.4"), netip.MustParseAddr("10.0.3.5")

// publishing runs the part of a gateway that publishes services, until end.
func publishing(t *testing.T, c Config) (g *Gateway, end func()) {
	t.Helper()
	if c.Publish.IsZero() {
		c.Publish.All = true
	}
	g, closeForwards := forwarding(t, c)
	if err := g.openPublisher(t.Context(), openFiles{}, shortcut{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.publisher.run(ctx) }()
	return g, func() {
		cancel()
		if err := errors.Join(<-done, g.publisher.close()); err != nil {
			t.Error(err)
		}
		closeForwards()
	}
}

// awaitPublished waits until done says so of what is published.
func awaitPublished(t *testing.T, g *Gateway, what string, done func([]api.Published) bool) []api.Published {
	t.Helper()
	var all []api.Published
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if all = g.publisher.list(); done(all) {
			return all
		}
	}
	_, refused := g.publisher.stats()
	t.Fatalf("%s: got %+v, refused %v", what, all, refused)
	return nil
}

func services(n int) func([]api.Published) bool {
	return func(all []api.Published) bool { return len(all) == n }
}

func greeter(t *testing.T) proto.Service {
	t.Helper()
	port, err := strconv.ParseUint(greet(t), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return proto.Service{At: uint16(port), Addr: netip.IPv4Unspecified(), Port: uint16(port), Name: `web,"x"`}
}

// Penguin never removes a bridge. Here: announced, reached, withdrawn, gone from the files; and the same port after a restart.
func TestPenguinServicesGo(t *testing.T) {
	dir := t.TempDir()
	c := Config{StateDir: t.TempDir(), PublishDir: dir}
	service := greeter(t)
	g, end := publishing(t, c)
	g.publisher.announce(cam, announcement{owner: 1, name: "cam1", serial: 1, services: []proto.Service{service}})
	p := awaitPublished(t, g, "announced", services(1))[0]
	// The service itself has its port of this host, so it is another one, of Penguin's.
	if p.HostPort == service.Port || (p.HostPort-service.Port)%1000 > 65 || p.Reason != fmt.Sprintf("%d is already in use", service.Port) || p.Client != cam || p.ClientName != "cam1" {
		t.Errorf("got %+v", p)
	}
	at := netip.AddrPortFrom(p.Host, p.HostPort).String()
	if got := fetch(t, api.Forward{Bound: "tcp://" + at}); got != "hello" {
		t.Errorf("got %q", got)
	}
	csvFile, err := os.ReadFile(filepath.Join(dir, publish.BridgesFile))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(string(csvFile))).ReadAll()
	if err != nil || len(rows) != 2 || rows[1][0] != service.Name || rows[1][5] != strconv.Itoa(int(p.HostPort)) {
		t.Errorf("%s: got %q, %v", publish.BridgesFile, rows, err)
	}

	g.publisher.announce(cam, announcement{owner: 1, name: "cam1", serial: 2})
	awaitPublished(t, g, "withdrawn", services(0))
	if _, err := net.DialTimeout("tcp", at, time.Second); err == nil {
		t.Error("the port is open still")
	}
	for _, name := range publish.Files() {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || strings.Contains(string(b), "0.0.0.0") {
			t.Errorf("%s: got %s, %v", name, b, err)
		}
	}

	g.publisher.announce(cam, announcement{owner: 1, name: "cam1", serial: 3, services: []proto.Service{service}})
	if again := awaitPublished(t, g, "again", services(1))[0]; again.HostPort != p.HostPort {
		t.Errorf("it had port %d, and has %d", p.HostPort, again.HostPort)
	}
	end()
	if b, err := os.ReadFile(filepath.Join(dir, publish.FeedFile)); err != nil || !strings.Contains(string(b), `"endpoints":[]`) {
		t.Errorf("after the end: got %s, %v", b, err)
	}

	// Another one asks first after the restart, for the port that belongs to who is not there yet.
	g, end = publishing(t, c)
	defer end()
	taker := service
	taker.Port = p.HostPort
	g.publisher.announce(other, announcement{owner: 1, serial: 1, services: []proto.Service{taker}})
	if first := awaitPublished(t, g, "another", services(1))[0]; first.HostPort == p.HostPort {
		t.Errorf("port %d is kept for who had it, and was given away", p.HostPort)
	}
	g.publisher.announce(cam, announcement{owner: 2, serial: 1, services: []proto.Service{service}})
	all := awaitPublished(t, g, "after a restart", services(2))
	if all[0].Client != cam && all[1].Client == cam {
		all[0] = all[1]
	}
	if all[0].HostPort != p.HostPort {
		t.Errorf("it had port %d, and has %d after a restart (penguin#313)", p.HostPort, all[0].HostPort)
	}
}

// What has a map has its port, or nothing; TCP and UDP of one number share it.
func TestPenguinMapsAndProtocols(t *testing.T) {
	busy, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := busy.Addr().(*net.TCPAddr).Port
	maps, err := publish.ParseMaps(fmt.Sprintf("tcp:%d:192.168.0.1:80", taken))
	if err != nil {
		t.Fatal(err)
	}
	g, end := publishing(t, Config{StateDir: t.TempDir(), PublishMaps: maps})
	defer end()
	mapped := proto.Service{At: 80, Addr: netip.MustParseAddr("192.168.0.1"), Port: 80}
	tcp := proto.Service{At: 15300, Addr: netip.IPv4Unspecified(), Port: 15300}
	udp := tcp
	udp.UDP = true
	g.publisher.announce(cam, announcement{owner: 1, serial: 1, services: []proto.Service{mapped, tcp, udp}})
	all := awaitPublished(t, g, "tcp and udp", services(2))
	if all[0].HostPort != all[1].HostPort || all[0].Protocol != "tcp" || all[1].Protocol != "udp" {
		t.Errorf("got %+v", all)
	}
	if _, refused := g.publisher.stats(); refused[refusedMap] != 1 {
		t.Errorf("refused %v, want one whose map is taken", refused)
	}
	_ = busy.Close()
	g.publisher.wake()
	for _, p := range awaitPublished(t, g, "the port of the map is free", services(3)) {
		if p.GuestPort == 80 && (int(p.HostPort) != taken || p.Reason != "via fixed mapping") {
			t.Errorf("got %+v, want port %d", p, taken)
		}
	}
}

func TestPublishRefused(t *testing.T) {
	c := Config{StateDir: t.TempDir(), Publish: publish.Who{Names: []string{"cam1"}}, PublishLimit: 2}
	g, end := publishing(t, c)
	defer end()
	two := []proto.Service{{At: 21001, Addr: netip.IPv4Unspecified(), Port: 21001}, {At: 21002, Addr: netip.IPv4Unspecified(), Port: 21002}}
	three := append(two, proto.Service{At: 21003, Addr: netip.IPv4Unspecified(), Port: 21003})
	g.publisher.announce(cam, announcement{owner: 5, name: "cam1", serial: 7, services: three})
	awaitPublished(t, g, "up to the limit", services(2))
	g.publisher.announce(cam, announcement{owner: 5, name: "cam1", serial: 6})
	g.publisher.announce(cam, announcement{owner: 4, name: "cam1", serial: 9})
	g.publisher.announce(other, announcement{owner: 6, serial: 1, services: two})
	g.publisher.announce(other, announcement{owner: 6, name: "cam2", serial: 2, services: two})
	want := map[string]uint64{refusedLimit: 1, refusedStale: 2, refusedWho: 4}
	if n, refused := g.publisher.stats(); n != 2 || fmt.Sprint(refused) != fmt.Sprint(want) {
		t.Errorf("%d are published, refused %v, want 2 and %v", n, refused, want)
	}
	// A reload takes the right from one and gives it to another, who need not announce anew; and so on.
	for _, step := range []struct {
		name string
		want []netip.Addr
	}{{"cam2", []netip.Addr{other, other}}, {"", nil}, {"cam1", []netip.Addr{cam, cam}}} {
		next := *g.c()
		next.Publish = publish.Who{Names: []string{step.name}}
		g.inForce.Store(&next)
		g.publisher.wake()
		awaitPublished(t, g, "publish = "+step.name, func(all []api.Published) bool {
			var got []netip.Addr
			for _, p := range all {
				got = append(got, p.Client)
			}
			return slices.Equal(got, step.want)
		})
	}
}

// step lets a publisher that does not run settle, and returns how many services there are then.
func step(t *testing.T, g *Gateway, a announcement, client netip.Addr) int {
	t.Helper()
	g.publisher.announce(client, a)
	g.publisher.settle(t.Context(), time.Now())
	return len(g.publisher.list())
}

func stopped(t *testing.T, c Config) *Gateway {
	t.Helper()
	c.StateDir, c.Publish.All = t.TempDir(), true
	g, end := forwarding(t, c)
	t.Cleanup(end)
	if err := g.openPublisher(t.Context(), openFiles{}, shortcut{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.publisher.close() })
	return g
}

// Services that are more than all may have together are counted once, and published as soon as there is room.
func TestPublishFull(t *testing.T) {
	g := stopped(t, Config{PublishLimit: maxPublished, PublishPorts: publish.Range{First: 23000, Last: 24999}})
	all := make([]proto.Service, maxPublished+2)
	for i := range all {
		port := uint16(23001 + i)
		all[i] = proto.Service{At: port, Addr: netip.IPv4Unspecified(), Port: port}
	}
	all, late := all[:maxPublished], all[maxPublished:]
	var first []proto.Service // of cam
	client, n := cam, 0
	for some := range slices.Chunk(all, proto.MaxServices) {
		if first == nil {
			first = some
		}
		n = step(t, g, announcement{owner: 1, serial: 1, services: some}, client)
		client = client.Next()
	}
	if n != maxPublished {
		t.Fatalf("%d are published, want %d", n, maxPublished)
	}
	next := client
	for serial := range uint64(3) { // they are tried again, and not counted
		if n := step(t, g, announcement{owner: 2, serial: serial + 1, services: late}, next); n != maxPublished {
			t.Errorf("%d are published, want %d", n, maxPublished)
		}
	}
	if n := step(t, g, announcement{owner: 1, serial: 2, services: first[1:]}, cam); n != maxPublished {
		t.Errorf("with room for one of two: %d, want %d", n, maxPublished)
	}
	if n := step(t, g, announcement{owner: 1, serial: 3}, cam); n != maxPublished-len(first)+len(late) {
		t.Errorf("with room for all: %d", n)
	}
	if _, refused := g.publisher.stats(); refused[refusedFull] != 2 || len(refused) != 1 {
		t.Errorf("refused %v, want 2 for %s", refused, refusedFull)
	}
}

// A service that the host lets have no port is counted once, until it was withdrawn.
func TestPublishBinding(t *testing.T) {
	g := stopped(t, Config{PublishHost: netip.MustParseAddr("203.0.113.9")}) // not of this host
	one := []proto.Service{{At: 24003, Addr: netip.IPv4Unspecified(), Port: 24003}}
	for i, s := range []struct {
		services []proto.Service
		refused  uint64
	}{{one, 1}, {one, 1}, {nil, 1}, {one, 2}} {
		n := step(t, g, announcement{owner: 1, serial: uint64(i + 1), services: s.services}, cam)
		if _, refused := g.publisher.stats(); n != 0 || refused[refusedBinding] != s.refused || refused[refusedPort] != 0 {
			t.Errorf("step %d: %d published, refused %v, want %d for %s", i, n, refused, s.refused, refusedBinding)
		}
	}
}

// Who has vanished keeps its ports for a while, who has said goodbye does not.
func TestPublishHolds(t *testing.T) {
	one := []proto.Service{{At: 22001, Addr: netip.IPv4Unspecified(), Port: 22001}}
	t.Run("longer than this test", func(t *testing.T) {
		g, end := publishing(t, Config{StateDir: t.TempDir(), IdleTimeout: time.Hour})
		defer end()
		g.publisher.announce(cam, announcement{owner: 1, serial: 1, services: one})
		before := awaitPublished(t, g, "announced", services(1))[0]
		g.publisher.left(cam, 1, true)
		g.publisher.announce(other, announcement{owner: 2, serial: 1, services: []proto.Service{{At: 22002, Addr: netip.IPv4Unspecified(), Port: 22002}}})
		awaitPublished(t, g, "held", services(2)) // and what came before the second was looked at
		g.publisher.announce(cam, announcement{owner: 3, serial: 1, services: one})
		g.publisher.left(other, 2, false)
		if after := awaitPublished(t, g, "back", services(1))[0]; after.Client != cam || after.Since != before.Since {
			t.Error("it was closed meanwhile")
		}
		g.publisher.left(cam, 3, false)
		awaitPublished(t, g, "goodbye", services(0))
	})
	t.Run("shortly", func(t *testing.T) {
		const hold = 100 * time.Millisecond
		g, end := publishing(t, Config{StateDir: t.TempDir(), IdleTimeout: hold})
		defer end()
		g.publisher.announce(cam, announcement{owner: 1, serial: 1, services: one})
		g.publisher.announce(cam, announcement{owner: 2, serial: 1, services: one})
		before := awaitPublished(t, g, "announced", services(1))[0]
		g.publisher.left(cam, 1, true) // late
		time.Sleep(5 * hold)
		if after := awaitPublished(t, g, "still there", services(1))[0]; after.Since != before.Since {
			t.Error("it was closed meanwhile")
		}
		g.publisher.left(cam, 2, true)
		awaitPublished(t, g, "not back in time", services(0))
	})
}

func TestPublishedFileIsJudged(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, publishedFile), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	g, end := forwarding(t, Config{StateDir: dir})
	defer end()
	if err := g.openPublisher(t.Context(), openFiles{}, shortcut{}); err == nil || !strings.Contains(err.Error(), publishedFile) {
		t.Errorf("got %v", err)
	}
}

// By the wire: what is offered depends on the configuration, and who leaves is known to leave.
func TestPublishFrames(t *testing.T) {
	frame := proto.AppendPublish(nil, proto.PublishMessage{Serial: 1, Services: []proto.Service{{At: 80, Addr: netip.IPv4Unspecified(), Port: 80}}})
	const features = proto.FeaturePublish | proto.FeatureGoodbye
	for _, all := range []bool{false, true} {
		err := inMemory(t, Config{Publish: publish.Who{All: all}}, func(l *lab) error {
			if err := l.g.openPublisher(context.Background(), openFiles{}, shortcut{}); err != nil {
				return err
			}
			defer l.g.publisher.close()
			r := l.dial()
			r.send(append(request("", features), frame...))
			l.settle()
			got, _ := r.take()
			if agreed := proto.ParseReply(got).Features.Has(proto.FeaturePublish); agreed != all {
				return fmt.Errorf("publish %t: agreed %t", all, agreed)
			}
			_, refused := l.g.publisher.stats()
			if n := len(l.g.publisher.wanted); all != (n == 1) || all == (refused[refusedOff] == 1) {
				return fmt.Errorf("publish %t: %d clients have announced, refused %v", all, n, refused)
			}
			r.send(proto.AppendGoodbye(nil, proto.GoodbyeMessage{Reason: proto.ReasonShutdown}))
			l.settle()
			for _, a := range l.g.publisher.wanted {
				if a.until.IsZero() || a.until.After(time.Now()) {
					return fmt.Errorf("after a goodbye it is held until %s", a.until)
				}
			}
			r = l.dial()
			r.send(append(request("", features), frame...))
			l.settle()
			got, _ = r.take()
			_ = r.conn.Close()
			l.settle()
			if a := l.g.publisher.wanted[proto.ParseReply(got).Addr]; a != nil {
				if time.Until(a.until) != settings.DefaultIdle {
					return fmt.Errorf("of who has vanished it is held until %s", a.until)
				}
			}
			r = l.dial()
			r.send(append(request("", features), proto.AppendPublish(nil, proto.PublishMessage{Serial: proto.MaxNumber + 1})...))
			l.settle()
			if n := l.g.closed.counts()["bad_message"]; n != 1 {
				return fmt.Errorf("a malformed frame ended %d connections", n)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// What a client has announced goes with its address: not on when it takes another one, and not to who has the address next.
func TestPublishAddresses(t *testing.T) {
	const features = proto.FeaturePublish | proto.FeatureGoodbye
	frame := proto.AppendPublish(nil, proto.PublishMessage{Serial: 1, Services: []proto.Service{{At: 80, Addr: netip.IPv4Unspecified(), Port: 80}}})
	err := inMemory(t, Config{Publish: publish.Who{All: true}}, func(l *lab) error {
		if err := l.g.openPublisher(context.Background(), openFiles{}, shortcut{}); err != nil {
			return err
		}
		p := l.g.publisher
		defer p.close()
		announced := func(what string, want ...string) error {
			l.settle()
			var got []string
			bridges, _, _ := p.bridges(time.Now())
			for _, b := range sorted(bridges) {
				got = append(got, b.Client.String())
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("%s: services are announced of %v, want %v", what, got, want)
			}
			return nil
		}
		r := l.dial()
		r.send(append(request("10.0.3.4", features), frame...))
		if err := announced("at the first address", "10.0.3.4"); err != nil {
			return err
		}
		r.send(append(request("10.0.3.5", features), frame...))
		if err := announced("at another one", "10.0.3.5"); err != nil {
			return err
		}
		_ = r.conn.Close()
		if err := announced("it may come back", "10.0.3.5"); err != nil {
			return err
		}
		r = l.dial()
		r.send(request("10.0.3.5", features))
		if err := announced("the address is another's"); err != nil {
			return err
		}
		r = l.dial()
		addr, token, err := join(l, r, request("10.0.3.6", features|proto.FeatureConfig))
		if err != nil {
			return err
		}
		r.send(frame)
		l.settle()
		_ = r.conn.Close()
		l.settle()
		if _, _, err := join(l, l.dial(), resume(addr, token)); err != nil {
			return err
		}
		return announced("who had the address is back by its token", "10.0.3.6")
	})
	if err != nil {
		t.Error(err)
	}
}

// As many services as there may be, with the longest of what devices say, fit into one message to ferry-netadmin, which has them in base64.
func TestPublishedFilesFit(t *testing.T) {
	const room = 200_000 - 1000 // netadmin's maxMessage, and what is around
	var all []publish.Published
	for range maxPublished {
		k := publish.Key{Client: netip.MustParseAddr("10.200.200.200"), UDP: true, Guest: netip.MustParseAddrPort("[fd00:1111:2222:3333:4444:5555:6666:7777]:65535")}
		all = append(all, publish.Published{
			Bridge: publish.Bridge{Key: k, At: 65535, Name: strings.Repeat(`"`, proto.MaxServiceName)}, Host: netip.MustParseAddrPort("[fd00:1111:2222:3333:4444:5555:6666:8888]:65535"),
			ClientName: strings.Repeat("x", 63), Why: "1023 is privileged and user cannot bind", Since: time.Now(),
		})
	}
	for _, name := range publish.Files() {
		b, err := publish.Encode(name, all)
		if n := base64.StdEncoding.EncodedLen(len(b)); err != nil || n > room {
			t.Errorf("%s takes %d bytes of %d, %v", name, n, room, err)
		}
	}
}

// A directory where nothing can be written is named, with what to do; and clients do not fill the log by it.
func TestPublishDirReadOnly(t *testing.T) {
	dir := t.TempDir()
	g, end := forwarding(t, Config{StateDir: t.TempDir(), PublishDir: dir, Publish: publish.Who{All: true}})
	defer end()
	if err := g.openPublisher(t.Context(), readOnly{}, shortcut{}); err != nil {
		t.Fatal(err)
	}
	defer g.publisher.close()
	var log bytes.Buffer
	g.log = slog.New(slog.NewTextHandler(&log, nil))
	for range 1000 {
		g.publisher.write()
	}
	if text := log.String(); !strings.Contains(text, filepath.Join(dir, publish.BridgesFile)) || !strings.Contains(text, "ReadWritePaths") || strings.Count(text, "\n") > 100 {
		t.Errorf("%d lines: %.500s", strings.Count(text, "\n"), text)
	}
}

// readOnly files are on a file system that is so.
type readOnly struct{}

func (readOnly) Replace(string, []byte) error { return syscall.EROFS }
