package netns

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A carrierUnderTest is one that a gateway serves and a client can be told to use.
type carrierUnderTest struct {
	name, listen, dial string
}

// carriersUnderTest are one of each kind: the rows of hostileRows are run with each of them. The exam has the others.
var carriersUnderTest = []carrierUnderTest{
	{"tls", "tcp://:443?allow=tls", "tcp://" + hostileGateway + ":443"},
	{"udp", "udp://:2002", "udp://" + hostileGateway},
	{"icmp", "icmp://", "icmp://" + hostileGateway},
	{"ws", "wss://:443", "wss://" + hostileGateway},
	{"connect-ip", "connect-ip://:443", "connect-ip://" + hostileGateway},
	{"connect-ip+h1", "connect-ip+h1://:443", "connect-ip+h1://" + hostileGateway},
	{"dns", "dns://" + tunnelZone, "dns://" + hostileISP + "/" + tunnelZone},
}

// A hostileRow is a network that a session meets on its way.
type hostileRow struct {
	name  string
	does  func(h *hostile) (undo func())
	lasts time.Duration
	// through are the carriers that carry the session while it lasts. All others have to come back afterwards: a
	// client that can choose has to carry the session all the time.
	through []string
	// pause is the most that may pass without a packet on a busy machine, besides lasts where the carrier does not get
	// through. It is no target: bench/FAILOVER.md has those.
	pause time.Duration
	// steady says that no packet may be lost.
	steady bool
	stays  bool   // the client stays where it is: there is nothing to take back
	env    string // of vpncli
	// settings are lines for the file of vpncli.
	settings string
}

var (
	overTCP = []string{"tcp", "tls", "ws", "ssh", "connect-ip+h1"}
	anyOf   = []string{"tcp", "tls", "ws", "ssh", "quic", "udp", "icmp", "dns", "connect-ip", "connect-ip+h1"}
)

// noticed is how long a client with a keepalive of a second takes until it knows that a connection is dead, which is 11 s,
// and has another one.
const noticed = 14 * time.Second

var hostileRows = []hostileRow{
	{name: "no UDP", does: (*hostile).dropUDP, lasts: 2 * time.Second, through: overTCP, pause: time.Second, steady: true},
	{name: "only port 443", does: (*hostile).onlyPort443, lasts: 2 * time.Second, through: []string{"tcp", "tls", "ws", "connect-ip+h1"}, pause: time.Second, steady: true},
	{name: "only DNS through the resolver", does: (*hostile).onlyDNSThroughResolver, lasts: 3 * time.Second, through: []string{"dns"}, pause: noticed},
	{name: "only an HTTP proxy", does: (*hostile).onlyHTTPProxy, lasts: 3 * time.Second, through: []string{"ws", "connect-ip+h1"}, pause: noticed,
		env: "HTTPS_PROXY=http://" + hostileISP + ":3128"},
	{name: "reset of the connection", does: (*hostile).reset, lasts: time.Second, through: anyOf, pause: 3 * time.Second, steady: true, stays: true},
	{name: "reset, and again after each ClientHello", does: func(h *hostile) func() {
		undo := h.resetAfterClientHello()
		h.reset()
		return undo
	}, lasts: 2 * time.Second, through: []string{"tcp", "udp", "ssh", "icmp", "dns", "connect-ip"}, pause: noticed},
	{name: "no large packets", does: func(h *hostile) func() { return h.dropLargerThan(600) }, lasts: 3 * time.Second,
		through: []string{"udp", "icmp", "dns"}, pause: noticed},
	{name: "10 Mbit/s", does: func(h *hostile) func() { return h.rate(10) }, lasts: 2 * time.Second, through: anyOf, pause: time.Second, steady: true},
	{name: "1 % loss, 50 ms", does: func(h *hostile) func() { return h.loss(1, 50*time.Millisecond) }, lasts: 5 * time.Second, through: overTCP,
		pause: 2 * time.Second, steady: true},
	{name: "silence", does: (*hostile).blackhole, lasts: 3 * time.Second, pause: noticed},
	{name: "another address", does: (*hostile).addressChange, lasts: time.Second, through: anyOf, pause: noticed, stays: true},
	{name: "the cable is pulled", does: (*hostile).interfaceChange, lasts: time.Second, through: anyOf, pause: noticed, stays: true},
	{name: "the cable is pulled, and all goes into the tunnel", does: (*hostile).interfaceChange, lasts: time.Second, through: anyOf,
		pause: noticed, stays: true, settings: "default_route = true\n"}, // what connects again must not go there as well
	{name: "other mappings", does: (*hostile).natRebinding, lasts: time.Second, through: anyOf, pause: noticed, stays: true},
}

// reset ends what connections the gateway has, as a middlebox may.
func (h *hostile) reset() (undo func()) {
	h.t.Helper()
	run(h.t, h.gw, "ss -K src "+hostileGateway)
	return func() {}
}

// TestHostileSessions: a session goes on in each hostile network by each carrier that gets through, and with the others
// when that is over: the address stays, a TCP connection inside lives, no packet comes twice.
func TestHostileSessions(t *testing.T) {
	t.Parallel()
	for _, row := range hostileRows {
		for _, carrier := range append(carriersUnderTest, examCarriers...) {
			t.Run(row.name+" by "+carrier.name, func(t *testing.T) {
				t.Parallel()
				h := newHostile(t)
				h.meet(row, carrier)
			})
		}
	}
}

// meet lets a session meet a row.
func (h *hostile) meet(row hostileRow, carrier carrierUnderTest) {
	t := h.t
	t.Helper()
	h.proxies()
	h.resolver()
	dev := h.session(carrier, row)
	addr := dev.waitConnected()
	ssh := newSession(t, h.c, h.gw, gatewayVPN)
	ssh.say("before", patience)
	up := newNumberedStream(t, h.c, h.gw, gatewayVPN, 10*time.Millisecond)
	down := newNumberedStream(t, h.gw, h.c, addr, 10*time.Millisecond)
	ssh.say(strings.Repeat("something large ", 500), patience)

	limit, steady := row.lasts+max(row.pause, noticed), false
	undo := row.does(h)
	if slices.Contains(row.through, carrier.name) {
		limit, steady = row.pause, row.steady
		ssh.say(strings.Repeat("while it lasts ", 500), row.pause+patience)
	}
	time.Sleep(row.lasts) // the fault itself
	if !row.stays {
		undo()
	}
	ssh.say(strings.Repeat("after it ", 500), row.pause+patience)
	for name, tr := range map[string]*numberedStream{"to the gateway": up, "to the client": down} {
		lost, doubled, reordered, stall := tr.end()
		t.Logf("%s: %d packets, %d lost, %d overtaken, the longest pause %s", name, tr.sent, lost, reordered, stall.Round(time.Millisecond))
		if carrier.name == "dns" { // each packet is a question of its own
			reordered = 0
		}
		if doubled > 0 || stall > limit || steady && lost+reordered > 0 {
			t.Errorf("%s: %d lost, %d twice, %d overtaken, a pause of %s; want at most %s", name, lost, doubled, reordered, stall, limit)
		}
		if tr.sent < 50 || lost == tr.sent {
			t.Errorf("%s: %d of %d packets are lost", name, lost, tr.sent)
		}
	}
	if n := dev.Count(`"event":"address"`); n != 1 || !strings.Contains(run(t, h.c, "ip address show dev ferry0"), addr+"/16") {
		t.Errorf("the client heard of %d addresses; its first was %s:\n%s", n, addr, run(t, h.c, "ip address show dev ferry0"))
	}
}

// session starts a gateway that serves a carrier, and a client that has joined and uses it, as a row wants it.
func (h *hostile) session(carrier carrierUnderTest, row hostileRow) *device {
	t := h.t
	t.Helper()
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	run(t, h.gw, fmt.Sprintf("%s/vpnsrv init --state %s --config %s", bin, h.state, file))
	h.startSecure("--config", file, "--listen", "tcp://:2002?allow=tls", "--listen", carrier.listen)
	state := h.join(h.c, "cam1")
	settings := filepath.Join(t.TempDir(), "vpncli.toml")
	writeFile(t, settings, "keepalive = \"1s\"\n"+row.settings)
	return newClientWith(t, h.c, row.env, "--config", settings, "--state", state, "-s", carrier.dial)
}
