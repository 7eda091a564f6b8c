package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"ferry/internal/admission"
	"ferry/internal/carrier"
	"ferry/internal/client"
	"ferry/internal/gateway/settings"
	"ferry/internal/identity"
	"ferry/internal/policy"
	"ferry/internal/proto"
)

// write makes a file of text and returns the argument that names it.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "--config=" + path
}

// alone keeps the settings of this machine out, unless args name a file.
func alone(args []string) []string {
	if slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--config") }) {
		return args
	}
	return append([]string{"--config="}, args...)
}

func loadGateway(t *testing.T, args ...string) (settings.Config, error) {
	t.Helper()
	fs := pflag.NewFlagSet("vpnsrv", pflag.ContinueOnError)
	g := NewGateway(fs)
	if err := fs.Parse(alone(args)); err != nil {
		return settings.Config{}, FlagError(fs, err)
	}
	return g.Load()
}

func loadClient(t *testing.T, args ...string) (client.Config, error) {
	t.Helper()
	fs := pflag.NewFlagSet("vpncli", pflag.ContinueOnError)
	c := NewClient(fs)
	if err := fs.Parse(append([]string{"--state=" + t.TempDir()}, alone(args)...)); err != nil {
		return client.Config{}, FlagError(fs, err)
	}
	return c.Load()
}

func TestDefaults(t *testing.T) {
	g, err := loadGateway(t)
	if err != nil {
		t.Fatal(err)
	}
	want := settings.Config{
		Pool: settings.DefaultPool, PlainPool: settings.DefaultPool, Exit: settings.ExitKernel, TUN: settings.DefaultTUN, MTU: settings.DefaultMTU, StateDir: settings.DefaultStateDir,
		ResumeTimeout: settings.DefaultResume, SessionLifetime: settings.DefaultLifetime,
		IdleTimeout: settings.DefaultIdle, JoinTimeout: settings.DefaultDeadline,
		FrameTimeout: settings.DefaultDeadline, WriteTimeout: settings.DefaultDeadline,
		Limits:      admission.Limits{Unknown: 256, Penalty: 5 * time.Second, PenaltyMax: 10 * time.Minute},
		MaxSessions: settings.DefaultMaxSessions, QueueBytes: settings.DefaultQueue, QueueTotal: settings.DefaultQueueTotal,
		Reserved: map[string]netip.Addr{}, Sites: map[netip.Prefix]netip.Addr{}, Alias: map[netip.Addr]netip.Addr{},
		DialTimeout: settings.DefaultDeadline, Dials: settings.DefaultDials, ClientDials: settings.DefaultClientDials, Conns: settings.DefaultConns, Flows: settings.DefaultFlows, ConnMemory: int(min(settings.DefaultConnMemory, memory()/connShare)), Idle: settings.DefaultEnds,
		DNSDomain: settings.DefaultDomain, DNSForward: map[string][]netip.AddrPort{}, DNSZones: map[string]map[string]netip.Addr{},
		PublishHost: settings.DefaultPublishHost, PublishPorts: settings.DefaultPublishPorts, PublishLimit: proto.MaxServices,
		LogFormat: "text",
	}
	if g.HeapLimit <= 0 {
		t.Errorf("heap limit %d, want one by the memory of this machine", g.HeapLimit)
	}
	want.QueueTotal, g.HeapLimit = int(min(int64(want.QueueTotal), memory()/queueShare)), 0
	g.SetLevel = nil
	if g.Log = nil; !reflect.DeepEqual(g, want) {
		t.Errorf("gateway:\n got %+v\nwant %+v", g, want)
	}
	c, err := loadClient(t, "-s", "gw")
	if err != nil {
		t.Fatal(err)
	}
	wantClient := client.Config{
		Servers: []string{"gw"}, Found: true, Port: client.DefaultPort, TUN: client.DefaultTUN, Mark: client.DefaultMark, Table: client.DefaultTable,
		Keepalive: client.DefaultKeepalive, RetryMin: client.DefaultRetryMin, RetryMax: client.DefaultRetryMax,
		QueueBytes: client.DefaultQueue, PublishDebounce: client.DefaultDebounce, PublishLimit: client.DefaultPublished,
	}
	if c.Log = nil; !reflect.DeepEqual(c, wantClient) {
		t.Errorf("client:\n got %+v\nwant %+v", c, wantClient)
	}
}

// Design decision 9: what a device speaks follows from what it was told. Once it has joined a gateway it
// speaks to that one with keys, and only its owner's word makes it do otherwise.
func TestKnownGateway(t *testing.T) {
	pin := identity.NewKey().Public().Pin()
	joined := `{"version":1,"name":"cam1","servers":["gw1","gw2"],"gateway":"` + pin.String() + `"}`
	other := identity.NewKey().Public().Pin().String()
	for _, test := range []struct {
		name, file, args string
		pin              string // "": plain
		servers          []string
		err              string // part of it
	}{
		{"not joined", "", "-s gw", "", []string{"gw"}, ""},
		{"joined", joined, "", pin.String(), []string{"gw1", "gw2"}, ""},
		{"joined, another way", joined, "-s gw3", pin.String(), []string{"gw3"}, ""},
		{"joined, plain", joined, "-s gw --plain", "", []string{"gw"}, ""},
		{"joined, plain without a server", joined, "--plain", "", nil, "no gateway is named"},
		{"pinned", "", "-s gw --gateway " + other, other, []string{"gw"}, ""},
		{"joined and pinned", joined, "-s gw --gateway " + other, other, []string{"gw"}, ""},
		{"plain and pinned", "", "-s gw --plain --gateway " + other, "", nil, "contradict"},
		{"not a pin", "", "-s gw --gateway SHA256:x", "", nil, "is not a fingerprint"},
		{"damaged", joined[:40], "-s gw", "", nil, "join again"},
		{"a key and no gateway", "", "-s gw", "", nil, "knows no gateway"},
		{"of a later version", `{"version":2}`, "-s gw", "", nil, "later version"},
		{"without a gateway", `{"version":1,"servers":["gw"]}`, "-s gw", "", nil, "names no gateway"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if test.file != "" {
				if err := os.WriteFile(filepath.Join(dir, "gateway.json"), []byte(test.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if test.name == "a key and no gateway" {
				if _, err := client.DeviceKey(dir); err != nil {
					t.Fatal(err)
				}
			}
			c, err := loadClient(t, append(strings.Fields(test.args), "--state="+dir)...)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want an error with %q", err, test.err)
				}
				return
			}
			got := ""
			if (c.Gateway != identity.Pin{}) {
				got = c.Gateway.String()
			}
			if err != nil || got != test.pin || c.Key.IsZero() != (test.pin == "") || !slices.Equal(c.Servers, test.servers) {
				t.Errorf("got %q, key %v, %q, %v; want %q, %q", got, !c.Key.IsZero(), c.Servers, err, test.pin, test.servers)
			}
		})
	}
}

const gatewayFile = `
listen = ["tcp://:2003", "unix:///run/a"]
pool = "10.9.0.0/24"
tun = "vpn7"
mtu = 1400
push_route = ["192.168.7.0/24"]
nat = true
allow = ["10.0.0.0/8", "192.0.2.0/24:53/udp"]
legacy_self_assign = true
idle_timeout = "2m"
[reserved]
printer = "10.9.0.7"
"lab.box" = "10.9.0.8"
[sites]
"192.168.8.0/24" = "10.9.0.7"
`

func TestFileOverDefaults(t *testing.T) {
	c, err := loadGateway(t, write(t, "f", gatewayFile))
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	for _, test := range []struct {
		what      string
		got, want any
	}{
		{"listen", c.Listen, []string{"tcp://:2003", "unix:///run/a"}},
		{"pool", c.Pool, netip.MustParsePrefix("10.9.0.0/24")},
		{"tun", c.TUN, "vpn7"},
		{"mtu", c.MTU, 1400},
		{"nat", c.NAT, true},
		{"legacy_self_assign", c.LegacySelfAssign, true},
		{"allow", c.Allow, []policy.Target{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}, {Prefix: netip.MustParsePrefix("192.0.2.0/24"), Port: 53, Protocol: policy.UDP}}},
		{"idle_timeout", c.IdleTimeout, 2 * time.Minute},
		{"join_timeout", c.JoinTimeout, settings.DefaultDeadline},
		{"reserved", c.Reserved, map[string]netip.Addr{"printer": addr("10.9.0.7"), "lab.box": addr("10.9.0.8")}},
		{"sites", c.Sites, map[netip.Prefix]netip.Addr{netip.MustParsePrefix("192.168.8.0/24"): addr("10.9.0.7")}},
	} {
		if !reflect.DeepEqual(test.got, test.want) {
			t.Errorf("%s: got %v, want %v", test.what, test.got, test.want)
		}
	}
}

func TestFlagsOverFile(t *testing.T) {
	// The file comes last: the order of the arguments says nothing.
	c, err := loadGateway(t, "--listen=tcp://:1", "--listen=tcp://:2", "--mtu=1300", "--nat=false", "--push-route=10.1.0.0/16",
		write(t, "f", gatewayFile))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"tcp://:1", "tcp://:2"}; !slices.Equal(c.Listen, want) {
		t.Errorf("listen: got %q, want %q", c.Listen, want)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}; !slices.Equal(c.PushRoutes, want) {
		t.Errorf("push_route: got %v, want %v", c.PushRoutes, want)
	}
	if c.MTU != 1300 || c.NAT || c.TUN != "vpn7" {
		t.Errorf("got mtu %d, nat %t, tun %q, want 1300, false, vpn7", c.MTU, c.NAT, c.TUN)
	}
}

func TestAcceptRoutes(t *testing.T) {
	for _, test := range []struct {
		args []string
		want bool
	}{
		{nil, false},
		{[]string{"--accept-routes=false"}, true},
		{[]string{write(t, "f", "accept_routes = false")}, true},
		{[]string{write(t, "f", "accept_routes = false"), "--accept-routes"}, false},
	} {
		c, err := loadClient(t, append(test.args, "-s", "gw")...)
		if err != nil || c.Policy.RefuseRoutes != test.want {
			t.Errorf("%q: got %t, %v, want %t", test.args, c.Policy.RefuseRoutes, err, test.want)
		}
	}
}

// A fault is one of the command line when file is empty, and one of the file otherwise. %F in want
// is the path of the file.
type fault struct {
	name string
	file string
	args string
	want string
}

func checkFaults[C any](t *testing.T, load func(*testing.T, ...string) (C, error), faults []fault) {
	t.Helper()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			args := strings.Fields(f.args)
			if f.file != "" {
				args = append(args, write(t, "f.toml", f.file))
				f.want = strings.ReplaceAll(f.want, "%F", strings.TrimPrefix(args[len(args)-1], "--config="))
			}
			_, err := load(t, args...)
			if err == nil || err.Error() != f.want {
				t.Errorf("got  %v\nwant %s", err, f.want)
			}
			var usage *UsageError
			if got, want := errors.As(err, &usage), f.file == ""; got != want {
				t.Errorf("is a usage error: got %t, want %t", got, want)
			}
		})
	}
}

// exam: U6
func TestGatewayFaults(t *testing.T) {
	checkFaults(t, loadGateway, []fault{
		{"misspelt key", "mtu = 1400\n\nlisen = []", "", `%F:3: unknown key "lisen" (did you mean "listen"?)`},
		{"key of a flag", `push-route = []`, "", `%F:1: unknown key "push-route" (did you mean "push_route"?)`},
		{"unknown key", "frobnicate = 1", "", `%F:1: unknown key "frobnicate"`},
		{"unknown table", "\n[foo]\na = 1", "", `%F:2: unknown key "foo"`},
		{"no TOML", "pool = ", "", `%F:1: expected value, not end of input`},
		{"text for number", `mtu = "1400"`, "", `%F:1: mtu: this has the wrong type: write a whole number without quotes`},
		{"float for number", `mtu = 1.5`, "", `%F:1: mtu: this has the wrong type: write a whole number without quotes`},
		{"number for text", `idle_timeout = 60`, "", `%F:1: idle_timeout: this has the wrong type: write text in quotes`},
		{"source of a port", "exit = \"user\"\n[forwards]\n\"tcp://:80?source=192.168.7.1\" = \"10.0.3.4:80\"", "", `%F:3: forwards.tcp://:80?source=192.168.7.1: with exit = "user" clients see the gateway's address: leave out source`},
		{"text for list", `listen = "tcp://:1"`, "", `%F:1: listen: this has the wrong type: write a list of texts, as ["a", "b"]`},
		{"text for bool", `nat = "yes"`, "", `%F:1: nat: this has the wrong type: write true or false without quotes`},
		{"number in table", "[reserved]\na = 1", "", `%F:2: reserved.a: this has the wrong type: write text in quotes`},
		{"unquoted name with a dot", "[reserved]\na.b = '10.0.0.9'", "", `%F:2: reserved.a.b: this has the wrong type: write text in quotes`},
		{"twice", "mtu = 1400\nmtu = 1400", "", `%F:2: mtu: key mtu is already defined`},

		{"pool in the file", "mtu = 1400\npool = '10.0.0.1/16'", "", `%F:2: pool: "10.0.0.1/16" has host bits set: write 10.0.0.0/16`},
		{"capital key", "\nPOOL = '10.0.0.1/16'", "", `%F:2: pool: "10.0.0.1/16" has host bits set: write 10.0.0.0/16`},
		{"pool", "", "--pool 10.0.0.1/16", `--pool: "10.0.0.1/16" has host bits set: write 10.0.0.0/16`},
		{"pool too large", "", "--pool 10.0.0.0/15", `--pool: "10.0.0.0/15": a pool has a prefix length from /16 to /30`},
		{"pool too small", "", "--pool 10.0.0.0/31", `--pool: "10.0.0.0/31": a pool has a prefix length from /16 to /30`},
		{"pool of loopback", "", "--pool 127.0.0.0/16", `--pool: 127.0.0.1 is not an address for an interface: take one of the gateway's pool, as 10.0.3.7`},
		{"pool of IPv6", "", "--pool fd00::/64", `--pool: "fd00::/64": IPv6 inside the tunnel is not supported yet: use IPv4`},
		{"pool without length", "", "--pool 10.0.0.0", `--pool: "10.0.0.0" has no prefix length: write 10.0.0.0/32 for this address alone, or the network it is in`},
		{"pool of words", "", "--pool ten", `--pool: "ten" is not a network: write it as 192.168.7.0/24`},
		{"mtu low", "", "--mtu 575", `--mtu: 575 is not between 576 and 65535`},
		{"mtu high", "mtu = 65536", "", `%F:1: mtu: 65536 is not between 576 and 65535`},
		{"mtu of words", "", "--mtu big", `--mtu: "big" is not a whole number`},
		{"bool of words", "", "--nat=ja", `--nat: "ja" is not true or false`},
		{"unknown flag", "", "--lisen x", `unknown flag: --lisen (did you mean --listen?)`},
		{"scheme", "", "--listen ftp://:1", `--listen: "ftp://:1": unknown carrier "ftp": use ` + carrier.Schemes()},
		{"listen port", "", "--listen tcp://:70000", `--listen: "tcp://:70000": "70000" is not a port`},
		{"interface", "", "--tun a-very-long-name", `--tun: "a-very-long-name" is not a name for an interface: use 1 to 15 characters without spaces, '/', ':' and '%'`},
		{"state", "", "--state=", `--state: no directory is named: write for example /var/lib/ferry`},
		{"level", "log_level = 'loud'", "", `%F:1: log_level: "loud" is not a level: use debug, info, warn or error`},
		{"format", "", "--log-format=xml", `--log-format: "xml" is not a format: use text or json`},

		{"push everything", "", "--push-route 0.0.0.0/0", `--push-route: 0.0.0.0/0 is too large for clients to take: they route so much only by --default-route of their own`},
		{"push a name server", "", "--push-dns 127.0.0.53", `--push-dns: 127.0.0.53 is no address at which clients reach a name server: take one in the tunnel, as the gateway's own`},
		{"push a domain", "", "--push-dns 10.0.0.1 --push-domains $(touch", `--push-domains: "$(touch" is not a domain name: no client would take it; write it as site.example`},
		{"push a domain of all", "", "--push-dns 10.0.0.1 --push-domains com", `--push-domains: "com" is a top-level domain: no client would take it; write it as site.example`},
		{"push domains that nobody knows", "push_domains = ['site.example']", "", `%F:1: push_domains: who knows them? Name a server with push_dns`},
		{"upstream by name", "nameserver = true\ndns_upstream = ['dns.example']", "", `%F:2: dns_upstream: "dns.example" is not the address of a name server: write 192.0.2.53, or 192.0.2.53:5353`},
		{"upstream is itself", "", "--nameserver --dns-upstream 10.0.0.1", `--dns-upstream: 10.0.0.1 is this name server itself: questions would go round`},
		{"upstream is itself, otherwise", "", "--nameserver --dns-upstream [::ffff:10.0.0.1]:53", `--dns-upstream: 10.0.0.1 is this name server itself: questions would go round`},
		{"forward to nobody", "[dns_forward]\n'corp.example' = []", "", `%F:2: dns_forward.corp.example: who is asked? Write ["192.0.2.53"]`},
		{"forward of no domain", "[dns_forward]\n'corp..example' = ['192.0.2.53']", "", `%F:2: dns_forward.corp..example: "corp..example" is not a domain name: write it as corp.example`},
		{"zone with a wildcard", "[dns_zones.'lab.example']\n'*.www' = '10.0.0.9'", "", `%F:2: dns_zones.lab.example.*.www: "*.www" is not a name in a domain: write www, @ for the domain itself, or * for all others`},
		{"zone without an address", "[dns_zones.'lab.example']\nwww = 'there'", "", `%F:2: dns_zones.lab.example.www: ParseAddr("there"): unable to parse IP`},
		{"domain of clients", "dns_domain = 'vpn'", "", `%F:1: dns_domain: "vpn" is a top-level domain: no client would take it; write it as site.example`},
		{"push the pool", "", "--push-route 10.0.0.0/8", `--push-route: 10.0.0.0/8 overlaps the pool 10.0.0.0/16, which the clients route anyway: leave it out`},
		{"metrics on a name", "metrics = 'localhost:9102'", "", `%F:1: metrics: "localhost:9102" is not an address with a port: write 127.0.0.1:9102`},
		{"duration without unit", "idle_timeout = '60'", "", `%F:1: idle_timeout: "60" is not a duration: write a number with a unit, as "60s", "1m30s" or "200ms"`},
		{"negative duration", "join_timeout = '-1s'", "", `%F:1: join_timeout: -1s is not between 10ms and 24h0m0s`},
		{"idle too short to be told", "idle_timeout = '999ms'", "", `%F:1: idle_timeout: 999ms is not between 1s and 18h12m15s`},
		{"queue", "queue_bytes = 1000", "", `%F:1: queue_bytes: 1000 is not between 131072 and 2147483647`},
		{"all queues below one", "queue_total = 200000", "", `%F:1: queue_total: 200000 is not between 262144 and 2147483647`},
		{"no sessions", "max_sessions = 0", "", `%F:1: max_sessions: 0 is not between 1 and 1000000`},

		{"reserved twice", "[reserved]\na = '10.0.0.9'\nb = '10.0.0.9'", "", `%F:3: reserved.b: 10.0.0.9 is reserved for "a" already: choose another address`},
		{"reserved elsewhere", "[reserved]\na = '10.1.0.9'", "", `%F:2: reserved.a: 10.1.0.9 is not in the pool 10.0.0.0/16`},
		{"reserved broadcast", "[reserved]\na = '10.0.255.255'", "", `%F:2: reserved.a: 10.0.255.255 is the network or the broadcast address of the pool 10.0.0.0/16`},
		{"reserved network", "[reserved]\na = '10.0.0.0'", "", `%F:2: reserved.a: 10.0.0.0 is the network or the broadcast address of the pool 10.0.0.0/16`},
		{"reserved gateway", "[reserved]\na = '10.0.0.1'", "", `%F:2: reserved.a: 10.0.0.1 is the gateway's own address`},
		{"reserved name", "[reserved]\n'a b' = '10.0.0.9'", "", `%F:2: reserved.a b: "a b" is not a name: use 1 to 63 letters, digits, '-', '_' and '.'`},
		{"reserved inline", "\nreserved = {a = '10.1.0.9'}", "", `%F:2: reserved.a: 10.1.0.9 is not in the pool 10.0.0.0/16`},
		{"site in the pool", "[sites]\n'10.0.7.0/24' = '10.0.0.9'", "", `%F:2: sites.10.0.7.0/24: overlaps the pool 10.0.0.0/16: a site is a network outside of it`},
		{"site of nobody", "[sites]\n'10.1.7.0/24' = '10.1.0.9'", "", `%F:2: sites.10.1.7.0/24: 10.1.0.9 is not in the pool 10.0.0.0/16`},
		{"site with host bits", "[sites]\n'10.1.7.1/24' = '10.0.0.9'", "", `%F:2: sites.10.1.7.1/24: "10.1.7.1/24" has host bits set: write 10.1.7.0/24`},
	})
}

func TestClientFaults(t *testing.T) {
	checkFaults(t, loadClient, []fault{
		{"no server", "", "", `no gateway is named: vpncli -s 192.168.0.1 (or 'server' in the file of --config, or 'vpncli join' with an invitation)`},
		{"server", "", "-s ftp://x", `--server: "ftp://x": unknown carrier "ftp": use ` + carrier.Schemes()},
		{"vsock without context", "server = 'vsock://:2002'", "", `%F:1: server: "vsock://:2002" names no context ID: write vsock://2:2002 for the host of this machine`},
		{"port", "", "-s x -p 70000", `--port: 70000 is not between 1 and 65535`},
		{"address of words", "", "-s x -a seven", `--address: "seven" is not an address: write it as 10.0.3.7`},
		{"address with length", "", "-s x -a 10.0.3.7/16", `--address: "10.0.3.7/16" is not an address: leave out the prefix length`},
		{"address of IPv6", "", "-s x -a fd00::1", `--address: "fd00::1": IPv6 inside the tunnel is not supported yet: use IPv4`},
		{"address of multicast", "", "-s x -a 224.0.0.1", `--address: 224.0.0.1 is not an address for an interface: take one of the gateway's pool, as 10.0.3.7`},
		{"name", "server = 'x'\nname = 'a b'", "", `%F:2: name: "a b" is not a name: use 1 to 63 letters, digits, '-', '_' and '.'`},
		{"flag wins, and is to blame", "", "-s x --mtu 9", `--mtu: 9 is not between 576 and 65535`},
		{"table", "server = 'x'\ntable = 254", "", `%F:2: table: 254 belongs to the system: use one of 1 to 251 or 256 to 9999`},
		{"mark", "server = 'x'\nmark = 0", "", `%F:2: mark: 0 marks nothing: use a number that no other program has`},
		{"mark of words", "server = 'x'\nmark = 'a'", "", `%F:2: mark: this has the wrong type: write a whole number without quotes`},
		{"pauses", "server = 'x'\nretry_min = '31s'", "", `%F:2: retry_min: 31s is longer than retry_max, 30s`},
		{"route", "", "-s x --route 192.168.7.1/24", `--route: "192.168.7.1/24" has host bits set: write 192.168.7.0/24`},
	})
}

func TestUnreadableFile(t *testing.T) {
	_, err := loadGateway(t, "--config", filepath.Join(t.TempDir(), "none.toml"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want os.ErrNotExist", err)
	}
}

func TestInterfaceNames(t *testing.T) {
	for name, want := range map[string]bool{
		"vpn0": true, "ferry-lab.7": true, "vpn%d": true, "fifteen-letters": true,
		"": false, ".": false, "..": false, "a/b": false, "a b": false, "a:1": false, "a%b": false, "sixteen-letters-": false,
	} {
		if _, err := parseInterface(name); (err == nil) != want {
			t.Errorf("%q: got %v, want valid: %t", name, err, want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	names := []string{"pool", "listen", "nat"}
	for wrong, want := range map[string]string{
		"lisen": "listen", "Listen": "listen", "pol": "pool", "na": "nat", "xyz": "", "frobnicate": "",
	} {
		if got := didYouMean(wrong, names, "%s"); got != "" && want == "" || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", wrong, got, want)
		}
	}
}

// Packets that come by datagrams have to fit into one, unless the operator knows better; and a carrier that is named on the
// command line is one to be found.
func TestCarriers(t *testing.T) {
	for args, want := range map[string]int{
		"":                                     1500,
		"--listen udp://:2002":                 1400,
		"--listen tcp://:1 --listen quic://:1": 1380,
		"--listen connect-ip://:1 --listen udp://:1 --listen quic://:2": 1346,
		"--listen connect-ip+h1://:443":                                 1500,
		"--listen udp://:2002 --mtu 1420":                               1420,
		"--listen wss://:443 --listen ssh://:1":                         1500,
	} {
		if c, err := loadGateway(t, strings.Fields(args)...); err != nil || c.MTU != want {
			t.Errorf("%q: MTU %d, %v; want %d", args, c.MTU, err, want)
		}
	}
	for args, want := range map[string]struct {
		carriers []string
		found    bool
	}{
		"-s gw":                              {nil, true},
		"-s tcp://gw":                        {nil, false},
		"-s tcp://gw --carrier auto":         {nil, true},
		"-s gw --carrier tls,wss":            {[]string{"tcp", "wss"}, true},
		"-s tcp://gw,udp://gw --carrier udp": {[]string{"udp"}, true},
	} {
		if c, err := loadClient(t, strings.Fields(args)...); err != nil || !slices.Equal(c.Carriers, want.carriers) || c.Found != want.found {
			t.Errorf("%q: %v, %v, %v; want %+v", args, c.Carriers, c.Found, err, want)
		}
	}
	if _, err := loadClient(t, "-s", "gw", "--carrier", "tcp,pigeon"); err == nil || !strings.Contains(err.Error(), "pigeon") {
		t.Errorf("an unknown carrier: %v", err)
	}
}

// What ends after how long, by protocol and port.
func TestIdle(t *testing.T) {
	load := func(text string) (settings.Config, error) {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		g := NewGateway(fs)
		if err := fs.Parse([]string{write(t, "vpnsrv.toml", text)}); err != nil {
			t.Fatal(err)
		}
		return g.Load()
	}
	c, err := load("[idle]\ntcp = \"1h\"\n\"53/udp\" = \"5s\"\n\"22/tcp\" = \"12h\"\n")
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[settings.Service]time.Duration{
		{Protocol: policy.TCP, Port: 80}: time.Hour, {Protocol: policy.TCP, Port: 22}: 12 * time.Hour, {Protocol: policy.UDP, Port: 53}: 5 * time.Second,
		{Protocol: policy.UDP, Port: 123}: 2 * time.Minute, {Protocol: policy.ICMP, Port: 9}: 10 * time.Second,
	} {
		if got := c.IdleOf(s.Protocol, s.Port); got != want {
			t.Errorf("%v: %s, want %s", s, got, want)
		}
	}
	for text, want := range map[string]string{"53": "which protocol", "sctp": "not a port", "53/icmp": "tcp or udp"} {
		if _, err := load("[idle]\n\"" + text + "\" = \"5s\"\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
