package leasestore

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	traceLine = regexp.MustCompile(`^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$`)
	tracePath = regexp.MustCompile(`<(/[^>]*)>`)
	quoted    = regexp.MustCompile(`"([^"]*)"`)
)

// A volatile is what a power cut could take away: the content of files and the entries of directories
// that changed since their last fsync.
type volatile struct {
	t       *testing.T
	files   map[string]bool
	dirs    map[string]bool
	pending map[string]string // by thread: the path of the fsync under way
	synced  map[string]int
	acks    int
}

// Power loss: at each acknowledgement nothing is volatile, and a file is on disk before it gets
// its name.
// exam: F2
func TestNothingAcknowledgedIsVolatile(t *testing.T) {
	above := t.TempDir()
	dir := filepath.Join(above, "new", "state")
	trace := filepath.Join(above, "trace")
	if out, err := strace(dir, "", "-y", "-s", "64", "-e", "trace=mkdirat,write,fsync,renameat", "-o", trace); err != nil {
		t.Fatal(out, err)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	v := volatile{t: t, files: map[string]bool{}, dirs: map[string]bool{}, pending: map[string]string{}, synced: map[string]int{}}
	for line := range strings.Lines(string(text)) {
		if m := traceLine.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			v.call(m[1], m[2], m[3], strings.Contains(line, " resumed>"), strings.Contains(line, "<unfinished"))
		}
	}
	if v.acks != 8 {
		t.Errorf("%d acknowledgements, want 8:\n%s", v.acks, text)
	}
	for _, path := range []string{above, filepath.Dir(dir), dir, filepath.Join(dir, logName), filepath.Join(dir, newName)} {
		if v.synced[path] == 0 {
			t.Errorf("no fsync of %s", path)
		}
	}
}

// call understands one line of the trace.
func (v *volatile) call(thread, name, args string, resumed, unfinished bool) {
	var path string
	if m := tracePath.FindStringSubmatch(args); m != nil {
		path = m[1]
	}
	in := func(name string) string { // the directory that it is relative to comes first
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(path, name)
	}
	names := quoted.FindAllStringSubmatch(args, -1)
	switch {
	case name == "fsync" && unfinished:
		v.pending[thread] = path
	case name == "fsync":
		if resumed {
			path = v.pending[thread]
		}
		delete(v.files, path)
		delete(v.dirs, path)
		v.synced[path]++
	case resumed: // what changes something does so from its start
	case name == "mkdirat":
		v.dirs[filepath.Dir(in(names[0][1]))] = true
	case name == "renameat":
		if from := in(names[0][1]); v.files[from] {
			v.t.Errorf("%s is renamed before it is on disk", from)
		}
		v.dirs[filepath.Dir(in(names[1][1]))] = true
	case name == "write" && strings.Contains(path, "leases."):
		v.files[path] = true
	case name == "write" && strings.Contains(args, `"done`):
		if v.acks++; len(v.files) > 0 || len(v.dirs) > 0 {
			v.t.Errorf("acknowledged while volatile: %v %v; %s", v.files, v.dirs, args)
		}
	}
}
