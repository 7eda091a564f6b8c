package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/failover"
	"ferry/internal/identity"
	"ferry/internal/proto"
	"ferry/internal/router"
	"ferry/internal/session"
)

// A visit is what one dial leads to: nil refuses the connection.
type visit func(ctx context.Context, n int) func(net.Conn)

// asked plays a server that has been asked.
func asked(s server) func(net.Conn) {
	return func(conn net.Conn) {
		ask := make([]byte, 4096)
		n, _ := conn.Read(ask)
		s(conn, ask[:n])
	}
}

// roams runs a client that has a key and two ways, in fake time, for d; by what each dial reaches is said by scheme. It returns how long
// the client took to end.
func roams(t *testing.T, d time.Duration, ways map[string]visit) (events []Event, took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := Config{Key: identity.NewKey(), Events: func(e Event) { events = append(events, e) }}
		c.setDefaults()
		var mu sync.Mutex
		dials := map[string]int{}
		var gateway sync.WaitGroup
		dial := func(ctx context.Context, e carrier.Endpoint, _ *keyring) (carrier.Link, error) {
			mu.Lock()
			dials[e.Scheme]++
			n := dials[e.Scheme]
			mu.Unlock()
			s := ways[e.Scheme](ctx, n)
			if s == nil {
				return nil, errors.New("connection refused")
			}
			a, b := net.Pipe()
			gateway.Go(func() {
				defer b.Close()
				s(b)
			})
			return carrier.NewStream(a), nil
		}
		var all []carrier.Endpoint
		for _, url := range []string{"tcp://192.168.0.1", "wss://192.168.0.1"} {
			e, err := carrier.ParseDial(url, 0)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		began := time.Now()
		if err := run(ctx, c, all, dial, newDevice(), nil, nil, nil, nil, nil); err != nil {
			t.Error(err)
		}
		took = time.Since(began)
		gateway.Wait()
	})
	return events, took
}

// silent takes what comes, and closes the connection after d.
func silent(d time.Duration) func(net.Conn) {
	return func(conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(d))
		discard(conn)
	}
}

// A connection that waits for another one to get a lease may end before its turn comes.
func TestConnectionEndsWhileItWaits(t *testing.T) {
	first := func(d time.Duration) visit {
		return func(_ context.Context, n int) func(net.Conn) {
			if n == 1 {
				return silent(d)
			}
			return asked(assign("10.0.254.254", echo))
		}
	}
	events, _ := roams(t, 2*time.Minute, map[string]visit{"tcp": first(2 * time.Second), "wss": first(time.Second)})
	if !strings.Contains(kinds(events), "connected") {
		t.Errorf("never connected: %s", kinds(events))
	}
}

// A client that is stopped while a connection has no lease yet does not wait for it, and makes no path of it.
func TestStopsWhileJoining(t *testing.T) {
	never := func(context.Context, int) func(net.Conn) { return nil }
	for name, s := range map[string]server{
		"no answer": func(conn net.Conn, _ []byte) { discard(conn) },
		"an answer a moment later": func(conn net.Conn, ask []byte) {
			time.Sleep(1100 * time.Millisecond)
			assign("10.0.254.254", echo)(conn, ask)
		},
	} {
		_, took := roams(t, time.Second, map[string]visit{
			"tcp": func(context.Context, int) func(net.Conn) { return asked(s) }, "wss": never,
		})
		if took > 3*time.Second {
			t.Errorf("%s: ended %s late", name, took-time.Second)
		}
	}
}

// The result of an attempt that was given up may come when the next one by the same way runs already.
func TestLateAttempt(t *testing.T) {
	never := func(context.Context, int) func(net.Conn) { return nil }
	events, _ := roams(t, 5*time.Minute, map[string]visit{
		"tcp": func(ctx context.Context, n int) func(net.Conn) {
			if n <= 2 {
				time.Sleep(5*time.Second + 300*time.Millisecond)
				return nil
			}
			return asked(assign("10.0.254.254", echo))
		}, "wss": never,
	})
	if !strings.Contains(kinds(events), "connected") {
		t.Errorf("never connected: %s", kinds(events))
	}
}

// joined returns a roamer that has a path in use and one that stands by, of one session.
func joined(t *testing.T) (r *roamer, used, standby *connection) {
	t.Helper()
	c := Config{Key: identity.NewKey(), Servers: []string{"tcp://192.168.0.1", "wss://192.168.0.1"}}
	c.setDefaults()
	servers, err := endpoints(c.Servers, 0)
	if err != nil {
		t.Fatal(err)
	}
	e := newDevice()
	r = newRoamer(&client{c: c, log: c.Log, servers: servers, exit: e, uplink: router.NewUplink(e.Port()), story: newStory(&c, "ferry0"),
		found: map[string][]netip.Addr{}, due: make(chan struct{}, 1)})
	used, standby = r.connected(t, 1), r.connected(t, 2)
	r.tunnel = r.newTunnel(used, session.Lease{Session: proto.SessionID{1}})
	standby.enter(r.tunnel, nil)
	r.use(failover.Action{Path: used.id})
	t.Cleanup(r.forget)
	return r, used, standby
}

// connected makes a connection one of the paths.
func (r *roamer) connected(t *testing.T, id failover.PathID) *connection {
	a, b := net.Pipe()
	x := newConnection(r.client, carrier.NewStream(a))
	x.roamer, x.id = r, id
	r.paths[id] = x
	t.Cleanup(func() { x.end(errStopped); _ = b.Close() })
	return x
}

func (x *connection) hasEnded() bool {
	select {
	case <-x.ended:
		return true
	default:
		return false
	}
}

// A goodbye that ends a session ends all its paths: none of them is to be used instead.
func TestGoodbyeEndsPaths(t *testing.T) {
	for _, tt := range []struct {
		reason proto.Reason
		ends   bool
		waits  bool // two devices with one key would displace each other all the time
	}{{proto.ReasonReplaced, true, true}, {proto.ReasonLifetime, true, false}, {proto.ReasonSilent, false, false}} {
		r, used, standby := joined(t)
		used.end(&byeError{proto.GoodbyeMessage{Reason: tt.reason}})
		r.gone(used)
		if ends := r.tunnel == nil; ends != tt.ends || standby.hasEnded() != tt.ends {
			t.Errorf("%s: the session ended: %v, its other path: %v; want %v", tt.reason, ends, standby.hasEnded(), tt.ends)
		}
		if waits := time.Until(r.until) > r.c.RetryMax/4; waits != tt.waits {
			t.Errorf("%s: comes back at %s, now it is %s; want a pause: %v", tt.reason, r.until, time.Now(), tt.waits)
		}
	}
}

// The path of another session takes over also while the one before has one that looks as if it were in use.
func TestUsesAnotherSession(t *testing.T) {
	r, _, _ := joined(t)
	r.forget()
	x := r.connected(t, 3)
	r.tunnel = r.newTunnel(x, session.Lease{Session: proto.SessionID{2}})
	r.use(failover.Action{Path: 3, Also: 1, Again: true})
	ip := make([]byte, 20)
	copy(ip, []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 9, 9, 10, 0, 0, 1})
	if to, why := r.uplink.Route(r.exit.Port(), ip); to != x.port {
		t.Errorf("packets go to %v (%s), want the new session", to, why)
	}
}

// A frame that was lost behind which nothing came is forgotten: the machine is not to ask for it again and again.
func TestForgetsTheLastFrame(t *testing.T) {
	r, _, _ := joined(t)
	r.tunnel.send.Send(make([]byte, 28))
	r.saw(time.Now().Add(time.Minute))
	if _, frames := r.tunnel.send.Due(); frames != 0 {
		t.Errorf("%d frames are waited for", frames)
	}
}

// Of several connections on their way to be a path, one is in use at once: an attach frame that is late must not turn the
// gateway away from the path that is in use by then.
func TestOneAttachIsInUse(t *testing.T) {
	r, used, standby := joined(t)
	for _, x := range []*connection{used, standby} {
		x.end(errStopped)
		r.gone(x)
	}
	var uses []bool
	for range 3 {
		a, b := net.Pipe()
		d := &attempt{way: 0, cancel: func() {}}
		r.dials[0] = d
		r.reached(d, carrier.NewStream(a), nil)
		frame := make([]byte, 4096)
		n, err := b.Read(frame)
		m, err2 := proto.ParseAttach(frame[:n])
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		uses = append(uses, m.Use)
		t.Cleanup(func() { _ = b.Close() })
	}
	if !slices.Equal(uses, []bool{true, false, false}) {
		t.Errorf("in use at once: %v, want the first one alone", uses)
	}
	r.finish(context.Canceled)
}
