package leasestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"ferry/internal/addrpool"
)

// The program under strace is this test binary again: TestMain runs a child when the variable is set.
const (
	childDir  = "LEASESTORE_TEST_DIR"
	childMode = "LEASESTORE_TEST_MODE"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir, os.Getenv(childMode))
		return
	}
	code := m.Run()
	stacks := make([]byte, 1<<20)
	if stacks = stacks[:runtime.Stack(stacks, true)]; code == 0 && bytes.Contains(stacks, []byte("(*Store).write(")) {
		fmt.Printf("a store was left open:\n%s", stacks)
		code = 1
	}
	os.Exit(code)
}

// child grants and frees, and compacts on the way. Each event is a line on stdout before it is tried
// and one when it is acknowledged or has failed, as "try grant 10.0.0.1".
func child(dir, mode string) {
	s, _, err := openPath(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	if mode == "slow" {
		slowDisk(s)
		return
	}
	do := func(what string, e addrpool.Event) {
		fmt.Println("try", what, e.Lease.Addr)
		err := s.Append(e)(context.Background())
		for ; err != nil && mode == "retry"; err = s.Append(e)(context.Background()) {
			fmt.Println("failed", what, e.Lease.Addr, err)
			time.Sleep(retryAfter / 10)
		}
		if err != nil {
			fmt.Println("failed", what, e.Lease.Addr, err)
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
	do("free", free(2))
	s.Close()
}

// slowDisk says how long things take that must not wait for the disk.
func slowDisk(s *Store) {
	fmt.Println("try grant", lease(0).Addr)
	began := time.Now()
	wait := s.Append(grant(0))
	for i := 1; i < 100; i++ {
		s.Append(grant(i))
		s.Stats()
	}
	fmt.Println("queued", time.Since(began).Milliseconds())
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	fmt.Println("gave up", errors.Is(wait(ctx), context.DeadlineExceeded), time.Since(began).Milliseconds())
	s.Close()
	fmt.Println("closed", time.Since(began).Milliseconds())
}

// underStrace runs a child with faults injected into its calls on the files of dir and on the directories,
// and returns what it printed.
func underStrace(dir, mode, inject string) (lines []string, killed bool, err error) {
	args := []string{"-P", filepath.Dir(dir), "-P", dir, "-e", "inject=" + inject, "-o", "/dev/null"}
	for _, name := range []string{logName, newName, damagedName, lockName} {
		args = append(args, "-P", filepath.Join(dir, name))
	}
	out, err := strace(dir, mode, args...)
	lines = strings.Split(strings.TrimSpace(out), "\n")
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return lines, true, nil
	}
	return lines, false, err
}

func strace(dir, mode string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "strace", append(append([]string{"-f", "-qq"}, args...), os.Args[0])...)
	cmd.Env = append(os.Environ(), childDir+"="+dir, childMode+"="+mode, "GOMAXPROCS=1", "GORACE=atexit_sleep_ms=0")
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = fmt.Errorf("strace %q: %w", args, ctx.Err())
	}
	return string(out), err
}

// A told is what a child said of its events.
type told struct {
	granted map[netip.Addr]bool // acknowledged: granted or freed
	open    map[netip.Addr]bool // tried without success: nobody knows
	failed  []string
}

// listen understands lines, after some leases were there before.
func listen(lines []string, before ...addrpool.Lease) (told, error) {
	h := told{granted: map[netip.Addr]bool{}, open: map[netip.Addr]bool{}}
	for _, l := range before {
		h.granted[l.Addr] = true
	}
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) < 3 {
			if line == "" || f[0] == "error" {
				continue
			}
			return h, fmt.Errorf("child says %q", line)
		}
		addr, err := netip.ParseAddr(f[2])
		switch {
		case f[0] == "error":
			continue
		case err != nil:
			return h, fmt.Errorf("child says %q: %w", line, err)
		case f[0] == "try":
			h.open[addr] = true
		case f[0] == "failed":
			h.failed = append(h.failed, line)
		case f[0] == "done":
			delete(h.open, addr)
			h.granted[addr] = f[1] == "grant"
		}
	}
	return h, nil
}

// check compares what a store finds with what was acknowledged.
func (h told) check(found []addrpool.Lease) error {
	on := map[netip.Addr]bool{}
	for _, l := range found {
		b := l.Addr.As4()
		if want := lease(int(b[2])<<8 + int(b[3])); on[l.Addr] || l != want {
			return fmt.Errorf("found %v, twice %v, want %v", l, on[l.Addr], want)
		}
		on[l.Addr] = true
		if _, known := h.granted[l.Addr]; !known && !h.open[l.Addr] {
			return fmt.Errorf("%s is on disk, and nobody granted it", l.Addr)
		}
	}
	for addr, granted := range h.granted {
		if on[addr] != granted && !h.open[addr] {
			return fmt.Errorf("%s on disk: %v, acknowledged: %v", addr, on[addr], granted)
		}
	}
	return nil
}
