package netns

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/test/lab"
)

const (
	// notWorking is how long one waits for what is not to work. What is to work has patience.
	notWorking = 400 * time.Millisecond
	plainPort  = 2002 // any port besides 443
)

// services starts in the gateway and at the provider what plain tools can talk with. Ferry is not there then.
func (h *hostile) services() {
	h.t.Helper()
	serveTCP(h.t, h.gw, 443, echo)
	serveTCP(h.t, h.gw, plainPort, echo)
	serveTCP(h.t, h.gw, whoPort, whoAmI)
	serveUDP(h.t, h.gw, 443, func(p []byte, _ net.Addr) []byte { return p })
	serveUDP(h.t, h.gw, whoPort, func(_ []byte, from net.Addr) []byte { return []byte(from.String()) })
	serveUDP(h.t, h.gw, 53, answerTXT)
	h.proxies()
	h.resolver()
	until(h.t, patience, "the resolver answers", func() bool { return askTXT(h.isp, hostileISP, notWorking) == nil })
}

// whoPort tells what one looks like.
const whoPort = 7777

// proxies starts those of the provider.
func (h *hostile) proxies() {
	h.t.Helper()
	serveTCP(h.t, h.isp, httpPort, httpProxy(""))
	serveTCP(h.t, h.isp, httpAuthPort, httpProxy(proxyUser))
	serveTCP(h.t, h.isp, socksPort, socksProxy)
}

// resolver starts the name server of the provider, which knows who knows about the tunnel's zone.
func (h *hostile) resolver() {
	h.t.Helper()
	p := start(h.t, h.isp, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=",
		"--cache-size=0", "--listen-address="+hostileISP, "--bind-interfaces", fmt.Sprintf("--server=/%s/%s", tunnelZone, hostileGateway))
	await(h.t, p, "using nameserver", 0)
}

// A probe is what a client tries. Each one says whether it worked within limit.
type probe struct {
	name string
	try  func(h *hostile, limit time.Duration) error
}

// probes are in the order of their names in the table of TestHostileNetworks.
var probes = []probe{
	{"ping", func(h *hostile, limit time.Duration) error { return h.ping(56, limit) }},
	{"large ping", func(h *hostile, limit time.Duration) error { return h.ping(1400, limit) }},
	{"udp", func(h *hostile, limit time.Duration) error {
		_, err := askUDP(h.c, hostileGateway+":443", []byte("hello"), limit)
		return err
	}},
	{"direct dns", func(h *hostile, limit time.Duration) error { return askTXT(h.c, hostileGateway, limit) }},
	{"resolver", func(h *hostile, limit time.Duration) error { return askTXT(h.c, hostileISP, limit) }},
	{"tcp 443", func(h *hostile, limit time.Duration) error { return h.talk(443, "hello", limit, nil) }},
	{"tcp 2002", func(h *hostile, limit time.Duration) error { return h.talk(plainPort, "hello", limit, nil) }},
	{"tls", func(h *hostile, limit time.Duration) error { return h.talk(443, clientHello, limit, nil) }},
	{"http proxy", func(h *hostile, limit time.Duration) error { return h.throughProxy(httpPort, "", limit) }},
	{"http proxy with a user", func(h *hostile, limit time.Duration) error { return h.throughProxy(httpAuthPort, proxyUser, limit) }},
	{"socks", func(h *hostile, limit time.Duration) error {
		return h.talkTo(hostileISP, socksPort, "hello", limit, func(c net.Conn) error {
			_, err := throughSOCKS(c, hostileGateway+":443")
			return err
		})
	}},
}

// clientHello is how TLS begins: a handshake record with a ClientHello.
const clientHello = "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"

func (h *hostile) ping(size int, limit time.Duration) error {
	_, err := h.c.Run(fmt.Sprintf("ping -n -q -c 1 -s %d -W %g %s", size, limit.Seconds(), hostileGateway))
	return err
}

// talk says something to a port of the gateway, which has to come back.
func (h *hostile) talk(port int, text string, limit time.Duration, prepare func(net.Conn) error) error {
	return h.talkTo(hostileGateway, port, text, limit, prepare)
}

func (h *hostile) talkTo(addr string, port int, text string, limit time.Duration, prepare func(net.Conn) error) error {
	c, err := dialWithin(h.c, fmt.Sprintf("%s:%d", addr, port), limit)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	if prepare != nil {
		if err := prepare(c); err != nil {
			return err
		}
	}
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	b := make([]byte, len(text))
	for n := 0; n < len(b); {
		m, err := c.Read(b[n:])
		if err != nil {
			return err
		}
		n += m
	}
	if string(b) != text {
		return fmt.Errorf("said %q, heard %q", text, b)
	}
	return nil
}

func dialWithin(ns *lab.Namespace, addr string, limit time.Duration) (c net.Conn, err error) {
	err = ns.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", addr, limit)
		return err
	})
	return c, err
}

func (h *hostile) throughProxy(port int, user string, limit time.Duration) error {
	return h.talkTo(hostileISP, port, "hello", limit, func(c net.Conn) error {
		_, err := throughHTTP(c, user, hostileGateway+":443")
		return err
	})
}

// wantWorking tries all probes at the same time: those that are named have to work, and no others.
func (h *hostile) wantWorking(when string, names []string) {
	h.t.Helper()
	var wg sync.WaitGroup
	for _, p := range probes {
		want, limit := slices.Contains(names, p.name), notWorking
		if want {
			limit = patience
		}
		wg.Go(func() {
			if err := p.try(h, limit); (err == nil) != want {
				h.t.Errorf("%s: %s works: %t, want %t: %v", when, p.name, err == nil, want, err)
			}
		})
	}
	wg.Wait()
}

func without(names ...string) (rest []string) {
	for _, p := range probes {
		if !slices.Contains(names, p.name) {
			rest = append(rest, p.name)
		}
	}
	return rest
}

// TestHostileNetworks: each network does what its name says and no more, and all of it can be taken back.
func TestHostileNetworks(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	h.services()
	h.wantWorking("before", without())
	for _, tt := range []struct {
		name  string
		does  func() (undo func())
		works []string
	}{
		{"dropUDP", h.dropUDP, without("udp", "direct dns")},
		{"onlyPort443", h.onlyPort443, []string{"resolver", "tcp 443", "tls"}},
		{"onlyDNSThroughResolver", h.onlyDNSThroughResolver, []string{"resolver"}},
		{"onlyHTTPProxy", h.onlyHTTPProxy, []string{"http proxy", "http proxy with a user"}},
		{"onlySOCKSProxy", h.onlySOCKSProxy, []string{"socks"}},
		{"resetAfterClientHello", h.resetAfterClientHello, without("tls")},
		{"dropLargerThan", func() func() { return h.dropLargerThan(600) }, without("large ping")},
		{"blackhole", h.blackhole, nil},
		{"rate", func() func() { return h.rate(10) }, without()},
		{"loss", func() func() { return h.loss(0, 50*time.Millisecond) }, without()},
		{"addressChange", h.addressChange, without()},
		{"interfaceChange", h.interfaceChange, without()},
		{"natRebinding", h.natRebinding, without()},
	} {
		undo := tt.does()
		h.wantWorking(tt.name, tt.works)
		undo()
		h.wantWorking("after "+tt.name, without())
	}
}

// TestHostileReset: it is a reset, at once, and not silence.
func TestHostileReset(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	h.services()
	defer h.resetAfterClientHello()()
	if err := h.talk(plainPort, clientHello, patience, nil); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("a ClientHello: %v, want a reset", err)
	}
}

// TestHostileProxies: who has no right or the wrong one gets nowhere.
func TestHostileProxies(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	h.services()
	for _, user := range []string{"", "user:wrong"} {
		if err := h.throughProxy(httpAuthPort, user, patience); err == nil || !strings.Contains(err.Error(), "407") {
			t.Errorf("as %q: %v, want 407", user, err)
		}
	}
}

// looks returns what the client looks like for a host of the Internet.
func (h *hostile) looks() string {
	h.t.Helper()
	c, err := dialWithin(h.c, fmt.Sprintf("%s:%d", hostileGateway, whoPort), patience)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		h.t.Fatal(err)
	}
	host, _, _ := net.SplitHostPort(string(b[:n]))
	return host
}

// TestHostileMoves: what a client looks like from outside, and by which way it goes.
func TestHostileMoves(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	h.services()
	serveTCP(t, h.r1, whoPort, whoAmI)
	inside := func() string {
		c, err := dialWithin(h.c, fmt.Sprintf("192.168.7.1:%d", whoPort), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b := make([]byte, 100)
		n, _ := c.Read(b)
		host, _, _ := net.SplitHostPort(string(b[:n]))
		return host
	}
	if out, in := h.looks(), inside(); out != homeOne || in != homeAddr {
		t.Errorf("before: %s outside, %s inside", out, in)
	}
	undo := h.addressChange()
	if out, in := h.looks(), inside(); out != homeOne || in != otherAddr {
		t.Errorf("with another address: %s outside, %s inside", out, in)
	}
	undo()
	undo = h.interfaceChange()
	if out := h.looks(); out != homeTwo {
		t.Errorf("without the cable: %s, want %s", out, homeTwo)
	}
	if out := run(t, h.c, "ip link show eth0"); !strings.Contains(out, "NO-CARRIER") {
		t.Errorf("without the cable: %s", out)
	}
	undo()
	if out, in := h.looks(), inside(); out != homeOne || in != homeAddr {
		t.Errorf("after: %s outside, %s inside", out, in)
	}
}

// TestHostileNATRebinding: the same socket of the client has another port outside, and a TCP connection ends.
func TestHostileNATRebinding(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	h.services()
	var udp net.Conn
	err := h.c.Do(func() (err error) {
		udp, err = net.Dial("udp4", net.JoinHostPort(hostileGateway, strconv.Itoa(whoPort)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	port := func() (n int) {
		_ = udp.SetDeadline(time.Now().Add(patience))
		b := make([]byte, 100)
		if _, err := udp.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		size, err := udp.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Sscanf(string(b[:size]), homeOne+":%d", &n)
		return n
	}
	tcp := dial(t, h.c, hostileGateway, plainPort)
	before := port()
	if before/10000 != 2 || port() != before {
		t.Errorf("the port outside is %d, then %d", before, port())
	}
	undo := h.natRebinding()
	if after := port(); after/10000 != 4 {
		t.Errorf("the port outside was %d and is %d, want 40000 to 49999", before, after)
	}
	_ = tcp.SetDeadline(time.Now().Add(patience))
	_, _ = tcp.Write([]byte("hello"))
	if _, err := tcp.Read(make([]byte, 10)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("the connection: %v, want a reset by the gateway, who does not know it", err)
	}
	undo()
	if after := port(); after/10000 != 2 {
		t.Errorf("the port outside is %d, want 20000 to 29999", after)
	}
}

// TestHostileQuantities: rate, loss and round trips are what was asked for.
func TestHostileQuantities(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	undo := h.rate(10)
	began := time.Now()
	transfer(t, h.c, h.gw, hostileGateway, 1<<20, 30*time.Second)
	if took := time.Since(began); took < 700*time.Millisecond {
		t.Errorf("a megabyte took %s at 10 Mbit/s", took)
	}
	undo()
	undo = h.loss(10, 50*time.Millisecond)
	out, _ := h.c.Run("ping -n -q -c 200 -i 0.005 -W 1 " + hostileGateway)
	var sent, received int
	var least float64
	if _, after, ok := strings.Cut(out, "---\n"); ok {
		_, _ = fmt.Sscanf(after, "%d packets transmitted, %d received", &sent, &received)
	}
	if _, after, ok := strings.Cut(out, "mdev = "); ok {
		_, _ = fmt.Sscanf(after, "%f", &least)
	}
	// 0.9 of those there and 0.9 of those back are 162 of 200, with a deviation of 5.5.
	if sent != 200 || received < 135 || received > 185 || least < 50 || least > 60 {
		t.Errorf("10%% lost each way, 50 ms: %d of %d came, in %.1f ms at the least", received, sent, least)
	}
	undo()
	ping(t, h.c, hostileGateway, 20)
}
