package datagram

import (
	"crypto/tls"
	"fmt"
	"io"
	"time"

	"ferry/internal/carrier"
)

// A writer is the state of the goroutine that writes.
type writer struct {
	pace     carrier.Pace
	pack     packer
	out      *batch            // nil: none is borrowed. What is in it is sealed
	keepItem func([]byte) bool // Link.keep, bound once
	kept     bool              // since the last flush
}

// TryWrite takes items, whole ones, as far as there is room at once, and returns their length. An error ends the connection.
func (l *Link) TryWrite(b []byte) (int, error) { return l.write(b, false, nil) }

// Write takes all items of b, whole ones, waiting as long as it takes or until the connection ends, and sends them behind
// what is held. progress is called whenever some were taken; it may be nil.
func (l *Link) Write(b []byte, progress func()) error {
	start := time.Now()
	n, err := l.write(b, true, progress)
	l.pace.Took(n, time.Since(start))
	return err
}

// Held returns how many bytes of memory are taken by what TryWrite took and could not send. It is for the goroutine that
// writes.
func (l *Link) Held() int {
	if l.out == nil {
		return 0
	}
	return batchSize
}

// Grain is that of carrier.Stream.
func (l *Link) Grain() int { return l.pace.Grain() }

func (l *Link) write(b []byte, wait bool, progress func()) (n int, err error) {
	for {
		if err := l.failure(); err != nil {
			return n, err
		}
		if l.out != nil {
			if err := l.push(wait); err != nil {
				return n, err
			}
			if progress != nil {
				progress()
			}
		}
		switch {
		case l.out != nil && wait: // for a while in vain
			continue
		case l.out != nil || n == len(b):
			return n, nil
		}
		k := l.take(b[n:])
		n += k
		if k > 0 {
			continue
		}
		if !wait {
			return n, nil
		}
		select {
		case <-l.room:
		case <-l.done:
		}
	}
}

// push sends what is held, and gives the memory back when nothing is left of it.
func (l *Link) push(wait bool) error {
	l.mu.Lock()
	to := l.path.at
	l.mu.Unlock()
	err := l.put(l.out, to, wait)
	if err != nil || l.out.empty() {
		batches.Put(l.out)
		l.out = nil
	}
	return err
}

// take makes datagrams of items, as many as there is room for, and returns their length.
func (l *Link) take(b []byte) int {
	o := batches.Get().(*batch)
	o.reset()
	l.pack.joint = int(l.joint.Load())
	n, dropped := l.pack.pack(o, b, l.keepItem)
	o.finish()
	for range dropped {
		l.e.drop(DropTooLong)
	}
	if l.kept {
		l.kept = false
		l.flush()
	}
	if len(o.lens) > 0 && l.seal(o) {
		l.out = o
	} else {
		batches.Put(o)
	}
	return n
}

// seal encrypts a batch, unless it may not be sent.
func (l *Link) seal(o *batch) bool {
	l.mu.Lock()
	v := &l.levels[levelData]
	count := uint64(len(o.lens))
	if v.number>>generation != (v.number+count)>>generation { // a batch has one key
		v.number = (v.number>>generation + 1) << generation
	}
	number, peer := v.number, l.peer
	k, err := v.out.at(number)
	if err != nil || !l.path.spend(len(o.buf)) {
		l.mu.Unlock()
		l.e.drop(DropUnproven)
		return false
	}
	v.number += count
	l.mu.Unlock()
	o.seal(k, peer, number)
	return true
}

// keep takes an item that must not be lost. It returns false when there is no room.
func (l *Link) keep(item []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.levels[levelData].sending
	if s.bytes+len(item) > window {
		return false
	}
	s.add(item, l.piece(levelData), time.Now())
	l.kept = true
	return true
}

// closeError is what a close frame means: io.EOF, or an alert of TLS.
func closeError(alert byte) error {
	if alert == 0 {
		return io.EOF
	}
	return fmt.Errorf("%w: %w", ErrClosing, tls.AlertError(alert))
}
