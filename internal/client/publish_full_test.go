//go:build !minimal

package client

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"ferry/internal/forward"
	"ferry/internal/proto"
	"ferry/internal/publish"
)

// A desk is an announcer whose sockets and clock a test has, and whose relays are real.
type desk struct {
	*announcer
	sockets []publish.Socket
	err     error // of the list
	log     bytes.Buffer
}

func newDesk(t *testing.T, what publish.What, debounce time.Duration) *desk {
	t.Helper()
	d := new(desk)
	c := Config{Publish: what, PublishLimit: 9, PublishDebounce: debounce, Log: slog.New(slog.NewTextHandler(&d.log, nil))}
	c.setDefaults()
	d.announcer = &announcer{c: &c, host: noRelays{}, debounce: publish.Debounce{Wait: debounce, Limit: 9}, relayed: map[publish.Socket]relay{}}
	d.list = func() ([]publish.Socket, error) { return slices.Clone(d.sockets), d.err }
	d.relays = forward.NewTable(t.Context(), forward.Config{Network: forward.Sockets{}})
	t.Cleanup(d.relays.Close)
	return d
}

// hello serves at an address of this host: who connects is greeted.
func hello(t *testing.T, addr string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// greeting is what is said at an address; empty: nobody is there.
func greeting(at netip.AddrPort) string {
	c, err := net.DialTimeout("tcp", at.String(), 5*time.Second)
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	b, _ := io.ReadAll(c)
	return string(b)
}

// A service for this device alone is reached by a relay at the address in the tunnel, which moves with that, survives the program behind it, and ends with the service.
func TestPublishRelay(t *testing.T) {
	d := newDesk(t, publish.What{Auto: true, Loopback: true}, 0)
	at := hello(t, "127.0.0.1:0")
	d.sockets = []publish.Socket{{Addr: at.Addr(), Port: at.Port(), Inode: 1}}
	tunnel, next := netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("127.0.0.10")
	look := func(at netip.Addr, changed bool) (relayed netip.AddrPort) {
		t.Helper()
		if got := d.look(time.Now(), at); got != changed {
			t.Fatalf("something else than before: %v, want %v", got, changed)
		}
		if len(d.shown) == 0 {
			return relayed
		}
		return netip.AddrPortFrom(at, d.shown[0].At)
	}
	first := look(tunnel, true)
	if want := []proto.Service{{At: first.Port(), Addr: at.Addr(), Port: at.Port()}}; !slices.Equal(d.shown, want) || first.Port() == at.Port() {
		t.Fatalf("announced %v, want %v at a port of its own", d.shown, want)
	}
	if got := greeting(first); got != "hello" {
		t.Errorf("by the relay: %q", got)
	}
	d.sockets[0].Inode = 2 // the program was started anew
	if again := look(tunnel, false); again != first {
		t.Errorf("a program that starts anew is at %s, was at %s", again, first)
	}
	moved := look(next, true)
	if got := greeting(moved); got != "hello" {
		t.Errorf("by the relay at another address: %q", got)
	}
	if got := greeting(first); got != "" {
		t.Errorf("where the address was before: %q", got)
	}
	d.sockets = nil
	d.look(time.Now(), next)
	if len(d.shown) > 0 || greeting(moved) != "" || len(d.relayed) > 0 {
		t.Errorf("of a service that is gone: %v, %v", d.shown, d.relayed)
	}
}

// A relay that could not be opened is opened as soon as it can be.
func TestPublishRelayLater(t *testing.T) {
	d := newDesk(t, publish.What{Auto: true, Loopback: true}, 0)
	full := d.relays
	d.relays = forward.NewTable(t.Context(), forward.Config{Network: forward.Sockets{}, Forwards: 1})
	defer d.relays.Close()
	home := netip.MustParseAddr("127.0.0.1")
	d.sockets = []publish.Socket{{Addr: home, Port: 80, Inode: 1}, {Addr: home, Port: 81, Inode: 2}}
	tunnel := netip.MustParseAddr("127.0.0.9")
	d.look(time.Now(), tunnel)
	if len(d.shown) != 1 || d.failed != 1 {
		t.Fatalf("announced %v, failed %d, want one each", d.shown, d.failed)
	}
	d.relays = full
	if !d.look(time.Now(), tunnel) || len(d.shown) != 2 || d.failed != 1 {
		t.Errorf("announced %v, failed %d", d.shown, d.failed)
	}
}

// Nothing is told before a first list can be whole, without an address in the tunnel, or of a list that could not be had; and nothing twice.
func TestPublishOnlyNews(t *testing.T) {
	d := newDesk(t, publish.What{Auto: true}, 2*time.Second)
	d.sockets = []publish.Socket{{Addr: netip.IPv4Unspecified(), Port: 80, Inode: 1}}
	d.start = time.Unix(1000, 0)
	tunnel := netip.MustParseAddr("10.0.9.9")
	for i, step := range []struct {
		after   time.Duration
		at      netip.Addr
		err     error
		changed bool
		serial  uint64
	}{
		{after: 0, at: tunnel},
		{after: 1900 * time.Millisecond, at: tunnel},
		{after: 2 * time.Second},
		{after: 2 * time.Second, at: tunnel, err: errors.New("no buffer")},
		{after: 2 * time.Second, at: tunnel, changed: true, serial: 1},
		{after: 3 * time.Second, at: tunnel, serial: 1},
		{after: 3 * time.Second, at: tunnel, err: errors.New("no buffer"), serial: 1},
	} {
		d.err = step.err
		if got := d.look(d.start.Add(step.after), step.at); got != step.changed || uint64(d.message.Serial) != step.serial {
			t.Errorf("step %d: %v, serial %d, want %v, %d", i, got, d.message.Serial, step.changed, step.serial)
		}
	}
	if n := strings.Count(d.log.String(), "no buffer"); n != 1 {
		t.Errorf("the same fault was told %d times: %s", n, d.log.String())
	}
}

// namer is a host that writes down for which sockets it was asked.
type namer struct {
	noRelays
	asked *[]uint32
}

func (n namer) Names(inodes []uint32) (map[uint32]string, error) {
	*n.asked = append(*n.asked, inodes...)
	return map[uint32]string{1: "sshd"}, nil
}

// Each program is looked for once, also one that is not shown, and forgotten with its socket.
func TestPublishNames(t *testing.T) {
	d := newDesk(t, publish.What{Auto: true, Names: true}, 0)
	var asked []uint32
	d.host = namer{asked: &asked}
	d.sockets = []publish.Socket{{Addr: netip.IPv4Unspecified(), Port: 22, Inode: 1}, {Addr: netip.IPv4Unspecified(), Port: 80, Inode: 2}}
	tunnel := netip.MustParseAddr("10.0.9.9")
	for range 3 {
		d.look(time.Now(), tunnel)
	}
	if slices.Sort(asked); !slices.Equal(asked, []uint32{1, 2}) || d.shown[0].Name != "sshd" || d.shown[1].Name != "" {
		t.Errorf("asked for %v, announced %v", asked, d.shown)
	}
	d.sockets = d.sockets[:1]
	d.look(time.Now(), tunnel)
	if want := map[uint32]string{1: "sshd"}; !maps.Equal(d.names, want) {
		t.Errorf("remembers %v, want %v", d.names, want)
	}
}

// Sockets of other programs are found by the kernel, those of this one are not, and nothing is opened where nothing is published.
func TestNewAnnouncer(t *testing.T) {
	if a, err := newAnnouncer(&Config{}, noRelays{}, "ferry0"); a != nil || err != nil {
		t.Errorf("got %v, %v where nothing is published", a, err)
	}
	a, err := newAnnouncer(&Config{Publish: publish.What{Auto: true}}, noRelays{}, "ferry0")
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	at := listenElsewhere(t)
	own := hello(t, "127.0.0.1:0")
	all, err := a.list()
	if err != nil {
		t.Fatal(err)
	}
	has := func(at netip.AddrPort) bool {
		return slices.ContainsFunc(all, func(s publish.Socket) bool { return !s.UDP && s.Addr == at.Addr() && s.Port == at.Port() })
	}
	if !has(at) || has(own) || a.ephemeral.First == 0 || a.ephemeral.Last < a.ephemeral.First {
		t.Errorf("want %s and not %s: got %v; ephemeral ports %v", at, own, all, a.ephemeral)
	}
}

// listenElsewhere gives a listener to another program.
func listenElsewhere(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other := exec.Command("sleep", "60")
	other.ExtraFiles = []*os.File{f}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}
