package connectip

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"

	"ferry/internal/identity"
)

// Path is where a gateway proxies IP: the default template of RFC 9484, section 3, for all targets and protocols.
const Path = "/.well-known/masque/ip/*/*/"

// Token is what is spoken: RFC 9484, section 11.1.
const Token = "connect-ip"

const (
	// headerCapsules says that capsules follow (RFC 9297, section 3.4).
	headerCapsules = "Capsule-Protocol"
	// headerFerry has the context of Ferry's packets.
	headerFerry = "Ferry-Context"
	// maxHead is how long the head of a request may be.
	maxHead = 8 << 10
)

// ErrRequest is what is wrong with a request.
var ErrRequest = errors.New("a request for something else than proxying IP")

// A Gate says who may come in.
type Gate struct {
	// TLS is for the handshake of Ferry's own clients; nil: none may come.
	TLS *tls.Config
	// Admit decides about the key that a stock client has proven.
	Admit func(identity.Public) error
	// Anybody lets stock clients in who show no key.
	Anybody bool
	// Routes are what stock clients are told that they reach.
	Routes []netip.Prefix
}

// A refusal says what is wrong with a request, and with which status it is answered.
type refusal struct {
	status int
	what   string
	cause  error
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: %d: %s", ErrRequest, r.status, r.what) }

func (r *refusal) Unwrap() []error { return []error{ErrRequest, r.cause} }

// What strangers are told to do.
const (
	noDevices = "devices with a key do not come in here: the gateway has none, or allow=plain keeps them out"
	adviseKey = "show a client certificate: 'vpncli certificate' makes one of the key of a device that has joined this gateway"
)

// ours tells whether a request is of Ferry's own client.
func ours(r *http.Request) bool { return r.Header.Get(headerFerry) != "" }

// check says what is wrong with a request, of any version of HTTP. It does not say who may come.
func check(r *http.Request) *refusal {
	switch context := r.Header.Get(headerFerry); {
	case r.URL.Path != Path:
		return &refusal{status: http.StatusNotFound, what: "IP is proxied at " + Path + ", for all targets and protocols at once"}
	case r.ContentLength > 0:
		return &refusal{status: http.StatusBadRequest, what: "a body is not expected"}
	case context != "" && context != strconv.Itoa(contextFerry):
		return &refusal{status: http.StatusBadRequest, what: "another version of Ferry: update the older one of the two"}
	}
	return nil
}

// enter decides about a stock client, by what it has proven in the outer TLS. The key is zero for one that shows none.
func (g *Gate) enter(state *tls.ConnectionState) (key identity.Public, err error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		if g.Anybody {
			return key, nil
		}
		return key, &refusal{status: http.StatusForbidden, what: adviseKey}
	}
	if key, err = identity.Shown(*state); err != nil {
		return key, &refusal{http.StatusForbidden, adviseKey + ": one, self-signed, with an Ed25519 key", err}
	}
	if g.Admit == nil {
		err = errors.New("the gateway has no key itself, and knows none")
	} else {
		err = g.Admit(key)
	}
	if err != nil {
		what := fmt.Sprintf("%v: 'vpnsrv peer add NAME %s' on the gateway lets it in", err, key)
		return identity.Public{}, &refusal{http.StatusForbidden, what, err}
	}
	return key, nil
}

// An Addr is the address of an end of a connection.
type Addr struct {
	at     netip.AddrPort
	scheme string
}

var _ interface {
	net.Addr
	AddrPort() netip.AddrPort // by which the gateway bounds connections
} = Addr{}

// AddrPort returns it as a value.
func (a Addr) AddrPort() netip.AddrPort { return a.at }

// String implements net.Addr.
func (a Addr) String() string { return a.at.String() }

// Network implements net.Addr: the scheme of a URL.
func (a Addr) Network() string { return a.scheme }

// addrOf returns the address of a connection.
func addrOf(a net.Addr, scheme string) Addr {
	if from, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		at := from.AddrPort()
		return Addr{netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), scheme}
	}
	return Addr{scheme: scheme}
}
