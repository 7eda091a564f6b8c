package gvproxy

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"ferry/internal/forward"
	"ferry/internal/nameserver"
)

// Ports are the published ports of a gateway. Errors say what its operator can do.
type Ports interface {
	// List returns those that were added here, and all others.
	List() (own, others []forward.Status)
	Add(forward.Spec) (forward.Status, error)
	// Remove ends one that was added here, and RemoveOther one of the others. They are told where it listens, as Status.Bound.
	Remove(from string) error
	RemoveOther(from string) error
}

// Names are the zones of a gateway's name server.
type Names interface {
	All() []nameserver.Zone
	Add(nameserver.Zone) error
}

// Clients are those of a gateway.
type Clients interface {
	// Leases has the addresses that are given to somebody, the gateway's own among them, with their hardware addresses.
	Leases() map[string]string
	// Machines has the hardware addresses of those that are plugged in, with the numbers of their sessions.
	Machines() map[string]uint64
	// Stats has counters by their names; values are numbers, or maps of the same.
	Stats() map[string]any
	// Check says why an address is no client's.
	Check(netip.Addr) error
	// Present tells whether the client that has an address is there.
	Present(netip.Addr) bool
	// Dial connects by tcp, to what is a socket of the kernel or an io.WriterTo, and has CloseWrite.
	Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)
}

// Config is what an API drives. The zero value of a field means its default, which is what it says in the comment.
type Config struct {
	Ports   Ports
	Names   Names // none: the gateway is no name server
	Clients Clients
	// OpenKey opens a file with a key for SSH: none may be opened.
	OpenKey func(path string) (*os.File, error)
	Log     *slog.Logger  // nothing
	Tunnels int           // there may be at once: 1024
	Idle    time.Duration // after how long without a byte a tunnel ends: 2 h
}

// An API answers requests. New makes one.
type API struct {
	c       Config
	tunnels chan struct{} // has an element for each
	count   counters

	mu      sync.Mutex        // guards what follows
	exposed map[key]*exposure // what was exposed here
}

// counters are what Counts returns.
type counters struct {
	forbidden, refused, tunnels, crowded, machines, unplugged atomic.Uint64
}

// New returns an API.
func New(c Config) *API {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Tunnels, c.Idle = cmp.Or(c.Tunnels, 1024), cmp.Or(c.Idle, 2*time.Hour)
	return &API{c: c, tunnels: make(chan struct{}, c.Tunnels), exposed: map[key]*exposure{}}
}

// Counts returns what was counted so far, by its names: requests that were forbidden (by their host or origin, or for clients inside) or refused, tunnels that there were
// and that were too many, machines that came by /connect and those that could not be taken.
func (a *API) Counts() map[string]uint64 {
	return map[string]uint64{
		"forbidden": a.count.forbidden.Load(), "refused": a.count.refused.Load(), "tunnels": a.count.tunnels.Load(), "tunnels_refused": a.count.crowded.Load(),
		"machines": a.count.machines.Load(), "machines_refused": a.count.unplugged.Load(),
	}
}

// Services returns a handler of all but /connect.
func (a *API) Services() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/services/forwarder/all", a.all)
	mux.HandleFunc("/services/forwarder/expose", a.post(a.expose))
	mux.HandleFunc("/services/forwarder/unexpose", a.post(a.unexpose))
	mux.HandleFunc("/services/dns/all", a.zones)
	mux.HandleFunc("/services/dns/add", a.post(a.addZone))
	mux.HandleFunc("/services/dhcp/leases", a.leases)
	mux.HandleFunc("/leases", a.leases)
	mux.HandleFunc("/cam", a.cam)
	mux.HandleFunc("/stats", a.stats)
	mux.HandleFunc("/tunnel", a.tunnel)
	return mux
}

// Machines returns a handler of all, that hands who comes by /connect to p.
func (a *API) Machines(p *Plugs) http.Handler {
	mux := a.Services()
	mux.HandleFunc("/connect", func(w http.ResponseWriter, r *http.Request) { a.connect(w, r, p) })
	return mux
}

func (a *API) leases(w http.ResponseWriter, _ *http.Request) { write(w, a.c.Clients.Leases()) }
func (a *API) cam(w http.ResponseWriter, _ *http.Request)    { write(w, a.c.Clients.Machines()) }
func (a *API) stats(w http.ResponseWriter, _ *http.Request)  { write(w, a.c.Clients.Stats()) }

// write answers with JSON that is called text, as gvproxy's is.
func write(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

// post returns a handler of requests that change something.
func (a *API) post(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			a.fail(w, http.StatusBadRequest, "post only")
			return
		}
		f(w, r)
	}
}

// fail answers with an error.
func (a *API) fail(w http.ResponseWriter, status int, text string) {
	a.count.refused.Add(1)
	http.Error(w, text, status)
}
