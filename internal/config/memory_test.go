package config

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"ferry/internal/gateway/settings"
)

// What waits for clients fits into the memory that there is.
// exam: R6
func TestGroupMemory(t *testing.T) {
	root := t.TempDir()
	for path, text := range map[string]string{
		"memory/memory.limit_in_bytes":            "9223372036854771712\n",
		"memory/system/memory.limit_in_bytes":     "268435456\n",
		"memory/system/srv/memory.limit_in_bytes": "9223372036854771712\n",
		"memory.max":           "max\n",
		"slice/memory.max":     "max\n",
		"slice/srv/memory.max": "134217728\n",
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const none = math.MaxInt64
	for name, tt := range map[string]struct {
		groups string
		want   int64
	}{
		"version 1":            {"4:memory:/system/srv\n3:cpu:/\n", 256 << 20},
		"version 2":            {"0::/slice/srv\n", 128 << 20},
		"both":                 {"4:memory:/system\n0::/slice/srv\n", 128 << 20},
		"no limit":             {"4:memory:/\n0::/slice\n", math.MaxInt64 - 4095}, // what version 1 calls none
		"outside of a mount":   {"0::/../../slice/srv\n", 128 << 20},
		"not there":            {"0::/nowhere/at/all\n", none},
		"nothing that is read": {"what\n::\n\n", none},
	} {
		t.Run(name, func(t *testing.T) {
			if got := groupMemory(root, tt.groups); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
	if m := memory(); m < 1<<20 || m > 1<<50 {
		t.Errorf("this machine has %d bytes", m)
	}
}

func TestQueueTotal(t *testing.T) {
	text := func(t *testing.T, line string, memory int64, want int) {
		t.Helper()
		c, err := loadGateway(t, write(t, "f", line))
		if err != nil {
			t.Fatal(err)
		}
		if got := boundMemory(c, func(string) bool { return line != "" }, memory).QueueTotal; got != want {
			t.Errorf("%q with %d bytes: got %d, want %d", line, memory, got, want)
		}
	}
	text(t, "", 64<<30, settings.DefaultQueueTotal)
	text(t, "", 256<<20, 64<<20)
	text(t, "", 64<<10, settings.DefaultQueue)
	text(t, "queue_total = 500000000", 256<<20, 500_000_000)
}
