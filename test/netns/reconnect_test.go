package netns

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/internal/client"
	"ferry/internal/gateway/settings"
	"ferry/test/lab"
)

// A session is a TCP connection inside the tunnel that stays open for long, as of ssh.
type session struct {
	t    *testing.T
	conn net.Conn
}

// newSession connects to a server in another namespace that sends back what it gets.
func newSession(t *testing.T, from, to *lab.Namespace, addr string) *session {
	t.Helper()
	var l net.Listener
	err := to.Do(func() (err error) {
		l, err = net.Listen("tcp4", ":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { // ends with the connection
		if conn, err := l.Accept(); err == nil {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	return &session{t, dial(t, from, addr, l.Addr().(*net.TCPAddr).Port)}
}

// say sends a line, which has to come back within limit.
func (s *session) say(line string, limit time.Duration) {
	s.t.Helper()
	if err := s.conn.SetDeadline(time.Now().Add(limit)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.WriteString(s.conn, line); err != nil {
		s.t.Fatalf("%q: %v", line, err)
	}
	back := make([]byte, len(line))
	if _, err := io.ReadFull(s.conn, back); err != nil || string(back) != line {
		s.t.Fatalf("sent %q, got %q, %v", line, back, err)
	}
}

// monitor prints what happens to links, addresses and routes.
func monitor(t *testing.T, ns *lab.Namespace) *lab.Proc {
	t.Helper()
	p := start(t, ns, "ip", "monitor", "link", "address", "route")
	// It says nothing until something happens.
	until(t, patience, "ip monitor listens", func() bool {
		run(t, ns, "ip route add blackhole 192.0.2.0/24")
		run(t, ns, "ip route del blackhole 192.0.2.0/24")
		return p.Count("192.0.2.0/24") > 0
	})
	t.Cleanup(func() { _ = p.Signal(syscall.SIGKILL); <-p.Done() })
	return p
}

// TestGatewayKilled: all goes on when the gateway is back, and nothing of
// it is seen by the host of a client but the pause.
// exam: F1
func TestGatewayKilled(t *testing.T) {
	t.Parallel()
	n := newGateway(t, "--push-route", "198.51.100.0/24")
	one, two := newClient(t, n.c1, "-s", gatewayC1), newClient(t, n.c2, "-s", gatewayC2)
	a, b := one.waitConnected(), two.waitConnected()
	ssh := newSession(t, n.c1, n.c2, b)
	ssh.say("before", patience)
	events := monitor(t, n.c1)
	for round := 1; round <= 2; round++ {
		n.srv.Kill()
		one.event(client.EventReconnecting, 0)
		n.startGateway(n.args...)
		began := time.Now()
		ssh.say(fmt.Sprintf("round %d", round), patience)
		took := time.Since(began)
		t.Logf("the connection inside of the tunnel went on %s after the start of the gateway", took.Round(time.Millisecond))
		for _, d := range []struct {
			*device
			was string
		}{{one, a}, {two, b}} {
			e := d.event(client.EventConnected, round)
			if got := e.Address.String(); got != d.was {
				t.Errorf("%s came back with %s, had %s", d.ns.Name, got, d.was)
			}
			if back := e.Time.Sub(began); back > 5*time.Second {
				t.Errorf("%s came back after %s", d.ns.Name, back)
			}
		}
	}
	// The positive control comes last: what the monitor would have shown.
	if n := events.Count("ferry0"); n > 0 {
		t.Errorf("the interface was touched:\n%s", events.Output())
	}
	run(t, n.c1, "ip link set ferry0 txqueuelen 777")
	await(t, events, "ferry0", 0)
}

// TestGatewayRestart stops the gateway cleanly; the clients come back in the other order, and a
// stranger before one of them.
func TestGatewayRestart(t *testing.T) {
	t.Parallel()
	n := newGateway(t)
	one := newClient(t, n.c1, "-s", gatewayC1)
	a := one.waitConnected()
	two := newClient(t, n.c2, "-s", gatewayC2)
	b := two.waitConnected()

	if err := one.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stop(t, n.srv)
	n.startGateway(n.args...)
	if got := two.event(client.EventConnected, 1).Address.String(); got != b {
		t.Errorf("the second client came back with %s, had %s", got, b)
	}
	stranger := newClient(t, n.c3, "-s", gatewayC3).waitConnected()
	if slices.Contains([]string{a, b}, stranger) {
		t.Errorf("a stranger got %s, which is held for another", stranger)
	}
	if err := one.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := one.event(client.EventConnected, 1).Address.String(); got != a {
		t.Errorf("the first client came back with %s, had %s", got, a)
	}
	if one.Count(`"event":"address"`) != 1 {
		t.Error("the first client thinks that its address has changed")
	}
	ping(t, n.c1, b, 2)
	ping(t, n.c1, stranger, 2)
}

// silence drops all packets of the tunnel's connections at a host, without a word, both ways.
func silence(t *testing.T, ns *lab.Namespace) (end func()) {
	t.Helper()
	run(t, ns, "nft add table inet silence")
	for _, hook := range []string{"input", "output"} {
		run(t, ns, fmt.Sprintf("nft add chain inet silence %s { type filter hook %s priority 0 ; }", hook, hook))
		run(t, ns, fmt.Sprintf("nft add rule inet silence %s tcp dport 2002 drop", hook))
		run(t, ns, fmt.Sprintf("nft add rule inet silence %s tcp sport 2002 drop", hook))
	}
	return func() { t.Helper(); run(t, ns, "nft delete table inet silence") }
}

// TestShortSilence: the network drops everything for 20 s.
// exam: F6
func TestShortSilence(t *testing.T) {
	t.Parallel()
	n := newGateway(t)
	one, two := newClient(t, n.c1, "-s", gatewayC1), newClient(t, n.c2, "-s", gatewayC2)
	a, b := one.waitConnected(), two.waitConnected()
	ssh := newSession(t, n.c1, n.c2, b)
	ssh.say("before", patience)
	end := silence(t, n.c1)
	time.Sleep(20 * time.Second) // the fault itself
	end()
	ssh.say("after", 20*time.Second)
	if one.Count(`"event":"address"`) != 1 || !strings.Contains(run(t, n.c1, "ip address show dev ferry0"), a+"/16") {
		t.Errorf("the address %s was lost:\n%s", a, one.Output())
	}
}

// TestLongSilence: the network drops everything for 120 s. Both sides notice within 30 s, the
// address is held for 60 s more, and then another client gets it, which it keeps.
// exam: F6
func TestLongSilence(t *testing.T) {
	t.Parallel()
	const lasts, notice, slack = 120 * time.Second, 30 * time.Second, 2 * time.Second
	n := newGateway(t)
	one := newClient(t, n.c1, "-s", gatewayC1)
	a := one.waitConnected()
	began := time.Now()
	end := silence(t, n.c1)
	for _, side := range []struct {
		*lab.Proc
		says string
	}{{one.Proc, `"event":"lost"`}, {n.srv, `msg="client left"`}} {
		if _, err := side.Await(side.says, 0, time.Until(began.Add(notice+slack))); err != nil {
			t.Fatal(err)
		}
	}
	two := newClient(t, n.c2, "-s", gatewayC2, "-a", a) // is told when to ask again
	if _, err := two.Await(`"event":"connected"`, 0, time.Until(began.Add(lasts))); err != nil {
		t.Fatal(err)
	}
	if held := time.Since(began); held < settings.DefaultIdle {
		t.Errorf("the address was free after %s, want %s more than it takes to notice", held, settings.DefaultIdle)
	}
	time.Sleep(time.Until(began.Add(lasts))) // the fault itself
	end()
	if _, err := one.Await(`"event":"connected"`, 1, client.DefaultRetryMax+patience); err != nil {
		t.Fatal(err)
	}
	if got := one.event(client.EventConnected, 1).Address.String(); got == a {
		t.Errorf("two clients have %s", a)
	}
	ping(t, n.c1, a, 2)
	if n := two.Count(`"event":"connected"`); n != 1 {
		t.Errorf("a client that nothing was done to has connected %d times:\n%s", n, two.Output())
	}
}
