package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"ferry/internal/carrier"
	"ferry/internal/identity"
)

// An arrival is a connection of which nothing was read yet: a net.Conn, or a shaker.
type arrival interface {
	RemoteAddr() net.Addr
	Close() error
}

// A shaker is an arrival by a carrier that makes the handshake itself, with the keys of both ends.
type shaker interface {
	arrival
	Handshake(ctx context.Context) (carrier.Link, identity.Protocol, identity.Public, error)
}

// An entrance is where arrivals come in.
type entrance interface {
	Accept() (arrival, error)
	Addr() net.Addr
	Close() error
}

// A listening accepts arrivals of one kind.
type listening[T arrival] interface {
	Accept() (T, error)
	Addr() net.Addr
	Close() error
}

// entranceOf makes an entrance of what accepts one kind of arrival.
type entranceOf[T arrival] struct{ listening[T] }

func (e entranceOf[T]) Accept() (arrival, error) { return e.listening.Accept() }

// A doorkeeper tells the carriers that make the handshake themselves who may come in. They listen before there is a
// Gateway; until then nobody may.
type doorkeeper struct {
	key    identity.Key
	config func() *tls.Config // for a handshake of TLS 1.3
	of     atomic.Pointer[Gateway]
}

func newDoorkeeper(key identity.Key) *doorkeeper {
	d := &doorkeeper{key: key}
	d.config = sync.OnceValue(func() *tls.Config { return key.Server(d.admit) })
	return d
}

var errNotYet = errors.New("the gateway is starting")

func (d *doorkeeper) admit(p identity.Protocol, key identity.Public) error {
	if g := d.of.Load(); g != nil {
		return g.known(p, key)
	}
	return errNotYet
}
