package gvproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"ferry/internal/forward"
)

// What there is to be exposed.
const (
	protoTCP, protoUDP, protoUnix, protoNpipe = "tcp", "udp", "unix", "npipe"
)

// A key is what gvproxy knows a port by.
type key struct{ protocol, local string }

// An exposure is a port that was exposed here, in the words in which that was asked for.
type exposure struct {
	key
	remote string
	bound  string     // where it listens, as forward.Status.Bound; empty: it is about to
	owner  netip.Addr // the client inside that has exposed it; not valid: the operator
	left   bool       // the owner is gone
}

// The bodies of requests, as gvproxy calls them: the names of types and fields are in the errors of their decoder.
type (
	// ExposeRequest is also what a port is shown as.
	ExposeRequest struct {
		Local    string `json:"local"`
		Remote   string `json:"remote"`
		Protocol string `json:"protocol"`
	}
	// UnexposeRequest says which port is to be closed.
	UnexposeRequest struct {
		Local    string `json:"local"`
		Protocol string `json:"protocol"`
	}
)

// Errors in the words of gvproxy.
var (
	errRunning  = errors.New("proxy already running")
	errNotFound = errors.New("proxy not found")
	errRemote   = errors.New("invalid remote addr")
	errNoURL    = errors.New("the remote is no URL")
)

// all shows the published ports: those that were exposed here, and those of the configuration and the operator.
func (a *API) all(w http.ResponseWriter, _ *http.Request) {
	own, others := a.c.Ports.List()
	write(w, sorted(append(listed(own, a.called), listed(others, unasked)...)))
}

// listed returns those that are open.
func listed(ports []forward.Status, called func(forward.Status) *exposure) (all []*exposure) {
	for _, s := range ports {
		if s.Err == nil {
			all = append(all, called(s))
		}
	}
	return all
}

// sorted returns what is shown of them.
func sorted(all []*exposure) []ExposeRequest {
	list := make([]ExposeRequest, len(all))
	for i, e := range all {
		list[i] = ExposeRequest{e.local, e.remote, e.protocol}
	}
	slices.SortFunc(list, func(x, y ExposeRequest) int {
		if c := strings.Compare(x.Local, y.Local); c != 0 {
			return c
		}
		return strings.Compare(x.Protocol, y.Protocol)
	})
	return list
}

// called returns a port that was added here in the words in which that was asked for.
func (a *API) called(s forward.Status) *exposure {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calledLocked(s)
}

func (a *API) calledLocked(s forward.Status) *exposure {
	bound := s.Bound.String()
	for _, e := range a.exposed {
		if e.bound == bound {
			return e
		}
	}
	return unasked(s)
}

// unasked returns a published port in words of gvproxy in which nobody has asked for it.
func unasked(s forward.Status) *exposure {
	bound := s.Bound.String()
	at, _, _ := strings.Cut(bound, "?")
	protocol, local, _ := strings.Cut(at, "://")
	return &exposure{key: key{protocol, local}, remote: s.To.String(), bound: bound}
}

func (a *API) expose(w http.ResponseWriter, r *http.Request) {
	var req ExposeRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		a.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	if req.Protocol == "" {
		req.Protocol = protoTCP
	}
	if req.Protocol != protoUnix && req.Protocol != protoNpipe {
		var err error
		if req.Remote, err = remote(req.Remote, r.RemoteAddr); err != nil {
			a.fail(w, http.StatusBadRequest, err.Error())
			return
		}
	}
	if err := a.open(req, netip.Addr{}); err != nil {
		a.fail(w, statusOf(err), err.Error())
	}
}

// badRequest is an error of who asks that gvproxy has no word for: it would panic.
type badRequest struct{ error }

func statusOf(err error) int {
	if errors.As(err, new(badRequest)) {
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

// remote returns where a port is to lead: without an address, to who asks.
func remote(text, caller string) (string, error) {
	host, _, err := net.SplitHostPort(text)
	if err != nil || host != "" {
		return text, err
	}
	if host, _, err = net.SplitHostPort(caller); err != nil {
		return "", err
	}
	return host + text, nil
}

// open exposes a port for its owner.
func (a *API) open(req ExposeRequest, owner netip.Addr) error {
	e := &exposure{key: key{req.Protocol, req.Local}, remote: req.Remote, owner: owner}
	if err := a.reserve(e); err != nil {
		return err
	}
	spec, err := a.spec(e)
	var s forward.Status
	if err == nil {
		s, err = a.c.Ports.Add(spec)
	}
	a.mu.Lock()
	left := e.left
	if e.bound = s.Bound.String(); err != nil || left {
		delete(a.exposed, e.key)
	}
	a.mu.Unlock()
	if err == nil && left {
		err = errors.Join(errLeft, a.c.Ports.Remove(e.bound))
	}
	info, warn := a.c.Log.Info, a.c.Log.Warn
	if owner.IsValid() { // a client may ask as often as it likes
		info, warn = a.c.Log.Debug, a.c.Log.Debug
	}
	if err != nil {
		told := err
		if errors.As(err, new(*url.Error)) { // which has the remote in it
			told = errNoURL
		}
		warn("gvproxy: not exposed", "local", req.Local, "protocol", req.Protocol, "err", told)
		return likeGvproxy(spec.From, err)
	}
	info("gvproxy: exposed", "local", req.Local, "to", spec.To, "protocol", req.Protocol) // not the remote, in which there may be a passphrase
	return nil
}

// reserve takes the place of a port, unless there is one that is called the same.
func (a *API) reserve(e *exposure) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	own, others := a.c.Ports.List()
	for _, s := range own {
		if a.calledLocked(s).key == e.key {
			return errRunning
		}
	}
	for _, s := range others {
		if unasked(s).key == e.key {
			return errRunning
		}
	}
	for k, old := range a.exposed { // what an operator has removed otherwise
		if old.bound != "" && !slices.ContainsFunc(own, func(s forward.Status) bool { return s.Bound.String() == old.bound }) {
			delete(a.exposed, k)
		}
	}
	if a.exposed[e.key] != nil {
		return errRunning
	}
	if e.owner.IsValid() {
		if err := a.mayExpose(e.owner); err != nil {
			return err
		}
	}
	a.exposed[e.key] = e
	return nil
}

// spec is what a gateway calls what was asked for.
func (a *API) spec(e *exposure) (s forward.Spec, err error) {
	switch e.protocol {
	case protoTCP, protoUDP:
		if s.To, err = target(e.remote); err == nil {
			s.From, err = entrance(e.protocol, e.local)
		}
	case protoUnix:
		if err = a.socketTarget(e.remote, &s); err == nil {
			s.From, err = forward.ParseEntrance("unix://" + e.local)
		}
		if err == nil && s.From.Path != e.local { // or it has options of ours
			err = badRequest{fmt.Errorf("%q is no path for a socket: write the whole path, as /run/x.sock", e.local)}
		}
	case protoNpipe:
		err = errors.New("npipe: named pipes are of Windows: expose a unix socket")
	default:
		err = fmt.Errorf("unknown protocol %s", e.protocol)
	}
	return s, err
}

// target reads ip:port. What gvproxy takes a name for makes it panic.
func target(text string) (t forward.Target, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 2 {
		return t, errRemote
	}
	port, err := strconv.ParseUint(parts[1], 10, 16)
	if err != nil {
		return t, err
	}
	addr, err := netip.ParseAddr(parts[0])
	switch {
	case err != nil || !addr.Is4():
		return t, badRequest{fmt.Errorf("%q: %q is no IPv4 address: remotes are addresses of clients, as 192.168.127.2:%d, or :%d for who asks", text, parts[0], port, port)}
	case port == 0:
		return t, badRequest{fmt.Errorf("%q: port 0 is none", text)}
	}
	return forward.Target{Addr: addr, Port: uint16(port)}, nil
}

// entrance reads where to listen, as package net does.
func entrance(protocol, text string) (e forward.Entrance, err error) {
	fault := func(err error) (forward.Entrance, error) {
		if protocol == protoUDP { // which gvproxy has resolved before it listens
			return e, err
		}
		return e, &net.OpError{Op: "listen", Net: protocol, Err: err}
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return fault(err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil && port != "" {
		return fault(&net.AddrError{Err: "invalid port", Addr: port})
	}
	e = forward.Entrance{Scheme: protocol, Port: uint16(number)}
	switch {
	case host == "":
		return e, nil
	case host == "localhost":
		host = "127.0.0.1"
	}
	if e.Host, err = netip.ParseAddr(host); err != nil || e.Host.Zone() != "" {
		return fault(fmt.Errorf("%q is no address of this host: write 127.0.0.1:8080, or :8080 for all", host))
	}
	return e, nil
}

// likeGvproxy returns an error in the words in which gvproxy has it, if it is one that both have.
func likeGvproxy(e forward.Entrance, err error) error {
	var errno syscall.Errno
	switch at := e.String(); {
	case errors.Is(err, forward.ErrTaken):
		return errRunning
	case errors.As(err, &errno) && e.Scheme != "":
		_, local, _ := strings.Cut(at, "://")
		return fmt.Errorf("listen %s %s: bind: %w", e.Scheme, local, errno)
	}
	return err
}

func (a *API) unexpose(w http.ResponseWriter, r *http.Request) {
	var req UnexposeRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		a.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	if req.Protocol == "" {
		req.Protocol = protoTCP
	}
	if err := a.shut(key{req.Protocol, req.Local}, netip.Addr{}); err != nil {
		a.fail(w, http.StatusInternalServerError, err.Error())
	}
}

// shut closes a port, for its owner or, if that is not valid, for the operator.
func (a *API) shut(k key, owner netip.Addr) error {
	own, others := a.c.Ports.List()
	for _, s := range own {
		e := a.called(s)
		if s.Err != nil || e.key != k || owner.IsValid() && e.owner != owner {
			continue
		}
		if err := a.c.Ports.Remove(s.Bound.String()); err != nil {
			return err
		}
		a.mu.Lock()
		if a.exposed[k] == e { // and not what was exposed in its place since
			delete(a.exposed, k)
		}
		a.mu.Unlock()
		a.c.Log.Debug("gvproxy: unexposed", "local", k.local, "protocol", k.protocol)
		return nil
	}
	for _, s := range others {
		if !owner.IsValid() && s.Err == nil && unasked(s).key == k {
			return a.c.Ports.RemoveOther(s.Bound.String())
		}
	}
	return errNotFound
}

// socketTarget reads where a unix socket is to lead: tcp://ip:port, or ssh-tunnel://user@ip:port/path?key=FILE.
func (a *API) socketTarget(remote string, s *forward.Spec) error {
	u, err := url.Parse(remote)
	if err != nil {
		return fmt.Errorf("failed to parse remote uri :%s : %w", remote, err)
	}
	switch u.Scheme {
	case "tcp":
		s.To, err = target(net.JoinHostPort(u.Hostname(), u.Port()))
		return err
	case "ssh-tunnel":
		t, err := a.parseTunnel(u)
		if err != nil {
			return err
		}
		s.To, s.Via = t.at, t.Dial
		return nil
	}
	return fmt.Errorf("remote protocol for unix forwarder is not implemented: %s", u.Scheme)
}
