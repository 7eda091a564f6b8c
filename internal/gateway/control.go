package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"ferry/internal/api"
	"ferry/internal/capture"
	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/peerstore"
	"ferry/internal/proto"
	"ferry/internal/web"
)

// Times that an invitation may be open.
const (
	defaultTTL = 15 * time.Minute
	maxTTL     = 30 * 24 * time.Hour
)

var (
	errNoKey     = errors.New("this gateway has no key: 'vpnsrv init' makes one")
	errNoSession = errors.New("no such session")
	errNoServer  = errors.New("it is not known where devices find this gateway: name it with --server")
)

// A route is a method and a path, as http.ServeMux takes them, and what answers.
type route struct {
	pattern string
	handler http.Handler
}

// handler answers the requests of package api.
func (g *Gateway) handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range g.routes() {
		mux.Handle(r.pattern, r.handler)
	}
	return mux
}

func (g *Gateway) routes() []route {
	all := []route{
		{"GET /v1/status", api.Handle(status, func(*http.Request, struct{}) (api.Status, error) { return g.status(), nil })},
		{"GET /v1/sessions", api.Handle(status, func(*http.Request, struct{}) ([]api.Session, error) { return g.sessions(), nil })},
		{"DELETE /v1/sessions/{id}", api.Handle(status, func(r *http.Request, _ struct{}) (struct{}, error) {
			return struct{}{}, g.kick(r.PathValue("id"))
		})},
		{"GET /v1/peers", api.Handle(status, func(*http.Request, struct{}) (api.Peers, error) { return g.listPeers() })},
		{"POST /v1/peers", api.Handle(status, func(_ *http.Request, p api.Peer) (api.Peer, error) { return g.addPeer(p) })},
		{"PATCH /v1/peers/{name}", api.Handle(status, func(r *http.Request, c api.Change) (api.Peer, error) {
			return g.changePeer(r.PathValue("name"), c)
		})},
		{"DELETE /v1/peers/{name}", api.Handle(status, func(r *http.Request, _ struct{}) (api.Peer, error) {
			return g.removePeer(r.PathValue("name"))
		})},
		{"GET /v1/leases", api.Handle(status, func(*http.Request, struct{}) ([]api.Lease, error) { return g.leases.list(), nil })},
		{"GET /v1/forwards", api.Handle(status, func(*http.Request, struct{}) ([]api.Forward, error) { return g.listForwards(), nil })},
		{"GET /v1/published", api.Handle(status, func(*http.Request, struct{}) ([]api.Published, error) { return g.publisher.list(), nil })},
		{"POST /v1/forwards", api.Handle(status, func(_ *http.Request, p api.Publish) (api.Forward, error) { return g.addForward(p) })},
		{"DELETE /v1/forwards", api.Handle(status, func(r *http.Request, _ struct{}) (api.Forward, error) {
			return g.removeForward(r.URL.Query().Get("from"))
		})},
		{"GET /v1/flows", api.Handle(status, func(r *http.Request, _ struct{}) (api.Flows, error) { return g.flows(r.URL.Query().Get("peer")) })},
		{"GET /v1/capture", http.HandlerFunc(g.capture)},
		{"DELETE /v1/capture/{number}", api.Handle(status, func(r *http.Request, _ struct{}) (struct{}, error) {
			return struct{}{}, g.endCapture(r.PathValue("number"))
		})},
		{"POST /v1/reload", api.Handle(status, func(*http.Request, struct{}) (api.Reloaded, error) { return g.reload() })},
		{"POST /v1/invitations", api.Handle(status, func(_ *http.Request, i api.Invite) (api.Invited, error) { return g.invite(i) })},
		{"GET /v1/routes", api.Handle(status, func(*http.Request, struct{}) (patterns []string, _ error) {
			for _, r := range g.routes() {
				patterns = append(patterns, r.pattern)
			}
			return patterns, nil
		})},
		{"/metrics", g.metrics},
		{"/healthz", g.metrics},
	}
	for _, pattern := range web.Patterns() {
		all = append(all, route{pattern, web.Page()})
	}
	return all
}

// serveMetrics answers what everybody may read, where the configuration says so.
func (g *Gateway) serveMetrics(ctx context.Context, l net.Listener) error {
	if l == nil {
		return nil
	}
	g.log.Info("metrics", "on", "http://"+l.Addr().String()+"/metrics")
	return api.ServeOpen(ctx, l, g.metrics, g.log)
}

// status is that of HTTP for an error.
func status(err error) int {
	if code := forwardStatus(err); code != 0 {
		return code
	}
	switch {
	case errors.Is(err, peerstore.ErrUnknown), errors.Is(err, errNoSession), errors.Is(err, capture.ErrUnknown):
		return http.StatusNotFound
	case errors.Is(err, peerstore.ErrTaken), errors.Is(err, peerstore.ErrExhausted), errors.Is(err, errNoKey), errors.Is(err, errNoFile), errors.Is(err, capture.ErrFull), errors.Is(err, capture.ErrClosed):
		return http.StatusConflict
	case errors.Is(err, peerstore.ErrUnavailable):
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}

func (g *Gateway) listPeers() (all api.Peers, err error) {
	if g.devices == nil {
		return all, errNoKey
	}
	peers, invitations := g.devices.List(time.Now())
	live := g.sessionsByKey()
	all.Peers, all.Invitations = []api.Peer{}, []api.Invited{}
	for _, p := range peers {
		shown := show(p)
		shown.Sessions, shown.KnowsNext = live[p.Key], g.knowsNext(p.Key)
		all.Peers = append(all.Peers, shown)
	}
	for _, i := range invitations {
		all.Invitations = append(all.Invitations, api.Invited{Name: i.Name, Expires: i.Expires})
	}
	return all, nil
}

func show(p peerstore.Peer) api.Peer {
	return api.Peer{Name: p.Name, Key: p.Key.String(), Addresses: p.Addrs, Routes: p.Routes, Disabled: p.Disabled, Added: p.Added}
}

func (g *Gateway) addPeer(p api.Peer) (api.Peer, error) {
	if g.devices == nil {
		return p, errNoKey
	}
	key, err := identity.ParsePublic(p.Key)
	if err != nil {
		return p, err
	}
	if err := g.notSites(p.Routes); err != nil {
		return p, err
	}
	added, err := g.devices.Add(peerstore.Peer{
		Name: p.Name, Key: key, Addrs: p.Addresses, Routes: p.Routes, Disabled: p.Disabled, Added: time.Now().UTC(),
	})
	if err != nil {
		return p, err
	}
	if err := g.devicesChanged()[added.Name]; err != nil {
		_, undo := g.devices.Remove(added.Name)
		return p, errors.Join(err, undo)
	}
	g.gate.Forgive()
	g.log.Info("device added", "name", added.Name, "addr", added.Addrs[0], "key", key)
	return show(added), nil
}

// removePeer ends the connections of a device also when the disk fails: then it may come back, and the
// operator is told.
func (g *Gateway) removePeer(name string) (api.Peer, error) {
	if g.devices == nil {
		return api.Peer{}, errNoKey
	}
	p, found := g.devices.Find(name)
	_, err := g.devices.Remove(name)
	if found {
		g.revoke(p.Key)
	}
	if err != nil {
		return api.Peer{}, err
	}
	if !found {
		g.log.Info("invitation withdrawn", "name", name)
		return api.Peer{Name: name}, nil
	}
	g.mu.Lock()
	delete(g.told, p.Key)
	g.mu.Unlock()
	for _, a := range p.Addrs {
		g.gvproxy.Left(a)
	}
	g.devicesChanged()
	g.log.Info("device removed", "name", p.Name, "key", p.Key)
	return show(p), nil
}

func (g *Gateway) changePeer(name string, c api.Change) (api.Peer, error) {
	switch {
	case g.devices == nil:
		return api.Peer{}, errNoKey
	case c.Disabled == nil:
		return api.Peer{}, errors.New("nothing is to be changed: 'disabled' can be")
	}
	p, err := g.devices.Disable(name, *c.Disabled)
	if *c.Disabled && p.Key != (identity.Public{}) {
		g.revoke(p.Key)
	}
	if err != nil {
		return api.Peer{}, err
	}
	if p.Disabled = *c.Disabled; !p.Disabled {
		g.gate.Forgive()
	}
	g.log.Info("device changed", "name", p.Name, "disabled", p.Disabled)
	return show(p), nil
}

func (g *Gateway) invite(i api.Invite) (made api.Invited, err error) {
	if g.devices == nil {
		return made, errNoKey
	}
	ttl := time.Duration(i.TTL * float64(time.Second))
	switch {
	case ttl == 0:
		ttl = defaultTTL
	case ttl < time.Second || ttl > maxTTL:
		return made, fmt.Errorf("an invitation is open for 1 second to %d days, not for %s", maxTTL/(24*time.Hour), ttl)
	}
	if err := g.notSites(i.Routes); err != nil {
		return made, err
	}
	servers := i.Servers
	if len(servers) == 0 {
		g.awaitHost()
		servers = g.servers()
	}
	if len(servers) == 0 {
		return made, errNoServer
	}
	for _, s := range servers {
		if _, err := carrier.ParseDial(s, 0); err != nil {
			return made, err
		}
	}
	now := time.Now().UTC()
	secret, err := g.devices.Invite(peerstore.Invitation{
		Name: i.Name, Addrs: i.Addresses, Routes: i.Routes, Expires: now.Add(ttl),
	}, now)
	if err != nil {
		return made, err
	}
	text := identity.Invitation{Servers: servers, Gateway: g.c().Key.Public().Pin(), Secret: secret}.String()
	if _, err := identity.ParseInvitation(text); err != nil {
		return made, fmt.Errorf("the addresses of the gateway make no invitation: %v: %w", servers, err)
	}
	g.gate.Forgive()
	g.log.Info("device invited", "name", i.Name, "for", ttl)
	return api.Invited{Invitation: text, Name: i.Name, Servers: servers, Expires: now.Add(ttl)}, nil
}

// notSites refuses networks that the configuration puts behind a client without a key.
func (g *Gateway) notSites(routes []netip.Prefix) error {
	for _, r := range routes {
		if via, ok := g.c().Sites[r]; ok {
			return fmt.Errorf("route %s is %w: 'sites' of the configuration leads it to %s", r, peerstore.ErrTaken, via)
		}
	}
	return nil
}

func (g *Gateway) sessions() []api.Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]api.Session, 0, len(g.peers))
	for _, p := range g.peers {
		if p.tunnel.Load() == nil {
			all = append(all, p.show())
		}
	}
	for _, t := range g.tunnels {
		all = append(all, t.show())
	}
	slices.SortFunc(all, func(a, b api.Session) int { return int(a.ID) - int(b.ID) })
	return all
}

func (g *Gateway) sessionsByKey() map[identity.Public][]uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := map[identity.Public][]uint64{}
	for _, p := range g.peers {
		if p.tunnel.Load() == nil {
			all[p.key] = append(all[p.key], p.id)
		}
	}
	for _, t := range g.tunnels {
		all[t.key] = append(all[t.key], t.nr)
	}
	return all
}

// show is what an operator sees of a connection. The caller holds mu.
func (p *peer) show() api.Session {
	s := p.port.Stats()
	session := api.Session{
		ID: p.id, Secure: p.key != identity.Public{}, Address: p.port.Addr(), From: p.stream.RemoteAddr().String(), Carrier: p.stream.RemoteAddr().Network(),
		Since: p.start, Received: p.stream.Received(), Sent: p.stream.Sent(), Queued: p.queue.Queued() + p.fair.Queued(),
		Packets: s.Packets, Drops: s.Drops,
	}
	if d, err := p.g.device(p.key); err == nil {
		session.Name = d.Name
	}
	if m, ok := p.machine(); ok {
		session.Name = m.Name()
		m.AddDrops(session.Drops)
	}
	return session
}

// show is what an operator sees of a session. The caller holds mu.
func (t *tunnel) show() api.Session {
	s := t.port.Stats()
	shown := api.Session{
		ID: t.nr, Secure: true, Address: t.port.Addr(), Since: t.born, Packets: s.Packets, Drops: s.Drops, Paths: []api.Path{},
		Queued: t.fair.Queued(),
	}
	shown.Replayed, _ = t.send.Replayed()
	if d, err := t.g.device(t.key); err == nil {
		shown.Name = d.Name
	}
	using := t.send.Using()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.away.IsZero() {
		shown.Away = time.Since(t.away).Seconds()
	}
	for p, path := range t.paths {
		its := api.Path{From: p.stream.RemoteAddr().String(), Carrier: p.stream.RemoteAddr().Network(), Since: p.start, Standby: path != using}
		if !its.Standby {
			shown.From, shown.Carrier = its.From, its.Carrier
		}
		shown.Received += p.stream.Received()
		shown.Sent += p.stream.Sent()
		shown.Queued += p.queue.Queued()
		shown.Paths = append(shown.Paths, its)
	}
	slices.SortFunc(shown.Paths, func(a, b api.Path) int { return a.Since.Compare(b.Since) })
	return shown
}

func (g *Gateway) kick(text string) error {
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return fmt.Errorf("%q: %w", text, errNoSession)
	}
	o := g.session(id)
	if o == nil {
		return fmt.Errorf("%d: %w", id, errNoSession)
	}
	o.end("kicked", proto.GoodbyeMessage{Reason: proto.ReasonShutdown, Text: "ended by the operator"})
	return nil
}

// session returns the session that has a number; nil when there is none.
func (g *Gateway) session(number uint64) owner {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.tunnels {
		if t.nr == number {
			return t
		}
	}
	if p := g.peers[number]; p != nil {
		return p
	}
	return nil
}

func (g *Gateway) status() api.Status {
	s := g.total.Stats()
	pool, disk := g.leases.stats()
	st := api.Status{
		Version: g.c().Version, Started: g.started, Exit: g.c().Exit, Interface: g.c().TUN, Gateway: g.gateway, Pool: g.c().Pool, PlainPool: g.c().PlainPool,
		Packets: s.Packets, Bytes: s.Bytes, Drops: s.Drops, Closed: g.closed.counts(), Queued: g.budget.Used(),
		Leases: api.Leases{Free: pool.Free, Live: pool.Live, Held: pool.Held},
	}
	if e, ok := g.exit.(interface{ Beyond() map[string]uint64 }); ok {
		st.Beyond = e.Beyond()
	}
	if g.names != nil {
		st.Names = g.names.server.Stats()
	}
	if tunnels := g.c().Tunnels; tunnels != nil {
		st.Tunnels = tunnels()
	}
	st.Forwards = g.forwardTotals()
	st.Published, st.Unpublished = g.publisher.stats()
	if c := g.c(); len(c.GvproxyAPI)+len(c.GvproxyListen) > 0 || c.GvproxyInside {
		st.Gvproxy = g.gvproxy.Counts()
	}
	st.Notifications = g.notifier.Counts()
	if disk.Err != nil {
		st.Leases.Err = disk.Err.Error()
	}
	for _, l := range g.listeners {
		st.Listeners = append(st.Listeners, api.Listener{URL: listenerURL(l), Allow: l.allow.String()})
	}
	for _, url := range g.c().VTunnelListen {
		bare, _, _ := strings.Cut(url, "?") // what is behind it has the secret
		st.Doors = append(st.Doors, api.Door{URL: bare, For: "vtunnel"})
	}
	for _, url := range slices.Concat(g.c().GvproxyAPI, g.c().GvproxyListen) {
		st.Doors = append(st.Doors, api.Door{URL: url, For: "gvproxy"})
	}
	g.mu.Lock()
	st.Waiting = g.waiting
	g.mu.Unlock()
	if g.devices != nil {
		st.Fingerprint = g.c().Key.Public().Pin().String()
		if next := g.c().NextKey; next != (identity.Pin{}) {
			st.NextFingerprint = next.String()
		}
		peers, _ := g.devices.List(time.Now())
		st.Peers = len(peers)
	}
	inside := g.gate.Stats()
	st.Sessions, st.Unauthenticated = inside.Sessions, inside.Unknown
	return st
}
