package netstack

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A closer counts who was closed.
type closer struct {
	addr   netip.Addr
	closed *atomic.Int32
}

func (c closer) Close() error { c.closed.Add(1); return nil }

// Addresses that are silent hold up the others for a moment, and those that refuse not at all.
func TestRace(t *testing.T) {
	type answer struct {
		after time.Duration
		err   error
	}
	silent, refuses := answer{time.Hour, nil}, answer{0, syscall.ECONNREFUSED}
	for name, tt := range map[string]struct {
		addrs  []answer
		winner int // -1: none
		after  time.Duration
		err    error
		closed int32
	}{
		"one":                   {[]answer{{time.Second, nil}}, 0, time.Second, nil, 0},
		"the first is silent":   {[]answer{silent, {100 * time.Millisecond, nil}}, 1, 350 * time.Millisecond, nil, 0},
		"the first is slow":     {[]answer{{300 * time.Millisecond, nil}, silent}, 0, 300 * time.Millisecond, nil, 0},
		"two at the same time":  {[]answer{{nextDelay + time.Second, nil}, {time.Second, nil}}, -2, nextDelay + time.Second, nil, 1},
		"the first refuses":     {[]answer{refuses, {time.Second, nil}}, 1, time.Second, nil, 0},
		"all refuse":            {[]answer{refuses, refuses, refuses}, -1, 0, syscall.ECONNREFUSED, 0},
		"all are silent":        {[]answer{silent, silent}, -1, 10 * time.Second, context.DeadlineExceeded, 0},
		"there are none":        {nil, -1, 0, nil, 0},
		"more than are tried":   {append(make([]answer, 0, 40), repeat(refuses, 30)...), -1, 0, syscall.ECONNREFUSED, 0},
		"silent ones, in a row": {append(repeat(silent, 3), answer{0, nil}), 3, 3 * nextDelay, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var addrs []netip.Addr
				for i := range tt.addrs {
					addrs = append(addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				var closed, tried atomic.Int32
				began := time.Now()
				got, err := race(ctx, addrs, func(ctx context.Context, a netip.Addr) (closer, error) {
					tried.Add(1)
					answer := tt.addrs[a.As4()[3]]
					deaf := tt.winner == -2 // answers though nobody waits any more
					select {
					case <-time.After(answer.after):
						return closer{a, &closed}, answer.err
					case <-ctx.Done():
						if deaf {
							return closer{a, &closed}, nil
						}
						return closer{}, ctx.Err()
					}
				})
				if d := time.Since(began); d != tt.after {
					t.Errorf("it took %s, want %s", d, tt.after)
				}
				if (err == nil) != (tt.winner != -1) || tt.err != nil && !errors.Is(err, tt.err) {
					t.Errorf("got %v", err)
				}
				if tt.winner >= 0 && got.addr != addrs[tt.winner] {
					t.Errorf("got %s", got.addr)
				}
				if closed.Load() != tt.closed || tried.Load() > mostAddrs {
					t.Errorf("%d were closed, of %d", closed.Load(), tried.Load())
				}
			})
		})
	}
}

func repeat[T any](x T, n int) (all []T) {
	for range n {
		all = append(all, x)
	}
	return all
}
