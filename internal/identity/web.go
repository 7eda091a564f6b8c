package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"time"
)

// Outer returns the configuration of the TLS around HTTP where a client that speaks nothing of Ferry's inside may prove its key: it
// is asked for a certificate, which nobody verifies; what it shows is what Shown returns. It sees the certificate of k, which it can
// pin, if it knows Ed25519, else that of Unproven; without a key always that one.
func (k Key) Outer() *tls.Config {
	c := Unproven()
	if !k.IsZero() {
		c.Certificates = append([]tls.Certificate{k.certificate()}, c.Certificates...)
	}
	c.ClientAuth, c.SessionTicketsDisabled = tls.RequestClientCert, true
	return c
}

// Unproven returns the configuration of an HTTPS server around a carrier that makes a handshake of its own inside. It has a
// certificate of a kind that every client understands, new with each call: nobody is proven by it.
func Unproven() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic("identity: " + err.Error()) // crypto/rand never fails
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: noExpiry}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic("identity: a certificate can not be made: " + err.Error())
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
}
