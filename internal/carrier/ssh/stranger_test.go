package ssh

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"ferry/internal/identity"
)

// A stranger speaks SSH by hand, as far as its keys are exchanged: to send what no library would.
type stranger struct {
	net.Conn
	t     testing.TB
	aead  cipher.AEAD // nil: in the clear
	nonce [12]byte
}

const (
	strangerVersion = "SSH-2.0-stranger"

	msgServiceRequest = 5
	msgKexInit        = 20
	msgECDHInit       = 30
	msgUserAuth       = 50
)

func dialStranger(t testing.TB, address string) *stranger {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &stranger{Conn: conn, t: t}
}

// packet returns b as a packet, sealed if keys were exchanged.
func (s *stranger) packet(b []byte) []byte {
	padding := 8 - (5+len(b))%8
	if s.aead != nil {
		padding = 16 - (1+len(b))%16
	}
	if padding < 4 {
		padding += 16
	}
	p := binary.BigEndian.AppendUint32(nil, uint32(1+len(b)+padding))
	p = append(append(p, byte(padding)), b...)
	p = append(p, make([]byte, padding)...)
	if s.aead == nil {
		return p
	}
	sealed := s.aead.Seal(p[:4:4], s.nonce[:], p[4:], p[:4])
	binary.BigEndian.PutUint64(s.nonce[4:], binary.BigEndian.Uint64(s.nonce[4:])+1)
	return sealed
}

func (s *stranger) send(b ...byte) {
	s.t.Helper()
	if _, err := s.Write(b); err != nil {
		s.t.Fatal(err)
	}
}

// receive returns the next packet that is in the clear.
func (s *stranger) receive() []byte {
	s.t.Helper()
	var head [5]byte
	if _, err := io.ReadFull(s, head[:]); err != nil {
		s.t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:])-1)
	if _, err := io.ReadFull(s, b); err != nil {
		s.t.Fatal(err)
	}
	return b[:len(b)-int(head[4])]
}

func text(b []byte) []byte { return ssh.Marshal(struct{ S []byte }{b}) }

func kexInit() []byte {
	return ssh.Marshal(struct {
		Kind                                              byte
		Cookie                                            [16]byte
		Kex, HostKeys, C1, C2, MAC1, MAC2, P1, P2, L1, L2 []string
		Follows                                           bool
		Reserved                                          uint32
	}{
		msgKexInit, [16]byte{},
		[]string{ssh.KeyExchangeCurve25519}, []string{ssh.KeyAlgoED25519}, []string{ssh.CipherAES128GCM}, []string{ssh.CipherAES128GCM},
		[]string{ssh.HMACSHA256ETM}, []string{ssh.HMACSHA256ETM}, []string{"none"}, []string{"none"}, nil, nil, false, 0,
	})
}

// exchange exchanges keys (RFC 8731).
func (s *stranger) exchange() {
	s.t.Helper()
	s.send([]byte(strangerVersion + "\r\n")...)
	var line []byte
	for b := make([]byte, 1); b[0] != '\n'; line = append(line, b[0]) {
		if _, err := io.ReadFull(s, b); err != nil {
			s.t.Fatal(err)
		}
	}
	theirs := s.receive()
	secret, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	own := secret.PublicKey().Bytes()
	s.send(s.packet(kexInit())...)
	s.send(s.packet(append([]byte{msgECDHInit}, text(own)...))...)
	var reply struct{ HostKey, Public, Signature []byte }
	if err := ssh.Unmarshal(s.receive()[1:], &reply); err != nil {
		s.t.Fatal(err)
	}
	public, err := ecdh.X25519().NewPublicKey(reply.Public)
	if err != nil {
		s.t.Fatal(err)
	}
	shared, err := secret.ECDH(public)
	if err != nil {
		s.t.Fatal(err)
	}
	k := ssh.Marshal(struct{ K *big.Int }{new(big.Int).SetBytes(shared)})
	h := sha256.New()
	for _, b := range [][]byte{[]byte(strangerVersion), bytes.TrimRight(line, "\r\n"), kexInit(), theirs, reply.HostKey, own, reply.Public} {
		h.Write(text(b))
	}
	h.Write(k)
	hash := h.Sum(nil)
	if got := s.receive(); got[0] != newKeys {
		s.t.Fatalf("got a packet %d, want that keys are new", got[0])
	}
	s.send(s.packet([]byte{newKeys})...)
	derive := func(letter byte) []byte {
		sum := sha256.Sum256(append(append(append(append([]byte{}, k...), hash...), letter), hash...))
		return sum[:]
	}
	block, err := aes.NewCipher(derive('C')[:16])
	if err != nil {
		s.t.Fatal(err)
	}
	if s.aead, err = cipher.NewGCM(block); err != nil {
		s.t.Fatal(err)
	}
	copy(s.nonce[:], derive('A'))
}

func requestService(name string) []byte {
	return append([]byte{msgServiceRequest}, text([]byte(name))...)
}

func none() []byte {
	return ssh.Marshal(struct {
		Kind                  byte
		User, Service, Method string
	}{msgUserAuth, user, "ssh-connection", "none"})
}

// Strangers who send more than is asked for leave nothing behind: TestMain counts.
func TestTalkative(t *testing.T) {
	tests := map[string]func(s *stranger) []byte{
		"after the keys": func(s *stranger) (b []byte) {
			b = s.packet(requestService("shell"))
			for range 100 {
				b = append(b, s.packet([]byte{msgUserAuth})...)
			}
			return b
		},
		"after a login": func(s *stranger) (b []byte) {
			b = append(s.packet(requestService("ssh-userauth")), s.packet(none())...)
			for range 100 {
				b = append(b, s.packet([]byte{msgUserAuth})...)
			}
			return b
		},
		"a long packet": func(s *stranger) []byte {
			return append(s.packet(requestService("ssh-userauth")), s.packet(make([]byte, 100<<10))...)
		},
	}
	for name, talk := range tests {
		t.Run(name, func(t *testing.T) {
			e, served := gateway(t, within(t), identity.NewKey(), everybody)
			s := dialStranger(t, net.JoinHostPort(e.Host, port(e)))
			s.exchange()
			_, _ = s.Write(talk(s)) // may be cut off
			if r := <-served; !errors.Is(r.err, ErrHandshake) {
				t.Errorf("got %v, want %v", r.err, ErrHandshake)
			}
		})
	}
}
