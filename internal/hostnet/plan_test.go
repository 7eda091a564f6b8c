package hostnet

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPlanChoosesTable(t *testing.T) {
	for _, tt := range []struct {
		name   string
		routes string
		peers  string
		main   string // routes that go to table main
		own    string // and to the own one
		rules  int
	}{
		{"own prefix and inside it", "10.0.0.0/16 10.0.3.0/24", "", "", "", 0},
		{"around the own prefix", "10.0.0.0/8", "", "10.0.0.0/8", "", 0},
		{"elsewhere", "172.16.0.0/12", "198.51.100.1", "172.16.0.0/12", "", 0},
		{"host bits", "172.16.9.9/12", "", "172.16.0.0/12", "", 0},
		{"contains the server", "198.51.100.0/24", "198.51.100.1", "", "198.51.100.0/24", 2},
		{"contains a mapped server", "198.51.100.0/24", "::ffff:198.51.100.1", "", "198.51.100.0/24", 2},
		{"one of two", "198.51.100.0/24 172.16.0.0/12", "198.51.100.1", "172.16.0.0/12", "198.51.100.0/24", 2},
		{"server is IPv6", "198.51.100.0/24", "2001:db8::1", "198.51.100.0/24", "", 0},
		{"full tunnel, no server", "0.0.0.0/0", "", "", "0.0.0.0/0 10.0.0.0/16", 2},
		{"full tunnel", "0.0.0.0/0 172.16.0.0/12", "198.51.100.1", "", "0.0.0.0/0 172.16.0.0/12 10.0.0.0/16 198.51.100.1/32", 2},
		{"the server itself", "198.51.100.1/32", "198.51.100.1", "", "198.51.100.1/32", 2},
		{"halves", "0.0.0.0/1 128.0.0.0/1", "198.51.100.1", "0.0.0.0/1", "128.0.0.0/1", 2},
	} {
		s := State{Addr: client.Addr, Routes: prefixes(strings.Fields(tt.routes)...),
			Outer: Outer{Mark: 1, Table: 100, Peers: addrs(strings.Fields(tt.peers)...)}}
		p, err := s.plan()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got := map[int][]string{}
		for _, r := range p.routes {
			if r.kind == unix.RTN_UNICAST {
				got[r.table] = append(got[r.table], r.dst.String())
			}
		}
		if main := strings.Join(got[unix.RT_TABLE_MAIN], " "); main != tt.main {
			t.Errorf("%s: table main: got %q, want %q", tt.name, main, tt.main)
		}
		if own := strings.Join(got[100], " "); own != tt.own {
			t.Errorf("%s: own table: got %q, want %q", tt.name, own, tt.own)
		}
		if len(p.rules) != tt.rules {
			t.Errorf("%s: got %d rules, want %d", tt.name, len(p.rules), tt.rules)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	full := prefixes("0.0.0.0/0")
	addr := client.Addr
	for want, s := range map[string]State{
		"not an IPv4 address":      {},
		"address fd00::1/64":       {Addr: netip.MustParsePrefix("fd00::1/64")},
		"route ::/0: not":          {Addr: addr, Routes: prefixes("::/0")},
		"has no mark":              {Addr: addr, Routes: full, Outer: Outer{Table: 100}},
		"routing table 0: want":    {Addr: addr, Routes: full, Outer: Outer{Mark: 1}},
		"routing table 254: want":  {Addr: addr, Routes: full, Outer: Outer{Mark: 1, Table: 254}},
		"routing table 10000: wan": {Addr: addr, Routes: full, Outer: Outer{Mark: 1, Table: 10000}},
	} {
		if _, err := s.plan(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
