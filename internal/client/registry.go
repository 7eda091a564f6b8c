package client

import (
	"context"
	"maps"

	"ferry/internal/carrier"
	"ferry/internal/carrier/tcp"
	"ferry/internal/carrier/unix"
	"ferry/internal/carrier/vsock"
	"ferry/internal/failover"
)

// A kind is a carrier, as a client knows it.
type kind struct {
	dial  dialer
	class failover.Class
	plain bool // it carries the 2013 protocol
	// polling is set where the gateway may only answer, full where echoes are shorter than elsewhere: failover.Way.
	polling bool
	full    int
	proxied func(carrier.Endpoint) bool // a proxy may be at the other end; nil: none
}

// A dialer reaches a gateway, and makes the handshake where there are keys.
type dialer func(context.Context, carrier.Endpoint, carrier.Opener, *keyring) (carrier.Link, error)

// carriers are the ways to a gateway, by the scheme of a URL. A new one is added here, or to those that a minimal build leaves out.
var carriers = with(map[string]kind{
	"tcp":   {dial: stream(tcp.Dial), class: failover.ClassTCP, plain: true},
	"vsock": {dial: stream(vsock.Dial), class: failover.ClassLocal, plain: true},
	"unix":  {dial: stream(unix.Dial), class: failover.ClassLocal, plain: true},
}, more)

func with(all, others map[string]kind) map[string]kind {
	maps.Copy(all, others)
	return all
}
