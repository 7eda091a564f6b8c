package config

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"ferry/internal/gateway/settings"
	"ferry/internal/identity"
)

// The profile is gvproxy's address plan, and each part of it gives way to what is said.
func TestProfile(t *testing.T) {
	addr := netip.MustParseAddr
	host := func(a string) map[netip.Addr]netip.Addr {
		return map[netip.Addr]netip.Addr{addr(a): addr("127.0.0.1")}
	}
	for name, tt := range map[string]struct {
		args     []string
		pool     string
		exit     string
		names    bool
		reserved map[string]netip.Addr
		alias    map[netip.Addr]netip.Addr
		forward  string
	}{
		"as it is":  {nil, "192.168.127.0/24", "user", true, map[string]netip.Addr{gvproxyMAC: addr("192.168.127.2")}, host("192.168.127.254"), "tcp://127.0.0.1:2222 192.168.127.2:22"},
		"in a pool": {[]string{"--pool", "10.9.0.0/16"}, "10.9.0.0/16", "user", true, map[string]netip.Addr{gvproxyMAC: addr("10.9.0.2")}, host("10.9.255.254"), "tcp://127.0.0.1:2222 10.9.0.2:22"},
		"of root":   {[]string{"--exit", "kernel"}, "192.168.127.0/24", "kernel", true, map[string]netip.Addr{gvproxyMAC: addr("192.168.127.2")}, map[netip.Addr]netip.Addr{}, "tcp://127.0.0.1:2222 192.168.127.2:22"},
		"no names":  {[]string{"--nameserver=false"}, "192.168.127.0/24", "user", false, map[string]netip.Addr{gvproxyMAC: addr("192.168.127.2")}, host("192.168.127.254"), "tcp://127.0.0.1:2222 192.168.127.2:22"},
		"by a file": {
			[]string{write(t, "f", "profile = \"gvproxy\"\nlisten = [\"tcp://:2002\"]\n[reserved]\nx = \"192.168.127.3\"\n[alias]\n\"192.168.127.9\" = \"127.0.0.1\"\n[forwards]\n\"tcp://:80\" = \"192.168.127.3:80\"\n")},
			"192.168.127.0/24", "user", true, map[string]netip.Addr{"x": addr("192.168.127.3")}, host("192.168.127.9"), "tcp://:80 192.168.127.3:80",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := loadGateway(t, append([]string{"--profile", "gvproxy"}, tt.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			if c.Profile != "gvproxy" || c.MTU != 1500 || c.Pool.String() != tt.pool || c.Exit != tt.exit || c.Nameserver != tt.names {
				t.Errorf("got %s, %d, %s, %s, %v", c.Profile, c.MTU, c.Pool, c.Exit, c.Nameserver)
			}
			if !reflect.DeepEqual(c.Reserved, tt.reserved) || !reflect.DeepEqual(c.Alias, tt.alias) {
				t.Errorf("reserved %v, alias %v", c.Reserved, c.Alias)
			}
			if from, to, _ := strings.Cut(tt.forward, " "); len(c.Forwards) != 1 || c.Forwards[0].From.String() != from || c.Forwards[0].To.String() != to {
				t.Errorf("forwards %v", c.Forwards)
			}
		})
	}
	for _, bad := range [][]string{
		{"--profile", "podman"}, {"--profile", "gvproxy", "--pool", "10.0.0.0/30"}, {"--profile", "gvproxy", "--pool", "x"}, {"--profile", "gvproxy", "--pool", "10.0.0.0/29", "--key", newKey(t)},
	} {
		if _, err := loadGateway(t, bad...); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	if c, err := loadGateway(t); err != nil || c.Profile != "" || c.Pool != settings.DefaultPool || len(c.Alias) > 0 {
		t.Errorf("without: %+v, %v", c, err)
	}
}

// With a key there is room for devices, too: machines, which have none, are in the lower half, with gvproxy's .2.
func TestProfileWithKey(t *testing.T) {
	key := newKey(t)
	for name, tt := range map[string]struct{ more, plain, device, host string }{
		"as it is":      {"", "192.168.127.0/25", "192.168.127.2", "192.168.127.126"},
		"another place": {"plain_pool = \"192.168.127.64/26\"\n", "192.168.127.64/26", "192.168.127.66", "192.168.127.126"},
		"another pool":  {"pool = \"10.9.0.0/16\"\n", "10.9.0.0/17", "10.9.0.2", "10.9.127.254"},
	} {
		c, err := loadGateway(t, write(t, "f", "profile = \"gvproxy\"\nkey = \""+key+"\"\n"+tt.more))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.PlainPool.String() != tt.plain || c.Reserved[gvproxyMAC].String() != tt.device || c.Forwards[0].To.String() != tt.device+":22" || !c.Alias[netip.MustParseAddr(tt.host)].IsLoopback() {
			t.Errorf("%s: got %s, %v, %v, %v", name, c.PlainPool, c.Reserved, c.Forwards, c.Alias)
		}
	}
}

// newKey makes a file with a gateway's key.
func newKey(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := identity.NewKey().Save(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// An alias in the pool is nobody's address.
func TestAliasInPool(t *testing.T) {
	key := newKey(t)
	for text, want := range map[string]string{
		"[alias]\n\"10.0.0.254\" = \"127.0.0.1\"\n":                                  "",
		"[alias]\n\"10.0.0.1\" = \"127.0.0.1\"\n":                                    "the gateway's own",
		"[alias]\n\"10.0.255.255\" = \"127.0.0.1\"\n":                                "broadcast",
		"[reserved]\nx = \"10.0.0.254\"\n[alias]\n\"10.0.0.254\" = \"127.0.0.1\"\n":  "reserved for \"x\"",
		"key = \"KEY\"\n[alias]\n\"10.0.0.254\" = \"127.0.0.1\"\n":                   "is not in the pool 10.0.128.0/17",
		"key = \"KEY\"\n[alias]\n\"10.0.255.254\" = \"127.0.0.1\"\n":                 "",
		"gvproxy_keys = [\"key\"]\n":                                                 "the whole path",
		"gvproxy_api = [\"tcp://0.0.0.0:1\"]\n":                                      "no authentication",
		"gvproxy_listen = [\"http://x\"]\n":                                          "goes by unix, vsock or tcp",
		"notification = \"/run/x\"\n":                                                "unix:///run/x.sock",
		"gvproxy_inside = true\nnotification = \"unix:///run/x\"\nexit = \"user\"\n": "",
	} {
		text = strings.ReplaceAll(text, "KEY", key)
		if _, err := loadGateway(t, write(t, "f", text)); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}
