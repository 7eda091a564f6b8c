// Package addrpool gives out the addresses of one prefix. It knows no disk, no clock and no network:
// what was decided is returned as events for whoever keeps them.
//
// An address is in one of these states:
//
//	          Grant                 Release with hold
//	free -------------> live ------------------------------> held --+
//	 ^                   |  ^                                 |  |  | Grant with the token of the lease,
//	 |      Release      |  +---------------------------------+  |  | which a live one yields to as well
//	 +-------------------+               hold is over            |
//	 +------------------------------------------------------------+
//
// and network, broadcast, gateway and reserved addresses are never given out dynamically.
//
// The order is that of 2013: from 10.0.254.254 downwards, none that ends in .0 or .255, none of the
// first block of 256; the last block of 256 only when nothing else is left. An address that was given
// back goes to the far end, so that who comes back later finds it free as long as possible.
//
// A connection that could not tell its client of a grant, since the disk failed, gives it back with
// Release and no hold: the address is free then, and what the connection had before is not its own again.
//
// Every operation takes a constant time, the expiry of holds one for each hold. There is one exception:
// when nothing is free, a dynamic request passes over held addresses that are only given statically, of
// which a /16 has 763, and those that are reserved.
//
// A Pool is not safe for concurrent use.
package addrpool
