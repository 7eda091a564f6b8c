package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

const (
	// nextDelay is after how long the next address is tried, while those before are silent (RFC 8305, section 5).
	nextDelay = 250 * time.Millisecond
	// mostAddrs is how many addresses of a name are tried.
	mostAddrs = 16
)

// race dials the addresses of a name, each as soon as one before has failed, or was silent for nextDelay, and returns the first that answers. It
// returns when all attempts have ended.
func race[C io.Closer](ctx context.Context, addrs []netip.Addr, dial func(context.Context, netip.Addr) (C, error)) (first C, err error) {
	type attempt struct {
		conn C
		err  error
	}
	if len(addrs) == 0 {
		return first, errors.New("the name has no IPv4 address, and the tunnel carries no other")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addrs = addrs[:min(len(addrs), mostAddrs)]
	ended := make(chan attempt, len(addrs))
	next := time.NewTimer(0)
	defer next.Stop()
	var faults []error
	won := false
	for begun, open := 0, len(addrs); open > 0; {
		select {
		case <-next.C:
			if begun < len(addrs) && !won {
				a := addrs[begun]
				begun++
				next.Reset(nextDelay)
				go func() { // all are waited for
					conn, err := dial(ctx, a)
					if err != nil {
						err = fmt.Errorf("%s: %w", a, err)
					}
					ended <- attempt{conn, err}
				}()
			}
		case one := <-ended:
			open--
			switch {
			case one.err != nil:
				faults = append(faults, one.err)
				next.Reset(0)
			case won:
				_ = one.conn.Close()
			default:
				first, won, open = one.conn, true, open-(len(addrs)-begun) // the others do not begin
				cancel()
			}
		}
	}
	if won {
		return first, nil
	}
	return first, errors.Join(faults...)
}
