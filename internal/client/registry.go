package client

import (
	"context"
	"maps"

	"ferry/internal/carrier"
	"ferry/internal/carrier/tcp"
	"ferry/internal/carrier/unix"
	"ferry/internal/carrier/vsock"
)

// A dialer reaches a gateway, and makes the handshake where there are keys.
type dialer func(context.Context, carrier.Endpoint, carrier.Opener, *keyring) (carrier.Link, error)

// carriers are the ways to a gateway, by the scheme of a URL. A new one is added here, or to those that a minimal build leaves out.
var carriers = with(map[string]dialer{
	"tcp":   stream(tcp.Dial),
	"vsock": stream(vsock.Dial),
	"unix":  stream(unix.Dial),
}, more)

func with(all, others map[string]dialer) map[string]dialer {
	maps.Copy(all, others)
	return all
}
