// Package exit is the kernel's network as a port of the router: a TUN that is opened, configured,
// read, watched, repaired and taken back.
//
//	           Apply(state)        reads run              Close
//	Open ------------------> up ---------------> ... --------------> undone
//	                         ^  |
//	                         |  | deleted, or moved to another namespace: made again, with its
//	                         +--+ address and routes; set down or stripped: set right again
//
// One goroutine (Run) owns the reading side; senders may be any number.
package exit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/hostnet"
	"ferry/internal/proto"
	"ferry/internal/router"
	"ferry/internal/tun"
)

const (
	// Pauses between attempts to make a lost interface again, and how long it may take in all.
	rebuildPause = 100 * time.Millisecond
	rebuildLimit = 10 * time.Second
)

// A Host does to the network of this machine what needs rights, for one interface.
type Host interface {
	// OpenTUN makes the interface, or makes it again.
	OpenTUN() (*tun.Device, error)
	// Apply and Watch are those of hostnet.Link.
	Apply(hostnet.State) error
	Watch(ctx context.Context, report func(hostnet.Event)) error
	// Undo takes back what Apply did, and gives the interface up.
	Undo() error
}

// An Exit is one TUN interface.
type Exit struct {
	name string
	log  *slog.Logger
	port *router.Port
	host Host

	dev atomic.Pointer[tun.Device]

	mu    sync.Mutex     // guards state and calls of host.Apply
	state *hostnet.State // nil until Apply
}

// Open makes the interface. It is not up, and has no address, until Apply.
func Open(host Host, log *slog.Logger) (*Exit, error) {
	dev, err := host.OpenTUN()
	if err != nil {
		return nil, err
	}
	e := &Exit{name: dev.Name(), log: log, host: host}
	e.dev.Store(dev)
	e.port = router.NewPort(0, router.Caps{Super: true, USO: dev.USO(), Exit: true}, e)
	return e, nil
}

// Name returns the name of the interface.
func (e *Exit) Name() string { return e.name }

// Port returns the place of the interface in the router.
func (e *Exit) Port() *router.Port { return e.port }

// Around returns the addresses of this host's other interfaces, and the destination of the route by which
// a socket with the mark reaches server.
func (e *Exit) Around(server netip.Addr, mark uint32) ([]netip.Prefix, netip.Prefix, error) {
	return hostnet.Around(e.name, server, mark)
}

// Apply makes the host's network as s says. It may be called again with another state.
func (e *Exit) Apply(s hostnet.State) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state = &s
	return e.host.Apply(s)
}

// Send implements router.Sender.
func (e *Exit) Send(run []byte) (int, router.Reason) {
	refused, err := e.dev.Load().WriteFrames(run)
	switch {
	case err == nil:
		return 0, router.None
	case refused == 0:
		refused = countFrames(run) // the device is closed
	}
	return refused, router.DropExit
}

// Run hands what the kernel sends to f, until ctx is done. It returns an error when the interface
// was lost and could not be made again.
func (e *Exit) Run(ctx context.Context, f *router.Forwarder) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := e.watch(ctx); err != nil {
			cancel(fmt.Errorf("watch interface %s: %w", e.name, err))
		}
	})
	defer watching.Wait()
	defer cancel(context.Canceled)
	stop := context.AfterFunc(ctx, func() { _ = e.dev.Load().Close() })
	defer stop()

	buf := make([]byte, tun.BatchSize)
	for {
		err := e.read(buf, f)
		if ctx.Err() != nil {
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
				return cause
			}
			return nil
		}
		e.log.Error("interface lost, making it again", "interface", e.name, "err", err)
		if err := e.rebuild(ctx); err != nil {
			return err
		}
	}
}

// Close takes back what Apply did and deletes the interface. It is called after Run has returned.
func (e *Exit) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return errors.Join(e.host.Undo(), e.dev.Load().Close())
}

func (e *Exit) read(buf []byte, f *router.Forwarder) error {
	dev := e.dev.Load()
	for {
		n, err := dev.ReadFrames(buf)
		for i := 0; i < n; {
			next := i + proto.DataLen(buf[i:])
			f.Frame(buf, i, next)
			i = next
		}
		f.Flush()
		if err != nil {
			return err
		}
	}
}

func (e *Exit) rebuild(ctx context.Context) error {
	_ = e.dev.Load().Close()
	deadline := time.Now().Add(rebuildLimit)
	for {
		err := e.reopen(ctx)
		if err == nil {
			e.log.Info("interface is back", "interface", e.name)
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("make interface %s again: %w", e.name, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rebuildPause):
		}
	}
}

func (e *Exit) reopen(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	dev, err := e.host.OpenTUN()
	if err != nil {
		return err
	}
	if e.state != nil {
		if err := e.host.Apply(*e.state); err != nil {
			return errors.Join(err, dev.Close())
		}
	}
	e.dev.Store(dev)
	if ctx.Err() != nil { // it may have been done before the new device could be seen
		return dev.Close()
	}
	return nil
}

// watch repairs what others do to the interface.
func (e *Exit) watch(ctx context.Context) error {
	return e.host.Watch(ctx, func(ev hostnet.Event) {
		if ev == hostnet.Gone {
			// Deleted: reading fails by itself, and may have made the interface again already.
			// Moved to another namespace: reading would go on, but nobody here would ever see
			// a packet.
			if dev := e.dev.Load(); !dev.Here() {
				_ = dev.Close()
			}
			return
		}
		if ev == hostnet.MTUChanged { // an operator's decision; the kernel tells senders about it
			e.log.Info("MTU was changed", "interface", e.name)
			e.keepMTU()
			return
		}
		e.log.Warn("interface was changed, setting it right", "interface", e.name, "change", ev)
		if err := e.keepRepairing(ctx); err != nil {
			e.log.Error("interface can not be set right", "interface", e.name, "err", err)
		}
	})
}

// keepRepairing tries again for a while: who changes the interface may not be done with it yet.
func (e *Exit) keepRepairing(ctx context.Context) error {
	deadline := time.Now().Add(rebuildLimit)
	for {
		err := e.repair()
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) || !e.dev.Load().Here() {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(rebuildPause):
		}
	}
}

func (e *Exit) repair() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == nil {
		return nil
	}
	return e.host.Apply(*e.state)
}

// keepMTU makes the MTU that somebody has set part of the declared state.
func (e *Exit) keepMTU() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state != nil {
		e.state.MTU = 0
	}
}

func countFrames(run []byte) (n int) {
	for ; len(run) > 0; n++ {
		run = run[proto.DataLen(run):]
	}
	return n
}
