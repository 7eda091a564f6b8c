package config

import (
	"bytes"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ferry/internal/gateway/settings"
)

// A share of the memory that there is may wait for clients, unless queue_total says how much, and another in connections with what is behind the gateway,
// unless connection_memory does; the rest is for sessions. Beyond another share the collector works harder instead of letting the heap double.
const (
	queueShare = 4         // 1/4
	connShare  = 8         // 1/8
	heapShare  = 4.0 / 5.0 // what is not heap needs some, too
)

// leastConnMemory is the least that connections with what is behind the gateway can do with, bytes.
const leastConnMemory = 1 << 20

// memory returns how many bytes this process may use: those of the machine, or fewer by its control group.
func memory() int64 {
	limit := int64(math.MaxInt64)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		limit = int64(uint64(info.Totalram) * uint64(info.Unit))
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return limit
	}
	return min(limit, groupMemory("/sys/fs/cgroup", string(groups)))
}

// groupMemory returns the least limit of the control groups that /proc/self/cgroup names, and of those above
// them, by either version (cgroups(7)). Without any it is a number that no machine has.
func groupMemory(root, groups string) int64 {
	limit := int64(math.MaxInt64)
	for line := range strings.Lines(groups) {
		words := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(words) != 3 {
			continue
		}
		file, above := "memory.max", root
		if words[0] != "0" {
			if words[1] != "memory" {
				continue
			}
			file, above = "memory.limit_in_bytes", filepath.Join(root, "memory")
		}
		for group := path.Clean("/" + words[2]); ; group = path.Dir(group) {
			text, err := os.ReadFile(filepath.Join(above, group, file))
			if err == nil {
				if n, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64); err == nil && n > 0 { // else "max"
					limit = min(limit, n)
				}
			}
			if group == "/" {
				break
			}
		}
	}
	return limit
}

// boundMemory makes what may wait for clients, and in connections, fit into memory, unless it was set by hand, and the heap with it.
func boundMemory(c settings.Config, isSet func(key string) bool, memory int64) settings.Config {
	if !isSet("queue_total") {
		c.QueueTotal = max(int(min(int64(c.QueueTotal), memory/queueShare)), c.QueueBytes)
	}
	if !isSet("connection_memory") {
		c.ConnMemory = max(int(min(int64(c.ConnMemory), memory/connShare)), leastConnMemory)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		c.HeapLimit = int64(float64(memory) * heapShare)
	}
	return c
}

// isSet tells whether a key is in the file.
func (s *source) isSet(key string) bool { return s.lines[key] != 0 }
