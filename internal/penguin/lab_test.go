package penguin

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/carrier/carriertest"
	"ferry/internal/penguin/wire"
	"ferry/test/hypervisor"
	serving "ferry/test/service"
)

var dialects = hypervisor.Dialects

const patience = 20 * time.Second

func TestMain(m *testing.M) { carriertest.Main(m) }

// A lab has a host and a guest with a hypervisor between them that keeps vsock in user space:
//
//	client --> Host --> path == muxer ==> path_port --> Guest --> service
type lab struct {
	path   string // of the muxer
	events string
	log    *transcript // of both
}

// A transcript is what was logged.
type transcript struct{ serving.Transcript }

// background runs f until the test ends.
func background(t testing.TB, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("it does not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not so: " + what)
		}
	}
}

func newLab(t testing.TB, d hypervisor.Dialect) *lab {
	t.Helper()
	dir := t.TempDir()
	b := &lab{path: filepath.Join(dir, "v"), events: filepath.Join(dir, "events"), log: new(transcript)}
	b.publish(t, "")
	l, err := net.Listen("unix", b.path)
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return hypervisor.Serve(ctx, l, b.path, d) })
	return b
}

func (b *lab) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// guest starts a Guest.
func (b *lab) guest(t testing.TB, c GuestConfig) (stop func()) {
	t.Helper()
	c.Socket, c.Log = b.path, b.logger()
	up := make(chan struct{})
	stop = background(t, func(ctx context.Context) error { return RunGuest(ctx, c, func() { close(up) }) })
	select {
	case <-up:
	case <-time.After(patience):
		t.Fatalf("the guest does not come up:\n%s", b.log)
	}
	return stop
}

// host starts a Host.
func (b *lab) host(t testing.TB, c HostConfig) (stop func()) {
	t.Helper()
	c.Guest.Path, c.Events, c.Log = b.path, b.events, b.logger()
	return background(t, func(ctx context.Context) error { return RunHost(ctx, c, func() {}) })
}

// publish writes to the file of events.
func (b *lab) publish(t testing.TB, text string) {
	t.Helper()
	f, err := os.OpenFile(b.events, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// published publishes a service on a free port, and returns it when it is there.
func (b *lab) published(t testing.TB, proto, guest, more string) netip.AddrPort {
	t.Helper()
	at := freePort(t, proto)
	b.publish(t, fmt.Sprintf("%s,%s,%s%s\n", proto, guest, at, more))
	b.await(t, "msg=published at="+at.String())
	return at
}

func (b *lab) await(t testing.TB, text string) {
	t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(b.log.String(), text); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not logged: %s\n%s", text, b.log)
		}
	}
}

// freePort returns a port that was free a moment ago.
func freePort(t testing.TB, proto string) netip.AddrPort {
	t.Helper()
	if proto == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return netip.MustParseAddrPort(c.LocalAddr().String())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// service serves TCP connections with f until the test ends.
func service(t testing.TB, address string, f func(*net.TCPConn)) string {
	t.Helper()
	return serving.TCP(t, address, f).String()
}

// packets serves UDP until the test ends: f returns the replies to a datagram.
func packets(t testing.TB, f func([]byte) [][]byte) string {
	t.Helper()
	return serving.UDP(t, f).String()
}

func echoes(b []byte) [][]byte { return [][]byte{b} }

// dial connects to a published port.
func dial(t testing.TB, network string, at netip.AddrPort) net.Conn {
	t.Helper()
	c, err := net.DialTimeout(network, at.String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// ask sends by TCP, ends its half, and returns what comes until the end.
func ask(t testing.TB, at netip.AddrPort, question []byte) ([]byte, error) {
	t.Helper()
	c := dial(t, "tcp", at).(*net.TCPConn)
	if _, err := c.Write(question); err != nil {
		return nil, err
	}
	if err := c.CloseWrite(); err != nil {
		return nil, err
	}
	return io.ReadAll(c)
}

// exchange sends a datagram and waits for a reply.
func exchange(t testing.TB, c net.Conn, b []byte) []byte {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 1<<16)
	n, err := c.Read(reply)
	if err != nil {
		t.Fatal(err)
	}
	return reply[:n]
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// connect asks the guest as a host of the original does.
func (b *lab) connect(t testing.TB, port uint32, request []byte) *net.UnixConn {
	t.Helper()
	c, err := net.Dial("unix", fmt.Sprintf("%s_%d", b.path, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if len(request) > 0 {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
	}
	return c.(*net.UnixConn)
}

func request(t testing.TB, dst string, transport wire.Transport) []byte {
	t.Helper()
	return wire.AppendRequest(nil, wire.Request{Dst: netip.MustParseAddrPort(dst), Transport: transport})
}
