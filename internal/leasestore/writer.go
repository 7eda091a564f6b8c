package leasestore

import (
	"fmt"
	"os"
	"time"

	"ferry/internal/addrpool"
)

// write owns the file until the store is closed.
func (s *Store) write() {
	defer close(s.ended)
	for range s.wake {
		events, waiting, closed := s.take()
		if len(waiting) > 0 {
			err := s.commit(events)
			for _, done := range waiting {
				done <- err
			}
		}
		if closed {
			return
		}
	}
}

// take returns all that is queued.
func (s *Store) take() ([]addrpool.Event, []chan error, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events, waiting := s.queue, s.waiting
	s.queue, s.waiting = nil, nil
	return events, waiting, s.closed
}

// commit brings events to the disk. When that fails, what was to be granted is not known to the
// store, but what was freed is.
func (s *Store) commit(events []addrpool.Event) error {
	err := s.stats.Err // set by this goroutine alone
	if s.file != nil || time.Since(s.failed) >= retryAfter {
		if err = s.append(events); err != nil {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
			s.failed = time.Now()
		}
		s.note(err)
	}
	for _, e := range events {
		if err == nil || e.Freed {
			s.apply(e)
		}
	}
	return err
}

// note counts an attempt, and tells the operator when the disk fails and when it is well again: once each.
func (s *Store) note(err error) {
	s.mu.Lock()
	before := s.stats.Err
	s.stats.Err = err
	if err == nil {
		s.stats.Commits++
	} else {
		s.stats.Failures++
	}
	s.mu.Unlock()
	switch {
	case before == nil && err != nil:
		s.log.Error("leases can not be stored: no new ones are granted, connected clients go on", "dir", s.dir.Name(), "err", err)
	case before != nil && err == nil:
		s.log.Info("leases can be stored again", "dir", s.dir.Name())
	}
}

// append writes events behind the others, or behind a snapshot if the file is unknown or too long.
func (s *Store) append(events []addrpool.Event) error {
	if s.file == nil || s.size > compactFrom && s.size > 4*(headerLen+s.live) {
		if err := s.snapshot(); err != nil {
			return err
		}
	}
	s.scratch = s.scratch[:0]
	for _, e := range events {
		s.scratch = appendRecord(s.scratch, e)
	}
	if err := writeSynced(s.file, s.scratch); err != nil {
		_ = s.file.Close()
		s.file = nil
		return err
	}
	s.size += len(s.scratch)
	return nil
}

// snapshot replaces the log by one with a record for each lease. The old file is there, whole, until
// the new one is; if anything fails the store has no file.
func (s *Store) snapshot() (err error) {
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
	_ = s.dir.Remove(newName) // one that a killed process left may be another user's
	f, err := s.dir.OpenFile(newName, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = s.dir.Remove(newName) // there is none after a rename
		}
	}()
	b := appendHeader(nil)
	for _, l := range s.leases {
		b = appendRecord(b, addrpool.Event{Lease: l})
	}
	if err := writeSynced(f, b); err != nil {
		return err
	}
	if err := s.dir.Rename(newName, logName); err != nil {
		return err
	}
	if err := s.dir.Sync(); err != nil {
		return err
	}
	s.file, s.size = f, len(b)
	return nil
}

func writeSynced(f *os.File, b []byte) error {
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}
