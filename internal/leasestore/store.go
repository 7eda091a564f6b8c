package leasestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/addrpool"
	"ferry/internal/durable"
)

// ErrUnavailable is returned when events could not be written to disk.
var ErrUnavailable = errors.New("leases can not be stored")

// Prefix is that of the names of all files that a Store replaces.
const Prefix = "leases."

const (
	logName  = "leases.log"
	newName  = "leases.new"
	lockName = "lock"

	damagedName = "leases.damaged"

	// maxQueue bounds the events that wait for the disk: twice the addresses of the largest pool.
	maxQueue = 2 << 16
	// A log is replaced by a snapshot when it is longer than this and four times what it says.
	compactFrom = 64 << 10
	retryAfter  = time.Second
)

// A Store keeps leases in a directory.
type Store struct {
	dir  *durable.Dir
	log  *slog.Logger
	lock *os.File

	mu      sync.Mutex // guards queue, waiting, closed, stats
	queue   []addrpool.Event
	waiting []chan error // each is sent to once, when what was queued before is on disk or has failed
	closed  bool
	stats   Stats

	wake  chan struct{} // capacity 1: something is queued, or closed is set
	ended chan struct{} // closed by the writing goroutine

	// Owned by the writing goroutine.
	leases  map[netip.Addr]addrpool.Lease // granted and on disk, and not freed since
	live    int                           // bytes of the records of leases
	file    *os.File                      // nil after a failure
	size    int                           // of file, bytes
	failed  time.Time                     // when the last attempt failed
	scratch []byte

	closing  sync.Once
	closeErr error // set in closing
}

// Stats tell an operator how the disk does.
type Stats struct {
	Commits  uint64 // groups of events that are on disk, one fsync each
	Failures uint64 // attempts to write a group that failed; not those put off after one
	Err      error  // why nothing can be stored now; nil: all is well
}

// Open takes over a directory, which has to stay open until the store is closed, and returns the leases in it.
func Open(dir *durable.Dir, log *slog.Logger) (*Store, []addrpool.Lease, error) {
	s, err := load(dir, log)
	if err != nil {
		return nil, nil, dir.Explain(err)
	}
	found := slices.Collect(maps.Values(s.leases))
	go s.write()
	return s, found, nil
}

// load is Open without the writing goroutine.
func load(dir *durable.Dir, log *slog.Logger) (*Store, error) {
	lock, err := takeLock(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		dir: dir, log: log, lock: lock,
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
		leases: map[netip.Addr]addrpool.Lease{},
	}
	if err := s.recover(); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return s, nil
}

func takeLock(dir *durable.Dir) (*os.File, error) {
	f, err := dir.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another vpnsrv uses it: give each its own with --state DIR")
		}
		return nil, err
	}
	return f, nil
}

// recover reads the log, and replaces it when it is missing or damaged.
func (s *Store) recover() error {
	b, err := s.dir.ReadFile(logName)
	if errors.Is(err, fs.ErrNotExist) {
		return s.snapshot()
	}
	if err != nil {
		return err
	}
	rest, err := consumeHeader(b)
	switch {
	case errors.Is(err, ErrVersion):
		return fmt.Errorf("%s: %w", logName, err)
	case err != nil:
		return s.replaceDamaged(0, len(b), err)
	}
	for len(rest) > 0 {
		var e addrpool.Event
		if e, rest, err = consumeRecord(rest); err != nil {
			return s.replaceDamaged(len(b)-len(rest), len(b), err)
		}
		s.apply(e)
	}
	if s.file, err = s.dir.OpenFile(logName, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return err
	}
	s.size = len(b)
	return nil
}

// replaceDamaged writes what was read before offset to a new file. The damaged one is kept under another
// name where the file system has links: it may not be ours at all.
func (s *Store) replaceDamaged(offset, size int, cause error) error {
	kept := damagedName
	_ = s.dir.Remove(kept)
	if err := s.dir.Link(logName, kept); err != nil {
		kept = ""
	}
	s.log.Warn("lease file is damaged: what comes after the offset is lost",
		"dir", s.dir.Name(), "file", logName, "offset", offset, "size", size, "kept", kept, "err", cause)
	return s.snapshot()
}

func (s *Store) apply(e addrpool.Event) {
	if old, ok := s.leases[e.Lease.Addr]; ok {
		s.live -= recordLen(old)
		delete(s.leases, e.Lease.Addr)
	}
	if !e.Freed {
		s.live += recordLen(e.Lease)
		s.leases[e.Lease.Addr] = e.Lease
	}
}

// Append queues events in the order of its calls; it does no I/O. The function that it returns waits
// until they are on disk. Its error is ErrUnavailable, with the cause, or that of ctx. It need not be
// called for events whose loss does no harm: a lease that was freed and comes back is only held. When
// more is queued than maxQueue, the events are lost and the error says so.
func (s *Store) Append(events ...addrpool.Event) (wait func(context.Context) error) {
	done := make(chan error, 1)
	s.mu.Lock()
	switch {
	case s.closed:
		done <- fmt.Errorf("%w: closed", ErrUnavailable)
	case len(s.queue)+len(events) > maxQueue:
		done <- fmt.Errorf("%w: the disk is too slow", ErrUnavailable)
	default:
		s.queue = append(s.queue, events...)
		s.waiting = append(s.waiting, done)
	}
	s.mu.Unlock()
	s.notify()
	return func(ctx context.Context) error {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stats returns how the disk does.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Close writes what is queued and gives the directory back. It is idempotent.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.notify()
		<-s.ended
		if s.file != nil {
			s.closeErr = s.file.Close()
		}
		s.closeErr = errors.Join(s.closeErr, s.lock.Close())
	})
	return s.closeErr
}

func (s *Store) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
