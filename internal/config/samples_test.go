package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"

	"ferry/internal/identity"
)

const samples = "../../configs"

// In a sample, "#key" is a key that is switched off, and "# text" is text.
var offMark = regexp.MustCompile(`(?m)^#([^ \n])`)

func TestSamples(t *testing.T) {
	newGateway := func(fs *pflag.FlagSet) any { return NewGateway(fs) }
	newClient := func(fs *pflag.FlagSet) any { return NewClient(fs) }
	tests := map[string]struct {
		keys func(*pflag.FlagSet) any
		load func(t *testing.T, arg string) error
	}{
		"vpnsrv.toml": {newGateway, func(t *testing.T, arg string) error { _, err := loadGateway(t, arg); return err }},
		"vpncli.toml": {newClient, func(t *testing.T, arg string) error { _, err := loadClient(t, arg); return err }},
	}
	found, err := filepath.Glob(samples + "/*.toml")
	if err != nil || len(found) != len(tests) {
		t.Fatalf("got samples %q, %v, want %d", found, err, len(tests))
	}
	for _, path := range found {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			all := offMark.ReplaceAllString(string(text), "$1")
			dir := t.TempDir()
			if err := identity.NewKey().Save(filepath.Join(dir, "gateway.key")); err != nil {
				t.Fatal(err)
			}
			for _, s := range []string{string(text), all} {
				s = strings.ReplaceAll(s, "/var/lib/ferry", dir)
				if err := tests[name].load(t, write(t, name, s)); err != nil {
					t.Error(err)
				}
			}
			checkComplete(t, all, tests[name].keys(pflag.NewFlagSet("", pflag.ContinueOnError)))
		})
	}
}

// checkComplete checks that text has each key, and shows the default of those that have one.
func checkComplete(t *testing.T, text string, defaults any) {
	t.Helper()
	shown := reflect.New(reflect.TypeOf(defaults).Elem())
	if err := toml.Unmarshal([]byte(text), shown.Interface()); err != nil {
		t.Fatal(err)
	}
	var there map[string]any
	if err := toml.Unmarshal([]byte(text), &there); err != nil {
		t.Fatal(err)
	}
	var got []string
	for key := range there {
		got = append(got, key)
	}
	want := keyNames(defaults)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("keys:\n got %q\nwant %q", got, want)
	}
	for _, f := range reflect.VisibleFields(shown.Type().Elem()) {
		key := f.Tag.Get("toml")
		if key == "" {
			continue
		}
		d, s := reflect.ValueOf(defaults).Elem().FieldByIndex(f.Index), shown.Elem().FieldByIndex(f.Index)
		if (!d.IsZero() || f.Type.Kind() == reflect.Bool) && !reflect.DeepEqual(s.Interface(), d.Interface()) {
			t.Errorf("%s: the sample shows %v, the default is %v", key, s, d)
		}
	}
}
