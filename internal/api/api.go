// Package api is how an operator speaks with a running gateway: HTTP with JSON over a unix socket in the
// state directory, for the user who runs the gateway and for root.
//
//	GET    /v1/peers                 all devices, and the open invitations
//	POST   /v1/peers                 Peer          -> Peer           add a device by its key
//	PATCH  /v1/peers/{name}          Change        -> Peer           disable it, or enable it again
//	DELETE /v1/peers/{name}                                          remove it; its connections end
//	POST   /v1/invitations           Invite        -> Invited        let a device join once
//	GET    /v1/sessions              the connections
//	DELETE /v1/sessions/{id}                                         end one
//	GET    /v1/leases                the addresses that clients without a key have, or that are held for them
//	GET    /v1/status                Status
//	GET    /v1/forwards              the published ports
//	GET    /v1/published             the services of clients that are published as these announce them
//	POST   /v1/forwards              Publish       -> Forward        publish one
//	DELETE /v1/forwards?from=URL                   -> Forward        remove it; its connections end
//	GET    /v1/flows?peer=                         Flows             connections that go through the gateway, of a client or of all
//	GET    /v1/capture?Capture                     -> a file of pcap packets as they pass, until a limit, or the end of the connection
//	DELETE /v1/capture/{number}                                      end one; its file is completed
//	POST   /v1/reload                              -> Reloaded       apply the configuration file anew
//	GET    /v1/routes                                              what this gateway answers, as "GET /v1/status"
//	GET    /, /page.js ...                                         the page of package web
//	GET    /metrics, /healthz        for Prometheus; also by TCP, if that is configured
//
// An error is {"error": "..."} with a status of 400 (the request), 404 (no such thing), 409 (taken) or
// 503 (the disk).
//
// The rules are:
//
//   - The socket has mode 0600, and the kernel names the user at its other end (SO_PEERCRED).
//   - A web page that gets a browser to speak to it is refused: by the Host that it can not choose, and
//     by the Origin that it can not hide.
//   - Connections, headers, bodies and times are bounded.
package api

import (
	"net/netip"
	"time"

	"ferry/internal/flowlist"
	"ferry/internal/publish"
)

// SocketName is the name of the socket in the state directory.
const SocketName = "control.sock"

// A Peer is a device that may connect.
type Peer struct {
	Name      string         `json:"name"`
	Key       string         `json:"key"`                 // as 'vpncli key' prints it
	Addresses []netip.Addr   `json:"addresses,omitempty"` // none: one is chosen
	Routes    []netip.Prefix `json:"routes,omitempty"`    // networks behind it
	Disabled  bool           `json:"disabled,omitempty"`
	Added     time.Time      `json:"added,omitzero"`
	Sessions  []uint64       `json:"sessions,omitempty"` // its connections
	// KnowsNext is set once it was told of the gateway's next key.
	KnowsNext bool `json:"knows_next_key,omitempty"`
}

// A Change is what can be changed of a Peer. A field that is missing stays as it is.
type Change struct {
	Disabled *bool `json:"disabled"`
}

// An Invite asks for an invitation.
type Invite struct {
	Name      string         `json:"name"`
	Addresses []netip.Addr   `json:"addresses,omitempty"`
	Routes    []netip.Prefix `json:"routes,omitempty"`
	TTL       float64        `json:"ttl,omitempty"`     // seconds; 0: 15 minutes
	Servers   []string       `json:"servers,omitempty"` // where the device finds the gateway; none: as it is configured
}

// Invited is an invitation.
type Invited struct {
	Invitation string    `json:"invitation,omitempty"` // the secret; only where it was made
	Name       string    `json:"name"`
	Servers    []string  `json:"servers,omitempty"`
	Expires    time.Time `json:"expires"`
}

// Peers are all devices and the open invitations, by name.
type Peers struct {
	Peers       []Peer    `json:"peers"`
	Invitations []Invited `json:"invitations"`
}

// A Session is a connection of a client.
type Session struct {
	ID       uint64            `json:"id"`
	Name     string            `json:"name,omitempty"`
	Secure   bool              `json:"secure"` // the client has proven its key
	Address  netip.Addr        `json:"address,omitzero"`
	From     string            `json:"from"`
	Carrier  string            `json:"carrier,omitempty"` // in use now
	Since    time.Time         `json:"since"`
	Received uint64            `json:"received"` // bytes
	Sent     uint64            `json:"sent"`     // bytes
	Queued   int               `json:"queued"`   // bytes
	Packets  uint64            `json:"packets"`
	Drops    map[string]uint64 `json:"drops,omitempty"`
	Paths    []Path            `json:"paths,omitempty"`    // of a session that outlives its connections
	Away     float64           `json:"away,omitempty"`     // seconds since when it has no path
	Replayed uint64            `json:"replayed,omitempty"` // packets that were sent again by another path
}

// A Path is one connection of a session.
type Path struct {
	Carrier string    `json:"carrier"`
	From    string    `json:"from"`
	Since   time.Time `json:"since"`
	Standby bool      `json:"standby"` // nothing is sent by it for now
}

// Status is how the gateway does.
type Status struct {
	Version     string    `json:"version"`
	Started     time.Time `json:"started"`
	Fingerprint string    `json:"fingerprint,omitempty"` // of its key
	// NextFingerprint is that of the key which the gateway will have next.
	NextFingerprint string       `json:"next_fingerprint,omitempty"`
	Exit            string       `json:"exit"`      // kernel or user
	Interface       string       `json:"interface"` // empty: there is none
	Gateway         netip.Addr   `json:"gateway"`
	Pool            netip.Prefix `json:"pool"`
	PlainPool       netip.Prefix `json:"plain_pool"`
	Listeners       []Listener   `json:"listeners"`
	Doors           []Door       `json:"doors,omitempty"`
	Sessions        int          `json:"sessions"`
	// Unauthenticated are those that have proven nothing yet.
	Unauthenticated int               `json:"unauthenticated"`
	Peers           int               `json:"peers"`
	Packets         uint64            `json:"packets"`
	Bytes           uint64            `json:"bytes"`
	Drops           map[string]uint64 `json:"drops"`
	// Beyond are connections that the gateway has with the network behind it itself, and those that it was refused, by reason.
	Beyond map[string]uint64 `json:"beyond,omitempty"`
	// Names are questions to the gateway\'s name server, by what became of them; nil: it has none.
	Names map[string]uint64 `json:"names,omitempty"`
	// Tunnels are connections of clients of vtunnel, by what became of them; nil: there is no listener for those.
	Tunnels map[string]uint64 `json:"tunnels,omitempty"`
	// Forwards are the counts of published ports since the start, by scheme (tcp, udp, unix), also of those that were removed.
	Forwards map[string]ForwardTotals `json:"forwards,omitempty"`
	// Published are services of clients, and Unpublished those that were refused, by reason.
	Published   int               `json:"published"`
	Unpublished map[string]uint64 `json:"unpublished,omitempty"`
	// Gvproxy are requests to gvproxy's API, by what became of them, and Notifications those that a program was sent; nil: there is none.
	Gvproxy       map[string]uint64 `json:"gvproxy,omitempty"`
	Notifications map[string]uint64 `json:"notifications,omitempty"`

	Closed  map[string]uint64 `json:"closed"` // connections, by what ended them
	Queued  int               `json:"queued"` // bytes
	Leases  Leases            `json:"leases"`
	Waiting []string          `json:"waits_for_restart,omitempty"` // settings that a reload could not apply
}

// A Lease is an address of a client without a key.
type Lease struct {
	Address netip.Addr `json:"address"`
	Name    string     `json:"name,omitempty"`    // what the client called itself
	Session uint64     `json:"session,omitempty"` // 0: it has vanished, and the address is held for it
	Until   time.Time  `json:"until,omitzero"`    // of a held one
}

// Flows are what goes through the gateway, as far as it knows.
type Flows struct {
	Flows   []flowlist.Flow `json:"flows"`             // flowlist.Max of each kind at most
	Total   int             `json:"total"`             // there are
	Missing []string        `json:"missing,omitempty"` // what could not be asked, and why
}

// A Publish asks for a port of a client to be published.
type Publish struct {
	From string `json:"from"` // where the gateway listens: tcp://:8080, udp://:53, unix:///run/x.sock
	To   string `json:"to"`   // 10.0.3.4:80, or cam1:80
}

// A Forward is a published port.
type Forward struct {
	From        string `json:"from"` // as it was asked for
	To          string `json:"to"`
	Bound       string `json:"bound,omitempty"`      // where it listens, with the port that was found; empty: it could not be opened
	Fixed       bool   `json:"configured,omitempty"` // by the configuration
	Err         string `json:"error,omitempty"`      // why it could not
	Connections int    `json:"connections"`          // there are; flows of udp
	Total       uint64 `json:"total"`                // there were
	Refused     uint64 `json:"refused"`              // may not come, or are too many
	Failed      uint64 `json:"failed"`               // the client did not answer
	Received    uint64 `json:"received"`             // bytes from the client, of what has ended
	Sent        uint64 `json:"sent"`                 // bytes to the client, of what has ended
}

// ForwardTotals are counts of several published ports.
type ForwardTotals struct {
	Connections int    `json:"connections"` // there are; flows of udp
	Total       uint64 `json:"total"`       // there were
	// Refused are connections, flows and datagrams that did not come to anything, by reason: source (who may not come), full (beyond what there may be),
	// unreachable (the client did not answer).
	Refused  map[string]uint64 `json:"refused"`
	Received uint64            `json:"received"` // bytes from clients, of what has ended
	Sent     uint64            `json:"sent"`     // bytes to clients, of what has ended
}

// A Published is a service of a client that is published as the client announces it.
type Published struct {
	publish.Endpoint
	Connections int    `json:"connections"` // there are; flows of udp
	Total       uint64 `json:"total"`       // there were
	Failed      uint64 `json:"failed"`      // the client did not answer
	Received    uint64 `json:"received"`    // bytes from the client, of what has ended
	Sent        uint64 `json:"sent"`        // bytes to the client, of what has ended
}

// Reloaded is what came of a reload.
type Reloaded struct {
	Applied []string `json:"applied"`           // keys of the file that have changed and are in force
	Waiting []string `json:"waits_for_restart"` // those that are not before the next start
	Ended   int      `json:"ended"`             // connections that may not be any more
}

// A Listener is where clients come in.
type Listener struct {
	URL   string `json:"url"`
	Allow string `json:"allow"` // plain, tls or both
}

// A Door is where programs of another system are served.
type Door struct {
	URL string `json:"url"` // of vtunnel without its settings, among which is a secret
	For string `json:"for"` // vtunnel or gvproxy
}

// Leases are those of clients without a key.
type Leases struct {
	Free int    `json:"free"`
	Live int    `json:"live"`
	Held int    `json:"held"`
	Err  string `json:"error,omitempty"` // why none can be stored
}
