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
//	host <-- service    an end of file: shut down there, and if the host is silent for rest, which it is where it does not hear of that, closed;
//	                    likewise if the service takes nothing for halfOpen
//
// An error on either resets both.
type pipe struct {
	host    stream
	service half
	rest    time.Duration

	last voice // the host's
	back voice // the service's
	once sync.Once
}

// run copies until both directions have ended, one has failed, or ctx is done, and closes both ends.
func (p *pipe) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, p.abort)
	defer stop()
	p.last.touch()
	p.back.touch()
	var down sync.WaitGroup
	var stops [3]func()
	down.Go(func() {
		if copyHalf(p.host, p.service, &p.back) != nil || closeWrite(p.host) != nil {
			p.abort()
			return
		}
		p.last.touch() // it has rest from now on, however long it was silent before
		stops[0] = relay.AfterQuiet(p.rest, p.last.quiet, p.leave)
		stops[2] = relay.AfterQuiet(halfOpen, p.last.since, p.abort)
	})
	if copyHalf(p.service, p.host, &p.last) != nil || closeWrite(p.service) != nil {
		p.abort()
	} else {
		p.back.touch()
		stops[1] = relay.AfterQuiet(halfOpen, p.back.since, p.abort)
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

// A voice is when an end has said something. touch may be called by any goroutine, begin and end by the one that hands on what it says.
type voice struct {
	last atomic.Int64 // in nanoseconds since 1970
	busy atomic.Bool  // what it has said is not taken yet, so it can say no more
}

func (v *voice) touch() { v.last.Store(time.Now().UnixNano()) }

func (v *voice) begin() {
	v.busy.Store(true)
	v.touch()
}

func (v *voice) end() {
	v.touch()
	v.busy.Store(false)
}

// since is for how long nothing has passed.
func (v *voice) since() time.Duration { return time.Since(time.Unix(0, v.last.Load())) }

// quiet is for how long it could have said something, and has not.
func (v *voice) quiet() time.Duration {
	if v.busy.Load() {
		return 0
	}
	return v.since()
}

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

// copyHalf copies until the end of from, whose voice it notes.
func copyHalf(to io.Writer, from half, v *voice) error {
	w := writerFunc(func(b []byte) (int, error) {
		v.begin()
		defer v.end()
		return to.Write(b)
	})
	if s, ok := from.(syscall.Conn); ok {
		raw, err := s.SyscallConn()
		if err != nil {
			return err
		}
		return relay.NewReader(raw, relay.StreamSize).Stream(w)
	}
	_, err := from.(io.WriterTo).WriteTo(w)
	return err
}
