package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// A Protocol is what both ends name in the handshake (ALPN, RFC 7301).
type Protocol string

// The protocols.
const (
	Tunnel Protocol = "ferry/1"      // that of docs/protocol.md; for keys that the gateway knows
	Join   Protocol = "ferry-join/1" // an invitation is redeemed; for keys that it does not know yet
)

var protocols = []string{string(Tunnel), string(Join)}

// Why a handshake is refused. The other end hears of it by an alert alone.
var (
	ErrCertificate = errors.New("the certificate is not one self-signed Ed25519 certificate")
	ErrWrongKey    = errors.New("the key is not the one that is pinned")
	ErrProtocol    = errors.New("the other end does not speak Ferry's protocol over TLS 1.3")
)

// Server returns the configuration of a gateway. admit decides about the key of a client; its error ends
// the handshake. It must not act on its yes: the client proves only then that the key is its own.
func (k Key) Server(admit func(Protocol, Public) error) *tls.Config {
	c := k.config(protocols, admit)
	c.ClientAuth = tls.RequireAnyClientCert
	return c
}

// Client returns the configuration of a device that knows its gateway's pin: more than one while the gateway
// replaces its key.
func (k Key) Client(p Protocol, gateway ...Pin) *tls.Config {
	c := k.config([]string{string(p)}, func(_ Protocol, key Public) error {
		if !slices.Contains(gateway, key.Pin()) {
			return fmt.Errorf("%w: the gateway has %s, want %s", ErrWrongKey, key.Pin(), gateway)
		}
		return nil
	})
	c.InsecureSkipVerify = true // the chain of authorities; the key is verified by VerifyConnection
	return c
}

func (k Key) config(protocols []string, admit func(Protocol, Public) error) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{k.certificate()},
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
		NextProtos:             protocols,
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			protocol, key, err := Proven(s)
			if err != nil {
				return err
			}
			return admit(protocol, key)
		},
	}
}

// Proven returns what the two ends of a handshake have agreed to speak, and the key that the other one
// has proven, provided that the handshake has succeeded.
func Proven(s tls.ConnectionState) (Protocol, Public, error) {
	switch {
	case s.Version != tls.VersionTLS13, s.DidResume, !slices.Contains(protocols, s.NegotiatedProtocol):
		return "", Public{}, ErrProtocol
	}
	key, err := Shown(s)
	if err != nil {
		return "", Public{}, err
	}
	return Protocol(s.NegotiatedProtocol), key, nil
}

// Shown returns the key that the other end has proven in a handshake of any protocol over TLS that has succeeded: that of the one
// certificate that it has shown.
func Shown(s tls.ConnectionState) (Public, error) {
	if s.DidResume || len(s.PeerCertificates) != 1 {
		return Public{}, ErrCertificate
	}
	key, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok || Public(key) == (Public{}) { // which stands for none
		return Public{}, ErrCertificate
	}
	return Public(key), nil
}

// noExpiry is how X.509 says that there is none (RFC 5280, section 4.1.2.5).
var noExpiry = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// certificate returns the envelope for the public key.
func (k Key) certificate() tls.Certificate {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: noExpiry}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.private.Public(), k.private)
	if err != nil {
		panic("identity: a certificate can not be made: " + err.Error())
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k.private}
}
