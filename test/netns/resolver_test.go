package netns

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ferry/test/lab"
)

// parents starts who delegates the tunnel's zone to the gateway: the root, and all that is below it.
func (h *hostile) parents() {
	h.t.Helper()
	serveUDP(h.t, h.net, 53, delegate)
}

// rootServer is where it is.
const rootServer = "198.51.100.1"

// delegate answers as the parent of the zone.
func delegate(question []byte, _ net.Addr) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil || len(m.Questions) != 1 {
		return nil
	}
	reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true}, Questions: m.Questions}
	record := func(name string, body dnsmessage.ResourceBody) dnsmessage.Resource {
		return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: 3600}, Body: body}
	}
	soa := record(".", &dnsmessage.SOAResource{NS: dnsmessage.MustNewName("root.example."), MBox: dnsmessage.MustNewName("root.example."), MinTTL: 60})
	q := m.Questions[0]
	switch name := strings.ToLower(q.Name.String()); {
	case name == tunnelZone+"." || strings.HasSuffix(name, "."+tunnelZone+"."):
		reply.Authorities = []dnsmessage.Resource{record(tunnelZone+".", &dnsmessage.NSResource{NS: dnsmessage.MustNewName("gateway.example.")})}
		reply.Additionals = []dnsmessage.Resource{record("gateway.example.", &dnsmessage.AResource{A: [4]byte{203, 0, 113, 10}})}
	case name == "." && q.Type == dnsmessage.TypeNS:
		reply.Authoritative = true
		reply.Answers = []dnsmessage.Resource{record(".", &dnsmessage.NSResource{NS: dnsmessage.MustNewName("root.example.")})}
		reply.Additionals = []dnsmessage.Resource{record("root.example.", &dnsmessage.AResource{A: [4]byte{198, 51, 100, 1}})}
	case name == "gateway.example." && q.Type == dnsmessage.TypeA:
		reply.Authoritative = true
		reply.Answers = []dnsmessage.Resource{record("gateway.example.", &dnsmessage.AResource{A: [4]byte{203, 0, 113, 10}})}
	case name == "example.", name == "gateway.example.", name == "root.example.":
		reply.Authoritative = true
		reply.Authorities = []dnsmessage.Resource{soa}
	default:
		reply.Authoritative, reply.RCode = true, dnsmessage.RCodeNameError
		reply.Authorities = []dnsmessage.Resource{soa}
	}
	b, err := reply.Pack()
	if err != nil {
		return nil
	}
	return b
}

// unbound starts the name server of the provider, which finds the gateway by itself from the root on.
func (h *hostile) unbound(settings ...string) *lab.Proc {
	h.t.Helper()
	dir := h.t.TempDir()
	hints, file := filepath.Join(dir, "hints"), filepath.Join(dir, "unbound.conf")
	writeFile(h.t, hints, ". 3600 IN NS root.example.\nroot.example. 3600 IN A "+rootServer+"\n")
	lines := []string{
		"server:", "do-daemonize: no", "use-syslog: no", `chroot: ""`, `username: ""`, `directory: ""`, `pidfile: ""`, `module-config: "iterator"`, "verbosity: 1",
		"interface: " + hostileISP, "access-control: 0.0.0.0/0 allow", "root-hints: " + hints, "do-ip6: no",
	}
	writeFile(h.t, file, strings.Join(append(lines, settings...), "\n")+"\n")
	p := start(h.t, h.isp, "unbound", "-d", "-c", file)
	await(h.t, p, "start of service", 0)
	return p
}

// speed measures how fast bytes go from one to the other.
func speed(t *testing.T, from, to *lab.Namespace, addr string, size int) float64 {
	t.Helper()
	began := time.Now()
	transfer(t, from, to, addr, size, time.Minute)
	return float64(size) / 1000 / time.Since(began).Seconds()
}

// TestResolvers: a tunnel through resolvers, and without one. What it carries is shown (go test -v).
func TestResolvers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		does  func(h *hostile)
		ask   string
		least float64 // KB/s down, on a busy machine
	}{
		{"none", func(*hostile) {}, hostileGateway, 50},
		{"dnsmasq", (*hostile).resolver, hostileISP, 30},
		{"unbound", func(h *hostile) { h.parents(); h.unbound() }, hostileISP, 30},
		{"unbound, every case", func(h *hostile) { h.parents(); h.unbound("use-caps-for-id: yes") }, hostileISP, 30},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHostile(t)
			tt.does(h)
			h.loss(0, 20*time.Millisecond)
			dev := h.session(carrierUnderTest{"dns", "dns://" + tunnelZone, fmt.Sprintf("dns://%s/%s", tt.ask, tunnelZone)}, hostileRow{})
			addr := dev.waitConnected()
			took := dev.event("connected", 0).Time.Sub(dev.event("connecting", 0).Time)
			ping(t, h.c, gatewayVPN, 3)
			down := speed(t, h.gw, h.c, addr, 1_000_000)
			up := speed(t, h.c, h.gw, gatewayVPN, 100_000)
			t.Logf("connected after %d ms, %.0f KB/s down, %.1f KB/s up", took.Milliseconds(), down, up)
			if down < tt.least || up < 3 {
				t.Errorf("want %.0f KB/s down and 3 up", tt.least)
			}
		})
	}
}

// named starts a client that finds a name server in its resolv.conf.
func named(t *testing.T, ns *lab.Namespace, server string, args ...string) *device {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	writeFile(t, file, "nameserver "+server+"\n")
	program := append([]string{filepath.Join(bin, "vpncli"), "--json", "--config="}, args...)
	return &device{start(t, ns, withFile(file, "/etc/resolv.conf", program...)...), t, ns}
}

// TestOnlyDNS: a device finds its gateway where nothing passes but questions to the resolver of the network, by itself: one that is connected,
// one that begins, and one whose traffic all goes into the tunnel, the questions of its programs too.
func TestOnlyDNS(t *testing.T) {
	t.Parallel()
	h := newServed(t, "udp://:2002", "quic://:2003", "wss://:443", "ssh://:2022", "icmp://", "dns://"+tunnelZone)
	h.resolver()
	state := h.join(h.c, "cam1")
	dev := named(t, h.c, hostileISP, "--state", state)
	dev.waitConnected()
	until(t, patience, "the device knows the zone", func() bool { return strings.Contains(run(t, h.c, bin+"/vpncli status"), "dns://"+tunnelZone) })
	ssh := newSession(t, h.c, h.gw, gatewayVPN)
	ssh.say("before", patience)
	defer h.onlyDNSThroughResolver()()
	began := time.Now()
	ssh.say("behind the wall", 2*patience)
	t.Logf("a connection inside goes on after %s, by %s", time.Since(began).Round(time.Millisecond), dev.way())
	stop(t, dev.Proc)

	again := named(t, h.c, hostileISP, "--state", state)
	again.waitConnected()
	took := again.event("connected", 0).Time.Sub(again.event("connecting", 0).Time)
	t.Logf("a new client is connected after %s, by %s", took.Round(time.Millisecond), again.way())
	if took > 8*time.Second || !strings.Contains(again.way(), "dns://"+tunnelZone) {
		t.Errorf("by %q after %s, want 5 s", again.way(), took)
	}
	until(t, patience, "a ping is answered", func() bool { return answers(h.c, gatewayVPN) })
	transfer(t, h.c, h.gw, gatewayVPN, 20_000, time.Minute)
	stop(t, again.Proc)

	way := "dns://" + hostileISP + ":53/" + tunnelZone
	if r := one(t, h.c, "--state "+state+" -s "+way); !r.Works || r.RTT <= 0 || r.Largest < 48 || r.Estimate <= 0 || r.Reason != "" {
		t.Errorf("probed: %+v", r)
	}
	if r := one(t, h.c, "--state "+state+" -s dns://"+hostileISP+"/other.example"); r.Works || !strings.Contains(r.Reason, "resolver") {
		t.Errorf("another zone: %+v", r)
	}
}

// TestResolverOutage: the session outlives a resolver that is silent for long, and one that comes back, though the name servers in place are those
// behind the tunnel.
func TestResolverOutage(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	run(t, h.gw, fmt.Sprintf("%s/vpnsrv init --state %s --config %s", bin, h.state, file))
	h.startSecure("--config", file, "--listen", "tcp://:2002?allow=tls", "--listen", "dns://"+tunnelZone, "--nat", "--push-dns", gatewayVPN)
	h.parents()
	p := h.unbound()
	dev := named(t, h.c, hostileISP, "--state", h.join(h.c, "cam1"), "-s", "dns://"+tunnelZone, "--default-route")
	dev.waitConnected()
	ssh := newSession(t, h.c, h.gw, gatewayVPN)
	ssh.say("before", patience)
	if conf := run(t, h.c, fmt.Sprintf("nsenter -t %d -m cat /etc/resolv.conf", dev.Pid())); !strings.Contains(conf, "\nnameserver "+gatewayVPN+"\n") {
		t.Errorf("the name servers in place: %s", conf)
	}
	stop(t, p)
	time.Sleep(resolverOutage) // the fault itself
	h.unbound()
	began := time.Now()
	ssh.say("after it", time.Minute)
	t.Logf("a connection inside goes on %s after an outage of %s", time.Since(began).Round(time.Millisecond), resolverOutage)
	if n := dev.Count(`"event":"address"`); n != 1 {
		t.Errorf("the client heard of %d addresses", n)
	}
}

// TestZone: who looks at the zone as an operator does finds what a zone has; from the root on, at the gateway itself, and through a resolver.
func TestZone(t *testing.T) {
	t.Parallel()
	h := newServed(t, "dns://"+tunnelZone)
	h.parents()
	h.unbound()
	for _, tt := range []struct{ dig, want string }{
		{"@" + hostileGateway + " SOA " + tunnelZone, "ns." + tunnelZone + ". hostmaster." + tunnelZone + "."},
		{"@" + hostileGateway + " NS " + tunnelZone, "NS ns." + tunnelZone + "."},
		{"@" + hostileGateway + " A ns." + tunnelZone, "A " + hostileGateway},
		{"@" + hostileGateway + " +tcp A nothing." + tunnelZone, "SOA"},
		{"@" + hostileGateway + " +tcp A nothing." + tunnelZone, "status: NOERROR"},
		{"@" + hostileGateway + " +tcp +noedns AAAA ns." + tunnelZone, "status: NOERROR"},
		{"@" + hostileGateway + " A example.", "status: REFUSED"},
		{"@" + hostileGateway + " +tcp AXFR " + tunnelZone, "Transfer failed"},
		{"@" + hostileGateway + " CH TXT version.bind", "status: REFUSED"},
		{"@" + hostileGateway + " +opcode=NOTIFY SOA " + tunnelZone, "status: NOTIMP"},
		{"@" + hostileGateway + " +ednsopt=100:00 +edns=1 +noednsneg A a." + tunnelZone, "status: BADVERS"},
		{"@" + hostileISP + " NS " + tunnelZone, "NS ns." + tunnelZone + "."},
		{"@" + hostileISP + " TXT nothing." + tunnelZone, "status: NOERROR"},
		{"@" + hostileISP + " TXT a.b.c.d." + tunnelZone, "status: NOERROR"},
	} {
		out := strings.Join(strings.Fields(run(t, h.c, "dig +tries=2 +time=3 +norec -r "+tt.dig)), " ")
		if strings.HasPrefix(tt.dig, "@"+hostileISP) {
			out = strings.Join(strings.Fields(run(t, h.c, "dig +tries=2 +time=3 -r "+tt.dig)), " ")
		}
		if !strings.Contains(out, tt.want) {
			t.Errorf("dig %s: want %q\n%s", tt.dig, tt.want, out)
		}
	}
}
