package carrier

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"
)

// Accept calls handle with each connection that a listener has, until ctx is done: then it closes the listener and returns nil. It waits for no handle, and
// handle must not wait. Where there are no descriptors, or there is no memory, those who are here go on, and it tries again after a pause.
func Accept(ctx context.Context, l net.Listener, log *slog.Logger, handle func(net.Conn)) error {
	defer l.Close() // who comes as ctx ends may end the loop before what follows has begun
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	return AcceptAll(ctx, l.Accept, func(err error, pause time.Duration) {
		log.Warn("accept", "listener", l.Addr().String(), "err", err, "pause", pause)
	}, handle)
}

// AcceptAll is Accept for whatever has arrivals: accept waits for one, and whoever ends ctx makes it return. failed is told of each failure, and how long the pause is.
func AcceptAll[T io.Closer](ctx context.Context, accept func() (T, error), failed func(err error, pause time.Duration), handle func(T)) error {
	const pauseMin, pauseMax = 5 * time.Millisecond, time.Second
	pause := pauseMin
	for {
		arrival, err := accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = arrival.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			failed(err, pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, pauseMax)
			continue
		}
		pause = pauseMin
		handle(arrival)
	}
}
