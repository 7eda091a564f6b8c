package client

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ferry/internal/identity"
)

// What is on disk may be missing, broken or of a later version: then it counts as nothing, with a word about it.
func TestLoadMemory(t *testing.T) {
	const good = `{"version":1,"found":["tcp://gw:2002"],"worked":[{"network":"eth0","way":"tcp://gw:2002","at":"2026-11-21T12:00:00Z"}]}`
	for name, tt := range map[string]struct {
		text, err string
		ways      int
	}{
		"good":            {good, "", 1},
		"empty":           {"", "end of JSON", 0},
		"torn":            {good[:40], "end of JSON", 0},
		"a later version": {strings.Replace(good, "1", "2", 1), "version 2", 0},
		"of other things": {`{"version":1,"found":7}`, "cannot unmarshal", 0},
		"far too long":    {strings.Repeat(" ", maxWaysFile) + good, "end of JSON", 0},
	} {
		path := filepath.Join(t.TempDir(), "ways.json")
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := loadMemory(&disk{}, path)
		if len(m.Found) != tt.ways || len(m.Worked) != tt.ways || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %+v, %v, want %q", name, m, err, tt.err)
		}
	}
	if m, err := loadMemory(&disk{}, filepath.Join(t.TempDir(), "none")); err != nil || len(m.Found) > 0 {
		t.Errorf("no file: %+v, %v", m, err)
	}
}

// What a gateway says that it has is known once, however often it says so, at no other host than its own, and again after a start.
func TestLearnsWays(t *testing.T) {
	c := Config{Key: identity.NewKey(), Found: true, Ways: filepath.Join(t.TempDir(), "ways.json")}
	c.setDefaults()
	start := func(host *disk, server string) (r *roamer, learned []string) {
		servers, err := endpoints([]string{server}, 0)
		if err != nil {
			t.Fatal(err)
		}
		r = newRoamer(&client{c: c, log: c.Log, servers: servers, host: host})
		for _, e := range r.learned {
			learned = append(learned, e.String())
		}
		return r, learned
	}
	host := &disk{}
	r, learned := start(host, "tcp://gw.example")
	if len(learned) > 0 {
		t.Errorf("without a file %v are known", learned)
	}
	for range 3 { // sessions
		r.learnWays(&connection{way: 0}, []string{"udp://:2002", "dns://192.0.2.9/t.example.org"})
		r.remember(time.Now())
	}
	if host.writes != 1 {
		t.Errorf("the same was written %d times", host.writes)
	}
	want := []string{"udp://gw.example:2002", "dns://t.example.org", "dns://gw.example:53/t.example.org"}
	if _, learned = start(host, "tcp://gw.example"); !slices.Equal(learned, want) {
		t.Errorf("%v are known again, want %v", learned, want)
	}
	if _, learned = start(host, "tcp://another.example"); len(learned) > 0 {
		t.Errorf("of another gateway %v are known", learned)
	}
}

// Where a host was is known again after a start, and is written only when it is somewhere new.
func TestRemembersHosts(t *testing.T) {
	c := Config{Key: identity.NewKey(), Found: true, Ways: filepath.Join(t.TempDir(), "ways.json")}
	c.setDefaults()
	host := &disk{}
	start := func(urls ...string) *roamer {
		servers, err := endpoints(urls, 0)
		if err != nil {
			t.Fatal(err)
		}
		return newRoamer(&client{c: c, log: c.Log, servers: servers, host: host, found: map[string][]netip.Addr{}})
	}
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::2")
	r := start("tcp://gw.example", "tcp://192.0.2.9")
	r.learned = on("gw.example", []string{"udp://:2002"})
	r.found["192.0.2.9"] = []netip.Addr{netip.MustParseAddr("192.0.2.9")}
	for i, tt := range []struct {
		at     []netip.Addr
		writes int
	}{
		{[]netip.Addr{one}, 1},
		{[]netip.Addr{one}, 1},
		{[]netip.Addr{two, one}, 2},
		{[]netip.Addr{one, two}, 2}, // both are known
	} {
		r.found["gw.example"] = tt.at
		r.remember(time.Now())
		if host.writes != tt.writes {
			t.Errorf("step %d: written %d times, want %d", i, host.writes, tt.writes)
		}
	}
	if got := start("tcp://gw.example", "tcp://192.0.2.9").found; len(got) != 1 || !slices.Equal(got["gw.example"], []netip.Addr{two, one}) {
		t.Errorf("known again: %v", got)
	}
	if got := start("tcp://another.example").found; len(got) != 0 {
		t.Errorf("of another gateway %v is known", got)
	}
}
