package leasestore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/addrpool"
)

// The program under strace is this test binary again: TestMain runs child when the variable is set.
const childDir = "LEASESTORE_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	os.Exit(m.Run())
}

// child grants and frees, and prints what was acknowledged, one word a line. It compacts on the way.
func child(dir string) {
	s, _, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	do := func(what string, e addrpool.Event) {
		if err := s.Append(e)(context.Background()); err != nil {
			fmt.Println("failed", what, e.Lease.Addr)
			return
		}
		fmt.Println("done", what, e.Lease.Addr)
	}
	for i := range 4 {
		do("grant", grant(i))
	}
	do("free", free(1))
	s.size = compactFrom * 2 // the next commit makes a snapshot
	do("grant", grant(5))
	do("grant", grant(1))
	s.Close()
}

// underStrace runs child with faults injected and returns what it printed.
func underStrace(t *testing.T, dir, inject string) (lines []string, killed bool) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is missing: apt-get install strace")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, strace, "-f", "-qq", "-o", "/dev/null", "-P", dir, "-P", filepath.Join(dir, logName),
		"-P", filepath.Join(dir, newName), "-e", "inject="+inject, os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, "GOMAXPROCS=1")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(strings.NewReader(string(out))); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines, err != nil
}

// replay returns what must be on disk after lines, and the one address whose fate is open: that of the
// event which was under way.
func replay(t *testing.T, lines []string) map[netip.Addr]bool {
	t.Helper()
	have := map[netip.Addr]bool{}
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) != 3 {
			t.Fatalf("child says %q", line)
		}
		addr := netip.MustParseAddr(f[2])
		switch {
		case f[0] == "done":
			have[addr] = f[1] == "grant"
		case f[1] == "free": // whether it is on disk or not, it does no harm
			delete(have, addr)
		}
	}
	return have
}

// Exam F2: killed at every call that changes the disk in turn, the store is as it was before or after
// the event under way, and nothing acknowledged is lost. strace counts calls by thread, and the program
// changes threads now and then, so each call has a count of its own.
func TestKilledAtEveryStep(t *testing.T) {
	steps := 0
	for _, call := range []string{"openat", "write", "fsync", "renameat", "close"} {
		for n := 1; n < 40; n++ {
			dir := t.TempDir()
			lines, killed := underStrace(t, dir, fmt.Sprintf("%s:signal=KILL:when=%d", call, n))
			if !killed {
				break
			}
			steps++
			checkKilled(t, dir, fmt.Sprintf("killed at %s %d", call, n), lines)
		}
	}
	if steps < 15 {
		t.Errorf("only %d steps: does strace see the calls?", steps)
	}
}

// checkKilled compares what is found with what was acknowledged. Only the lease of the event that was
// under way may differ: the child frees and grants the one of lease(1) again.
func checkKilled(t *testing.T, dir, what string, lines []string) {
	t.Helper()
	s, found, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer s.Close()
	on := byAddr(t, found)
	for addr, granted := range replay(t, lines) {
		if _, there := on[addr]; there != granted && (addr != lease(1).Addr || len(lines) < 4) {
			t.Errorf("%s: %s on disk: %v, acknowledged: %v; printed %q", what, addr, there, granted, lines)
		}
	}
}

// Exam F3: a failed fsync fails the grants, not the store: nothing acknowledged is lost.
func TestFsyncFails(t *testing.T) {
	dir := t.TempDir()
	// The fsyncs of opening (snapshot and directory) are the first two.
	lines, _ := underStrace(t, dir, "fsync:error=EIO:when=4")
	failed := 0
	for _, line := range lines {
		if strings.HasPrefix(line, "failed") {
			failed++
		}
	}
	if failed == 0 {
		t.Fatalf("no grant failed: %q", lines)
	}
	_, on := open(t, dir)
	for addr, granted := range replay(t, lines) {
		if _, there := on[addr]; granted && !there {
			t.Errorf("%s was acknowledged and is lost; printed %q", addr, lines)
		}
	}
}

// Exam F3: a full disk.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s, _ := open(t, dir)
	commit(t, s, grant(1))
	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	var err error
	for i := 2; i < 2000 && err == nil; i++ { // the last page of the log has room still
		err = s.Append(grant(i))(t.Context())
	}
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	if s.Stats().Err == nil || s.Stats().Failures == 0 {
		t.Errorf("no alarm: %+v", s.Stats())
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for s.Append(grant(3000))(t.Context()) != nil {
		if time.Now().After(deadline) {
			t.Fatal("it does not recover")
		}
		time.Sleep(50 * time.Millisecond) // polling a store that retries once a second
	}
	if s.Stats().Err != nil {
		t.Errorf("still an alarm: %+v", s.Stats())
	}
	s.Close()
	_, found := open(t, dir)
	for _, i := range []int{1, 2, 3000} {
		if _, there := found[lease(i).Addr]; !there {
			t.Errorf("lease %d is lost", i)
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
