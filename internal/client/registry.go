package client

import (
	"context"
	"net"

	"ferry/internal/carrier"
	"ferry/internal/carrier/tcp"
	"ferry/internal/carrier/unix"
	"ferry/internal/carrier/vsock"
)

// carriers are the ways to a gateway, by the scheme of a URL. A new one is added here.
var carriers = map[string]func(context.Context, carrier.Endpoint, carrier.Opener) (net.Conn, error){
	"tcp":   tcp.Dial,
	"vsock": vsock.Dial,
	"unix":  unix.Dial,
}
