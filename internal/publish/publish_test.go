package publish

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"ferry/internal/proto"
)

func addr(s string) netip.Addr   { return netip.MustParseAddr(s) }
func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func listens(text string, inode uint32) Socket {
	a := at(text)
	return Socket{Addr: a.Addr(), Port: a.Port(), Inode: inode}
}

// watch runs a Debounce as a device does, every 500 ms of fake time, and writes down when what it announces changes.
//
// sockets says which are there at which second.
func watch(t *testing.T, d *Debounce, sockets func(second float64) []Socket, end time.Duration) (told []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		for time.Since(start) <= end {
			s := time.Since(start).Seconds()
			if d.Saw(sockets(s), time.Now()) {
				var all []string
				for _, a := range d.Announced() {
					all = append(all, netip.AddrPortFrom(a.Addr, a.Port).String())
				}
				told = append(told, fmt.Sprintf("%.1f: %s", s, strings.Join(all, " ")))
			}
			time.Sleep(500 * time.Millisecond)
		}
	})
	return told
}

func TestDebounce(t *testing.T) {
	web := listens("0.0.0.0:80", 1)
	tests := map[string]struct {
		wait    time.Duration
		sockets func(s float64) []Socket
		want    []string
	}{
		"announced when it has lasted, and withdrawn": {2 * time.Second, func(s float64) []Socket {
			if s >= 1 && s < 6 {
				return []Socket{web}
			}
			return nil
		}, []string{"3.0: 0.0.0.0:80", "8.0: "}},
		"a short bind never is": {2 * time.Second, func(s float64) []Socket {
			if s < 1.5 {
				return []Socket{web}
			}
			return nil
		}, nil},
		"one that comes and goes all the time never is": {2 * time.Second, func(s float64) []Socket {
			if int(s)%2 == 0 {
				return []Socket{web}
			}
			return nil
		}, nil},
		"another socket at the same place begins anew": {2 * time.Second, func(s float64) []Socket {
			return []Socket{listens("0.0.0.0:80", uint32(1+s))}
		}, nil},
		"of those that share a place the oldest counts": {2 * time.Second, func(s float64) []Socket {
			return []Socket{listens("0.0.0.0:80", uint32(10+s)), web}
		}, []string{"2.0: 0.0.0.0:80"}},
		"a service that starts anew stays": {2 * time.Second, func(s float64) []Socket {
			switch {
			case s < 4:
				return []Socket{web}
			case s < 5.5:
				return nil
			}
			return []Socket{listens("0.0.0.0:80", 2)}
		}, []string{"2.0: 0.0.0.0:80"}},
		"at once": {0, func(s float64) []Socket {
			if s < 1 {
				return []Socket{web}
			}
			return nil
		}, []string{"0.0: 0.0.0.0:80", "1.0: "}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := &Debounce{Wait: tt.wait, Limit: 10}
			if got := watch(t, d, tt.sockets, 10*time.Second); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDebounceLimit(t *testing.T) {
	d := &Debounce{Limit: 2}
	a, b, c := listens("0.0.0.0:1", 1), listens("0.0.0.0:2", 2), listens("0.0.0.0:3", 3)
	got := watch(t, d, func(s float64) []Socket {
		if s < 2 {
			return []Socket{a, b, c}
		}
		return []Socket{b, c}
	}, 3*time.Second)
	if want := []string{"0.0: 0.0.0.0:1 0.0.0.0:2", "2.0: 0.0.0.0:2 0.0.0.0:3"}; !slices.Equal(got, want) || d.TooMany != 1 {
		t.Errorf("got %q and %d too many, want %q and 1", got, d.TooMany, want)
	}
}

func TestParseWhat(t *testing.T) {
	for text, want := range map[string]What{
		"auto":                 {Auto: true},
		"auto, loopback,names": {Auto: true, Loopback: true, Names: true},
		"tcp:80,udp:53":        {Ports: []Port{{false, 80}, {true, 53}}},
		"auto,-tcp:22,udp:161": {Auto: true, Ports: []Port{{true, 161}}, Not: []Port{{false, 22}}},
	} {
		if got, err := ParseWhat(text); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "everything", "tcp:0", "tcp:65536", "80", "names", "loopback,tcp:80", "tcp:80,-tcp:22", "sctp:80", strings.Repeat("tcp:80,", 300) + "tcp:80"} {
		if got, err := ParseWhat(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}

func TestWants(t *testing.T) {
	ephemeral := Range{32768, 60999}
	tests := []struct {
		what, socket string
		udp, want    bool
	}{
		{"auto", "0.0.0.0:80", false, true},
		{"auto", "[::]:80", false, true},
		{"auto", "192.168.0.1:80", false, true},
		{"auto", "127.0.0.1:80", false, false},
		{"auto", "127.0.0.53:53", true, false},
		{"auto", "[::1]:80", false, false},
		{"auto,loopback", "127.0.0.1:80", false, true},
		{"auto", "[fe80::1]:80", false, false},
		{"auto", "[ff02::fb]:5353", true, false},
		{"auto", "224.0.0.251:5353", true, false},
		{"auto", "0.0.0.0:40000", true, false}, // the source port of somebody's question
		{"auto", "0.0.0.0:40000", false, true},
		{"auto,udp:40000", "0.0.0.0:40000", true, true},
		{"auto,-tcp:22", "0.0.0.0:22", false, false},
		{"auto,-tcp:22", "0.0.0.0:22", true, true},
		{"tcp:80", "127.0.0.1:80", false, true}, // named: meant
		{"tcp:80", "0.0.0.0:81", false, false},
		{"tcp:80", "0.0.0.0:80", true, false},
	}
	for _, tt := range tests {
		w, err := ParseWhat(tt.what)
		if err != nil {
			t.Fatal(err)
		}
		s := listens(tt.socket, 1)
		s.UDP = tt.udp
		if got := w.Wants(s, ephemeral); got != tt.want {
			t.Errorf("%s of %s, udp %t: got %t", tt.what, tt.socket, tt.udp, got)
		}
	}
}

func TestReach(t *testing.T) {
	tunnel := addr("10.0.3.4")
	for _, tt := range []struct {
		socket string
		only6  bool
		ask    string
		direct bool
	}{
		{"0.0.0.0:80", false, "10.0.3.4:80", true},
		{"[::]:80", false, "10.0.3.4:80", true},
		{"[::]:80", true, "[::1]:80", false},
		{"10.0.3.4:80", false, "10.0.3.4:80", true},
		{"127.0.0.1:80", false, "127.0.0.1:80", false},
		{"192.168.0.1:80", false, "192.168.0.1:80", false},
	} {
		s := listens(tt.socket, 1)
		s.Only6 = tt.only6
		if ask, direct := s.Reach(tunnel); ask != at(tt.ask) || direct != tt.direct {
			t.Errorf("%s: got %s, %t", tt.socket, ask, direct)
		}
	}
}

// Penguin's plugin searches for the map in the text; here what is around it is an error.
func TestParseMaps(t *testing.T) {
	got, err := ParseMaps("tcp:8080:192.168.0.1:80, UDP:53:[::]:53,tcp:23:0.0.0.0:23")
	if want := "[tcp:8080:192.168.0.1:80 udp:53:[::]:53 tcp:23:0.0.0.0:23]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v, want %s", got, err, want)
	}
	for _, text := range []string{
		"tcp:8080:192.168.0.1", "tcp:8080:80", "sctp:1:0.0.0.0:1", "tcp:0:0.0.0.0:80", "tcp:70000:0.0.0.0:80", "tcp:80:0.0.0.0:0", "tcp:80:host:80", "tcp:80:0.0.0.0:80,",
		"xtcp:80:0.0.0.0:80", "tcp:80:0.0.0.0:80x", "tcp:80:0.0.0.0:80,tcp:80:0.0.0.0:81", "tcp:80:0.0.0.0:80,tcp:81:0.0.0.0:80", "tcp:80:fe80::1%eth0:80",
	} {
		if got, err := ParseMaps(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

var client = addr("10.0.3.4")

func key(udp bool, guest string) Key { return Key{client, udp, at(guest)} }

// first returns the first n candidates.
func first(p *Ports, k Key, n int) (got []uint16) {
	ports, _ := p.Candidates(k)
	for port := range ports {
		if got = append(got, port); len(got) == n {
			break
		}
	}
	return got
}

// As facts of the plugin have it: 80 busy, then 1080, 2080.
func TestCandidates(t *testing.T) {
	maps, err := ParseMaps("tcp:8080:192.168.0.1:80,tcp:2080:0.0.0.0:81")
	if err != nil {
		t.Fatal(err)
	}
	p := &Ports{Range: Range{1, 65535}}
	if got := first(p, key(false, "0.0.0.0:80"), 3); !slices.Equal(got, []uint16{80, 1080, 2080}) {
		t.Errorf("got %d", got)
	}
	if got := first(p, key(false, "0.0.0.0:65000"), 4); !slices.Equal(got, []uint16{65000, 65001, 65002, 65003}) {
		t.Errorf("at the end of all ports: got %d", got)
	}
	p.Took(key(true, "0.0.0.0:80"), 80)
	if got := first(p, key(false, "0.0.0.0:80"), 1); !slices.Equal(got, []uint16{80}) {
		t.Errorf("tcp beside udp: got %d (penguin#513)", got)
	}
	p = &Ports{Range: Range{1024, 65535}, Maps: maps}
	if got := first(p, key(false, "10.1.1.1:80"), 2); !slices.Equal(got, []uint16{1080, 3080}) {
		t.Errorf("without a right, and beside the port of a map: got %d", got)
	}
	for guest, want := range map[string]uint16{"192.168.0.1:80": 8080, "0.0.0.0:80": 8080, "0.0.0.0:81": 2080} {
		if got := first(p, key(false, guest), 9); !slices.Equal(got, []uint16{want}) {
			t.Errorf("%s by its map: got %d, want %d and no other", guest, got, want)
		}
	}
	p.Expand = true
	p.Maps = maps[:1]
	if got := first(p, key(false, "0.0.0.0:80"), 1); !slices.Equal(got, []uint16{1080}) {
		t.Errorf("a map is for that address alone where all are there: got %d", got)
	}
	p.Took(key(false, "0.0.0.0:9"), 1081)
	p.Freed(key(false, "0.0.0.0:9"))
	if got := first(p, key(false, "0.0.0.0:81"), 1); !slices.Equal(got, []uint16{2081}) {
		t.Errorf("the port of a service that is away: got %d", got)
	}
	if p.Range = (Range{1081, 1081}); len(first(p, key(false, "0.0.0.0:81"), 9)) != 1 {
		t.Error("the port of a service that is away is not given away where there is no other")
	}
	p.Range = Range{1024, 65535}
	if got := p.Why(key(false, "0.0.0.0:80"), 1080); got != "80 is privileged and user cannot bind" {
		t.Errorf("got %q", got)
	}
}

// A model: some ports are bound by others, services come, go, and are remembered over a restart. A service has the port that it had before
// if nobody else has it; no port is given twice; none of a map to who has none.
func TestPortsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		maps, _ := ParseMaps("tcp:1003:192.168.0.1:1001")
		r := Range{1000, 1012}
		p := &Ports{Range: r, Maps: maps}
		busy := map[Port]bool{}
		live := map[Key]uint16{}
		before := map[Key]uint16{} // what it had last, unless it was given to another since
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			k := Key{client, rapid.Bool().Draw(t, "udp"), netip.AddrPortFrom(addr("192.168.0.1"), uint16(rapid.IntRange(998, 1008).Draw(t, "port")))}
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				if _, ok := live[k]; ok {
					p.Freed(k)
					delete(live, k)
				}
			case 1:
				other := Port{k.UDP, uint16(rapid.IntRange(1000, 1012).Draw(t, "busy"))}
				busy[other] = !busy[other]
			case 2:
				again := &Ports{Range: r, Maps: maps}
				again.Remember(p.Records())
				p = again
				clear(live)
			default:
				if _, ok := live[k]; ok {
					continue
				}
				got := uint16(0)
				ports, only := p.Candidates(k)
				for port := range ports {
					if !busy[Port{k.UDP, port}] {
						got = port
						break
					}
				}
				mapped := !k.UDP && k.Guest.Port() == 1001
				if only != mapped || mapped && got != 0 && got != 1003 || !mapped && !k.UDP && got == 1003 {
					t.Fatalf("%v got %d, by a map: %t", k, got, only)
				}
				taken := func(port uint16) bool {
					for o, has := range live {
						if o.UDP == k.UDP && has == port {
							return true
						}
					}
					return busy[Port{k.UDP, port}]
				}
				if got != 0 && (taken(got) || !r.Contains(got)) {
					t.Fatalf("%v got %d, which is taken or none of %s", k, got, r)
				}
				if had := before[k]; had != 0 && !taken(had) && got != had {
					t.Fatalf("%v got %d, and had %d, which is free", k, got, had)
				}
				if got == 0 {
					for n := r.First; n <= r.Last && !mapped; n++ {
						if !taken(n) && (k.UDP || n != 1003) {
							t.Fatalf("%v got none, and %d is free", k, n)
						}
					}
					continue
				}
				p.Took(k, got)
				live[k] = got
				for o, had := range before {
					if o.UDP == k.UDP && had == got {
						delete(before, o)
					}
				}
				before[k] = got
			}
		}
	})
}

// What is away for longest is forgotten first, and not who is there.
func TestForgets(t *testing.T) {
	p := &Ports{Range: Range{1, 65535}}
	live := key(false, "0.0.0.0:1")
	p.Took(live, 1)
	for i := range maxKept + 10 {
		k := Key{netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), true, netip.AddrPortFrom(client, uint16(i+1))}
		p.Took(k, uint16(i+1))
		p.Freed(k)
	}
	all := p.Records()
	if len(all) != maxKept || all[0].Key != live {
		t.Errorf("%d are remembered, want %d; first %v", len(all), maxKept, all[0])
	}
}

func TestBridges(t *testing.T) {
	services := []proto.Service{
		{At: 80, Addr: netip.IPv4Unspecified(), Port: 80, Name: "httpd"},
		{At: 4000, Addr: addr("192.168.0.1"), Port: 23},
		{UDP: true, At: 53, Addr: netip.IPv6Unspecified(), Port: 53},
		{At: 80, Addr: netip.IPv4Unspecified(), Port: 80, Name: "again"},
	}
	show := func(all []Bridge) (text []string) {
		for _, b := range all {
			text = append(text, fmt.Sprintf("%s %s at %d", b.Protocol(), b.Guest, b.At))
		}
		return text
	}
	all, _, _ := Bridges(client, services, nil, false, nil)
	if got, want := show(all), []string{"tcp 0.0.0.0:80 at 80", "tcp 192.168.0.1:23 at 4000", "udp [::]:53 at 53"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	maps, _ := ParseMaps("tcp:8080:10.1.1.1:80")
	all, seen, _ := Bridges(client, services, maps, true, []netip.Addr{addr("172.16.0.1")})
	want := []string{"tcp 0.0.0.0:80 at 80", "tcp 192.168.0.1:23 at 4000", "udp [::]:53 at 53", "tcp 172.16.0.1:80 at 80", "tcp 10.1.1.1:80 at 80", "tcp 192.168.0.1:80 at 80"}
	if got := show(all); !slices.Equal(got, want) || len(seen) != 3 {
		t.Errorf("expanded: got %q and %v, want %q", got, seen, want)
	}
}

// The bug of the original: what a guest calls its programs goes into the CSV as it is.
func TestFiles(t *testing.T) {
	since := time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)
	all := []Published{
		{Bridge: Bridge{key(true, "[::]:53"), 53, `dns"d,<x>`}, Host: at("0.0.0.0:5353"), Since: since},
		{Bridge: Bridge{key(false, "192.168.0.1:80"), 80, "httpd"}, Host: at("127.0.0.1:28080"), ClientName: "cam1", Why: "via fixed mapping", Since: since},
		{Bridge: Bridge{key(false, "0.0.0.0:23"), 23, ""}, Host: at("127.0.0.1:1023"), Since: since},
	}
	Sort(all)
	got := map[string]string{}
	for _, name := range Files() {
		b, err := Encode(name, all)
		if err != nil {
			t.Fatal(err)
		}
		got[name] = string(b)
	}
	want := `procname,ipvn,domain,guest_ip,guest_port,host_port
unknown,ipv4,tcp,0.0.0.0,23,1023
httpd,ipv4,tcp,192.168.0.1,80,28080
"dns""d,<x>",ipv6,udp,[::],53,5353
`
	if got[BridgesFile] != want {
		t.Errorf("got %s", got[BridgesFile])
	}
	rows, err := csv.NewReader(strings.NewReader(got[BridgesFile])).ReadAll()
	if err != nil || len(rows) != 4 || rows[3][0] != `dns"d,<x>` {
		t.Errorf("read again: %q, %v", rows, err)
	}
	if want := "tcp 127.0.0.1:1023 -> 0.0.0.0:23 (unknown)\ntcp 127.0.0.1:28080 -> 192.168.0.1:80 (httpd)\nudp 127.0.0.1:5353 -> [::]:53 (dns\"d,<x>)\n"; got[EndpointsFile] != want {
		t.Errorf("got %s", got[EndpointsFile])
	}
	var f Feed
	if err := json.Unmarshal([]byte(got[FeedFile]), &f); err != nil || len(f.Endpoints) != 3 || f.Endpoints[1].ClientName != "cam1" || f.Endpoints[1] != all[1].Endpoint() {
		t.Errorf("got %+v, %v", f, err)
	}
	if none, err := Encode(FeedFile, nil); err != nil || string(none) != "{\"version\":1,\"endpoints\":[]}\n" {
		t.Errorf("nothing is published: got %s, %v", none, err)
	}
}

func TestWho(t *testing.T) {
	var w Who
	if !w.IsZero() || w.Allows(client, "cam1") {
		t.Error("nobody is named, and somebody is allowed")
	}
	for _, text := range []string{"cam1", "10.0.3.0/24", "10.0.9.9"} {
		if err := w.Add(text); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]bool{"10.0.1.1 cam1": true, "10.0.1.1 cam2": false, "10.0.1.1 ": false, "10.0.3.7 ": true, "10.0.9.9 cam2": true, "10.0.9.8 ": false} {
		a, name, _ := strings.Cut(text, " ")
		if got := w.Allows(addr(a), name); got != want {
			t.Errorf("%s: got %t", text, got)
		}
	}
	for _, text := range []string{"", "10.0.3.1/24", "a/b", "**"} {
		if err := w.Add(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
	if all := (Who{All: true}); all.IsZero() || !all.Allows(client, "") {
		t.Error("all are named, and somebody is not allowed")
	}
}

// One client must not have all that there may be of all, nor keep the gateway busy, by what is on all addresses and on many single ones.
func TestBridgesAreBounded(t *testing.T) {
	var services []proto.Service
	for i := range proto.MaxServices {
		services = append(services, proto.Service{At: 80, Addr: netip.IPv4Unspecified(), Port: uint16(i + 1)})
	}
	var seen []netip.Addr
	for i := range maxSeen {
		seen = append(seen, netip.AddrFrom4([4]byte{192, 168, 1, byte(i + 1)}))
	}
	all, _, over := Bridges(client, services, nil, true, seen)
	if len(all) != MaxBridges || over != proto.MaxServices*(1+maxSeen)-MaxBridges {
		t.Errorf("one client has %d bridges, and %d are over, want %d", len(all), over, MaxBridges)
	}
	for i, b := range all[:len(services)] { // each once before any twice
		if !b.Guest.Addr().IsUnspecified() {
			t.Errorf("bridge %d is %v", i, b)
		}
	}
}

// Who changes its services all the time forgets its own ports, not those of others that are away.
func TestForgetsOnesOwn(t *testing.T) {
	p := &Ports{Range: Range{1, 65535}}
	quiet := key(false, "0.0.0.0:80")
	p.Took(quiet, 80)
	p.Freed(quiet)
	for i := range 2 * maxKept {
		k := Key{addr("10.0.9.9"), true, at(fmt.Sprintf("0.0.0.0:%d", i+1))}
		p.Took(k, uint16(i+1))
		p.Freed(k)
	}
	all := p.Records()
	if len(all) != 1+maxOwn || all[0] != (Record{quiet, 80}) {
		t.Errorf("%d are remembered, the first is %v, want %d and %v", len(all), all[0], 1+maxOwn, quiet)
	}
	again := &Ports{}
	if again.Remember(all); len(again.Records()) != len(all) {
		t.Errorf("after a restart %d of %d are remembered", len(again.Records()), len(all))
	}
}
