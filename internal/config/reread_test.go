package config

import (
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// What is read again is what a program would read that was started now, with the same flags.
func TestReread(t *testing.T) {
	arg := write(t, "vpnsrv.toml", "isolate = true\nmtu = 1400\npush_route = [\"192.168.7.0/24\"]\nlisten = [\"tcp://:1\"]\n")
	path := strings.TrimPrefix(arg, "--config=")
	fs := pflag.NewFlagSet("vpnsrv", pflag.ContinueOnError)
	keys := NewGateway(fs)
	if err := fs.Parse([]string{arg, "--listen", "tcp://:2", "--listen", "tcp://:3", "--nat"}); err != nil {
		t.Fatal(err)
	}
	first, err := keys.Load()
	if err != nil || !first.Isolate || first.MTU != 1400 {
		t.Fatalf("%+v, %v", first, err)
	}
	for _, step := range []struct {
		text  string
		err   string
		check bool
	}{
		{"nat = false\nlog_level = \"debug\"\nlisten = [\"tcp://:4\"]\n", "", true},
		{"nat = fals\n", ":1:", false},
		{"tun = \"a b\"\n", ":1: tun:", false},
		{"log_level = \"debug\"\n", "", true},
	} {
		if err := os.WriteFile(path, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := keys.Reread(os.Open)
		if step.err != "" {
			if err == nil || !strings.Contains(err.Error(), step.err) {
				t.Errorf("%q: got %v, want an error with %q", step.text, err, step.err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if c.Isolate || c.MTU != 1500 || len(c.PushRoutes) != 0 || c.LogLevel != slog.LevelDebug {
			t.Errorf("what the file does not say any more is not the default: %+v", c)
		}
		if !c.NAT || len(c.Listen) != 2 || c.Listen[1] != "tcp://:3" {
			t.Errorf("the flags do not win: %+v", c)
		}
	}
	if first.Log.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("reading again has changed the log that is in use")
	}
	first.SetLevel(slog.LevelDebug)
	if !first.Log.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("the level can not be changed")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Reread(os.Open); err == nil {
		t.Error("the file is gone, and that is no error: the gateway would be open to all")
	}
}
