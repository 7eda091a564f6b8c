package netstack

import "net/netip"

// shares say how many entries of a table each client has.
type shares map[netip.Addr]int

func (s shares) add(client netip.Addr) { s[client]++ }

func (s shares) sub(client netip.Addr) {
	if s[client]--; s[client] == 0 {
		delete(s, client)
	}
}

// most returns the client that has most.
func (s shares) most() (client netip.Addr) {
	for c, n := range s {
		if n > s[client] {
			client = c
		}
	}
	return client
}
