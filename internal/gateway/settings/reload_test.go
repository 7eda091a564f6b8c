package settings

import (
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ferry/internal/identity"
	"ferry/internal/policy"
)

// Every field of Config is a setting that Merge knows, or one of those that no file sets.
func TestEverySettingIsMerged(t *testing.T) {
	noKeys := []string{"Version", "Log", "SetLevel", "Tunnels", "Ready", "Report", "OpenFile", "Reread", "Reload", "HeapLimit", "Limits.Sessions"} // the last one is MaxSessions
	var c Config
	known := map[uintptr]bool{}
	for _, s := range all {
		known[reflect.ValueOf(s.at(&c)).Pointer()] = true
	}
	var check func(v reflect.Value, path string)
	check = func(v reflect.Value, path string) {
		for i := range v.NumField() {
			f, name := v.Field(i), path+v.Type().Field(i).Name
			switch {
			case name == "Limits":
				check(f, "Limits.")
			case known[f.Addr().Pointer()] == slices.Contains(noKeys, name):
				t.Errorf("%s: known to Merge %v", name, known[f.Addr().Pointer()])
			}
		}
	}
	check(reflect.ValueOf(&c).Elem(), "")
}

func TestMerge(t *testing.T) {
	prefixes := func(s ...string) (all []netip.Prefix) {
		for _, p := range s {
			all = append(all, netip.MustParsePrefix(p))
		}
		return all
	}
	key := identity.NewKey()
	base := Config{Key: key, Pool: DefaultPool, PushRoutes: prefixes("192.168.7.0/24")}
	for name, tt := range map[string]struct {
		wanted           func(*Config)
		applied, waiting string
	}{
		"nothing":          {func(*Config) {}, "", ""},
		"an empty list":    {func(c *Config) { c.Allow = []policy.Target{} }, "", ""},
		"at once":          {func(c *Config) { c.Isolate, c.LogLevel = true, slog.LevelDebug }, "isolate log_level", ""},
		"needs a restart":  {func(c *Config) { c.TUN, c.Isolate = "vpn7", true }, "isolate", "tun"},
		"a smaller pool":   {func(c *Config) { c.Pool, c.PushRoutes = prefixes("10.0.0.0/17")[0], nil }, "", "pool plain_pool push_route"},
		"routes":           {func(c *Config) { c.PushRoutes = nil }, "push_route", ""},
		"no key any more":  {func(c *Config) { c.Key = identity.Key{} }, "", "key plain_pool max_plain source_sessions source_unauthenticated source_rate source_burst accept_rate"},
		"another key":      {func(c *Config) { c.Key, c.MaxSessions = identity.NewKey(), 7 }, "", "key max_sessions max_plain"},
		"the same key":     {func(c *Config) { c.Limits.SourceRate = 99 }, "source_rate", ""},
		"fewer at a time":  {func(c *Config) { c.MaxSessions = 8 }, "max_sessions max_plain", ""},
		"a default, named": {func(c *Config) { c.MTU = DefaultMTU }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			now, wanted := base, base
			tt.wanted(&wanted)
			now.SetDefaults()
			wanted.SetDefaults()
			next, applied, waiting := Merge(now, wanted)
			if got := strings.Join(applied, " "); got != tt.applied {
				t.Errorf("applied %q, want %q", got, tt.applied)
			}
			if got := strings.Join(waiting, " "); got != tt.waiting {
				t.Errorf("waiting %q, want %q", got, tt.waiting)
			}
			if next.Limits.Sessions != next.MaxSessions {
				t.Errorf("%d sessions, and a limit of %d", next.MaxSessions, next.Limits.Sessions)
			}
			// What is merged already is not merged again; what waits goes on waiting.
			if _, applied, again := Merge(next, wanted); len(applied) > 0 || !slices.Equal(again, waiting) {
				t.Errorf("again: applied %q, waiting %q", applied, again)
			}
		})
	}
}

// Between 'vpnsrv key switch' and the restart the next key is what devices heard: they must not forget it.
func TestMergeAfterSwitch(t *testing.T) {
	next := identity.NewKey()
	now := Config{Key: identity.NewKey(), NextKey: next.Public().Pin()}
	wanted := Config{Key: next}
	for _, c := range []*Config{&now, &wanted} {
		c.SetDefaults()
	}
	merged, _, waiting := Merge(now, wanted)
	if merged.NextKey != now.NextKey || !slices.Contains(waiting, "key") {
		t.Errorf("next key %v, want %v; waiting %v", merged.NextKey, now.NextKey, waiting)
	}
}
