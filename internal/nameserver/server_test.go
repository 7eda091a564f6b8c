package nameserver

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const patience = 10 * time.Second

// clients has those of the tests.
type clients map[string]netip.Addr

func (c clients) Lookup(name string) ([]netip.Addr, bool) {
	for own, a := range c {
		if strings.EqualFold(own, name) {
			return []netip.Addr{a}, true
		}
	}
	return nil, false
}

func (c clients) Name(a netip.Addr) (string, bool) {
	for own, b := range c {
		if a == b {
			return own, true
		}
	}
	return "", false
}

var here = clients{"Cam1": addr("10.0.3.7"), "a.b": addr("10.0.3.8"), "bad..name": addr("10.0.3.9")}

func newServer(t testing.TB, c Config, s Settings) *Server {
	t.Helper()
	c.Domain, c.Gateway, c.Pool, c.Directory = "ferry.internal", addr("10.0.0.1"), netip.MustParsePrefix("10.0.0.0/16"), here
	server := New(c)
	if err := server.Set(s); err != nil {
		t.Fatal(err)
	}
	return server
}

// serve runs a Server on the loopback, whose address asks, until the test ends.
func serve(t *testing.T, c Config, s Settings) (*Server, string) {
	t.Helper()
	if c.Asks == nil {
		c.Asks = netip.Addr.IsLoopback
	}
	server := newServer(t, c, s)
	tcp, udp := pair(t, own)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := server.Serve(ctx, udp, tcp); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if server.waiting.total+server.conns.total+len(server.waiting.by)+len(server.conns.by) != 0 {
			t.Error("places are taken still")
		}
	})
	return server, udp.LocalAddr().String()
}

// Where the servers of the tests are. Who asks is not asked, so others are elsewhere.
const own, others = "127.0.0.1", "127.0.0.2"

// pair listens on one port with both protocols.
func pair(t *testing.T, host string) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 20 {
		tcp, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return tcp, udp
		}
		_ = tcp.Close()
	}
	t.Fatal("no port is free")
	return nil, nil
}

// upstream is another name server on the loopback.
func upstream(t *testing.T, h dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	tcp, udp := pair(t, others)
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	for _, s := range []*dns.Server{{Listener: tcp, Handler: h}, {PacketConn: udp, Handler: h}} {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		running.Go(func() { _ = s.ActivateAndServe() })
		<-ready
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return netip.MustParseAddrPort(udp.LocalAddr().String())
}

func ask(t *testing.T, network, to, name string, kind uint16, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, kind)
	for _, f := range change {
		f(m)
	}
	c := dns.Client{Net: network, Timeout: patience, UDPSize: 4096}
	r, _, err := c.Exchange(m, to)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return r
}

func edns(size uint16) func(*dns.Msg) { return func(m *dns.Msg) { m.SetEdns0(size, true) } }

// text returns a handler that answers with a TXT record of the transport, or NXDOMAIN for names that begin with no.
func text(w dns.ResponseWriter, m *dns.Msg) {
	r := new(dns.Msg).SetReply(m)
	if strings.HasPrefix(strings.ToLower(m.Question[0].Name), "no") {
		r.Rcode = dns.RcodeNameError
	}
	r.Answer = append(r.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{w.RemoteAddr().Network()}})
	_ = w.WriteMsg(r)
}

func outcome(m *dns.Msg) (parts []string) {
	parts = append(parts, dns.RcodeToString[m.Rcode])
	if m.Authoritative {
		parts = append(parts, "aa")
	}
	for _, rr := range m.Answer {
		parts = append(parts, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	for _, rr := range m.Ns {
		parts = append(parts, "authority", rr.Header().Name, dns.TypeToString[rr.Header().Rrtype])
	}
	return parts
}

func TestKnownHere(t *testing.T) {
	never := upstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		t.Errorf("%s %s went upstream", m.Question[0].Name, dns.TypeToString[m.Question[0].Qtype])
		text(w, m)
	})
	s := Settings{Upstream: []netip.AddrPort{never}, Zones: gvproxy()}
	_, to := serve(t, Config{}, s)
	const soa = " authority ferry.internal. SOA"
	for _, tt := range []struct {
		name string
		kind uint16
		want string
	}{
		{"cam1.ferry.internal.", dns.TypeA, "NOERROR aa cam1.ferry.internal. 30 IN A 10.0.3.7"},
		{"cAM1.FERRY.internal.", dns.TypeA, "NOERROR aa cAM1.FERRY.internal. 30 IN A 10.0.3.7"},
		{"cam1.", dns.TypeA, "NOERROR aa cam1. 30 IN A 10.0.3.7"},
		{"cam1.", dns.TypeAAAA, "NOERROR aa"},
		{"a.b.ferry.internal.", dns.TypeA, "NOERROR aa a.b.ferry.internal. 30 IN A 10.0.3.8"},
		{"gateway.ferry.internal.", dns.TypeA, "NOERROR aa gateway.ferry.internal. 30 IN A 10.0.0.1"},
		{"cam1.ferry.internal.", dns.TypeAAAA, "NOERROR aa" + soa},
		{"cam1.ferry.internal.", dns.TypeMX, "NOERROR aa" + soa},
		{"cam1.ferry.internal.", dns.TypeANY, `NOERROR aa cam1.ferry.internal. 30 IN HINFO "RFC8482" ""`},
		{"cam2.ferry.internal.", dns.TypeA, "NXDOMAIN aa" + soa},
		{"cam2.ferry.internal.", dns.TypeAAAA, "NXDOMAIN aa" + soa},
		{"x.cam1.ferry.internal.", dns.TypeA, "NXDOMAIN aa" + soa},
		{`cam1\.ferry.internal.ferry.internal.`, dns.TypeA, "NXDOMAIN aa" + soa},
		{"ferry.internal.", dns.TypeA, "NOERROR aa" + soa},
		{"ferry.internal.", dns.TypeSOA, "NOERROR aa ferry.internal. 10 IN SOA gateway.ferry.internal. hostmaster.ferry.internal. 1 3600 600 86400 10"},
		{"ferry.internal.", dns.TypeNS, "NOERROR aa ferry.internal. 30 IN NS gateway.ferry.internal."},
		{"7.3.0.10.in-addr.arpa.", dns.TypePTR, "NOERROR aa 7.3.0.10.in-addr.arpa. 30 IN PTR Cam1.ferry.internal."},
		{"1.0.0.10.IN-ADDR.arpa.", dns.TypePTR, "NOERROR aa 1.0.0.10.IN-ADDR.arpa. 30 IN PTR gateway.ferry.internal."},
		{"7.3.0.10.in-addr.arpa.", dns.TypeA, "NOERROR aa authority 0.10.in-addr.arpa. SOA"},
		{"9.3.0.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN aa authority 0.10.in-addr.arpa. SOA"},
		{"99.3.0.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN aa authority 0.10.in-addr.arpa. SOA"},
		{"3.0.10.in-addr.arpa.", dns.TypePTR, "NOERROR aa authority 0.10.in-addr.arpa. SOA"},
		{"host.docker.internal.", dns.TypeA, "NOERROR aa host.docker.internal. 30 IN A 192.168.127.254"},
		{"nobody.docker.internal.", dns.TypeA, "NXDOMAIN aa authority docker.internal. SOA"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if got := strings.Join(outcome(ask(t, network, to, tt.name, tt.kind)), " "); got != tt.want {
				t.Errorf("%s %s by %s:\n got %s\nwant %s", tt.name, dns.TypeToString[tt.kind], network, got, tt.want)
			}
		}
	}
}

// gvproxy compares names with regard to case, which resolvers that mix it (0x20) do not survive.
func TestGvproxyCase(t *testing.T) {
	up := upstream(t, text)
	_, to := serve(t, Config{}, Settings{Upstream: []netip.AddrPort{up}, Zones: gvproxy()})
	for _, name := range []string{"HoSt.ConTainers.inTernal.", "CAM1.Ferry.Internal.", "wWw.exAmple."} {
		r := ask(t, "udp", to, name, dns.TypeA)
		if len(r.Answer) != 1 || r.Question[0].Name != name || r.Answer[0].Header().Name != name {
			t.Errorf("%s: got %v", name, outcome(r))
		}
	}
}

// gvproxy asks upstream for the name of a zone itself.
func TestGvproxyApex(t *testing.T) {
	asked := upstream(t, text)
	server, to := serve(t, Config{}, Settings{Upstream: []netip.AddrPort{asked}, Zones: append(gvproxy(), Zone{Name: "apps.test.", DefaultIP: addr("10.0.0.9")})})
	for name, want := range map[string]string{
		"containers.internal.": "NOERROR aa authority containers.internal. SOA",
		"apps.test.":           "NOERROR aa apps.test. 30 IN A 10.0.0.9",
	} {
		if got := strings.Join(outcome(ask(t, "udp", to, name, dns.TypeA)), " "); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	if n := server.Stats()["forwarded"]; n != 0 {
		t.Errorf("%d questions went upstream", n)
	}
}

// gvproxy asks upstream for the IPv6 address of a name that it knows.
func TestGvproxyAAAA(t *testing.T) {
	server, to := serve(t, Config{}, Settings{Upstream: []netip.AddrPort{upstream(t, text)}, Zones: gvproxy()})
	r := ask(t, "udp", to, "host.containers.internal.", dns.TypeAAAA)
	if got := strings.Join(outcome(r), " "); got != "NOERROR aa authority containers.internal. SOA" {
		t.Errorf("got %s", got)
	}
	if n := server.Stats()["forwarded"]; n != 0 {
		t.Errorf("%d questions went upstream", n)
	}
}

// gvproxy says of a server that is silent that the name does not exist, and waits for it without end.
func TestGvproxyTimeout(t *testing.T) {
	var silent atomic.Int32
	dead := upstream(t, func(dns.ResponseWriter, *dns.Msg) { silent.Add(1) })
	server, to := serve(t, Config{Timeout: 200 * time.Millisecond}, Settings{Upstream: []netip.AddrPort{dead}})
	for _, network := range []string{"udp", "tcp"} {
		r := ask(t, network, to, "www.example.", dns.TypeA, edns(4096))
		if r.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: got %s", network, dns.RcodeToString[r.Rcode])
		}
		opt := r.IsEdns0()
		if opt == nil || len(opt.Option) != 1 || opt.Option[0].(*dns.EDNS0_EDE).InfoCode != dns.ExtendedErrorCodeNoReachableAuthority {
			t.Errorf("%s: no reason is given: %v", network, opt)
		}
	}
	if n := silent.Load(); n < 2 || n > 2*rounds { // who has no processor for the first round has no time for the second
		t.Errorf("the server was asked %d times, want 2 to %d", n, 2*rounds)
	}
	if s := server.Stats(); s["failed"] != 2 || s["forwarded"] != 2 {
		t.Errorf("counted %v", s)
	}
}

// A datagram may be lost: a server that is silent is asked once more.
func TestLost(t *testing.T) {
	var asked atomic.Int32
	up := upstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if asked.Add(1) > 1 {
			text(w, m)
		}
	})
	_, to := serve(t, Config{Timeout: 4 * time.Second}, Settings{Upstream: []netip.AddrPort{up}})
	if r := ask(t, "udp", to, "www.example.", dns.TypeTXT); r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 {
		t.Errorf("got %s", outcome(r))
	}
}

func TestForward(t *testing.T) {
	up := upstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if w.RemoteAddr().Network() == "udp" && strings.HasPrefix(m.Question[0].Name, "long") {
			r := new(dns.Msg).SetReply(m)
			r.Truncated = true
			_ = w.WriteMsg(r)
			return
		}
		text(w, m)
	})
	corp := upstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		r.Rcode = dns.RcodeNotAuth // to be told from the other
		_ = w.WriteMsg(r)
	})
	_, to := serve(t, Config{}, Settings{
		Upstream: []netip.AddrPort{up}, Zones: []Zone{{Name: "corp.example", DefaultIP: addr("10.0.0.9")}},
		Forward: map[string][]netip.AddrPort{"example": {up}, "Sub.Corp.example": {corp}},
	})
	for _, tt := range []struct{ network, name, want string }{
		{"udp", "www.test.", `NOERROR www.test. 0 IN TXT "udp"`},
		{"tcp", "www.test.", `NOERROR www.test. 0 IN TXT "udp"`},
		{"udp", "nobody.test.", `NXDOMAIN nobody.test. 0 IN TXT "udp"`},
		{"tcp", "long.test.", `NOERROR long.test. 0 IN TXT "tcp"`},
		{"udp", "sub.corp.EXAMPLE.", "NOTAUTH"},
		{"udp", "www.sub.corp.example.", "NOTAUTH"},
		{"udp", "www.corp.example.", "NOERROR aa authority corp.example. SOA"},
		{"udp", "cam9.", `NOERROR cam9. 0 IN TXT "udp"`},
		{"udp", "1.1.168.192.in-addr.arpa.", `NOERROR 1.1.168.192.in-addr.arpa. 0 IN TXT "udp"`},
		{"udp", "01.3.0.10.in-addr.arpa.", `NOERROR 01.3.0.10.in-addr.arpa. 0 IN TXT "udp"`},
	} {
		if got := strings.Join(outcome(ask(t, tt.network, to, tt.name, dns.TypeTXT)), " "); got != tt.want {
			t.Errorf("%s by %s: got %s, want %s", tt.name, tt.network, got, tt.want)
		}
	}
	if r := ask(t, "udp", to, "long.test.", dns.TypeTXT); !r.Truncated || len(r.Answer) != 0 {
		t.Errorf("an answer that is too long does not say so: %v", r)
	}
}

// What this program has never heard of passes as it came: types, classes of EDNS options, and bits. The size alone is bounded, and the ID another.
func TestForwardRaw(t *testing.T) {
	option := &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("as it is")}
	saw := make(chan *dns.Msg, 1)
	up := upstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		saw <- m
		r := new(dns.Msg).SetReply(m)
		r.Answer = append(r.Answer, &dns.RFC3597{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: 65280, Class: dns.ClassINET, Ttl: 7}, Rdata: "c0ffee"})
		r.AuthenticatedData = true
		r.SetEdns0(1400, true)
		r.IsEdns0().Option = append(r.IsEdns0().Option, option)
		_ = w.WriteMsg(r)
	})
	_, to := serve(t, Config{}, Settings{Upstream: []netip.AddrPort{up}})
	var id uint16
	r := ask(t, "udp", to, "odd.example.", 65280, edns(4096), func(m *dns.Msg) {
		m.CheckingDisabled, id = true, m.Id
		m.IsEdns0().Option = append(m.IsEdns0().Option, option)
	})
	var m *dns.Msg
	select {
	case m = <-saw:
	default:
		t.Fatal("the server was not asked")
	}
	if opt := m.IsEdns0(); opt == nil || opt.UDPSize() != udpMax || !opt.Do() || len(opt.Option) != 1 || opt.Option[0].String() != option.String() || !m.CheckingDisabled {
		t.Errorf("the server has seen %v", m)
	}
	if m.Id == id {
		t.Error("the server has seen the client's ID")
	}
	if opt := r.IsEdns0(); len(r.Answer) != 1 || r.Answer[0].Header().Rrtype != 65280 || !r.AuthenticatedData || opt == nil || len(opt.Option) != 1 || r.Id != id {
		t.Errorf("the client has seen %v", r)
	}
}

// An answer to something else, or with another ID, is none.
func TestForgedAnswer(t *testing.T) {
	up := upstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		for _, lie := range []func(*dns.Msg){
			func(r *dns.Msg) { r.Id++ }, func(r *dns.Msg) { r.Response = false }, func(r *dns.Msg) { r.Question[0].Name = "evil.example." },
			func(r *dns.Msg) { r.Question[0].Qtype++ }, func(r *dns.Msg) { r.Question = nil },
		} {
			r := new(dns.Msg).SetReply(m)
			r.Rcode = dns.RcodeNameError
			lie(r)
			_ = w.WriteMsg(r)
		}
		text(w, m)
	})
	_, to := serve(t, Config{}, Settings{Upstream: []netip.AddrPort{up}})
	if r := ask(t, "udp", to, "www.example.", dns.TypeA); r.Rcode != dns.RcodeSuccess {
		t.Errorf("got %v", outcome(r))
	}
}

// A server that is dead or says that it fails is passed over, and the one that answers is asked first from then on.
func TestOtherServer(t *testing.T) {
	var failed, asked atomic.Int32
	failing := upstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		failed.Add(1)
		_ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeServerFailure))
	})
	tcp, udp := pair(t, others) // nobody is there
	_, _ = tcp.Close(), udp.Close()
	dead := netip.MustParseAddrPort(udp.LocalAddr().String())
	good := upstream(t, func(w dns.ResponseWriter, m *dns.Msg) { asked.Add(1); text(w, m) })
	_, to := serve(t, Config{}, Settings{Upstream: []netip.AddrPort{dead, failing, good}})
	for range 3 {
		if r := ask(t, "udp", to, "www.example.", dns.TypeA); r.Rcode != dns.RcodeSuccess {
			t.Errorf("got %v", outcome(r))
		}
	}
	if failed.Load() != 1 || asked.Load() != 3 {
		t.Errorf("the failing server was asked %d times, the good one %d", failed.Load(), asked.Load())
	}
	_, to = serve(t, Config{}, Settings{Upstream: []netip.AddrPort{dead, failing}})
	if r := ask(t, "udp", to, "www.example.", dns.TypeA); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v", outcome(r))
	}
}

// A question that would come back to who asks, or to this server, is refused.
func TestLoop(t *testing.T) {
	up := upstream(t, text)
	self := netip.AddrPortFrom(addr("10.0.0.1"), Port)
	for what, s := range map[string]Settings{"who asks is upstream": {Upstream: []netip.AddrPort{up}}, "this server is upstream": {Upstream: []netip.AddrPort{self}}, "nobody is upstream": {}} {
		server := newServer(t, Config{}, s)
		for client, refused := range map[string]bool{others: true, "10.0.0.1": true, "10.0.3.7": len(s.Upstream) == 0 || s.Upstream[0] == self} {
			q, err := new(dns.Msg).SetQuestion("www.example.", dns.TypeA).Pack()
			if err != nil {
				t.Fatal(err)
			}
			reply, far := server.answer(q, addr(client), false)
			if (far == nil) != refused {
				t.Errorf("%s, %s asks: %v, %v", what, client, reply, far)
			}
			var m dns.Msg
			if refused && (m.Unpack(reply) != nil || m.Rcode != dns.RcodeRefused) {
				t.Errorf("%s, %s asks: got %v", what, client, &m)
			}
		}
	}
	server := newServer(t, Config{}, Settings{})
	q, _ := new(dns.Msg).SetQuestion("cam1.", dns.TypeA).Pack()
	var m dns.Msg
	if reply, _ := server.answer(q, addr("10.0.0.1"), false); m.Unpack(reply) != nil || len(m.Answer) != 1 {
		t.Error("this host does not hear what is known here")
	}
}

func TestRefused(t *testing.T) {
	_, to := serve(t, Config{}, Settings{Upstream: []netip.AddrPort{upstream(t, text)}})
	for what, tt := range map[string]struct {
		kind   uint16
		change func(*dns.Msg)
		want   int
	}{
		"zone transfer":    {dns.TypeAXFR, func(*dns.Msg) {}, dns.RcodeRefused},
		"another class":    {dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"update":           {dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"EDNS version":     {dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false).IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
		"no question":      {dns.TypeA, func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		"two questions":    {dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"what is in order": {dns.TypeA, func(*dns.Msg) {}, dns.RcodeSuccess},
	} {
		if r := ask(t, "udp", to, "www.example.", tt.kind, tt.change); r.Rcode != tt.want {
			t.Errorf("%s: got %s, want %s", what, dns.RcodeToString[r.Rcode], dns.RcodeToString[tt.want])
		}
	}
}

// Strangers hear nothing, and neither do answers, or what is shorter than a header.
func TestSilence(t *testing.T) {
	server, to := serve(t, Config{Asks: func(netip.Addr) bool { return false }}, Settings{})
	c, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q, _ := new(dns.Msg).SetQuestion("cam1.", dns.TypeA).Pack()
	if _, err := c.Write(q); err != nil {
		t.Fatal(err)
	}
	x, err := net.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	_ = x.SetDeadline(time.Now().Add(patience))
	if n, err := x.Read(make([]byte, 1)); err == nil {
		t.Errorf("a stranger reads %d bytes", n)
	}
	for end := time.Now().Add(patience); server.count.stranger.Load() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("counted %v", server.Stats())
		}
	}
	server = newServer(t, Config{}, Settings{})
	answer := append([]byte(nil), q...)
	answer[2] |= bitQR
	for _, b := range [][]byte{answer, q[:11], nil} {
		if reply, far := server.answer(b, addr("10.0.3.7"), false); reply != nil || far != nil {
			t.Errorf("%x has the answer %x", b, reply)
		}
	}
}

// Several questions may come at once by one connection; one that is longer than any ends it.
func TestStream(t *testing.T) {
	_, to := serve(t, Config{}, Settings{})
	x, err := net.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	_ = x.SetDeadline(time.Now().Add(patience))
	var b []byte
	for id := range uint16(3) {
		m := new(dns.Msg).SetQuestion("cam1.", dns.TypeA)
		m.Id = id
		q, _ := m.Pack()
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(q))), q...)
	}
	b = binary.BigEndian.AppendUint16(b, maxQuery+1)
	if _, err := x.Write(b); err != nil {
		t.Fatal(err)
	}
	got := dns.Conn{Conn: x}
	for id := range uint16(3) {
		if m, err := got.ReadMsg(); err != nil || m.Id != id || len(m.Answer) != 1 {
			t.Errorf("got %v, %v", m, err)
		}
	}
	if _, err := x.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection goes on: %v", err)
	}
}

// A client whose questions hang does not keep others from being answered, and neither do all of them together.
func TestBusy(t *testing.T) {
	release := make(chan struct{})
	up := upstream(t, func(w dns.ResponseWriter, m *dns.Msg) { <-release; text(w, m) })
	server, to := serve(t, Config{}, Settings{Upstream: []netip.AddrPort{up}})
	server.waiting.mu.Lock()
	server.waiting.each = 2
	server.waiting.mu.Unlock()
	c, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	defer close(release)
	q, _ := new(dns.Msg).SetQuestion("www.example.", dns.TypeA).Pack()
	for range 4 {
		if _, err := c.Write(q); err != nil {
			t.Fatal(err)
		}
	}
	if r := ask(t, "udp", to, "cam1.", dns.TypeA); len(r.Answer) != 1 { // read after the others
		t.Errorf("got %v", outcome(r))
	}
	if s := server.Stats(); s["busy"] != 2 {
		t.Errorf("counted %v", s)
	}
}

func TestLimits(t *testing.T) {
	l := newLimits(3, 2)
	a, b := addr("10.0.0.2"), addr("10.0.0.3")
	for i, step := range []struct {
		who  netip.Addr
		want bool
	}{{a, true}, {a, true}, {a, false}, {b, true}, {b, false}} {
		if got := l.enter(step.who); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	l.leave(a)
	if !l.enter(b) {
		t.Error("a place that was given back is not free")
	}
}

// What a client takes by UDP bounds the answer, also one of a server that does not care.
func TestSize(t *testing.T) {
	up := upstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		for range 6 {
			r.Answer = append(r.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{strings.Repeat("x", 250)}})
		}
		_ = w.WriteMsg(r)
	})
	_, to := serve(t, Config{}, Settings{Upstream: []netip.AddrPort{up}})
	for _, size := range []uint16{0, 512, 1232, 4096} {
		r := ask(t, "udp", to, "www.example.", dns.TypeTXT, edns(size))
		if !r.Truncated || len(r.Answer) != 0 {
			t.Errorf("size %d: %d answers, cut %v", size, len(r.Answer), r.Truncated)
		}
	}
	if r := ask(t, "tcp", to, "www.example.", dns.TypeTXT); r.Truncated || len(r.Answer) != 6 {
		t.Errorf("by TCP: %d answers", len(r.Answer))
	}
}

func TestBadSettings(t *testing.T) {
	server := newServer(t, Config{}, Settings{Zones: gvproxy()})
	for what, s := range map[string]Settings{"zone": {Zones: []Zone{{Name: "a..b"}}}, "domain": {Forward: map[string][]netip.AddrPort{"a..b": nil}}} {
		if err := server.Set(s); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if server.table.Load().zones.find("docker.internal.") == nil {
		t.Error("what was refused has changed something")
	}
}

// FuzzAnswer: whatever comes has an answer to it or none, and what goes upstream is what came.
func FuzzAnswer(f *testing.F) {
	for _, m := range []*dns.Msg{
		new(dns.Msg).SetQuestion("cam1.ferry.internal.", dns.TypeA), new(dns.Msg).SetQuestion("www.example.", 65280).SetEdns0(4096, true),
		new(dns.Msg).SetQuestion("7.3.0.10.in-addr.arpa.", dns.TypePTR), new(dns.Msg).SetUpdate("ferry.internal."),
	} {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-3])
	}
	server := newServer(f, Config{}, Settings{Upstream: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")}, Zones: gvproxy()})
	f.Fuzz(func(t *testing.T, b []byte) {
		came := string(b)
		for _, whole := range []bool{false, true} {
			reply, far := server.answer(b, addr("10.0.3.7"), whole)
			if string(b) != came {
				t.Fatal("the message was changed")
			}
			switch {
			case far != nil:
				if len(far.query) != len(b) || far.limit < udpMin || far.limit > udpMax || reply != nil {
					t.Fatalf("%d bytes go upstream for %d, at most %d come back", len(far.query), len(b), far.limit)
				}
			case reply != nil:
				var m dns.Msg
				if err := m.Unpack(reply); err != nil || string(reply[:2]) != came[:2] || !m.Response {
					t.Fatalf("%x has the answer %x: %v", b, reply, err)
				}
				if !whole && len(reply) > udpMax {
					t.Fatalf("%d bytes by UDP", len(reply))
				}
			}
		}
	})
}

// FuzzReply: whatever a server answers is taken as it is, or not at all.
func FuzzReply(f *testing.F) {
	q, err := new(dns.Msg).SetQuestion("www.example.", dns.TypeA).Pack()
	if err != nil {
		f.Fatal(err)
	}
	r := append([]byte(nil), q...)
	r[2] |= bitQR
	f.Add(r)
	f.Add(q)
	f.Add(r[:13])
	f.Fuzz(func(t *testing.T, b []byte) {
		ok := answers(b, question(q), binary.BigEndian.Uint16(q))
		if ok && (len(b) < len(q) || len(cut(append([]byte(nil), b...))) != len(q)) {
			t.Fatalf("taken: %x", b)
		}
		clampSize(b)
	})
}
