//go:build !minimal

package client

import (
	"context"
	"net"

	"ferry/internal/carrier"
	"ferry/internal/carrier/ws"
)

// more are the carriers that a minimal build leaves out.
var more = map[string]dialer{
	"ws":  stream(web),
	"wss": stream(web),
}

// web dials a WebSocket, through the proxy that the environment names.
func web(ctx context.Context, e carrier.Endpoint, o carrier.Opener) (net.Conn, error) {
	return ws.Dial(ctx, e, o, ws.Options{})
}
