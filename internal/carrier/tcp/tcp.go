// Package tcp is the carrier over TCP: the 2013 protocol's own.
//
// What stands in a TCP socket's send buffer can not be overtaken or dropped any more, so a TCP
// inside the tunnel would feel a loss late and its latency would go to seconds. carrier.NotSentLowat keeps
// what the network has not asked for yet out of the socket, and in our queue.
package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"ferry/internal/carrier"
)

// Listen serves the host and the port of an endpoint, on IPv4 and IPv6 where no host is given.
func Listen(ctx context.Context, e carrier.Endpoint) (net.Listener, error) {
	at := net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
	l, err := carrier.TCPListenConfig().Listen(ctx, carrier.Family("tcp", at), at)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: port %d is taken: stop the other program ('ss -ltnp sport = %d' shows it) or use --listen with another port: %w", e, e.Port, e.Port, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s: this machine has no such address ('ip addr' shows what it has): %w", e, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	return l, nil
}

// Dial connects to an endpoint tcp://host:port.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener) (net.Conn, error) {
	return carrier.DialTCP(ctx, e, o)
}
