//go:build !minimal

package main

import (
	"context"
	"net"
	"net/netip"

	"ferry/internal/cli"
	"ferry/internal/client"
	"ferry/internal/forward"
)

// canForward tells whether this build has forwards.
func canForward(client.Config) error { return nil }

// Networks implements client.Host. Sockets that listen come from the process with the rights.
func (h kernelHost) Networks(name string) (local, remote forward.Network) {
	lent := forward.Lent{From: h.Host}
	return forward.Sides{Listener: lent, Dialer: forward.Via{Interface: name}}, forward.Sides{Listener: lent, Dialer: services{h.Host}}
}

// HasAddress implements client.Publisher.
func (h kernelHost) HasAddress() bool { return true }

// services are those of this device. Their unix sockets are out of this process's reach.
type services struct{ host *cli.Host }

// Dial implements forward.Dialer.
func (s services) Dial(ctx context.Context, network string, from netip.Addr, to string) (net.Conn, error) {
	if network == "unix" {
		return s.host.Connect(to)
	}
	return forward.Sockets{}.Dial(ctx, network, from, to)
}
