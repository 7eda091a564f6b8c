package penguin

import "sync/atomic"

// A reason is why a connection was refused, or a datagram, packet or frame dropped.
type reason uint8

// What a Guest counts.
const (
	connected       reason = iota // no reason: services that were reached
	reasonFull                    // connections beyond what there may be
	reasonRequest                 // no request, or not for this port
	reasonDial                    // the service was not reached
	reasonInterface               // an interface that is not owned, or is for TCP only
	reasonLong                    // a datagram or frame longer than the other end reads, or a link carries
	reasonSlow                    // the host does not keep up
	reasonMalformed               // no IPv4 packet or no Ethernet frame
	reasons
)

var reasonNames = [reasons]string{"connected", "full", "request", "dial", "interface", "long", "slow", "malformed"}

// String returns its name in the log.
func (r reason) String() string { return reasonNames[r] }

// guestCounters are by reason.
type guestCounters [reasons]atomic.Uint64
