package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/hostnet"
	"ferry/internal/policy"
	"ferry/internal/proto"
	"ferry/internal/router"
)

// device is an exit without a kernel: it keeps what was configured.
type device struct {
	port   *router.Port
	upload int // bytes per second that it has to send, in packets of 1000 bytes
	// services are what it publishes; nil: nothing.
	services func(*Config) *announcer

	mu     sync.Mutex
	states []hostnet.State
	got    []byte
}

func newDevice() *device {
	d := new(device)
	d.port = router.NewPort(0, router.Caps{Super: true, Exit: true}, d)
	return d
}

func (d *device) Name() string       { return "ferry0" }
func (d *device) Port() *router.Port { return d.port }
func (d *device) Around(netip.Addr, uint32) ([]netip.Prefix, netip.Prefix, error) {
	return nil, netip.Prefix{}, nil
}
func (d *device) Apply(s hostnet.State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.states = append(d.states, s)
	return nil
}
func (d *device) Close() error { return nil }
func (d *device) Run(ctx context.Context, f *router.Forwarder) error {
	if d.upload == 0 {
		<-ctx.Done()
		return nil
	}
	for range time.Tick(time.Second * 1000 / time.Duration(d.upload)) {
		if ctx.Err() != nil {
			break
		}
		b := make([]byte, proto.DataHeaderLen, 1014)
		proto.PutBareHeader(b, 1000)
		b = append(b, 0x45, 0, 1000>>8, 1000&0xff, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 9, 9, 10, 0, 0, 1)
		f.Frame(b[:cap(b)], 0, cap(b))
		f.Flush()
	}
	return nil
}
func (d *device) Send(run []byte) (int, router.Reason) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.got = append(d.got, run...)
	return 0, router.None
}

// A server plays the gateway's side of one connection; it returns to close it.
type server func(conn net.Conn, ask []byte)

// world runs a client in fake time whose dials reach the servers one after the other; when none is left
// they are refused. It returns what Run has returned after d, and the events.
func world(t *testing.T, c Config, d time.Duration, servers ...server) (events []Event, dev *device, err error) {
	t.Helper()
	dev = newDevice()
	events, err = worldOf(t, dev, c, d, servers...)
	return events, dev, err
}

func worldOf(t *testing.T, dev *device, c Config, d time.Duration, servers ...server) (events []Event, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c.setDefaults()
		var services *announcer
		if dev.services != nil {
			services = dev.services(&c)
		}
		c.Events = func(e Event) { events = append(events, e) }
		var gateway sync.WaitGroup
		dial := func(context.Context, carrier.Endpoint, *keyring) (carrier.Link, error) {
			if len(servers) == 0 {
				return nil, errors.New("connection refused")
			}
			a, b := net.Pipe()
			s := servers[0]
			servers = servers[1:]
			gateway.Go(func() {
				defer b.Close()
				ask := make([]byte, 4096)
				n, _ := b.Read(ask)
				s(b, ask[:n])
			})
			return carrier.NewStream(a), nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		e, _ := carrier.ParseDial("192.168.0.1", 0)
		err = run(ctx, c, []carrier.Endpoint{e}, dial, dev, nil, nil, nil, nil, services)
		gateway.Wait()
	})
	return events, err
}

func kinds(events []Event) string {
	var all []string
	for _, e := range events {
		all = append(all, string(e.Kind))
	}
	return strings.Join(all, " ")
}

// discard reads until the connection ends.
func discard(conn net.Conn) {
	buf := make([]byte, 4096)
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}

// echo sends keepalives back, like everything else.
func echo(conn net.Conn, _ []byte) { _, _ = io.Copy(conn, conn) }

// assign answers as a Ferry gateway, and then does what then does.
func assign(addr string, then server) server {
	return func(conn net.Conn, ask []byte) {
		r := proto.Reply{Addr: netip.MustParseAddr(addr), Extended: true, Features: proto.FeatureConfig | proto.FeatureGoodbye}
		b := proto.AppendReply(nil, ask[:20], r)
		b = proto.AppendConfig(b, proto.PushedConfig{
			Prefix: netip.PrefixFrom(r.Addr, 16), Gateway: netip.MustParseAddr("10.0.0.1"), MTU: 1400, Token: proto.Token{7},
			Routes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("127.0.0.0/8")},
		})
		_, _ = conn.Write(b)
		then(conn, ask)
	}
}

func TestConnectsAgain(t *testing.T) {
	var second []byte
	events, dev, err := world(t, Config{}, time.Minute,
		assign("10.0.254.254", func(net.Conn, []byte) {}),
		func(conn net.Conn, ask []byte) {
			second = slices.Clone(ask)
			assign("10.0.254.254", echo)(conn, ask)
		})
	if err != nil {
		t.Errorf("a clean stop returned %v", err)
	}
	if got, want := kinds(events), "connecting connected address lost reconnecting connecting connected stopped"; got != want {
		t.Errorf("got events %q, want %q", got, want)
	}
	hello, err := proto.ParseHello(second[20:])
	if r := proto.ParseRequest(second); err != nil || r.Hint != 0xfefe || hello.Resume.String() != "10.0.254.254" || hello.Token != (proto.Token{7}) {
		t.Errorf("asked for the old address with %+v, %+v, %v", r, hello, err)
	}
	want := hostnet.State{Addr: netip.MustParsePrefix("10.0.254.254/16"), MTU: 1400,
		Routes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}, Outer: hostnet.Outer{Mark: DefaultMark, Table: DefaultTable}}
	for _, s := range dev.states {
		if s.Addr != want.Addr || s.MTU != want.MTU || !slices.Equal(s.Routes, want.Routes) {
			t.Errorf("configured %+v, want %+v", s, want)
		}
	}
}

func TestSettingsWin(t *testing.T) {
	events, dev, _ := world(t, Config{Policy: policy.Rules{MTU: 1280, RefuseRoutes: true, DefaultRoute: true}}, time.Minute,
		assign("10.0.254.254", echo))
	// Closed before there is a tunnel, and then the tunnel.
	last := dev.states[len(dev.states)-1]
	for _, s := range dev.states[:len(dev.states)-1] {
		if s.Addr.IsValid() || !s.Full() {
			t.Errorf("before: %+v", s)
		}
	}
	if len(dev.states) < 2 || last.MTU != 1280 || len(last.Routes) != 1 || !last.Full() {
		t.Errorf("configured %+v", dev.states)
	}
	if e := events[1]; e.MTU != 1280 || e.Protocol != "ferry" {
		t.Errorf("event %+v", e)
	}
}

// Pauses grow from RetryMin to RetryMax, with jitter, for ever.
func TestBackoff(t *testing.T) {
	events, _, _ := world(t, Config{}, 10*time.Minute)
	var pauses []float64
	for _, e := range events {
		if e.Kind == EventReconnecting {
			pauses = append(pauses, e.RetryIn)
		}
	}
	if len(pauses) < 20 || len(pauses) > 60 {
		t.Fatalf("%d attempts in 10 minutes", len(pauses))
	}
	limit := 0.2
	for i, p := range pauses {
		if p < limit/2 || p > limit {
			t.Errorf("pause %d is %.3f s, want %.3f to %.3f", i, p, limit/2, limit)
		}
		limit = min(2*limit, 30)
	}
}

func TestHopeless(t *testing.T) {
	goodbye := func(r proto.Reason, after time.Duration) server {
		return func(conn net.Conn, _ []byte) {
			_, _ = conn.Write(proto.AppendGoodbye(nil, proto.GoodbyeMessage{Reason: r, RetryAfter: after}))
		}
	}
	static := Config{Address: netip.MustParseAddr("10.0.3.4")}
	stays := assign("10.0.3.4", echo)
	tests := []struct {
		name    string
		c       Config
		servers []server
		err     string // in the error of Run; empty: it goes on
	}{
		{"in use", static, []server{goodbye(proto.ReasonInUse, 0)}, "choose another"},
		{"outside of the pool", static, []server{goodbye(proto.ReasonRefused, 0)}, "choose another"},
		{"refused by a 2013 server", static, []server{func(net.Conn, []byte) {}}, "address refused"},
		{"held for a while", static, []server{goodbye(proto.ReasonHeld, 20*time.Second), stays}, ""},
		{"no answer, dynamic", Config{}, []server{func(net.Conn, []byte) {}, stays}, ""},
		{"refused after it was connected", static, []server{assign("10.0.3.4", func(net.Conn, []byte) {}), goodbye(proto.ReasonInUse, 0), stays}, ""},
		{"shutdown of the gateway", Config{}, []server{goodbye(proto.ReasonShutdown, 0), stays}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			events, _, err := world(t, tt.c, time.Minute, tt.servers...)
			switch {
			case tt.err == "" && (err != nil || !strings.Contains(kinds(events), "connected stopped") && !strings.Contains(kinds(events), "address stopped")):
				t.Errorf("got %v, events %q", err, kinds(events))
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("got %v, want an error with %q", err, tt.err)
			}
		})
	}
}

// A gateway that falls silent is noticed within 30 s.
// exam: F6
func TestSilentGateway(t *testing.T) {
	lost := 0
	events, _, _ := world(t, Config{}, 2*time.Minute, assign("10.0.254.254", func(conn net.Conn, _ []byte) { discard(conn) }))
	for _, e := range events {
		if e.Kind == EventLost {
			lost++
			if d := e.Time.Sub(events[1].Time); d > 30*time.Second || d < 20*time.Second {
				t.Errorf("lost after %s", d)
			}
		}
	}
	if lost != 1 {
		t.Errorf("lost %d times, want 1", lost)
	}
}

// slowGateway takes 20 kB/s and answers pings as soon as they have come through.
func slowGateway(pings *int) server {
	return func(conn net.Conn, ask []byte) {
		r := proto.Reply{Addr: netip.MustParseAddr("10.0.9.9"), Extended: true, Features: proto.FeaturePing}
		_, _ = conn.Write(proto.AppendReply(nil, ask[:20], r))
		f := proto.Framer{Extended: true}
		var got []byte
		buf := make([]byte, 2000)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			time.Sleep(time.Duration(n) * time.Second / 20_000)
			got = append(got, buf[:n]...)
			for {
				kind, n, _ := f.Next(got)
				if n == 0 {
					break
				}
				if kind == proto.KindPing {
					*pings++
					_, _ = conn.Write(proto.AppendPong(nil, got[:n]))
				}
				got = got[n:]
			}
		}
	}
}

// A ping that stands behind a full queue is not late, as long as the queue moves: 256 KiB take longer
// on a slow line than an answer may.
func TestSlowUplink(t *testing.T) {
	for fill := range 20 { // at times there is room for the ping behind the packets, at times there is not
		pings := 0
		dev := newDevice()
		dev.upload = 40_000
		events, _ := worldOf(t, dev, Config{QueueBytes: 256<<10 + fill}, 3*time.Minute, slowGateway(&pings))
		if got, want := kinds(events), "connecting connected address stopped"; got != want || pings < 3 {
			t.Errorf("%d bytes more: got events %q and %d pings; want %q, at least 3", fill, got, pings, want)
		}
	}
}

// The reply of a 2013 server comes twice; its packets are bare, and so are ours for it.
func TestServerOf2013(t *testing.T) {
	packet := make([]byte, 28)
	copy(packet, []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 254, 253, 10, 0, 254, 254, 0, 0, 0, 0, 0, 8})
	events, dev, _ := world(t, Config{}, time.Minute, func(conn net.Conn, ask []byte) {
		reply := slices.Clone(ask[:20])
		copy(reply[16:], []byte{10, 0, 254, 254})
		for _, b := range [][]byte{reply, reply, packet} {
			_, _ = conn.Write(b)
		}
		discard(conn)
	})
	if e := events[1]; e.Protocol != "2013" || e.Prefix != netip.MustParsePrefix("10.0.0.0/16") || e.MTU != 1500 {
		t.Errorf("event %+v", e)
	}
	if len(dev.got) != proto.DataHeaderLen+28 || !slices.Equal(dev.got[proto.DataHeaderLen:], packet) {
		t.Errorf("the interface got %x", dev.got)
	}
}
