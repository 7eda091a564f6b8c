//go:build !minimal

package client

import (
	"context"
	"errors"
	"net/netip"

	"ferry/internal/forward"
)

// A netHost has the networks of forwards: that of -L listens on this device and dials in the tunnel, whose interface has a name, that of -R the other
// way round.
type netHost interface {
	Networks(name string) (local, remote forward.Network)
}

// forwards are all of a device. Its methods but status are called by one goroutine.
type forwards struct {
	c             *client
	local, remote *forward.Table
}

// openForwards opens those of -L. They carry until ctx is done or close is called.
func (c *client) openForwards(ctx context.Context, host netHost) error {
	if len(c.c.Local)+len(c.c.Remote) == 0 {
		return nil
	}
	local, remote := host.Networks(c.exit.Name())
	f := &forwards{
		c:      c,
		local:  forward.NewTable(ctx, forward.Config{Network: local, Log: c.log}),
		remote: forward.NewTable(ctx, forward.Config{Network: remote, Log: c.log}),
	}
	for _, spec := range c.c.Local {
		s, err := f.local.Add(spec, 0, true, false)
		if err != nil {
			f.close()
			return err
		}
		f.tell(SideLocal, s)
	}
	c.forwards = f
	return nil
}

// close ends all. f may be nil.
func (f *forwards) close() {
	if f != nil {
		f.local.Close()
		f.remote.Close()
	}
}

// leased opens those of -R at this device's address in the tunnel, unless they are open there. Each keeps the port that was found for it before. f may be nil.
func (f *forwards) leased(at netip.Addr) {
	if f == nil {
		return
	}
	if len(f.remote.List()) > 0 {
		f.remote.ListenAt(at, func(s forward.Status) { f.tell(SideRemote, s) })
		return
	}
	for _, spec := range f.c.c.Remote {
		spec.From.Host = at
		s, err := f.remote.Add(spec, 0, true, true)
		if s.Err = err; err != nil {
			s.Spec = spec
		}
		f.tell(SideRemote, s)
	}
}

// tell says where a forward listens, or why it does not.
func (f *forwards) tell(side string, s forward.Status) {
	p := place(side, s)
	if s.Err != nil {
		f.c.log.Error("not forwarded", "side", side, "on", p.From, "to", p.To, "err", s.Err)
	} else {
		f.c.log.Info("forward", "side", side, "on", p.Bound, "to", p.To)
	}
	f.c.event(Event{Kind: EventForward, Forward: &p})
}

func place(side string, s forward.Status) ForwardPlace {
	p := ForwardPlace{Side: side, From: s.From.String(), To: s.To.String()}
	if s.Err != nil {
		p.Err = s.Err.Error()
	} else {
		p.Bound = s.Bound.String()
	}
	return p
}

// status is how all do. f may be nil.
func (f *forwards) status() (all []ForwardStatus) {
	if f == nil {
		return nil
	}
	add := func(side string, s forward.Status) {
		all = append(all, ForwardStatus{
			ForwardPlace: place(side, s), Connections: s.Live, Total: s.Total, Refused: s.Refused + s.Full, Failed: s.Failed, Received: s.Down, Sent: s.Up,
		})
	}
	for _, s := range f.local.List() {
		add(SideLocal, s)
	}
	remote := f.remote.List()
	for _, s := range remote {
		add(SideRemote, s)
	}
	if len(remote) == 0 {
		for _, spec := range f.c.c.Remote {
			add(SideRemote, forward.Status{Spec: spec, Err: errNoLease})
		}
	}
	return all
}

var errNoLease = errors.New("the gateway has given no address yet")
