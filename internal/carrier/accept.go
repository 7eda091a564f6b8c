package carrier

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"
)

// Accept calls handle with each connection that a listener has, until ctx is done: then it closes the listener and returns nil. It waits for no handle, and
// handle must not wait. Where there are no descriptors, or there is no memory, those who are here go on, and it tries again after a pause.
func Accept(ctx context.Context, l net.Listener, log *slog.Logger, handle func(net.Conn)) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	const pauseMin, pauseMax = 5 * time.Millisecond, time.Second
	pause := pauseMin
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			log.Warn("accept", "listener", l.Addr().String(), "err", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, pauseMax)
			continue
		}
		pause = pauseMin
		handle(conn)
	}
}
