package main

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// A watchman looks whether the machine stands still: what a failover costs can not be told then.
type watchman struct {
	stop chan struct{}
	work sync.WaitGroup

	mu      sync.Mutex
	late    []lateness
	excused int // trials that count though it stood still
}

// A lateness is a moment that came too late.
type lateness struct {
	at time.Time
	by time.Duration
}

const (
	watchEvery = 2 * time.Millisecond
	noteworthy = 10 * time.Millisecond
	// standstill is what makes a trial worthless: half of the silence that Ferry takes for a failure.
	standstill = 125 * time.Millisecond
)

func startWatch() *watchman {
	w := &watchman{stop: make(chan struct{})}
	w.work.Go(w.watch) // ends with Close
	return w
}

func (w *watchman) watch() {
	for last := time.Now(); ; {
		select {
		case <-w.stop:
			return
		case <-time.After(watchEvery):
		}
		now := time.Now()
		if by := now.Sub(last) - watchEvery; by > noteworthy {
			w.mu.Lock()
			w.late = append(w.late, lateness{now, by})
			w.mu.Unlock()
		}
		last = now
	}
}

var errAsleep = errors.New("the machine stood still")

// awake returns an error if the machine stood still for too long since a moment.
func (w *watchman) awake(since time.Time) error {
	if by := w.worst(since); by > standstill {
		return fmt.Errorf("%w for %s", errAsleep, by.Round(time.Millisecond))
	}
	return nil
}

// excuse counts a trial that was measured all the same.
func (w *watchman) excuse() {
	w.mu.Lock()
	w.excused++
	w.mu.Unlock()
}

// summary is for the report.
func (w *watchman) summary() string {
	by := w.worst(time.Time{}).Round(time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%s at the longest; %d trials were counted though the machine stood still for more than %s", by, w.excused, standstill)
}

// worst returns the longest standstill since a moment.
func (w *watchman) worst(since time.Time) (by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.late) - 1; i >= 0 && w.late[i].at.After(since); i-- {
		by = max(by, w.late[i].by)
	}
	return by
}

func (w *watchman) Close() {
	close(w.stop)
	w.work.Wait()
}
