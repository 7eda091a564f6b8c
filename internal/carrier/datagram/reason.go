package datagram

import "sync/atomic"

// A Reason says why a datagram was dropped.
type Reason uint8

// The reasons.
const (
	DropMalformed Reason = iota // too short, of another version or type
	DropUnknown                 // for a connection that is not (any more)
	DropForged                  // does not authenticate
	DropReplayed                // came before, or is older than what is remembered
	DropEarly                   // its keys are not there yet, or not any more
	DropQueue                   // nobody fetches what has come
	DropCookie                  // the cookie is wrong or too old
	DropCrowd                   // too many handshakes are open
	DropUnproven                // would be more than came from an address that is not proven
	DropTooLong                 // an item that no datagram takes
	reasons
)

var reasonNames = [reasons]string{"malformed", "unknown", "forged", "replayed", "early", "queue", "cookie", "crowd", "unproven", "too_long"}

func (r Reason) String() string { return reasonNames[r] }

// counters count what was dropped.
type counters [reasons]atomic.Uint64

func (c *counters) drop(why Reason) { c[why].Add(1) }

// Stats returns how many datagrams were dropped for which reason.
func (c *counters) stats() map[string]uint64 {
	m := make(map[string]uint64, reasons)
	for i := range c {
		if n := c[i].Load(); n > 0 {
			m[Reason(i).String()] = n
		}
	}
	return m
}
