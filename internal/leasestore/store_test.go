package leasestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ferry/internal/addrpool"
	"ferry/internal/durable"
)

func lease(i int) addrpool.Lease {
	return addrpool.Lease{
		Addr:  netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
		Token: addrpool.Token{byte(i), byte(i >> 8), 1},
		Name:  strings.Repeat("n", i%5),
	}
}

func grant(i int) addrpool.Event { return addrpool.Event{Lease: lease(i)} }
func free(i int) addrpool.Event  { return addrpool.Event{Freed: true, Lease: lease(i)} }

// openPath is Open for a path.
func openPath(path string, log *slog.Logger) (*Store, []addrpool.Lease, error) {
	dir, err := durable.Open(path)
	if err != nil {
		return nil, nil, err
	}
	return Open(dir, log)
}

func open(t *testing.T, dir string) (*Store, map[netip.Addr]addrpool.Lease) {
	t.Helper()
	s, found, err := openPath(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, byAddr(t, found)
}

func byAddr(t *testing.T, leases []addrpool.Lease) map[netip.Addr]addrpool.Lease {
	t.Helper()
	m := map[netip.Addr]addrpool.Lease{}
	for _, l := range leases {
		if _, twice := m[l.Addr]; twice {
			t.Errorf("%s was found twice", l.Addr)
		}
		m[l.Addr] = l
	}
	return m
}

func commit(t *testing.T, s *Store, events ...addrpool.Event) {
	t.Helper()
	if err := s.Append(events...)(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLeasesSurvive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	s, found := open(t, dir)
	if len(found) != 0 {
		t.Errorf("a new directory has %v", found)
	}
	commit(t, s, grant(1), grant(2), grant(3))
	commit(t, s, free(2))
	again := grant(3)
	again.Lease.Name = "renamed"
	commit(t, s, again)
	s.Append(grant(4)) // nobody waits: Close writes it
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, found = open(t, dir)
	want := byAddr(t, []addrpool.Lease{lease(1), again.Lease, lease(4)})
	if !maps.Equal(found, want) {
		t.Errorf("got %v, want %v", found, want)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, logName): 0o600} {
		if i, err := os.Stat(path); err != nil || i.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, %v; want %v", path, i.Mode(), err, mode)
		}
	}
}

func TestCompaction(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	for i := range 5000 {
		commit(t, s, grant(i%7))
		if i%1000 == 999 { // a restart is no reason for a longer log
			s.Close()
			s, _ = open(t, dir)
		}
	}
	info, err := os.Stat(filepath.Join(dir, logName))
	if err != nil || info.Size() > compactFrom+1000 {
		t.Errorf("after 5000 grants of 7 addresses: %d bytes, %v", info.Size(), err)
	}
	s.Close()
	if _, found := open(t, dir); len(found) != 7 {
		t.Errorf("got %d leases, want 7", len(found))
	}
}

// A log as long as its leases need is not written anew for each event.
func TestCompactionIsRare(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	long := func(i int) addrpool.Event {
		e := grant(i)
		e.Lease.Name = strings.Repeat("n", 300) // cut at 255
		return e
	}
	for i := range 400 {
		s.Append(long(i))
	}
	commit(t, s, long(400))
	before, err := os.Stat(filepath.Join(dir, logName))
	if err != nil || before.Size() < compactFrom {
		t.Fatal(before.Size(), err)
	}
	for i := range 20 {
		commit(t, s, long(i))
	}
	after, err := os.Stat(filepath.Join(dir, logName))
	if want := before.Size() + 20*int64(recordMax); err != nil || after.Size() != want {
		t.Errorf("%d bytes after 20 more events, want %d; %v", after.Size(), want, err)
	}
}

// Whatever is queued while the disk is at work is written at once.
func TestOneFsyncForAll(t *testing.T) {
	dir, err := durable.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := load(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var waits []func(context.Context) error
	for i := range 100 {
		waits = append(waits, s.Append(grant(i)))
	}
	go s.write()
	for i, wait := range waits {
		if err := wait(t.Context()); err != nil {
			t.Errorf("grant %d: %v", i, err)
		}
	}
	s.Close()
	if got := s.Stats().Commits; got != 1 {
		t.Errorf("%d fsyncs for 100 grants that were queued", got)
	}
}

// One fsync serves all who wait.
func TestGroupCommit(t *testing.T) {
	s, _ := open(t, t.TempDir())
	const n = 500
	var all sync.WaitGroup
	gate := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-gate
			commit(t, s, grant(i))
		})
	}
	close(gate)
	all.Wait()
	if got := s.Stats().Commits; got == 0 || got > n/2 {
		t.Errorf("%d fsyncs for %d grants", got, n)
	}
}

// Whatever byte is flipped and wherever the file is cut, what is read is what the events before
// the damage say.
// exam: F4
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	events := []addrpool.Event{grant(1), grant(2), free(1), grant(3), grant(1), free(2), grant(4)}
	var ends []int // of the file after each event
	path := filepath.Join(dir, logName)
	for _, e := range events {
		commit(t, s, e)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, int(info.Size()))
	}
	s.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, b []byte, damaged int) {
		t.Helper()
		want := map[netip.Addr]addrpool.Lease{}
		for i, e := range events {
			if damaged < ends[i] {
				break
			}
			if delete(want, e.Lease.Addr); !e.Freed {
				want[e.Lease.Addr] = e.Lease
			}
		}
		if damaged < headerLen {
			clear(want)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		s, found, err := openPath(dir, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		checkWarning(t, what, log.String(), dir, b, append([]int{0, headerLen}, ends...), damaged)
		if !maps.Equal(byAddr(t, found), want) {
			t.Errorf("%s: got %v, want %v", what, found, want)
		}
		if err := s.Append(grant(9))(t.Context()); err != nil {
			t.Errorf("%s: the next grant: %v", what, err)
		}
		s.Close()
		s, again := open(t, dir)
		s.Close()
		if len(again) != len(want)+1 {
			t.Errorf("%s: %d leases after the next grant, want %d", what, len(again), len(want)+1)
		}
	}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 0x55
		check(fmt.Sprintf("byte %d flipped", i), b, i)
		check(fmt.Sprintf("cut at %d", i), whole[:i], i)
	}
}

// checkWarning wants one warning with the offset of the first bad record, and the damaged file kept. A
// file that was cut between two records can not be told from a shorter one.
func checkWarning(t *testing.T, what, log, dir string, damaged []byte, ends []int, at int) {
	t.Helper()
	offset := 0
	for _, end := range ends {
		if end <= at {
			offset = end
		}
	}
	if len(damaged) == offset && offset > 0 {
		if log != "" {
			t.Errorf("%s: logged %s", what, log)
		}
		return
	}
	if want := fmt.Sprintf(" offset=%d ", offset); strings.Count(log, "level=WARN") != 1 || !strings.Contains(log, want) {
		t.Errorf("%s: logged %q, want one warning with %q", what, log, want)
	}
	kept, err := os.ReadFile(filepath.Join(dir, damagedName))
	if err != nil || !bytes.Equal(kept, damaged) {
		t.Errorf("%s: kept %d bytes of %d, %v", what, len(kept), len(damaged), err)
	}
}

// A file of a later version is refused and left as it is.
// exam: U6
func TestLaterVersion(t *testing.T) {
	dir := t.TempDir()
	b := appendHeader(nil)
	b[len(magic)]++
	b = le.AppendUint32(b[:headerLen-4], crc(b[:headerLen-4]))
	b = append(b, "what this version does not know"...)
	path := filepath.Join(dir, logName)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openPath(dir, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrVersion) {
		t.Errorf("got %v", err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, b) {
		t.Error("the file was changed")
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, _, err := openPath(dir, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "--state DIR") {
		t.Errorf("directory in use: got %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openPath(file, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("directory is a file: got %v", err)
	}
}

func TestAfterClose(t *testing.T) {
	s, _ := open(t, t.TempDir())
	s.Close()
	if err := s.Append(grant(1))(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestWaitObeysContext(t *testing.T) {
	s := &Store{wake: make(chan struct{}, 1)} // a disk that never answers
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Append(grant(1))(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	for range maxQueue {
		s.Append(grant(1))
	}
	if err := s.Append(grant(1))(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("full queue: got %v", err)
	}
}

// exam: F4
func FuzzRecord(f *testing.F) {
	for i := range 5 {
		f.Add(appendRecord(nil, grant(i)))
		f.Add(appendRecord(nil, free(i)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, rest, err := consumeRecord(b)
		if err != nil {
			return
		}
		if got := appendRecord(nil, e); !bytes.Equal(got, b[:len(b)-len(rest)]) {
			t.Errorf("%x becomes %x", b, got)
		}
	})
}

// FuzzOpen opens a store on a file of arbitrary bytes: it is refused and left as it is, or what is found can
// be added to, and is found again.
// exam: F4, U6
func FuzzOpen(f *testing.F) {
	whole := appendHeader(nil)
	for i := range 4 {
		whole = appendRecord(whole, grant(i))
	}
	whole = appendRecord(whole, free(2))
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add(append(bytes.Clone(whole), whole...))
	f.Add([]byte{})
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, logName)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, found, err := openPath(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			if got, _ := os.ReadFile(path); !errors.Is(err, ErrVersion) || !bytes.Equal(got, b) {
				t.Errorf("%v; the file has become %x", err, got)
			}
			return
		}
		want := byAddr(t, found)
		commit(t, s, grant(77))
		want[lease(77).Addr] = lease(77)
		s.Close()
		_, again := open(t, dir)
		if !maps.Equal(again, want) {
			t.Errorf("got %v, want %v", again, want)
		}
	})
}

// What version 1 wrote is read for ever.
// exam: U6
func TestGolden(t *testing.T) {
	dir := t.TempDir()
	b, err := os.ReadFile("testdata/leases.v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, logName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, found := open(t, dir)
	want := map[netip.Addr]addrpool.Lease{lease(1).Addr: lease(1), lease(3).Addr: lease(3)}
	if !maps.Equal(found, want) {
		t.Errorf("got %v, want %v", found, want)
	}
}
