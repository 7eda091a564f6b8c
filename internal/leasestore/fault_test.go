package leasestore

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/addrpool"
)

// damagedLog makes a directory with a log that has three leases and a record that was cut.
func damagedLog(dir string) ([]addrpool.Lease, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	before := []addrpool.Lease{lease(20), lease(21), lease(22)}
	b := appendHeader(nil)
	for _, l := range before {
		b = appendRecord(b, addrpool.Event{Lease: l})
	}
	b = appendRecord(b, grant(23))
	return before, os.WriteFile(filepath.Join(dir, logName), b[:len(b)-1], 0o600)
}

// runFaulty runs a child on a new directory, or on one that needs repair, and compares what is found
// afterwards with what it said.
func runFaulty(dir, mode, inject string, repair bool) (h told, killed bool, err error) {
	var before []addrpool.Lease
	if repair {
		if before, err = damagedLog(dir); err != nil {
			return h, false, err
		}
	}
	lines, killed, err := underStrace(dir, mode, inject)
	if err != nil {
		return h, killed, err
	}
	if h, err = listen(lines, before...); err != nil {
		return h, killed, err
	}
	s, found, err := openPath(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return h, killed, err
	}
	defer s.Close()
	if err := h.check(found); err != nil {
		return h, killed, fmt.Errorf("%w; printed %q", err, lines)
	}
	return h, killed, nil
}

// Killed at every call that changes the disk in turn, the store is as it was before or after
// the event under way, and nothing acknowledged is lost. strace counts calls by thread, and the program
// changes threads now and then, so each call has a count of its own.
// exam: F2
func TestKilledAtEveryStep(t *testing.T) {
	var steps atomic.Int32
	var all sync.WaitGroup
	for _, call := range []string{"mkdirat", "openat", "write", "fsync", "renameat", "linkat", "unlinkat", "close"} {
		for _, repair := range []bool{false, true} {
			all.Go(func() {
				for n := 1; n < 40; n++ {
					_, killed, err := runFaulty(filepath.Join(t.TempDir(), "state"), "", fmt.Sprintf("%s:signal=KILL:when=%d", call, n), repair)
					if err != nil {
						t.Errorf("killed at %s %d, repair %v: %v", call, n, repair, err)
					}
					if !killed {
						return
					}
					steps.Add(1)
				}
			})
		}
	}
	all.Wait()
	if n := steps.Load(); n < 40 {
		t.Errorf("only %d steps: does strace see the calls?", n)
	}
}

// A write, fsync or rename that fails fails the grants, not the store: nothing acknowledged is
// lost, and it goes on with a new file.
// exam: F3
func TestCallFails(t *testing.T) {
	var failed atomic.Int32
	var all sync.WaitGroup
	for _, fault := range []string{"write:error=EIO", "write:error=ENOSPC", "fsync:error=EIO", "renameat:error=EROFS"} {
		for n := 1; n <= 7; n++ {
			all.Go(func() {
				inject := fmt.Sprintf("%s:when=%d", fault, n)
				h, _, err := runFaulty(filepath.Join(t.TempDir(), "state"), "retry", inject, false)
				if err != nil {
					t.Errorf("%s: %v", inject, err)
				}
				if len(h.open) > 0 {
					t.Errorf("%s: it does not recover: %q", inject, h.failed)
				}
				if len(h.failed) > 0 {
					failed.Add(1)
				}
				for _, line := range h.failed {
					if !strings.Contains(line, ErrUnavailable.Error()) {
						t.Errorf("%s: %q", inject, line)
					}
				}
			})
		}
	}
	all.Wait()
	if n := failed.Load(); n < 8 {
		t.Errorf("only %d faults met a grant", n)
	}
}

// A file system that is read-only from some time on.
// exam: F3
func TestTurnsReadOnly(t *testing.T) {
	h, _, err := runFaulty(filepath.Join(t.TempDir(), "state"), "", "write:error=EROFS:when=2+", false)
	if err != nil {
		t.Error(err)
	}
	if len(h.failed) < 2 || !strings.Contains(h.failed[0], unix.EROFS.Error()) {
		t.Errorf("failed: %q", h.failed)
	}
}

// With a disk that takes a second for each fsync, Append takes no time, who waits can give up, and
// all is on disk after Close.
// exam: F18
func TestSlowDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s, _ := open(t, dir) // so that the child opens it without an fsync
	s.Close()
	lines, killed, err := underStrace(dir, "slow", "fsync:delay_enter=1000000")
	if err != nil || killed {
		t.Fatal(lines, killed, err)
	}
	var queued, gaveUp, closed int
	var late bool
	if _, err := fmt.Sscanf(strings.Join(lines[1:], "\n"), "queued %d\ngave up %t %d\nclosed %d", &queued, &late, &gaveUp, &closed); err != nil {
		t.Fatalf("%v: %q", err, lines)
	}
	if queued > 700 || !late || gaveUp > 900 || closed < 1000 {
		t.Errorf("got %q", lines)
	}
	if _, found := open(t, dir); len(found) != 100 {
		t.Errorf("%d leases, want 100", len(found))
	}
}

// tmpfs is a directory of 64 KiB.
func tmpfs(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// A full disk.
// exam: F3
func TestDiskFull(t *testing.T) {
	dir := tmpfs(t)
	var log bytes.Buffer // read after Close only
	s, _, err := openPath(dir, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	commit(t, s, grant(1))
	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	last := 1
	for i := 2; i < 2000 && err == nil; i++ { // the last page of the log has room still
		if err = s.Append(grant(i))(t.Context()); err == nil {
			last = i
		}
	}
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	refused := 0
	poll(t, "it does not try again", func() bool {
		refused++
		if err := s.Append(free(1))(t.Context()); !errors.Is(err, ErrUnavailable) || !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("got %v", err)
		}
		return s.Stats().Failures > 1
	})
	if st := s.Stats(); st.Err == nil || st.Failures > 2 || refused < 5 {
		t.Errorf("refused %d times: %+v, want few attempts and an alarm", refused, st)
	}
	if _, err := os.Stat(filepath.Join(dir, newName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unfinished snapshot takes up space: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	poll(t, "it does not recover", func() bool { return s.Append(grant(3000))(t.Context()) == nil })
	if s.Stats().Err != nil {
		t.Errorf("still an alarm: %+v", s.Stats())
	}
	s.Close()
	for text, want := range map[string]int{"level=ERROR": 1, "stored again": 1, "level=": 2} {
		if got := strings.Count(log.String(), text); got != want {
			t.Errorf("%q %d times in the log, want %d:\n%s", text, got, want, &log)
		}
	}
	_, found := open(t, dir)
	for i := 2; i <= last; i++ {
		if found[lease(i).Addr] != lease(i) {
			t.Errorf("lease %d is lost", i)
		}
	}
	// Number 1 was freed while the disk was full. That counts, though nobody could be told so.
	if _, there := found[lease(3000).Addr]; !there || len(found) != last {
		t.Errorf("%d leases, want %d with the last one", len(found), last)
	}
}

// poll waits for something that a store does when it is asked, once a second.
func poll(t *testing.T, complaint string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(retryAfter / 20) {
		if time.Now().After(deadline) {
			t.Fatal(complaint)
		}
	}
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// What is on a read-only file system is not touched, and is there when it can be written again.
// exam: F3
func TestReadOnly(t *testing.T) {
	dir := tmpfs(t)
	s, _ := open(t, dir)
	commit(t, s, grant(1))
	s.Close()
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("none", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	_, _, err := openPath(dir, slog.New(slog.DiscardHandler))
	if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "no write access") {
		t.Errorf("got %v", err)
	}
	remount(0)
	if _, found := open(t, dir); len(found) != 1 {
		t.Errorf("found %v", found)
	}
}

// A user without write access is told what to do.
func TestNoAccess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	above := t.TempDir()
	if err := os.Chmod(above, 0o755); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	errNoUser := errors.New("this user namespace has no other user")
	errs := make(chan error)
	go func() {
		runtime.LockOSThread()    // never unlocked: the thread ends with the goroutine
		_ = unix.Setfsuid(nobody) // fails in silence where there is no such user
		if uid, _ := unix.SetfsuidRetUid(-1); uid != nobody {
			errs <- errNoUser
			return
		}
		_, _, err := openPath(filepath.Join(above, "state"), slog.New(slog.DiscardHandler))
		errs <- err
	}()
	err := <-errs
	if err == errNoUser {
		t.Skip(err)
	}
	if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "start as root, or choose another with --state DIR") {
		t.Errorf("got %v", err)
	}
}
