// Package flowlist has what there is to know of a connection, or of datagrams between two addresses, that passes a gateway, whoever carries it.
package flowlist

import (
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Max is how many flows of one kind are listed at once.
const Max = 500

// Who carries a flow.
const (
	ByUser    = "user"    // the exit of sockets
	ByForward = "forward" // a published port
	ByKernel  = "kernel"  // the network of the host, as its connection tracking knows it
)

// A Flow is one.
type Flow struct {
	By       string         `json:"by"`
	Protocol string         `json:"protocol"` // tcp, udp, icmp, or a number
	Client   netip.AddrPort `json:"client"`   // in the tunnel; the port of an echo is its identifier
	Remote   netip.AddrPort `json:"remote"`   // beyond the gateway; of a published port who has come
	State    string         `json:"state,omitempty"`
	Since    time.Time      `json:"since,omitzero"`    // zero: not known
	Last     time.Time      `json:"last,omitzero"`     // when something passed; zero: not known
	Expires  float64        `json:"expires,omitempty"` // seconds until it is forgotten, if nothing passes; of the kernel only
	Counted  bool           `json:"counted"`           // the two that follow are known
	Sent     uint64         `json:"sent"`              // bytes from the client
	Received uint64         `json:"received"`          // bytes to the client
}

// Of tells whether a flow is of one of these clients; none: of any.
func Of(clients []netip.Addr, client netip.Addr) bool {
	return len(clients) == 0 || slices.Contains(clients, client)
}

// Protocol returns the name of an IP protocol, or its number.
func Protocol(n uint8) string {
	switch n {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return strconv.Itoa(int(n))
}
