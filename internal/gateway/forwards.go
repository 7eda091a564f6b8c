package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"slices"
	"syscall"

	"ferry/internal/api"
	"ferry/internal/forward"
	"ferry/internal/gateway/settings"
)

// Published ports come from the configuration (fixed), and from the operator by package api. All keep the ports that were found for them:
//
//	configuration --+
//	                +--> forward.Table --> forwards.json: read at the next start
//	api ------------+
//
// One that can not be opened at the start, for another program has its port or its device is not known, waits for a reload or the device.

// forwardsFile is their file in the state directory.
const forwardsFile = "forwards.json"

// maxForwardsFile bounds what is read of it, bytes.
const maxForwardsFile = 1 << 20

var (
	errFixed      = errors.New("the configuration has this forward: remove it there, and 'vpnsrv reload'")
	errNotServing = errors.New("the gateway is not serving yet")
	errStore      = errors.New("forwards can not be stored")
)

// A forwardRecord is a forward in the file.
type forwardRecord struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Port  uint16 `json:"port,omitempty"`       // that it had last
	Fixed bool   `json:"configured,omitempty"` // only the port is remembered
}

// openForwards opens all forwards, which carry until ctx is done.
func (g *Gateway) openForwards(ctx context.Context, network forward.Network) error {
	g.changing.Lock()
	defer g.changing.Unlock()
	records, err := g.readForwards()
	if err != nil {
		return err
	}
	c := forward.Config{Network: network, Resolve: g.addressOf, Check: g.leadsToClient, Log: g.log}
	g.forwards, g.exposed, g.network = forward.NewTable(ctx, c), forward.NewTable(ctx, c), network
	port := map[string]uint16{}
	for _, r := range records {
		port[r.From] = r.Port
	}
	for _, spec := range g.c().Forwards {
		g.keepForward(spec, port[spec.From.String()], true)
	}
	for _, r := range records {
		if spec, err := forward.Parse(r.From, r.To); err == nil && !r.Fixed {
			g.keepForward(spec, r.Port, false)
		}
	}
	return g.storeForwards()
}

// closeForwards ends all forwards.
func (g *Gateway) closeForwards() error {
	if g.forwards != nil {
		g.forwards.Close()
		g.exposed.Close()
	}
	return nil
}

// keepForward opens a forward that stays also when that fails. The caller holds changing.
func (g *Gateway) keepForward(spec forward.Spec, port uint16, fixed bool) {
	s, err := g.forwards.Add(spec, port, fixed, true)
	if err != nil {
		g.log.Error("not forwarded", "on", spec.From, "to", spec.To, "err", err)
		return
	}
	g.log.Info("forward", "on", s.Bound, "to", spec.To)
}

// reconfigureForwards makes those of another configuration true, and tries again what could not be opened. The caller holds changing.
func (g *Gateway) reconfigureForwards(old, next *Config) error {
	if g.forwards == nil {
		return nil
	}
	same := func(a forward.Spec) func(forward.Spec) bool {
		return func(b forward.Spec) bool { return a.From.String() == b.From.String() && a.To == b.To }
	}
	for _, spec := range old.Forwards {
		s, err := g.forwards.Find(spec.From.String())
		if err == nil && s.Fixed && !slices.ContainsFunc(next.Forwards, same(spec)) {
			_, _ = g.forwards.Remove(spec.From.String()) // which was there
		}
	}
	g.forwards.Retry()
	for _, spec := range next.Forwards {
		if _, err := g.forwards.Find(spec.From.String()); err != nil {
			g.keepForward(spec, 0, true)
		}
	}
	return g.storeForwards()
}

// retryForwards opens what could not be opened before. The caller holds changing.
func (g *Gateway) retryForwards() {
	if g.forwards == nil || g.forwards.Retry() == 0 {
		return
	}
	if err := g.storeForwards(); err != nil {
		g.log.Error("forwards", "err", err)
	}
}

// addressOf returns the address of a client by its name.
func (g *Gateway) addressOf(name string) (netip.Addr, error) {
	if g.devices != nil {
		if p, ok := g.devices.Find(name); ok {
			return g.present(p.Addrs), nil
		}
	}
	if a, ok := g.c().Reserved[name]; ok {
		return a, nil
	}
	return netip.Addr{}, fmt.Errorf("no device is called %s ('vpnsrv peer list' names them), and no address is reserved for it", name)
}

// present returns the first of a device's addresses at which it is, or else the first.
func (g *Gateway) present(all []netip.Addr) netip.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range all {
		if g.owners[a] != nil {
			return a
		}
	}
	return all[0]
}

// leadsToClient refuses targets that no client can be. The caller holds changing.
func (g *Gateway) leadsToClient(to forward.Target) error {
	a := to.Addr
	if !a.IsValid() {
		_, err := g.addressOf(to.Name)
		return err
	}
	switch {
	case a == g.gateway:
		return fmt.Errorf("%s is the gateway itself: forwards lead to clients", a)
	case slices.Contains(insideAliases(g.c()), a):
		return fmt.Errorf("%s stands for %s: forwards lead to clients", a, g.c().Alias[a])
	case g.c().Pool.Contains(a):
		return nil
	}
	for site := range sitesWith(g.c(), g.routed) {
		if site.Contains(a) {
			return nil
		}
	}
	return fmt.Errorf("%s is no client: forwards lead to addresses of the pool %s, and of networks behind clients", a, g.c().Pool)
}

// hasSource refuses a source that no connection can have: each would be reset, and nothing but a count would say why. It is asked of who adds a forward, for
// one of the configuration may be there before its address. The caller holds changing.
func (g *Gateway) hasSource(spec forward.Spec) error {
	from, to := spec.From.Source, spec.To.Addr
	switch {
	case !from.IsValid():
		return nil
	case g.c().Exit == settings.ExitUser:
		return errors.New("with --exit user clients see the gateway's address: leave out source")
	case !to.IsValid():
		var err error
		if to, err = g.addressOf(spec.To.Name); err != nil {
			return err
		}
	}
	conn, err := g.network.Dial(context.Background(), "udp", from, netip.AddrPortFrom(to, spec.To.Port).String()) // which sends nothing, and waits for nobody
	switch {
	case err == nil:
		return conn.Close()
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("source=%s is no address of this host ('ip address' lists them)", from)
	}
	return nil // that has other reasons, which may pass
}

func (g *Gateway) listForwards() []api.Forward {
	all := []api.Forward{}
	for _, t := range g.published() {
		for _, s := range t.List() {
			all = append(all, showForward(s))
		}
	}
	return all
}

// forwardTotals are the counts of all forwards by scheme.
func (g *Gateway) forwardTotals() map[string]api.ForwardTotals {
	all := map[string]api.ForwardTotals{}
	for _, t := range g.published() {
		for scheme, s := range t.Totals() {
			before := all[scheme]
			all[scheme] = api.ForwardTotals{
				Connections: before.Connections + s.Live, Total: before.Total + s.Total, Received: before.Received + s.Down, Sent: before.Sent + s.Up,
				Refused: map[string]uint64{"source": before.Refused["source"] + s.Refused, "full": before.Refused["full"] + s.Full, "unreachable": before.Refused["unreachable"] + s.Failed},
			}
		}
	}
	return all
}

func showForward(s forward.Status) api.Forward {
	f := api.Forward{
		From: s.From.String(), To: s.To.String(), Fixed: s.Fixed, Connections: s.Live, Total: s.Total, Refused: s.Refused + s.Full, Failed: s.Failed,
		Received: s.Down, Sent: s.Up,
	}
	if s.Err != nil {
		f.Err = s.Err.Error()
	} else {
		f.Bound = s.Bound.String()
	}
	return f
}

func (g *Gateway) addForward(asked api.Publish) (f api.Forward, err error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	if g.forwards == nil {
		return f, errNotServing
	}
	spec, err := forward.Parse(asked.From, asked.To)
	if err != nil {
		return f, err
	}
	if err := g.hasSource(spec); err != nil {
		return f, err
	}
	s, err := g.forwards.Add(spec, 0, false, false)
	if err != nil {
		return f, err
	}
	if err := g.storeForwards(); err != nil {
		_, undo := g.forwards.Remove(s.Bound.String())
		return f, errors.Join(err, undo)
	}
	g.log.Info("forward added", "on", s.Bound, "to", spec.To)
	return showForward(s), nil
}

// removeForward ends a forward also when the disk fails: then it may come back, and the operator is told.
func (g *Gateway) removeForward(from string) (f api.Forward, err error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	if g.forwards == nil {
		return f, forward.ErrUnknown
	}
	if s, err := g.exposed.Remove(from); err == nil {
		return showForward(s), nil
	}
	s, err := g.forwards.Find(from)
	switch {
	case err != nil:
		return f, err
	case s.Fixed:
		return f, errFixed
	}
	if s, err = g.forwards.Remove(from); err != nil {
		return f, err
	}
	g.log.Info("forward removed", "on", s.Bound, "to", s.To)
	return showForward(s), g.storeForwards()
}

func (g *Gateway) readForwards() (all []forwardRecord, err error) {
	file, err := g.leases.dir.Open(forwardsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		defer file.Close()
		err = json.NewDecoder(io.LimitReader(file, maxForwardsFile)).Decode(&all)
	}
	if err != nil {
		return nil, g.leases.dir.Explain(fmt.Errorf("%s: %w: repair it, or remove it and add the forwards again", forwardsFile, err))
	}
	return all, nil
}

// storeForwards writes down what is there now. The caller holds changing.
func (g *Gateway) storeForwards() error {
	all := []forwardRecord{}
	for _, s := range g.forwards.List() {
		all = append(all, forwardRecord{s.From.String(), s.To.String(), s.Bound.Port, s.Fixed})
	}
	if len(all) == 0 {
		if _, err := g.leases.dir.Lstat(forwardsFile); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	b, err := json.MarshalIndent(all, "", "  ")
	if err == nil {
		err = g.leases.dir.Replace(forwardsFile, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errStore, g.leases.dir.Explain(err))
	}
	return nil
}

// forwardStatus is that of HTTP for an error of a forward; 0: it is none.
func forwardStatus(err error) int {
	switch {
	case errors.Is(err, forward.ErrUnknown):
		return http.StatusNotFound
	case errors.Is(err, forward.ErrTaken), errors.Is(err, forward.ErrFull), errors.Is(err, errFixed), errors.Is(err, syscall.EADDRINUSE), errors.Is(err, errNotServing):
		return http.StatusConflict
	case errors.Is(err, errStore):
		return http.StatusServiceUnavailable
	}
	return 0
}
