package hostdns

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var full = State{
	Servers: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.168.7.53")},
	Domains: []string{"site.example", "lan"}, All: true,
}

const old = "# by hand\nnameserver 192.168.1.1\nsearch home.example\n"

// newLink returns a link for a file in a directory of its own, and what it logs.
func newLink(t *testing.T, name string) (*Link, *strings.Builder) {
	t.Helper()
	var log strings.Builder
	l := New(name, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	l.file, l.bus = filepath.Join(t.TempDir(), "resolv.conf"), "/nonexistent"
	return l, &log
}

// inMountNamespace calls f on a thread whose mounts nobody else sees.
func inMountNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			t.Errorf("make mount namespace (as root, or in 'unshare -Urnm'): %v", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

func mount(t *testing.T, from, to string, flags uintptr) {
	t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Error(err)
	}
	if flags != 0 {
		if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""); err != nil {
			t.Error(err)
		}
	}
}

// state is all that can be seen of the file and of what stands beside it.
func state(t *testing.T, l *Link) string {
	t.Helper()
	var b strings.Builder
	dir := filepath.Dir(l.file)
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, e := range all {
		path := filepath.Join(dir, e.Name())
		text, _ := os.ReadFile(path)
		link, _ := os.Readlink(path)
		fi, err := os.Lstat(path)
		if err != nil {
			t.Error(err)
			continue
		}
		b.WriteString(e.Name() + " " + fi.Mode().String() + " -> " + link + "\n" + string(text) + "\n")
	}
	return b.String()
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Error(err)
	}
}

func text(t *testing.T, l *Link) string {
	t.Helper()
	b, err := os.ReadFile(l.file)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// before are the ways in which a file may be there.
var before = map[string]func(t *testing.T, l *Link){
	"file":            func(t *testing.T, l *Link) { put(t, l.file, old) },
	"without an end":  func(t *testing.T, l *Link) { put(t, l.file, strings.TrimSuffix(old, "\n")) },
	"empty":           func(t *testing.T, l *Link) { put(t, l.file, "") },
	"missing":         func(*testing.T, *Link) {},
	"of another mode": func(t *testing.T, l *Link) { put(t, l.file, old); _ = os.Chmod(l.file, 0o600) },
	"symlink": func(t *testing.T, l *Link) {
		put(t, filepath.Join(filepath.Dir(l.file), "target"), old)
		_ = os.Symlink("target", l.file)
	},
	"dangling": func(_ *testing.T, l *Link) { _ = os.Symlink("/run/nobody/resolv.conf", l.file) },
	"bind mount": func(t *testing.T, l *Link) {
		put(t, l.file+".other", old)
		put(t, l.file, "")
		mount(t, l.file+".other", l.file, 0)
	},
	"symlink in a read-only directory": func(t *testing.T, l *Link) {
		target := filepath.Join(t.TempDir(), "target")
		put(t, target, old)
		_ = os.Symlink(target, l.file)
		dir := filepath.Dir(l.file)
		mount(t, dir, dir, unix.MS_RDONLY)
	},
}

func TestFile(t *testing.T) {
	for name, prepare := range before {
		for _, killed := range []bool{false, true} {
			inMountNamespace(t, func() {
				l, log := newLink(t, "ferry0")
				prepare(t, l)
				was := state(t, l)
				l.Apply(1, full)
				once := text(t, l)
				if !strings.Contains(once, "\nnameserver 10.0.0.1\nnameserver 192.168.7.53\nsearch site.example lan\n") {
					t.Errorf("%s: got %q", name, once)
				}
				l.Apply(1, full)
				if twice := text(t, l); twice != once {
					t.Errorf("%s: applied twice: got %q, want %q", name, twice, once)
				}
				other := full
				other.Servers = full.Servers[1:]
				l.Apply(1, other)
				if changed := text(t, l); strings.Contains(changed, "10.0.0.1") {
					t.Errorf("%s: changed: got %q", name, changed)
				}
				if killed {
					next := *l
					next.index, next.wrote = 0, false
					next.cleanUp()
				} else {
					l.Close()
				}
				if got := state(t, l); got != was {
					t.Errorf("%s, killed %t: got\n%s\nwant\n%s\n%s", name, killed, got, was, log)
				}
				l.Close()
				if got := state(t, l); got != was {
					t.Errorf("%s: closed twice: got\n%s\nwant\n%s", name, got, was)
				}
			})
		}
	}
}

// Nothing is done and one line is logged where nothing can be done.
func TestReadOnly(t *testing.T) {
	inMountNamespace(t, func() {
		l, log := newLink(t, "ferry0")
		put(t, l.file, old)
		dir := filepath.Dir(l.file)
		mount(t, dir, dir, unix.MS_RDONLY)
		l.Apply(1, full)
		l.Apply(1, full)
		if text(t, l) != old || strings.Count(log.String(), "level=WARN") != 1 || !strings.Contains(log.String(), "read-only file system") {
			t.Errorf("got %q, log\n%s", text(t, l), log)
		}
		l.Close()
		if strings.Contains(log.String(), "level=ERROR") {
			t.Errorf("log\n%s", log)
		}
	})
}

// A DHCP client writes while we are there: its file stays on Close, and comes back after another Apply.
func TestOthersWrite(t *testing.T) {
	const theirs = "nameserver 172.16.0.1\n"
	l, _ := newLink(t, "ferry0")
	put(t, l.file, old)
	l.Apply(1, full)
	put(t, l.file, theirs)
	l.Close()
	if got := text(t, l); got != theirs {
		t.Errorf("closed: got %q, want %q", got, theirs)
	}
	l.Apply(1, full)
	put(t, l.file, theirs)
	l.Apply(1, full)
	if got := text(t, l); !strings.Contains(got, "nameserver 10.0.0.1\n") {
		t.Errorf("applied again: got %q", got)
	}
	l.Close()
	if got := text(t, l); got != theirs {
		t.Errorf("closed again: got %q, want %q", got, theirs)
	}
}

func TestTwoLinks(t *testing.T) {
	for _, firstGoesFirst := range []bool{false, true} {
		a, _ := newLink(t, "ferry-t0")
		b := New("ferry-t1", a.log)
		b.file, b.bus = a.file, a.bus
		put(t, a.file, old)
		a.Apply(1, full)
		b.Apply(2, full)
		if firstGoesFirst {
			a.Close()
			if got := text(t, a); !strings.Contains(got, "nameserver 10.0.0.1\n") {
				t.Errorf("the first has gone: got %q", got)
			}
			b.Close()
		} else {
			b.Close()
			a.Close()
		}
		if got := text(t, a); got != old {
			t.Errorf("first goes first %t: got %q, want %q", firstGoesFirst, got, old)
		}
	}
}

// Only what is dead is cleaned up.
func TestCleanUp(t *testing.T) {
	l, _ := newLink(t, "ferry0")
	own := l.marker()
	for _, tt := range []struct {
		name string
		by   marker
		gone bool
	}{
		{"ours", own, true},
		{"a link that is gone", marker{"ferry-none", own.netns, own.boot}, true},
		{"a link that lives", marker{"lo", own.netns, own.boot}, false},
		{"another network namespace", marker{"ferry0", "net:[1]", own.boot}, false},
		{"before the machine was started", marker{"lo", "net:[1]", "00000000"}, true},
	} {
		made := format(tt.by, full, parse(old))
		put(t, l.file, made)
		l.cleanUp()
		want := made
		if tt.gone {
			want = old
		}
		if got := text(t, l); got != want {
			t.Errorf("%s: got %q, want %q", tt.name, got, want)
		}
	}
	put(t, l.file, old)
	l.cleanUp()
	if got := text(t, l); got != old {
		t.Errorf("somebody else's: got %q", got)
	}
}

func TestSplitNeedsResolved(t *testing.T) {
	l, log := newLink(t, "ferry0")
	put(t, l.file, old)
	split := full
	split.All = false
	l.Apply(1, split)
	if text(t, l) != old || !strings.Contains(log.String(), "systemd-resolved") {
		t.Errorf("got %q, log %s", text(t, l), log)
	}
}

func TestLeadsToResolved(t *testing.T) {
	for content, want := range map[string]bool{
		"nameserver 127.0.0.53\noptions edns0\n":          true,
		"# x\nnameserver 127.0.0.54\n":                    true,
		"nameserver 127.0.0.53\nnameserver 192.168.1.1\n": false,
		"nameserver 192.168.1.1\n":                        false,
		"nameserver 127.0.0.1\n":                          false,
		"# nameserver 127.0.0.53\n":                       false,
		"":                                                false,
	} {
		l, _ := newLink(t, "ferry0")
		put(t, l.file, content)
		if got := leadsToResolved(l.file); got != want {
			t.Errorf("%q: got %t, want %t", content, got, want)
		}
	}
}

// Whatever was in a file comes back byte by byte.
func FuzzFormat(f *testing.F) {
	l := New("ferry0", nil)
	for _, s := range []string{"", "\n", "a", old, "#| x\n#@ y\n", format(l.marker(), full, parse(old))} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := parse(format(l.marker(), full, &content{text: s}))
		if c.by == nil || *c.by != l.marker() || c.before.text != s {
			t.Errorf("got %+v, want %q", c, s)
		}
	})
}
