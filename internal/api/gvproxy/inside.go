package gvproxy

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"

	"ferry/internal/forward"
)

// InsidePort is where clients find the API on the gateway's own address.
const InsidePort = 80

// maxInside is how many ports one client may expose, and maxAllInside how many all clients together: the operator has the rest of the table.
const maxInside, maxAllInside = 64, forward.MaxForwards / 2

// lowest is the first port of the host that a client may take.
const lowest = 1024

// Inside returns a handler for clients: each may expose a port of its own address, see those that it has exposed, and unexpose them.
func (a *API) Inside() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/services/forwarder/all", a.client(a.allOf))
	mux.HandleFunc("/services/forwarder/expose", a.post(a.client(a.exposeOwn)))
	mux.HandleFunc("/services/forwarder/unexpose", a.post(a.client(a.unexposeOwn)))
	return mux
}

// client returns a handler of requests of clients, who are known by their addresses: the router has checked them.
func (a *API) client(f func(http.ResponseWriter, *http.Request, netip.Addr)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		at, err := netip.ParseAddrPort(r.RemoteAddr)
		if err == nil {
			err = a.c.Clients.Check(at.Addr().Unmap())
		}
		if err != nil {
			a.forbid(w, "only clients may ask here")
			return
		}
		f(w, r, at.Addr().Unmap())
	}
}

func (a *API) forbid(w http.ResponseWriter, text string) {
	a.count.forbidden.Add(1)
	http.Error(w, text, http.StatusForbidden)
}

func (a *API) allOf(w http.ResponseWriter, _ *http.Request, client netip.Addr) {
	exposed, _ := a.c.Ports.List()
	write(w, sorted(slices.DeleteFunc(listed(exposed, a.called), func(e *exposure) bool { return e.owner != client })))
}

func (a *API) exposeOwn(w http.ResponseWriter, r *http.Request, client netip.Addr) {
	var req ExposeRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		a.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	if req.Protocol == "" {
		req.Protocol = protoTCP
	}
	if req.Protocol != protoTCP && req.Protocol != protoUDP {
		a.forbid(w, "from inside only tcp and udp can be exposed")
		return
	}
	var to forward.Target
	var from forward.Entrance
	var err error
	if req.Remote, err = remote(req.Remote, r.RemoteAddr); err == nil {
		to, err = target(req.Remote)
	}
	if err == nil {
		from, err = entrance(req.Protocol, req.Local)
	}
	switch {
	case err != nil:
		a.fail(w, http.StatusBadRequest, err.Error())
	case to.Addr != client:
		a.forbid(w, "from inside a client can expose only itself: write the port alone, as \":8080\"")
	case from.Port < lowest:
		a.forbid(w, "from inside only ports from 1024 on can be exposed")
	default:
		if err := a.open(req, client); err != nil {
			a.fail(w, statusOf(err), err.Error())
		}
	}
}

var (
	errTooMany = errors.New("you have exposed as many ports as you may: unexpose one")
	errCrowded = errors.New("clients have exposed as many ports as they may: ask the operator to remove some ('vpnsrv forward remove')")
	errLeft    = errors.New("the client has left")
)

// mayExpose says why a client may expose no more. The caller holds mu.
func (a *API) mayExpose(client netip.Addr) error {
	if !a.c.Clients.Present(client) { // Left was called, or will be
		return errLeft
	}
	own, all := 0, 0
	for _, e := range a.exposed {
		if e.owner == client {
			own++
		}
		if e.owner.IsValid() {
			all++
		}
	}
	switch {
	case own >= maxInside:
		return errTooMany
	case all >= maxAllInside:
		return errCrowded
	}
	return nil
}

// Left ends what the client at an address has exposed: another may get the address. The client is not present any more.
func (a *API) Left(client netip.Addr) {
	var all []*exposure
	a.mu.Lock()
	for _, e := range a.exposed {
		if e.owner == client {
			e.left = true // also of one that is about to be opened
			all = append(all, e)
		}
	}
	a.mu.Unlock()
	for _, e := range all {
		if err := a.shut(e.key, client); err != nil && !errors.Is(err, errNotFound) {
			a.c.Log.Warn("gvproxy: not unexposed", "local", e.local, "protocol", e.protocol, "err", err)
		}
	}
}

func (a *API) unexposeOwn(w http.ResponseWriter, r *http.Request, client netip.Addr) {
	var req UnexposeRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		a.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	if req.Protocol == "" {
		req.Protocol = protoTCP
	}
	if err := a.shut(key{req.Protocol, req.Local}, client); err != nil {
		a.fail(w, http.StatusInternalServerError, err.Error())
	}
}
