//go:build minimal

package client

// more are the carriers that a minimal build leaves out.
var more map[string]kind

// pings: no answers by icmp.
const pings = 0
