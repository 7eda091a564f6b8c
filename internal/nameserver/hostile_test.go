package nameserver

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A resolver that asks for cam1 in several types at once (A, AAAA, HTTPS) takes one NXDOMAIN for all of them, for as long as the root zone says: a day. But who
// asks what a top-level domain is signed with hears that from those who know.
func TestShortNamesAreKnownInAllTypes(t *testing.T) {
	_, to := serve(t, Config{}, Settings{Upstream: []netip.AddrPort{upstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeNameError))
	})}})
	for kind, want := range map[uint16]string{
		dns.TypeHTTPS: "NOERROR aa", dns.TypeMX: "NOERROR aa", dns.TypeTXT: "NOERROR aa", dns.TypeANY: `NOERROR aa cam1. 30 IN HINFO "RFC8482" ""`,
		dns.TypeDS: "NXDOMAIN", dns.TypeDNSKEY: "NXDOMAIN", dns.TypeNS: "NXDOMAIN", dns.TypeSOA: "NXDOMAIN",
	} {
		if got := strings.Join(outcome(ask(t, "udp", to, "cam1.", kind)), " "); got != want {
			t.Errorf("%s: got %s, want %s", dns.TypeToString[kind], got, want)
		}
	}
}

// The name of an address is one that leads to it: not the gateway's for a client that is called like it, nor that of another client.
func TestReverseNamesLeadBack(t *testing.T) {
	server := newServer(t, Config{}, Settings{})
	server.c.Directory = namesakes{}
	for address, want := range map[string]string{"7.3.0.10.in-addr.arpa.": "", "8.3.0.10.in-addr.arpa.": "", "9.3.0.10.in-addr.arpa.": "cam.ferry.internal."} {
		f, known := server.find(server.table.Load(), dns.Question{Name: address, Qtype: dns.TypePTR, Qclass: dns.ClassINET})
		if got := len(f.records) > 0; !known || got != (want != "") || got == f.missing {
			t.Errorf("%s: got %v, missing %v", address, f.records, f.missing)
		} else if got && f.records[0].(*dns.PTR).Ptr != want {
			t.Errorf("%s: got %v, want %s", address, f.records, want)
		}
	}
}

// namesakes has a client that is called as the gateway is, and two of one name.
type namesakes struct{}

func (namesakes) Lookup(name string) ([]netip.Addr, bool) {
	return []netip.Addr{addr("10.0.3.9")}, name == "cam"
}

func (namesakes) Name(a netip.Addr) (string, bool) {
	if a == addr("10.0.3.7") {
		return "Gateway", true
	}
	return "cam", a == addr("10.0.3.8") || a == addr("10.0.3.9")
}

// A zone, or servers, that the configuration has for a part of the domain of clients is the longer suffix.
func TestZoneBelowTheDomainOfClients(t *testing.T) {
	_, to := serve(t, Config{}, Settings{
		Zones:   []Zone{{Name: "lab.ferry.internal", Records: []Record{{Name: "www", IP: addr("10.0.9.9")}}}},
		Forward: map[string][]netip.AddrPort{"corp.ferry.internal": {upstream(t, text)}},
	})
	for name, want := range map[string]string{
		"www.lab.ferry.internal.":  "NOERROR aa www.lab.ferry.internal. 30 IN A 10.0.9.9",
		"no.lab.ferry.internal.":   "NXDOMAIN aa authority lab.ferry.internal. SOA",
		"www.corp.ferry.internal.": `NOERROR www.corp.ferry.internal. 0 IN TXT "udp"`,
		"cam1.ferry.internal.":     "NOERROR aa cam1.ferry.internal. 30 IN A 10.0.3.7",
		"cam2.ferry.internal.":     "NXDOMAIN aa authority ferry.internal. SOA",
	} {
		if got := strings.Join(outcome(ask(t, "udp", to, name, dns.TypeA)), " "); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// A question whose answer hangs keeps no other one of its connection from being answered (RFC 7766 section 6.2.1.1).
func TestPipelineDoesNotWait(t *testing.T) {
	release := make(chan struct{})
	up := upstream(t, func(w dns.ResponseWriter, m *dns.Msg) { <-release; text(w, m) })
	_, to := serve(t, Config{}, Settings{Upstream: []netip.AddrPort{up}})
	x, err := new(net.Dialer).DialContext(context.Background(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	_ = x.SetDeadline(time.Now().Add(patience))
	c := dns.Conn{Conn: x}
	for _, name := range []string{"www.example.", "cam1."} {
		if err := c.WriteMsg(new(dns.Msg).SetQuestion(name, dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	m, err := c.ReadMsg()
	close(release)
	if err != nil || m.Question[0].Name != "cam1." {
		t.Errorf("after %v: got %v, %v", time.Since(began), m, err)
	}
	if m, err = c.ReadMsg(); err != nil || m.Question[0].Name != "www.example." {
		t.Errorf("got %v, %v", m, err)
	}
}
