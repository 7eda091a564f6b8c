package tls

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"ferry/internal/identity"
)

var errPeeked = errors.New("only looked at")

// IsOurs tells whether the connection, which begins with the handshake of TLS, wants to speak a protocol of package
// identity, until ctx is done. It returns a connection from which all can be read again.
func IsOurs(ctx context.Context, conn net.Conn) (bool, net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	var read bytes.Buffer
	ours := false
	err := tls.Server(&looking{Conn: conn, r: io.TeeReader(&oneRecord{Conn: conn}, &read)}, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			ours = slices.ContainsFunc(hello.SupportedProtos, func(p string) bool {
				return p == string(identity.Tunnel) || p == string(identity.Join)
			})
			return nil, errPeeked
		},
	}).HandshakeContext(context.Background()) // ctx ends the reading
	if !stop() {
		return false, nil, ctx.Err()
	}
	if !errors.Is(err, errPeeked) {
		return false, nil, errors.Join(ErrHandshake, err)
	}
	return ours, &again{Conn: conn, r: io.MultiReader(&read, conn)}, nil
}

// looking is a connection on which nothing is said.
type looking struct {
	net.Conn
	r io.Reader
}

func (l *looking) Read(b []byte) (int, error)  { return l.r.Read(b) }
func (l *looking) Write(b []byte) (int, error) { return len(b), nil }
func (l *looking) Close() error                { return nil }

// again is a connection of which the first bytes were read before.
type again struct {
	net.Conn
	r io.Reader
}

func (a *again) Read(b []byte) (int, error) { return a.r.Read(b) }
