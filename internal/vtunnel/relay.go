package vtunnel

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ferry/internal/carrier"
	ferryrelay "ferry/internal/relay"
)

// A stream is a connection that ends in two halves: TCP, unix or vsock.
type stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

var (
	_ stream = (*net.TCPConn)(nil)
	_ stream = (*net.UnixConn)(nil)
)

// A relay copies between two streams:
//
//	a --forth--> b      an end of file: shut down there; the other direction may be silent for halfOpen from then on
//	a <--back--- b      an error: both are reset
//
// Two goroutines, and no buffer where nothing moves.
type relay struct {
	a, b   stream
	hold   time.Duration // for which what b says waits for a byte of a
	silent time.Duration // that a direction may be when the other one has ended
	lines  *Lines

	first chan struct{} // closed with the first byte of a
	half  atomic.Bool   // a direction has ended
}

// run copies until both directions have ended, one has failed, or ctx is done, and closes both streams.
func (r *relay) run(ctx context.Context) {
	defer r.a.Close()
	defer r.b.Close()
	stop := context.AfterFunc(ctx, r.abort)
	defer stop()
	r.first = make(chan struct{})
	var back sync.WaitGroup
	back.Go(func() {
		r.await(ctx)
		r.copy(r.a, r.b, func() {})
	})
	r.copy(r.b, r.a, sync.OnceFunc(func() { close(r.first) }))
	back.Wait()
}

// await lets b speak once a has, or has had the time to read the reply.
func (r *relay) await(ctx context.Context) {
	if r.hold <= 0 {
		return
	}
	timer := time.NewTimer(r.hold)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.first:
	case <-ctx.Done():
	}
}

// abort ends both directions, and tells both ends that it is none in order. It may be called more than once.
func (r *relay) abort() {
	carrier.Reset(r.a)
	carrier.Reset(r.b)
}

// copy copies one direction, and calls moved behind each write.
func (r *relay) copy(to, from stream, moved func()) {
	if r.drain(to, from, moved) != nil || to.CloseWrite() != nil {
		r.abort()
		return
	}
	r.half.Store(true)
	r.limit(from, to) // the other direction may wait already
}

// drain copies until from has ended.
func (r *relay) drain(to, from stream, moved func()) error {
	raw, err := from.SyscallConn()
	if err != nil {
		return err
	}
	in := ferryrelay.NewReader(raw, ferryrelay.StreamSize)
	for {
		if r.half.Load() {
			r.limit(to, from)
		}
		b, err := in.Next()
		if err != nil {
			return err
		}
		n := len(b)
		if n > 0 {
			if r.lines.verbose() {
				r.lines.Say("bytes read: %d", n)
			}
			moved()
			_, err = to.Write(b)
		}
		in.Release()
		if err != nil || n == 0 {
			return err
		}
	}
}

// limit gives the direction that is left its time.
func (r *relay) limit(to, from stream) {
	end := time.Now().Add(r.silent)
	_ = from.SetReadDeadline(end)
	_ = to.SetWriteDeadline(end)
}
