package penguin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"ferry/internal/buffer"
	"ferry/internal/forward"
	"ferry/internal/penguin/wire"
)

// HostConfig is what a Host can be told. The zero value of a field means its default, which is what it says in the comment.
type HostConfig struct {
	Guest   Transport // its Port: DefaultPort
	Events  string    // path of the file of events
	Dir     string    // for logs: none
	Capture string    // path of a pcap file: none
	Log     *slog.Logger

	Max      int           // publications: 1024
	FlowIdle time.Duration // after which a flow of UDP ends: 2 min
	HoldBack time.Duration // see the rules: 5 s
}

func (c *HostConfig) setDefaults() {
	c.Guest.Port = cmp.Or(c.Guest.Port, DefaultPort)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Max = cmp.Or(c.Max, 1024)
	c.FlowIdle, c.HoldBack = cmp.Or(c.FlowIdle, 2*time.Minute), cmp.Or(c.HoldBack, holdBack)
}

// A Host publishes services of a guest as a file says.
type Host struct {
	c        HostConfig
	rec      *recorder
	complain *rate.Limiter // of lines in the log about guests that are not reached
	dropped  atomic.Uint64 // datagrams
	waiting  buffer.Budget // of datagrams for a guest that does not take them

	// Of the goroutine of Run:
	all   map[published]wire.Publication
	doors []*forward.Forward
}

// published is what there can be one of.
type published struct {
	transport wire.Transport
	at        netip.AddrPort
	guest     netip.AddrPort // where at has port 0, for then each service gets a port of its own
}

// maxWaiting is how many bytes wait for the guest in all flows together.
const maxWaiting = 16 << 20

func newHost(c HostConfig) *Host {
	c.setDefaults()
	h := &Host{c: c, complain: rate.NewLimiter(10, 10), all: map[published]wire.Publication{}}
	h.waiting.SetLimit(maxWaiting)
	return h
}

// RunHost publishes until ctx is done; all that was recorded is in its files then. ready is called before the file of events is read.
func RunHost(ctx context.Context, c HostConfig, ready func()) error {
	h := newHost(c)
	c = h.c
	changes, err := watch(c.Events)
	if err != nil {
		return fmt.Errorf("watch %s: is there such a directory?: %w", c.Events, err)
	}
	defer changes.Close()
	if h.rec, err = openRecorder(c.Dir, c.Capture, c.Log); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	ready()
	ctx, cancel := context.WithCancel(ctx)
	err = follow(ctx, changes, c.Events, c.Log, func(line string) { h.read(ctx, line) })
	cancel()
	h.close()
	return err
}

// close ends all that is published, and then the record of it.
func (h *Host) close() {
	var all sync.WaitGroup
	var sum forward.Stats
	for _, f := range h.doors {
		all.Go(f.Close)
	}
	all.Wait()
	for _, f := range h.doors {
		s := f.Stats()
		sum.Total, sum.Refused, sum.Failed = sum.Total+s.Total, sum.Refused+s.Refused, sum.Failed+s.Failed
		sum.Up, sum.Down = sum.Up+s.Up, sum.Down+s.Down
	}
	h.rec.close()
	h.c.Log.Info("host ends", "publications", len(h.doors), "connections", sum.Total, "refused", sum.Refused, "failed", sum.Failed,
		"to_guest", sum.Up, "from_guest", sum.Down, "datagrams_dropped", h.dropped.Load())
}

// read takes a line of the file of events.
func (h *Host) read(ctx context.Context, line string) {
	p, err := wire.ParsePublication(line)
	if err != nil {
		h.c.Log.Error("Unable to parse line", "line", line, "err", err)
		return
	}
	at := published{transport: p.Transport, at: p.Host}
	if p.Host.Port() == 0 {
		at.guest = p.Guest
	}
	was, taken := h.all[at]
	switch {
	case taken && was == p: // the file was written anew
	case taken:
		h.unable(p, fmt.Errorf("%s is published there already", was.Guest))
	case len(h.all) >= h.c.Max:
		h.unable(p, fmt.Errorf("%d publications are there already", h.c.Max))
	default:
		h.publish(ctx, at, p)
	}
}

func (h *Host) unable(p wire.Publication, err error) {
	h.c.Log.Error(fmt.Sprintf("unable to bind external address %s/%s", p.Host, p.Transport), "err", err)
}

// publish opens a port.
func (h *Host) publish(ctx context.Context, at published, p wire.Publication) {
	spec := forward.Spec{From: forward.Entrance{Scheme: p.Transport.String(), Host: p.Host.Addr(), Port: p.Host.Port()}, To: forward.Target{Addr: p.Guest.Addr(), Port: p.Guest.Port()}}
	f, err := forward.Open(ctx, &forward.Config{
		Network: &network{h: h, ctx: ctx, p: p}, Log: h.c.Log, DialTimeout: dialTime + statusTime, FlowIdle: h.c.FlowIdle, HalfOpen: halfOpen,
	}, spec, 0)
	if err != nil {
		h.unable(p, err)
		return
	}
	h.all[at] = p
	h.doors = append(h.doors, f)
	h.c.Log.Info("published", "at", netip.AddrPortFrom(p.Host.Addr(), f.Bound().Port), "proto", p.Transport, "guest", p.Guest, "src", p.Src, "iface", p.Iface)
}

// failed says that a service was not reached, which a stranger may make happen as often as he likes.
func (h *Host) failed(p wire.Publication, err error) {
	if errors.Is(err, context.Canceled) || !h.complain.Allow() {
		return
	}
	level := slog.LevelWarn
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ETIMEDOUT) { // a firewall at work
		level = slog.LevelInfo
	}
	h.c.Log.Log(context.Background(), level, "not reached", "guest", p.Guest, "proto", p.Transport, "err", err)
}
