package client

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/identity"
	"ferry/internal/policy"
	"ferry/internal/proto"
	"ferry/internal/router"
	"ferry/internal/session"
)

// answering is a client without a gateway that answers for an interface of this test's own.
func answering(t *testing.T, c Config) (*client, string) {
	t.Helper()
	c.setDefaults()
	name := fmt.Sprintf("t%d", os.Getpid())
	l := listenStatus(t.Context(), name, c.Log)
	if l == nil {
		t.Fatal("the name is taken")
	}
	dev := newDevice()
	cl := &client{c: c, log: c.Log, exit: dev, uplink: router.NewUplink(dev.Port()), story: newStory(&c, name)}
	ctx, cancel := context.WithCancel(t.Context())
	var answers sync.WaitGroup
	answers.Go(func() { cl.answer(ctx, l) })
	t.Cleanup(func() { cancel(); answers.Wait() })
	return cl, name
}

func TestStatus(t *testing.T) {
	pin := identity.NewKey().Public().Pin()
	cl, name := answering(t, Config{Gateway: pin, Version: "1.0", Policy: policy.Rules{Routes: []netip.Prefix{netip.MustParsePrefix("192.168.9.0/24")}}})
	before, err := Ask(t.Context(), name)
	if err != nil || before.State != EventConnecting || before.Connections != 0 || before.Fingerprint == nil || *before.Fingerprint != pin {
		t.Errorf("before: %+v, %v", before, err)
	}
	lease := netip.MustParsePrefix("10.0.3.7/16")
	cl.event(Event{Kind: EventConnecting, Server: "tcp://gw:2002"})
	offered := leaseOf(lease, "192.168.7.0/24", "127.0.0.0/8")
	if err := cl.configure(&offered, &net.TCPAddr{}); err != nil {
		t.Fatal(err)
	}
	cl.event(Event{Kind: EventConnected, Server: "192.0.2.1:2002", Address: lease.Addr(), Prefix: lease.Masked(), MTU: 1400, Protocol: "ferry", Secure: true})
	cl.event(Event{Kind: EventAddress})
	s, err := Ask(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if s.State != EventConnected || s.Server != "tcp://gw:2002" || s.Peer != "192.0.2.1:2002" || s.Connections != 1 || s.MTU != 1400 || !s.Secure || s.Pid != os.Getpid() {
		t.Errorf("connected: %+v", s)
	}
	if got := fmt.Sprint(s.Routes); got != "[192.168.9.0/24 192.168.7.0/24]" || len(s.Refused) != 1 || s.Refused[0].Reason == "" {
		t.Errorf("routes %s, refused %v", got, s.Refused)
	}
	for i := range 2 * maxFaults {
		cl.event(Event{Kind: EventReconnecting, Reason: fmt.Sprintf("fault %d", i), RetryIn: 60})
	}
	if s, err = Ask(t.Context(), name); err != nil || len(s.Faults) != maxFaults || s.Faults[maxFaults-1].Error != "fault 9" || time.Until(s.RetryAt) < 50*time.Second {
		t.Errorf("faults: %+v, %v", s, err)
	}
	if s.Address != lease.Addr() || len(s.Routes) != 2 {
		t.Errorf("what stays on the interface is not told: %+v", s)
	}
	if !slices.Contains(Running(), name) {
		t.Errorf("%s is not among %v", name, Running())
	}
}

func leaseOf(addr netip.Prefix, routes ...string) (l session.Lease) {
	l.Prefix = addr
	for _, r := range routes {
		l.Routes = append(l.Routes, netip.MustParsePrefix(r))
	}
	return l
}

// Of what goes through the tunnel each direction is told by itself.
func TestStatusTraffic(t *testing.T) {
	cl, name := answering(t, Config{})
	sink := newDevice()
	gateway := router.NewPort(1, router.Caps{Super: true}, sink)
	cl.uplink.Connect(gateway)
	up := router.NewForwarder(cl.uplink, cl.exit.Port(), &cl.total, netip.Addr{})
	down := router.NewForwarder(cl.uplink, gateway, &cl.total, netip.Addr{})
	for range 3 {
		b := frame(100)
		up.Frame(b, 0, len(b))
		up.Flush()
	}
	b := frame(200)
	down.Frame(b, 0, len(b))
	down.Flush()
	b[14] = 0x65 // IPv6, cut short
	down.Frame(b, 0, len(b))
	s, err := Ask(t.Context(), name)
	if err != nil || s.Sent != (Traffic{3, 300}) || s.Received != (Traffic{1, 200}) || len(s.Drops) != 1 {
		t.Errorf("got %+v, %+v, %v, %v", s.Sent, s.Received, s.Drops, err)
	}
}

// Whoever connects and says something else, or nothing, keeps nobody else waiting for long.
func TestStatusNonsense(t *testing.T) {
	_, name := answering(t, Config{})
	for _, text := range []string{"", "GET / HTTP/1.1\r\n\r\n", "status", "statuS\n"} {
		conn, err := net.Dial("unix", socketPrefix+name)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(text))
		if text == "" {
			_ = conn.Close()
			continue
		}
		_ = conn.SetReadDeadline(time.Now().Add(3 * askTimeout))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
			t.Errorf("%q: got %d bytes, %v", text, n, err)
		}
		_ = conn.Close()
	}
	if _, err := Ask(t.Context(), name); err != nil {
		t.Error(err)
	}
}

func TestAskNobody(t *testing.T) {
	_, name := answering(t, Config{})
	_, err := Ask(t.Context(), "none0")
	if err == nil || !strings.Contains(err.Error(), "no vpncli is running with the interface none0; there is one with") || !strings.Contains(err.Error(), name) {
		t.Errorf("got %v", err)
	}
	if l := listenStatus(t.Context(), name, slog.New(slog.DiscardHandler)); l != nil {
		t.Error("two have one name")
	}
}

// The names of the fields are for scripts.
func TestStatusJSON(t *testing.T) {
	b, err := json.Marshal(Status{})
	const want = `{"version":"","pid":0,"started":"0001-01-01T00:00:00Z","interface":"","state":"","since":"0001-01-01T00:00:00Z","server":"","secure":false,"connections":0,"routes":null,"sent":{"packets":0,"bytes":0},"received":{"packets":0,"bytes":0},"drops":null,"last_errors":null}`
	if string(b) != want || err != nil {
		t.Errorf("got  %s, %v\nwant %s", b, err, want)
	}
}

// frame returns a data frame with a UDP packet.
func frame(size int) []byte {
	b := make([]byte, proto.DataHeaderLen, proto.DataHeaderLen+size)
	proto.PutBareHeader(b, size)
	b = append(b, 0x45, 0, byte(size>>8), byte(size), 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 9, 9, 10, 0, 0, 1)
	return b[:cap(b)]
}
