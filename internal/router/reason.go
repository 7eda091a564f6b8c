package router

import "sync/atomic"

// A Reason says why a packet was dropped.
type Reason uint8

// The reasons.
const (
	None             Reason = iota
	DropNoAddress           // sent before the peer had an address
	DropLength              // its length does not match its frame
	DropHeader              // an IP or transport header that contradicts itself
	DropOffload             // an offload header that does not fit the packet
	DropIPv6                // not carried yet
	DropSource              // its source is not an address of the sender
	DropMartian             // an address that never belongs on a wire, or a control pattern
	DropMulticast           // multicast or broadcast
	DropUnassigned          // a pool address that nobody holds
	DropNoRoute             // nothing is known about the destination
	DropHairpin             // back to where it came from
	DropIsolated            // from client to client, which is switched off
	DropDenied              // the gateway's policy forbids the destination
	DropTooBig              // larger than the MTU of the destination, and must not be fragmented
	DropQueueFull           // the queue of the peer is full
	DropMemory              // the queues of all peers together are full
	DropClosed              // the connection is ending
	DropExit                // the interface is gone or refused it
	DropNotConnected        // no gateway at the moment
	reasons                 // how many there are
)

var reasonNames = [reasons]string{
	None:             "none",
	DropNoAddress:    "no_address",
	DropLength:       "length",
	DropHeader:       "header",
	DropOffload:      "offload",
	DropIPv6:         "ipv6",
	DropSource:       "source",
	DropMartian:      "martian",
	DropMulticast:    "multicast",
	DropUnassigned:   "unassigned",
	DropNoRoute:      "no_route",
	DropHairpin:      "hairpin",
	DropIsolated:     "isolated",
	DropDenied:       "denied",
	DropTooBig:       "too_big",
	DropQueueFull:    "queue_full",
	DropMemory:       "memory",
	DropClosed:       "closed",
	DropExit:         "exit",
	DropNotConnected: "not_connected",
}

// String returns the name under which the reason is counted.
func (r Reason) String() string { return reasonNames[r] }

// Counters count the packets of one port, or of all.
type Counters struct {
	packets, bytes atomic.Uint64 // received from the port and sent on; a super-packet is one, its segments for a 2013 peer are many
	drops          [reasons]atomic.Uint64
}

func (c *Counters) drop(r Reason, n int) { c.drops[r].Add(uint64(n)) }

// Stats is a copy of Counters. Packets and Bytes were received from the port and forwarded. Where a
// port took only a part of a run, Bytes has that share of the run's bytes.
type Stats struct {
	Packets, Bytes uint64
	Drops          map[string]uint64 // by the name of the reason; without those that are 0
}

// Stats returns the counts so far.
func (c *Counters) Stats() Stats {
	s := Stats{Packets: c.packets.Load(), Bytes: c.bytes.Load(), Drops: map[string]uint64{}}
	for r := range c.drops {
		if n := c.drops[r].Load(); n > 0 {
			s.Drops[Reason(r).String()] = n
		}
	}
	return s
}
