package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/spf13/pflag"
)

// opened returns what opens text in the place of resolv.conf.
func opened(t *testing.T, text string) open {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(name string) (*os.File, error) {
		if name == resolvConf {
			name = path
		}
		return os.Open(name)
	}
}

func servers(all ...string) (list []netip.AddrPort) {
	for _, a := range all {
		list = append(list, netip.MustParseAddrPort(a))
	}
	return list
}

func TestNames(t *testing.T) {
	const host = "# nameserver 192.0.2.9\nnameserver 127.0.0.53\nsearch example\nnameserver\nnameserver 10.0.0.1\nnameserver bad\n nameserver 2001:db8::53\n"
	file := write(t, "f", `nameserver = true
dns_domain = "vpn.example"
dns_upstream = ["192.0.2.1", "192.0.2.2:5353", "[2001:db8::1]:53"]
push_domains = ["site.example"]
[dns_forward]
"Corp.Example." = ["192.0.2.3"]
"168.192.in-addr.arpa" = ["192.0.2.4"]
[dns_zones."lab.example"]
www = "10.0.0.9"
"*" = "10.0.0.8"
"@" = "fd00::1"
`)
	load := func(args ...string) (*Gateway, *pflag.FlagSet) {
		fs := pflag.NewFlagSet("vpnsrv", pflag.ContinueOnError)
		g := NewGateway(fs)
		if err := fs.Parse(alone(args)); err != nil {
			t.Fatal(err)
		}
		return g, fs
	}
	g, _ := load(file)
	c, err := g.load(opened(t, host))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		key       string
		got, want any
	}{
		{"nameserver", c.Nameserver, true},
		{"dns_domain", c.DNSDomain, "vpn.example"},
		{"dns_upstream", c.DNSUpstream, servers("192.0.2.1:53", "192.0.2.2:5353", "[2001:db8::1]:53")},
		{"dns_forward", c.DNSForward, map[string][]netip.AddrPort{"corp.example": servers("192.0.2.3:53"), "168.192.in-addr.arpa": servers("192.0.2.4:53")}},
		{"dns_zones", c.DNSZones, map[string]map[string]netip.Addr{"lab.example": {"www": netip.MustParseAddr("10.0.0.9"), "*": netip.MustParseAddr("10.0.0.8"), "@": netip.MustParseAddr("fd00::1")}}},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.key, tt.got, tt.want)
		}
	}

	g, _ = load("--nameserver")
	if c, err := g.load(opened(t, host)); err != nil || !reflect.DeepEqual(c.DNSUpstream, servers("127.0.0.53:53", "[2001:db8::53]:53")) {
		t.Errorf("of this host: got %v, %v", c.DNSUpstream, err)
	}
	if files := g.Files(); files[1] != resolvConf {
		t.Errorf("a reload opens %q", files)
	}
	missing := func(name string) (*os.File, error) { return os.Open(filepath.Join(t.TempDir(), name)) }
	if _, err := g.load(missing); err == nil {
		t.Error("there is nobody to ask, and that is no error")
	}
	g, _ = load()
	if c, err := g.load(missing); err != nil || c.DNSUpstream != nil || len(g.Files()) != 1 {
		t.Errorf("without a name server: %v, %v, %q", c.DNSUpstream, err, g.Files())
	}
}
