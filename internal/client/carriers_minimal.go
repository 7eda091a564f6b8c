//go:build minimal

package client

// more are the carriers that a minimal build leaves out.
var more map[string]kind

// Echo: no answers by icmp.
const Echo = 0
