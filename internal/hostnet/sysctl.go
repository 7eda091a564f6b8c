package hostnet

import (
	"os"
	"path/filepath"
	"strings"
)

// A sysctl is a name below /proc/sys and a value. /proc/sys/net is that of the network namespace
// of the process, and writable for root of the user namespace that owns it.
type sysctl struct{ name, value string }

func (s sysctl) path() string { return filepath.Join("/proc/sys", s.name) }

// dotted is how people write the name of a sysctl.
func dotted(name string) string { return strings.ReplaceAll(name, "/", ".") }

// get returns the sysctl as it is now.
func (s sysctl) get() (sysctl, error) {
	b, err := os.ReadFile(s.path())
	return sysctl{s.name, strings.TrimSpace(string(b))}, err
}

// set writes s unless it is so already, and returns what was there before.
func (s sysctl) set() (was sysctl, err error) {
	was, err = s.get()
	if err != nil || was.value == s.value {
		return was, err
	}
	return was, os.WriteFile(s.path(), []byte(s.value), 0)
}
