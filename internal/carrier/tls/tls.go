// Package tls makes a connection of any carrier secret and its two ends known to each other: TLS 1.3
// with the keys of package identity.
//
// The handshake is crypto/tls's. Behind it this package does the records itself (RFC 8446, section 5),
// with the traffic secrets that the handshake agreed upon, for three reasons: a run of packets is sealed
// into one buffer and leaves in one system call, without waiting and without an allocation; an idle
// connection holds no buffers, where a tls.Conn holds its own; and keys are updated before they are worn
// out, which crypto/tls leaves to nobody (AES-GCM: after 2^24.5 records, 400 GB, section 5.5).
//
//	net.Conn ── oneRecord ── crypto/tls handshake ──▶ secrets ──▶ Records ──▶ carrier.NewSecureStream
//	            never reads beyond the record that is asked for, so nothing is left behind in it
//
// A record:
//
//	[23][3 3][length 2]  AEAD( up to 16,384 bytes of data [23] )          data
//	                     AEAD( [24][0 0 1][0] [22] )                      the sender changes its key
//	                     AEAD( [level][what] [21] )                       an alert: the end
package tls

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"

	"ferry/internal/identity"
)

// ErrHandshake is returned, with the cause, for a handshake that did not succeed.
var ErrHandshake = errors.New("TLS handshake")

// Server makes the handshake of a gateway over conn, until ctx is done. It returns the records of the
// connection, what both ends want to speak, and the key that the client has proven. It closes nothing.
func Server(ctx context.Context, conn net.Conn, c *tls.Config) (*Records, identity.Protocol, identity.Public, error) {
	s, secrets, err := handshake(ctx, conn, c, tls.Server)
	if err != nil {
		return nil, "", identity.Public{}, err
	}
	protocol, key, err := identity.Proven(s)
	if err != nil {
		return nil, "", identity.Public{}, err
	}
	r, err := newRecords(s.CipherSuite, secrets.client, secrets.server)
	return r, protocol, key, err
}

// Client makes the handshake of a device over conn, until ctx is done. Whether the gateway takes its key
// is known only when the first record has come: in TLS 1.3 a client is done before the server has
// checked it.
func Client(ctx context.Context, conn net.Conn, c *tls.Config) (*Records, error) {
	s, secrets, err := handshake(ctx, conn, c, tls.Client)
	if err != nil {
		return nil, err
	}
	return newRecords(s.CipherSuite, secrets.server, secrets.client)
}

func handshake(ctx context.Context, conn net.Conn, c *tls.Config, side func(net.Conn, *tls.Config) *tls.Conn) (tls.ConnectionState, *keyLog, error) {
	secrets := new(keyLog)
	c = c.Clone()
	c.KeyLogWriter = secrets
	t := side(&oneRecord{Conn: conn}, c)
	if err := t.HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	return t.ConnectionState(), secrets, nil
}

// oneRecord gives a reader no byte behind the record that it reads: first the header, then the rest.
type oneRecord struct {
	net.Conn
	header [recordHeaderLen]byte
	have   int // bytes of header that were read
	rest   int // bytes of the record behind the header that were not read yet
}

func (o *oneRecord) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if o.rest > 0 {
		n, err := o.Conn.Read(b[:min(len(b), o.rest)])
		o.rest -= n
		return n, err
	}
	n, err := o.Conn.Read(b[:min(len(b), recordHeaderLen-o.have)])
	copy(o.header[o.have:], b[:n])
	if o.have += n; o.have == recordHeaderLen {
		o.have, o.rest = 0, bodyLen(o.header[:])
	}
	return n, err
}

// keyLog takes the secrets of the first keys for data from the lines in which crypto/tls tells them:
// the format of NSS, LABEL CLIENT_RANDOM SECRET.
type keyLog struct{ client, server []byte }

func (k *keyLog) Write(line []byte) (int, error) {
	words := bytes.Fields(line)
	if len(words) != 3 {
		return 0, errors.New("not a line of a key log")
	}
	var to *[]byte
	switch string(words[0]) {
	case "CLIENT_TRAFFIC_SECRET_0":
		to = &k.client
	case "SERVER_TRAFFIC_SECRET_0":
		to = &k.server
	default:
		return len(line), nil
	}
	secret, err := hex.DecodeString(string(words[2]))
	*to = secret
	return len(line), err
}
