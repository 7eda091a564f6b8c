package gateway

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ferry/internal/addrpool"
	"ferry/internal/api"
	"ferry/internal/durable"
	"ferry/internal/leasestore"
)

// leases give out addresses and keep that on disk: a client hears of its address only when it is there.
type leases struct {
	dir   *durable.Dir // the state directory
	store *leasestore.Store

	vacated func(netip.Addr) // is told of addresses that others may get; nil: nobody is

	mu    sync.Mutex // guards what follows, and makes the order of the pool's events that of the store's
	pool  *addrpool.Pool
	freed []netip.Addr // since tell
}

func openLeases(c *Config) (*leases, error) {
	pool, err := addrpool.New(poolConfig(c))
	if err != nil {
		return nil, err
	}
	dir, err := durable.Open(c.StateDir)
	if err != nil {
		return nil, err
	}
	store, found, err := leasestore.Open(dir, c.Log)
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	l := &leases{dir: dir, store: store, pool: pool}
	l.keep(pool.Restore(found, time.Now()))
	if s := pool.Stats(); s.Held > 0 {
		c.Log.Info("addresses are held for the clients of an earlier run", "held", s.Held, "for", c.IdleTimeout)
	}
	return l, nil
}

func poolConfig(c *Config) addrpool.Config {
	return addrpool.Config{
		Prefix: c.PlainPool, Reserved: c.Reserved, OnRequest: slices.Collect(maps.Values(c.Sites)), Hold: c.IdleTimeout, Taken: insideAliases(c),
	}
}

// reconfigure makes another configuration true. displaced are the owners who have lost their address by it.
func (l *leases) reconfigure(c *Config) (displaced []uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	displaced, events, err := l.pool.Reconfigure(poolConfig(c), time.Now())
	l.keep(events)
	return displaced, err
}

// Close writes down what has not been written yet, and closes the state directory.
func (l *leases) Close() error { return errors.Join(l.store.Close(), l.dir.Close()) }

// grant returns the lease of r.Owner, and who had its address until now, if anybody. When the disk
// fails the owner has none.
func (l *leases) grant(ctx context.Context, r addrpool.Request) (addrpool.Grant, error) {
	return l.grantBy(ctx, func(*addrpool.Pool) addrpool.Request { return r })
}

// grantBy is grant for a request that depends on what there is.
func (l *leases) grantBy(ctx context.Context, request func(*addrpool.Pool) addrpool.Request) (addrpool.Grant, error) {
	l.mu.Lock()
	r := request(l.pool)
	g, events, err := l.pool.Grant(r, time.Now())
	wait := l.keep(events)
	l.mu.Unlock()
	l.tell()
	if err != nil || !granted(events) {
		return g, err
	}
	if err := wait(ctx); err != nil {
		l.release(r.Owner, false)
		return addrpool.Grant{}, err
	}
	return g, nil
}

// release ends the lease of owner, if it has one still. With hold its address is kept for a while.
func (l *leases) release(owner uint64, hold bool) {
	l.mu.Lock()
	l.keep(l.pool.Release(owner, hold, time.Now()))
	l.mu.Unlock()
	l.tell()
}

// expire frees what was held long enough.
func (l *leases) expire(now time.Time) {
	l.mu.Lock()
	l.keep(l.pool.Expire(now))
	l.mu.Unlock()
	l.tell()
}

// tell says which addresses are free, also those that reconfigure has freed.
func (l *leases) tell() {
	l.mu.Lock()
	freed := l.freed
	l.freed = nil
	l.mu.Unlock()
	for _, a := range freed {
		if l.vacated != nil {
			l.vacated(a)
		}
	}
}

// keep queues events for the disk, which does not block.
func (l *leases) keep(events []addrpool.Event) (wait func(context.Context) error) {
	if len(events) == 0 {
		return nil
	}
	for _, e := range events {
		if e.Freed {
			l.freed = append(l.freed, e.Lease.Addr)
		}
	}
	return l.store.Append(events...)
}

func granted(events []addrpool.Event) bool {
	return len(events) > 0 && !events[len(events)-1].Freed
}

// stats are those of the addresses and of the disk.
func (l *leases) stats() (addrpool.Stats, leasestore.Stats) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pool.Stats(), l.store.Stats()
}

// list returns all leases by their addresses.
func (l *leases) list() []api.Lease {
	holdings := l.holdings()
	all := make([]api.Lease, len(holdings))
	for i, h := range holdings {
		all[i] = api.Lease{Address: h.Lease.Addr, Name: h.Lease.Name, Session: h.Owner, Until: h.Until}
	}
	return all
}

func (l *leases) holdings() []addrpool.Holding {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pool.Holdings()
}

// attrs are what a report says of them.
func (l *leases) attrs() []any {
	s, disk := l.stats()
	attrs := []any{"free", s.Free, "live", s.Live, "held", s.Held, "commits", disk.Commits, "failures", disk.Failures}
	if disk.Err != nil {
		attrs = append(attrs, slog.Any("err", disk.Err))
	}
	return attrs
}
