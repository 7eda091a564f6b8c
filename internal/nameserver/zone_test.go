package nameserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"testing"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// gvproxy has the zones of gvproxy, with its addresses.
func gvproxy() []Zone { return GvproxyZones(addr("192.168.127.1"), addr("192.168.127.254")) }

func newZones(t *testing.T, all ...Zone) *Zones {
	t.Helper()
	z := new(Zones)
	for _, one := range all {
		if err := z.Add(one); err != nil {
			t.Fatal(err)
		}
	}
	return z
}

// What is added is bounded: names are looked for in all of it.
func TestZonesAreBounded(t *testing.T) {
	z := new(Zones)
	if err := z.Add(Zone{Name: "x.test", Records: make([]Record, maxRecords+1)}); !errors.Is(err, errRecords) {
		t.Errorf("too many at once: %v", err)
	}
	ip := addr("10.0.0.0")
	add := func() error {
		ip = ip.Next()
		return z.Add(Zone{Name: "x.test", Records: []Record{{Name: "a", IP: ip}}})
	}
	for range maxRecords {
		if err := add(); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(); !errors.Is(err, errRecords) {
		t.Errorf("one too many: %v", err)
	}
	if err := z.Add(Zone{Name: "x.test", Records: []Record{{Name: "a", IP: addr("10.0.0.1")}}}); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	for i := range maxZones - 1 {
		if err := z.Add(Zone{Name: fmt.Sprintf("x%d.test", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Add(Zone{Name: "y.test"}); !errors.Is(err, errZones) {
		t.Errorf("a zone too many: %v", err)
	}
}

// Whoever adds the same again and again, as programs do at each start, fills nothing, and what was added last wins still.
func TestZoneAddedAgain(t *testing.T) {
	a1, a2, all := Record{Name: "a", IP: addr("10.0.0.1")}, Record{Name: "a", IP: addr("10.0.0.2")}, Record{Regexp: regexp.MustCompile("^w.*$"), IP: addr("10.0.0.1")}
	other := Record{Regexp: regexp.MustCompile("^v.*$"), IP: addr("10.0.0.1")}
	z := new(Zones)
	for i, step := range []struct{ add, want []Record }{
		{[]Record{a1, a1}, []Record{a1}},
		{[]Record{a2}, []Record{a2, a1}},
		{[]Record{{Name: "A", IP: a1.IP}}, []Record{{Name: "A", IP: a1.IP}, a2}},
		{[]Record{all, other}, []Record{all, other, {Name: "A", IP: a1.IP}, a2}},
		{[]Record{{Regexp: regexp.MustCompile("^w.*$"), IP: all.IP}}, []Record{all, other, {Name: "A", IP: a1.IP}, a2}},
	} {
		if err := z.Add(Zone{Name: "x.test", Records: step.add}); err != nil {
			t.Fatal(err)
		}
		if got := z.All()[0].Records; fmt.Sprint(got) != fmt.Sprint(step.want) {
			t.Errorf("step %d: got %v, want %v", i, got, step.want)
		}
	}
	if got, _ := z.find("a.x.test.").lookup("a.x.test."); len(got) != 1 || got[0] != a1.IP {
		t.Errorf("got %v, want %s, which was added last", got, a1.IP)
	}
}

func TestZoneJSON(t *testing.T) {
	all := append(gvproxy()[:1], Zone{Name: "w.test.", Records: []Record{{IP: addr("1.2.3.4"), Regexp: regexp.MustCompile("^w.*$")}}})
	const want = `[{"Name":"containers.internal.","Records":[{"Name":"gateway","IP":"192.168.127.1"},{"Name":"host","IP":"192.168.127.254"}],"DefaultIP":""},` +
		`{"Name":"w.test.","Records":[{"Name":"","IP":"1.2.3.4","Regexp":"^w.*$"}],"DefaultIP":""}]`
	got, err := json.Marshal(newZones(t, all...).All())
	if err != nil || string(got) != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	var back []Zone
	if err := json.Unmarshal([]byte(want), &back); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(newZones(t, back...).All())
	if err != nil || string(again) != want {
		t.Errorf("read and written: %s, %v", again, err)
	}
	var small Zone
	if err := json.Unmarshal([]byte(`{"name":"a.test","records":[{"name":"b","ip":"10.0.0.9"}],"defaultIP":"10.0.0.8"}`), &small); err != nil || small.DefaultIP != addr("10.0.0.8") || len(small.Records) != 1 {
		t.Errorf("keys in small letters: %+v, %v", small, err)
	}
}

func TestZoneLookup(t *testing.T) {
	zones := newZones(t, append(gvproxy(),
		Zone{Name: "Lab.Test", DefaultIP: addr("10.0.0.99"), Records: []Record{{Name: "www", IP: addr("10.0.0.7")}, {Name: "www", IP: addr("fd00::7")}, {Name: "www", IP: addr("10.0.0.8")}}},
		Zone{Name: "re.test.", Records: []Record{{IP: addr("10.0.1.1"), Regexp: regexp.MustCompile("^W[0-9]+$")}, {Name: "deep.er", IP: addr("10.0.1.2")}, {Name: "", IP: addr("10.0.1.3")}}},
		Zone{Name: "sub.re.test.", Records: []Record{{Name: "hidden", IP: addr("10.0.1.4")}}},
		Zone{Name: "empty.test."},
	)...)
	for _, tt := range []struct {
		name  string
		zone  string // empty: none
		found bool
		want  []netip.Addr
	}{
		{"host.containers.internal.", "containers.internal.", true, []netip.Addr{addr("192.168.127.254")}},
		{"gateway.docker.internal.", "docker.internal.", true, []netip.Addr{addr("192.168.127.1")}},
		{"other.docker.internal.", "docker.internal.", false, nil},
		{"containers.internal.", "containers.internal.", true, nil}, // the apex
		{"xcontainers.internal.", "", false, nil},                   // an end of a label is no domain
		{"internal.", "", false, nil},
		{"www.lab.test.", "lab.test.", true, []netip.Addr{addr("10.0.0.7"), addr("fd00::7")}},
		{"any.lab.test.", "lab.test.", true, []netip.Addr{addr("10.0.0.99")}},
		{"lab.test.", "lab.test.", true, []netip.Addr{addr("10.0.0.99")}},
		{"w12.re.test.", "re.test.", true, []netip.Addr{addr("10.0.1.1")}},
		{"w.re.test.", "re.test.", false, nil},
		{"re.test.", "re.test.", true, []netip.Addr{addr("10.0.1.3")}},
		{"deep.er.re.test.", "re.test.", true, []netip.Addr{addr("10.0.1.2")}},
		{"er.re.test.", "re.test.", true, nil},                                        // there is something below it
		{"hidden.sub.re.test.", "sub.re.test.", true, []netip.Addr{addr("10.0.1.4")}}, // the longest zone has it
		{`www\.lab.test.`, "", false, nil},                                            // one label, in which there is a dot
		{"empty.test.", "empty.test.", true, nil},                                     //
		{"anything.empty.test.", "empty.test.", false, nil},                           //
	} {
		z := zones.find(tt.name)
		if z == nil {
			if tt.zone != "" {
				t.Errorf("%s: no zone has it", tt.name)
			}
			continue
		}
		got, found := z.lookup(tt.name)
		if z.suffix != tt.zone || found != tt.found || !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, %v of %s, want %v, %v of %s", tt.name, got, found, z.suffix, tt.want, tt.found, tt.zone)
		}
	}
}

// A zone that is added again keeps its place; the newest record wins, and the default is the last one, also none.
func TestZoneAdd(t *testing.T) {
	zones := newZones(t, gvproxy()...)
	for _, z := range []Zone{
		{Name: "DOCKER.internal", Records: []Record{{Name: "host", IP: addr("10.0.0.2")}, {Name: "new", IP: addr("10.0.0.3")}}, DefaultIP: addr("10.0.0.4")},
		{Name: "docker.internal.", Records: []Record{{Name: "host", IP: addr("10.0.0.5")}}},
		{Name: "last.test.", Records: []Record{{Name: "a", IP: addr("10.0.0.6")}}},
	} {
		if err := zones.Add(z); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for _, z := range zones.All() {
		names = append(names, z.Name)
	}
	if want := []string{"containers.internal.", "docker.internal.", "last.test."}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	for name, want := range map[string]string{"host.docker.internal.": "10.0.0.5", "new.docker.internal.": "10.0.0.3", "gateway.docker.internal.": "192.168.127.1"} {
		if got, _ := zones.find(name).lookup(name); !slices.Equal(got, []netip.Addr{addr(want)}) {
			t.Errorf("%s: got %v, want %s", name, got, want)
		}
	}
	if r := zones.All()[1].Records; len(r) != 5 || r[0].IP != addr("10.0.0.5") || r[4].Name != "host" || r[4].IP != addr("192.168.127.254") {
		t.Errorf("records in their order: %v", r)
	}
	if _, found := zones.find("docker.internal.").lookup("unknown.docker.internal."); found {
		t.Error("the default that was taken back is there still")
	}
	for _, bad := range []string{"", ".", "a..b"} {
		if err := zones.Add(Zone{Name: bad}); err == nil {
			t.Errorf("zone %q was taken", bad)
		}
	}
}
