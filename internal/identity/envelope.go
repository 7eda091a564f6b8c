package identity

import (
	"crypto/x509"
	"encoding/pem"
)

// PEM returns the key in a certificate of its own and by itself (RFC 7468), for programs that know nothing of Ferry: with both they
// prove in any handshake of TLS that they are the owner of the key.
func (k Key) PEM() []byte {
	private, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		panic("identity: " + err.Error()) // it has a form for every key of this kind
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.certificate().Certificate[0]})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
}
