package client

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What this version reads is what version 1 wrote; what a later one wrote, or nobody, is refused and left as
// it is.
// exam: U6
func TestEnrolmentFiles(t *testing.T) {
	const good = `{"version":1,"name":"cam1","servers":["tcp://192.168.0.1:2002"],"gateway":"SHA256:BuP9j9opu2CrWVV95h7bCuzbIxE0vjDnW0Vfjht5L6k"}`
	for name, tt := range map[string]struct{ text, want string }{
		"version 1":              {good, ""},
		"a later version":        {strings.Replace(good, `"version":1`, `"version":2`, 1), "later version"},
		"a later one, otherwise": {`{"version":2,"gateways":[]}`, "later version"},
		"a later one, all else":  {`{"version":2,"servers":{"a":1},"gateway":7}`, "later version"},
		"no version":             {strings.Replace(good, `"version":1,`, "", 1), "no format"},
		"unknown field":          {strings.Replace(good, `"name"`, `"policy":{},"name"`, 1), "unknown field"},
		"no server":              {strings.Replace(good, `"tcp://192.168.0.1:2002"`, "", 1), "no gateway"},
		"no pin":                 {strings.Replace(good, `SHA256:BuP9j9opu2CrWVV95h7bCuzbIxE0vjDnW0Vfjht5L6k`, "", 1), "fingerprint"},
		"cut":                    {good[:60], "unexpected end"},
		"empty":                  {"", "unexpected end"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, enrolmentName)
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			e, err := LoadEnrolment(dir)
			switch {
			case tt.want == "" && (err != nil || e.Name != "cam1" || len(e.Servers) != 1):
				t.Errorf("got %+v, %v", e, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path)):
				t.Errorf("got %v, want an error with %q that names the file", err, tt.want)
			}
			if b, _ := os.ReadFile(path); string(b) != tt.text {
				t.Error("the file was changed")
			}
		})
	}
	if _, err := LoadEnrolment(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
}
