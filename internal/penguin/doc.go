// Package penguin speaks the wire of vpnguin (https://github.com/rehosting/vpnguin), the VPN of the firmware rehosting system Penguin: services of
// an emulated machine appear on ports of its host. Either end may be the original. Package wire has the bytes.
//
//	client --> port of the host --> Host ==== vsock, a connection for each client ====> Guest --> service
//	                                 ^
//	                    file of events, which says what is published
//
// The rules are:
//
//   - What carries vsock may lose a half-close: hypervisors that keep it in user space end both directions with either (vhost-device#874). There a
//     Host tells the guest of a client's end only when the guest has been silent for holdBack, so what it still has to say arrives; and a Guest
//     ends both directions when the service has ended its own and the client has been silent for restTime. Over AF_VSOCK the Host passes it on at once.
//   - A flow of UDP is one vsock connection. It connects while others go on, nobody waits for a reply, and a datagram keeps its length. One
//     that is longer than the original reads (8192 bytes) is dropped and counted by who would send it; longer ones that come are taken.
//   - A Guest has no idle time for flows, for hosts of the original never make one anew. They have half of its room, and the one that was silent for longest gives way.
//   - A record that was asked for is whole: who is recorded waits for the disk (recorder.go).
//   - Nothing is allocated by a length that the other end claims, and all that it can make grow is bounded: requests, connections, queues.
//
// RunHost, RunGuest and their like return when all that they have started has ended.
package penguin

import "time"

const (
	// requestTime is how long a host has for its request: the original's.
	requestTime = 60 * time.Second
	// dialTime is how long a service, or the guest's end of vsock, has to answer: the original's.
	dialTime = 10 * time.Second
	// synTime is how long a service behind an interface has to answer before it is called filtered: the original's.
	synTime = 8 * time.Second
	// statusTime is how long a guest has for its status byte: longer than it waits itself.
	statusTime = dialTime + 5*time.Second
	holdBack   = 5 * time.Second
	restTime   = 250 * time.Millisecond
	// halfOpen is for how long a direction may be silent when the other one has ended.
	halfOpen = 5 * time.Minute
)

// DefaultPort is the vsock port of requests. Those of raw packets and frames follow it.
const DefaultPort = 1234
