package nameserver

import (
	"net/netip"
	"strings"
	"testing"

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
