package penguin

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/relay"
)

// A half is one side of a pipe: a socket of the kernel, or an io.WriterTo.
type half interface {
	net.Conn
	CloseWrite() error
}

// A pipe is a connection of TCP in the guest:
//
//	host --> service    an end of file: shut down there, the service may go on for halfOpen
//	host <-- service    an end of file: shut down there, and if the host is silent for rest, which it is where it does not hear of that, closed
//
// An error on either resets both.
type pipe struct {
	host    stream
	service half
	rest    time.Duration

	last atomic.Int64 // when the host has said something, in nanoseconds since 1970
	back atomic.Int64 // likewise the service
	once sync.Once
}

// run copies until both directions have ended, one has failed, or ctx is done, and closes both ends.
func (p *pipe) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, p.abort)
	defer stop()
	touch(&p.last)
	touch(&p.back)
	var down sync.WaitGroup
	var stops [2]func()
	down.Go(func() {
		if copyHalf(p.host, p.service, &p.back) != nil || closeWrite(p.host) != nil {
			p.abort()
			return
		}
		touch(&p.last) // it has rest from now on, however long it was silent before
		stops[0] = relay.AfterQuiet(p.rest, func() time.Duration { return quiet(&p.last) }, p.leave)
	})
	if copyHalf(p.service, p.host, &p.last) != nil || closeWrite(p.service) != nil {
		p.abort()
	} else {
		touch(&p.back)
		stops[1] = relay.AfterQuiet(halfOpen, func() time.Duration { return quiet(&p.back) }, p.abort)
	}
	down.Wait()
	for _, stop := range stops {
		if stop != nil {
			stop()
		}
	}
	p.leave()
}

// closeWrite ends a direction. An end that is gone already has ended it.
func closeWrite(h half) error {
	if err := h.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return err
	}
	return nil
}

func touch(t *atomic.Int64)               { t.Store(time.Now().UnixNano()) }
func quiet(t *atomic.Int64) time.Duration { return time.Since(time.Unix(0, t.Load())) }

// leave closes both ends in order.
func (p *pipe) leave() {
	p.once.Do(func() {
		_ = p.host.Close()
		_ = p.service.Close()
	})
}

// abort tells both ends that it is no end in order. It and leave may be called more than once; the first counts.
func (p *pipe) abort() {
	p.once.Do(func() {
		carrier.Reset(p.host)
		if l, ok := p.service.(interface{ SetLinger(int) error }); ok {
			_ = l.SetLinger(0)
		}
		_ = p.service.Close()
	})
}

// copyHalf copies until the end of from, and notes when it has said something.
func copyHalf(to io.Writer, from half, last *atomic.Int64) error {
	w := writerFunc(func(b []byte) (int, error) {
		touch(last)
		return to.Write(b)
	})
	if s, ok := from.(syscall.Conn); ok {
		raw, err := s.SyscallConn()
		if err != nil {
			return err
		}
		return relay.NewReader(raw).Stream(w)
	}
	_, err := from.(io.WriterTo).WriteTo(w)
	return err
}
