// Package vtunnel speaks the wire of vtunnel (https://github.com/cmu-sei/vtunnel, 0.6.0): tunnels for single ports between a
// virtual machine and its host. Either end may be the original.
//
//	application --TCP or UDP--> Client ==== vsock port 6666, unix or tcp, a connection for each ====> Server --TCP or UDP--> destination
//
//	C->S  VTUNNEL 127.0.0.1 7001 tcp          auth string, IPv4 address, port, tcp or udp; no end of line; in one write
//	S->C  ready | error | fail | addr | auth  connected | not connected | no request | address not accepted | wrong auth string
//	then, behind ready, bytes both ways; behind all others the server closes
//
// The rules are:
//
//   - A client of the original reads once and wants exactly 4 or 5 bytes: behind "ready" a Server holds back what the destination
//     says until the client has sent something, or for 75 ms.
//   - A server of the original reads once: a Client sends its request in one write, and nothing behind it before the reply.
//   - Replies are told by how they begin, never by how much a read returns; requests may come in pieces.
//   - The address is judged before the auth string, as the original does.
//   - An end of file is passed on alone (half-close). The original takes it for the end of both directions, and closes: so it
//     needs no negotiation, and there is no room for one. When one direction has ended, the other one may be silent for 5 minutes.
//   - Datagrams have no frames on this wire: what is written at once is one, what is read at once is one. They are kept a
//     millisecond apart, so that a reader who keeps up does not see two as one; one who is late does. Those of more than 8192
//     bytes are cut by a Server, as by the original's, and dropped by a Client.
//   - Everything a stranger can make grow is bounded: the request, the time for it, tunnels, flows, what waits for a flow.
//
// Serve and its like return when all that they have started has ended.
package vtunnel

import "time"

// Version is that of the original whose flags, lines and wire these are.
const Version = "0.6.0"

// What both ends have unless they are told otherwise.
const (
	DefaultPort = 6666 // of vsock
	DefaultAuth = "VTUNNEL"
	maxAuth     = 31 // bytes that count; the original has 32 with a NUL
	maxDatagram = 8192
)

const (
	dialTimeout = 10 * time.Second // of a destination, or a server
	// holdBack is for how long a client of the original may take to read the reply.
	holdBack = 75 * time.Millisecond
	// halfOpen is for how long a direction may be silent when the other one has ended: nothing tells a peer that waits for an
	// answer from one that is gone.
	halfOpen = 5 * time.Minute
	// apart is how far apart datagrams are written.
	apart = time.Millisecond
)

// cut returns what counts of an auth string.
func cut(auth string) string {
	if auth == "" {
		auth = DefaultAuth
	}
	return auth[:min(len(auth), maxAuth)]
}
