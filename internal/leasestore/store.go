package leasestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/addrpool"
)

// ErrUnavailable is returned when events could not be written to disk.
var ErrUnavailable = errors.New("leases can not be stored")

const (
	logName  = "leases.log"
	newName  = "leases.new"
	lockName = "lock"

	// maxQueue bounds the events that wait for the disk: twice the addresses of the largest pool.
	maxQueue = 2 << 16
	// A log is replaced by a snapshot when it is longer than this and four times what it says.
	compactFrom = 64 << 10
	retryAfter  = time.Second
)

// A Store keeps leases in a directory.
type Store struct {
	dir  string
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
	leases  map[netip.Addr]addrpool.Lease // as far as it is on disk, or was freed since
	file    *os.File                      // nil after a failure
	size    int                           // of file, bytes
	failed  time.Time                     // when the last attempt failed
	scratch []byte
}

// Stats tell an operator how the disk does.
type Stats struct {
	Commits  uint64 // fsyncs of the log
	Failures uint64 // writes, fsyncs or snapshots that failed
	Err      error  // why nothing can be stored now; nil: all is well
}

// Open takes over a directory, which it makes if need be, and returns the leases in it.
func Open(dir string, log *slog.Logger) (*Store, []addrpool.Lease, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, explain(dir, err)
	}
	lock, err := takeLock(dir)
	if err != nil {
		return nil, nil, explain(dir, err)
	}
	s := &Store{
		dir: dir, log: log, lock: lock,
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
		leases: map[netip.Addr]addrpool.Lease{},
	}
	if err := s.recover(); err != nil {
		return nil, nil, errors.Join(explain(dir, err), lock.Close())
	}
	found := make([]addrpool.Lease, 0, len(s.leases))
	for _, l := range s.leases {
		found = append(found, l)
	}
	go s.write()
	return s, found, nil
}

func takeLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
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

func explain(dir string, err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return fmt.Errorf("state directory %s: no write access: start as root, or choose another with --state DIR: %w", dir, err)
	}
	return fmt.Errorf("state directory %s: %w", dir, err)
}

// recover reads the log, and replaces it when it is missing or damaged.
func (s *Store) recover() error {
	path := filepath.Join(s.dir, logName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.snapshot()
	}
	if err != nil {
		return err
	}
	rest, err := consumeHeader(b)
	switch {
	case errors.Is(err, ErrVersion):
		return fmt.Errorf("%s: %w", path, err)
	case err != nil:
		s.log.Warn("lease file is damaged: all leases are lost", "file", path, "err", err)
		return s.snapshot()
	}
	for len(rest) > 0 {
		var e addrpool.Event
		if e, rest, err = consumeRecord(rest); err != nil {
			s.log.Warn("lease file is damaged: the leases after this are lost", "file", path,
				"offset", len(b)-len(rest), "size", len(b), "err", err)
			return s.snapshot()
		}
		s.apply(e)
	}
	if s.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return err
	}
	s.size = len(b)
	return nil
}

func (s *Store) apply(e addrpool.Event) {
	if e.Freed {
		delete(s.leases, e.Lease.Addr)
	} else {
		s.leases[e.Lease.Addr] = e.Lease
	}
}

// Append queues events in the order of its calls; it does no I/O. The function that it returns waits
// until they are on disk. Its error is ErrUnavailable, with the cause, or that of ctx. It need not be
// called for events whose loss does no harm: a lease that was freed and comes back is only held.
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
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	s.notify()
	<-s.ended
	if again {
		return nil
	}
	var err error
	if s.file != nil {
		err = s.file.Close()
	}
	return errors.Join(err, s.lock.Close())
}

func (s *Store) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
