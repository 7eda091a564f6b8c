package datagram

import (
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"

	"ferry/internal/carrier"
)

// generation is how many bits of a packet's number count within the life of a key.
const generation = 22

var (
	errForged = errors.New("a packet is not genuine")
	errSuite  = errors.New("no keys for this cipher suite")
)

// A nonce is scratch memory: one on the stack would be allocated at each call of an interface.
type nonce [12]byte

// A key seals or opens packets.
type key struct {
	aead cipher.AEAD
	iv   nonce
}

// at sets n to the nonce of a packet: RFC 9001, section 5.3.
func (k *key) at(n *nonce, number uint64) []byte {
	*n = k.iv
	binary.BigEndian.PutUint64(n[4:], binary.BigEndian.Uint64(n[4:])^number)
	return n[:]
}

// seal encrypts what follows the header of p, and appends the tag.
func (k *key) seal(n *nonce, p []byte, header int, number uint64) []byte {
	return k.aead.Seal(p[:header], k.at(n, number), p[header:], p[:header])
}

// open appends what is in a packet to dst.
func (k *key) open(n *nonce, dst, p []byte, header int, number uint64) ([]byte, error) {
	return k.aead.Open(dst, k.at(n, number), p[header:], p[:header])
}

// A secret is what keys are made of.
type secret struct {
	*carrier.Suite
	bytes []byte
}

// expand makes more of it. The labels are our own.
func (s secret) expand(label string, n int) ([]byte, error) {
	return s.Expand(s.bytes, "ferry "+label, n)
}

func (s secret) key() (*key, error) {
	k := new(key)
	b, err := s.expand("key", s.KeyLen)
	if err != nil {
		return nil, err
	}
	iv, err := s.expand("iv", len(k.iv))
	if err != nil {
		return nil, err
	}
	k.iv = nonce(iv)
	k.aead, err = s.AEAD(b)
	return k, err
}

// next returns the secret of the next generation.
func (s secret) next() (secret, error) {
	b, err := s.expand("ku", s.Hash().Size())
	return secret{s.Suite, b}, err
}

// newSecret returns a secret that crypto/tls has made.
func newSecret(id uint16, b []byte) (secret, error) {
	s := carrier.SuiteOf(id)
	if s == nil || len(b) != s.Hash().Size() {
		return secret{}, fmt.Errorf("%w: %#04x", errSuite, id)
	}
	return secret{s, append([]byte(nil), b...)}, nil
}

// initialSecrets returns those of the first packets, which keep nothing secret: they keep those out who have not seen them.
func initialSecrets(client uint64) (ofClient, ofServer secret, err error) {
	s := carrier.SuiteOf(tls.TLS_AES_128_GCM_SHA256)
	prk, err := hkdf.Extract(s.Hash, binary.BigEndian.AppendUint64(nil, client), []byte("ferry datagram 1"))
	if err != nil {
		return secret{}, secret{}, err
	}
	root := secret{s, prk}
	c, errC := root.expand("client in", s.Hash().Size())
	g, errG := root.expand("server in", s.Hash().Size())
	return secret{s, c}, secret{s, g}, errors.Join(errC, errG)
}

// A sealer has the key of packets to send.
type sealer struct {
	secret secret
	gen    uint64
	key    *key // nil: there is none
}

// at returns the key for a packet. Numbers only rise.
func (s *sealer) at(number uint64) (*key, error) {
	for s.gen < number>>generation {
		next, err := s.secret.next()
		if err != nil {
			return nil, err
		}
		k, err := next.key()
		if err != nil {
			return nil, err
		}
		s.secret, s.key = next, k
		s.gen++
	}
	return s.key, nil
}

// An opener has the keys of packets that come: of the generation that is in use, the one before and the next.
type opener struct {
	secret             secret
	gen                uint64
	before, key, after *key // key nil: there is none
	later              secret
	n                  nonce
}

func (o *opener) set(s secret) (err error) {
	o.secret = s
	o.key, err = s.key()
	return err
}

// open appends what is in a packet to dst. A new generation begins with the first genuine packet of it.
func (o *opener) open(dst, p []byte, header int, number uint64) ([]byte, error) {
	k := o.key
	switch number >> generation {
	case o.gen:
	case o.gen + 1:
		if err := o.prepare(); err != nil {
			return nil, err
		}
		k = o.after
	case o.gen - 1:
		k = o.before
	default:
		k = nil
	}
	if k == nil {
		return nil, errForged
	}
	b, err := k.open(&o.n, dst, p, header, number)
	if err == nil && k == o.after {
		o.before, o.key, o.after = o.key, o.after, nil
		o.secret = o.later
		o.gen++
	}
	return b, err
}

// prepare makes the next key, once.
func (o *opener) prepare() (err error) {
	if o.after != nil {
		return nil
	}
	if o.later, err = o.secret.next(); err != nil {
		return err
	}
	o.after, err = o.later.key()
	return err
}

// staticSecret is a gateway's own, that outlives it: of its key and of where it listens, for another listener with the same
// key must not call a connection of this one unknown.
func staticSecret(c *tls.Config, where string) ([]byte, error) {
	if len(c.Certificates) == 1 {
		if k, ok := c.Certificates[0].PrivateKey.(ed25519.PrivateKey); ok {
			return hkdf.Key(sha256.New, k.Seed(), nil, "ferry unknown connection "+where, sha256.Size)
		}
	}
	return nil, errors.New("no Ed25519 key")
}

// lostToken is what proves an unknown packet to the client that was told so in the handshake.
func lostToken(static []byte, id uint64) (t [tokenLen]byte) {
	h := hmac.New(sha256.New, static)
	h.Write(binary.BigEndian.AppendUint64(nil, id))
	copy(t[:], h.Sum(nil))
	return t
}
