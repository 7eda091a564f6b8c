package gateway

import (
	"context"

	"ferry/internal/carrier"
	"ferry/internal/carrier/datagram"
	"ferry/internal/identity"
)

// A caller is a client that has said hello by datagrams.
type caller struct {
	*datagram.Pending
	keeper *doorkeeper
}

func (c *caller) Close() error {
	c.Pending.Close()
	return nil
}

// Handshake implements shaker.
func (c *caller) Handshake(ctx context.Context) (carrier.Link, identity.Protocol, identity.Public, error) {
	l, protocol, key, err := c.Pending.Handshake(ctx, c.keeper.config())
	if err != nil {
		return nil, "", key, err
	}
	return l, protocol, key, nil
}

// callers are those of a listener.
type callers struct {
	*datagram.Listener
	keeper *doorkeeper
}

func (c callers) Accept() (*caller, error) {
	p, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &caller{p, c.keeper}, nil
}

// datagrams is a way by a carrier of datagrams, which makes the handshake itself.
func datagrams(listen func(context.Context, carrier.Endpoint) (*datagram.Listener, error)) way {
	return way{proves: true, listen: func(ctx context.Context, e carrier.Listening, k *doorkeeper) (entrance, error) {
		l, err := listen(ctx, e.Endpoint)
		if err != nil {
			return nil, err
		}
		l.Answer(k.config())
		return entranceOf[*caller]{callers{l, k}}, nil
	}}
}
