package carrier

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
)

// A Suite is what the two ends of a TLS 1.3 handshake may agree upon, for carriers that have its secrets and seal
// themselves.
type Suite struct {
	Hash   func() hash.Hash
	KeyLen int // bytes
	AEAD   func(key []byte) (cipher.AEAD, error)
}

var suites = map[uint16]*Suite{
	tls.TLS_AES_128_GCM_SHA256:       {sha256.New, 16, newGCM},
	tls.TLS_AES_256_GCM_SHA384:       {sha512.New384, 32, newGCM},
	tls.TLS_CHACHA20_POLY1305_SHA256: {sha256.New, chacha20poly1305.KeySize, chacha20poly1305.New},
}

// SuiteOf returns the suite with a number of TLS; nil when there is none.
func SuiteOf(id uint16) *Suite { return suites[id] }

// Suites returns the numbers of all.
func Suites() []uint16 {
	return []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Expand is HKDF-Expand-Label of a secret with an empty context: RFC 8446, section 7.1.
func (s *Suite) Expand(secret []byte, label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(info, byte(len(label))), label...)
	return hkdf.Expand(s.Hash, secret, string(append(info, 0)), n)
}
