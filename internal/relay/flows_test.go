package relay

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// table returns one of flows to what dial returns.
func table(dial func() (net.Conn, error), waits bool, made, full func()) *Flows[int] {
	return NewFlows(FlowConfig[int]{
		Max: 4096, Idle: time.Minute, Dial: func(int) (net.Conn, error) { return dial() }, Waits: func(int) bool { return waits },
		Reply: func(int, net.Conn, []byte) error { return nil }, Made: made, Full: full, Sent: func(int) {},
	})
}

// What waits for sockets is bounded for all flows together: who makes up sources while a name is looked up fills no memory. What was kept is free again
// when the flow can not be dialled.
func TestEarlyIsBounded(t *testing.T) {
	for range 2 {
		answer, dialled := make(chan struct{}), errors.New("no such name")
		var full atomic.Int64
		f := table(func() (net.Conn, error) { <-answer; return nil, dialled }, true, func() {}, func() { full.Add(1) })
		big := make([]byte, 60<<10)
		const sources = 1000
		for k := range sources {
			f.Send(k, big)
		}
		f.mu.Lock()
		kept := 0
		for _, w := range f.all {
			for _, b := range w.early {
				kept += len(b)
			}
		}
		f.mu.Unlock()
		if kept > maxEarlyBytes || kept < maxEarlyBytes-len(big) {
			t.Errorf("%d bytes wait, want up to %d", kept, maxEarlyBytes)
		}
		if got, want := int(full.Load()), sources-kept/len(big); got != want {
			t.Errorf("%d datagrams were counted, want %d", got, want)
		}
		close(answer)
		for f.Live() > 0 {
			runtime.Gosched()
		}
		if f.early != 0 {
			t.Errorf("%d bytes are counted of flows that ended", f.early)
		}
		f.Close()
	}
}

// A late flow is one whose replies are read after its table was closed.
type late struct {
	net.Conn
	closed, late *atomic.Bool
}

func (c late) WriteTo(io.Writer) (int64, error) {
	if c.closed.Load() {
		c.late.Store(true)
	}
	return 0, nil
}
func (c late) Write(b []byte) (int, error) { return len(b), nil }
func (c late) Close() error                { return nil }

// Close waits for a flow that is made at that moment, too.
func TestCloseWhileOneIsMade(t *testing.T) {
	var tooLate atomic.Bool
	for range 20000 {
		var closed atomic.Bool
		made := make(chan struct{})
		f := table(func() (net.Conn, error) { return late{closed: &closed, late: &tooLate}, nil }, false, func() { close(made) }, func() {})
		var sending sync.WaitGroup
		sending.Go(func() { f.Send(1, nil) })
		<-made
		f.Close()
		closed.Store(true)
		sending.Wait()
		f.Close()
	}
	if tooLate.Load() {
		t.Error("a flow goes on after Close")
	}
}
