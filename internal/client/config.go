package client

import (
	"cmp"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ferry/internal/forward"
	"ferry/internal/identity"
	"ferry/internal/policy"
	"ferry/internal/proto"
	"ferry/internal/publish"
)

// Defaults that a user meets in the documentation.
const (
	DefaultPort      = 2002
	DefaultTUN       = "ferry0"
	DefaultMTU       = 1500 // until a gateway has said what it should be
	DefaultKeepalive = 15 * time.Second
	DefaultRetryMin  = 200 * time.Millisecond
	DefaultRetryMax  = 30 * time.Second
	DefaultMark      = 0x2002
	DefaultTable     = 2002
	DefaultQueue     = 256 << 10
	DefaultStateDir  = "/var/lib/ferry"
	DefaultDebounce  = 2 * time.Second
	DefaultPublished = proto.MaxServices
)

// A Config is everything a client can be told. The zero value of a field means its default.
// It is not modified after Run was called.
type Config struct {
	// Servers are ways to one gateway, which are tried in turn. Each is a host name or an address, or a
	// URL: tcp://host:port, vsock://cid:port, unix:///path, and unix:///path?vsock=port for a
	// hypervisor's hybrid socket.
	Servers []string
	Port    int // for a server without one
	// Carriers are the schemes of URLs that may be used; empty: all. Found: beside Servers, those that the gateway says that it
	// has, on the hosts where it is.
	Carriers []string
	Found    bool

	// Key and Gateway are set together: then TLS is spoken, as the device that has the key, with the
	// gateway that has the pin and nobody else; whatever is answered, never without. Otherwise the
	// 2013 protocol is spoken as it is.
	Key     identity.Key
	Gateway identity.Pin
	// Next is the pin of a key that the gateway has announced, over TLS: it may have that one already.
	Next identity.Pin
	// Joined is the file of the Enrolment, where it is kept what is announced, and which key the gateway has;
	// empty: what the owner has said stays.
	Joined string
	// Ways is the file with what has worked on which network; empty: that is forgotten at the end.
	Ways string

	Address netip.Addr // static address to ask for; invalid: dynamic
	Name    string     // told to a Ferry gateway, which may have an address reserved for it

	TUN string // name of the interface
	// User is for a device whose user has no rights, or wants no interface: what is in the tunnel is reached by proxies.
	User bool
	// SOCKS5 and HTTPProxy are host:port where programs find those; empty: none.
	SOCKS5, HTTPProxy string

	// Local and Remote are forwards as forward.ParseLocal and ParseRemote read them: from a socket of this device into the tunnel, and from this
	// device's address in the tunnel to a service of the device.
	Local, Remote []forward.Spec
	// Publish says which services of this device others shall reach at the gateway; one that has lasted for PublishDebounce, and at most PublishLimit of them.
	Publish         publish.What
	PublishDebounce time.Duration // 0: at once
	PublishLimit    int

	// Policy is what the owner has decided: MTU, routes, and what the gateway may decide of them.
	Policy   policy.Rules
	CloseLAN bool   // with a default route: this device's own private networks go into the tunnel, too
	Mark     uint32 // firewall mark of the connection to the gateway
	Table    int    // routing table of the full tunnel

	Keepalive time.Duration // sent when nothing else went out for so long
	RetryMin  time.Duration // first pause before connecting again
	RetryMax  time.Duration // longest pause

	QueueBytes int // waiting for the gateway
	KeepBytes  int // kept until the gateway has them, to be sent again by another connection

	Version string // of the program, for the user
	// Proxies returns what those have refused, and connections of a User were, by reason; nil: there are none.
	Proxies func() map[string]uint64

	Log    *slog.Logger    // nil: discard
	Events func(Event)     // called for each event, in order, from one goroutine; may be nil
	Report <-chan struct{} // each receive logs all counters; may be nil
}

// Pings tells whether sockets for pings may be wanted.
func (c *Config) Pings() bool {
	if c.Key.IsZero() || carriers["icmp"].dial == nil || len(c.Carriers) > 0 && !slices.Contains(c.Carriers, "icmp") {
		return false
	}
	return c.Found || slices.ContainsFunc(c.Servers, func(url string) bool { return strings.HasPrefix(url, "icmp:") })
}

// An EventKind names what happened to the connection.
type EventKind string

// The events, as --json prints them.
const (
	EventConnecting   EventKind = "connecting"
	EventConnected    EventKind = "connected"
	EventAddress      EventKind = "address" // a new or changed address is on the interface
	EventLost         EventKind = "lost"
	EventReconnecting EventKind = "reconnecting"
	EventSwitched     EventKind = "switched" // to another connection; what is inside of the tunnel goes on
	EventForward      EventKind = "forward"  // a forward listens, or could not
	EventStopped      EventKind = "stopped"
)

// An Event is one line of --json. Fields that say nothing about an event are left out of it.
type Event struct {
	Time      time.Time    `json:"time"`
	Kind      EventKind    `json:"event"`
	Server    string       `json:"server,omitempty"` // address or URL that was dialled
	Interface string       `json:"interface,omitempty"`
	Address   netip.Addr   `json:"address,omitzero"`
	Prefix    netip.Prefix `json:"prefix,omitzero"`
	Gateway   netip.Addr   `json:"gateway,omitzero"`
	MTU       int          `json:"mtu,omitempty"`
	Protocol  string       `json:"protocol,omitempty"` // "ferry" or "2013"
	Carrier   string       `json:"carrier,omitempty"`  // the scheme of its URL
	Way       string       `json:"way,omitempty"`      // the URL
	Secure    bool         `json:"secure,omitempty"`   // both ends have proven their keys
	Reason    string       `json:"reason,omitempty"`
	RetryIn   float64      `json:"retry_in,omitempty"` // seconds

	Forward *ForwardPlace `json:"forward,omitempty"`
}

func (c *Config) setDefaults() {
	c.Port = cmp.Or(c.Port, DefaultPort)
	c.TUN = cmp.Or(c.TUN, DefaultTUN)
	c.Mark = cmp.Or(c.Mark, DefaultMark)
	c.Table = cmp.Or(c.Table, DefaultTable)
	c.Keepalive = cmp.Or(c.Keepalive, DefaultKeepalive)
	c.RetryMin = cmp.Or(c.RetryMin, DefaultRetryMin)
	c.RetryMax = cmp.Or(c.RetryMax, DefaultRetryMax)
	c.QueueBytes = cmp.Or(c.QueueBytes, DefaultQueue)
	c.KeepBytes = cmp.Or(c.KeepBytes, DefaultKeep)
	c.PublishLimit = cmp.Or(c.PublishLimit, DefaultPublished)
	if c.Policy.Accept == nil {
		c.Policy.Accept = policy.DefaultAccept
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}
