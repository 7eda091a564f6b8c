package client

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
