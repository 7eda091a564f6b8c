package gateway

import (
	"context"
	"net"

	"ferry/internal/carrier"
	"ferry/internal/carrier/ssh"
	"ferry/internal/carrier/tcp"
	"ferry/internal/identity"
)

// A shell is a connection by SSH, whose handshake proves the keys of both ends.
type shell struct {
	net.Conn
	keeper *doorkeeper
}

// Handshake implements shaker.
func (s *shell) Handshake(ctx context.Context) (carrier.Link, identity.Protocol, identity.Public, error) {
	conn, key, err := ssh.Server(ctx, s.Conn, s.keeper.key, func(key identity.Public) error {
		return s.keeper.admit(identity.Tunnel, key)
	})
	if err != nil {
		return nil, "", key, err
	}
	return carrier.NewStream(conn), identity.Tunnel, key, nil
}

// shells are the connections of a listener.
type shells struct {
	net.Listener
	keeper *doorkeeper
}

func (s shells) Accept() (*shell, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &shell{conn, s.keeper}, nil
}

func listenSSH(ctx context.Context, e carrier.Listening, k *doorkeeper) (entrance, error) {
	l, err := tcp.Listen(ctx, e.Endpoint)
	if err != nil {
		return nil, err
	}
	return entranceOf[*shell]{shells{l, k}}, nil
}
