package ssh

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	"ferry/internal/identity"
)

// A stranger speaks SSH by hand, as far as its keys are exchanged: to send what no library would.
type stranger struct {
	halfConn
	t      testing.TB
	aead   cipher.AEAD // nil: in the clear
	nonce  [12]byte
	behind []byte // a packet that leaves with the end of the exchange; nil: none
}

// A halfConn can end what it says, and still listen.
type halfConn interface {
	net.Conn
	CloseWrite() error
}

const (
	strangerVersion = "SSH-2.0-stranger"

	msgServiceRequest = 5
	msgKexInit        = 20
	msgECDHInit       = 30
	msgUserAuth       = 50
)

// visit brings a stranger to a gateway, over sockets without a port, of which there are not enough for many.
func visit(t testing.TB, ctx context.Context, admit func(identity.Public) error) (*stranger, <-chan result) {
	t.Helper()
	ours, theirs := socketPair(t)
	served := make(chan result, 1)
	go func() {
		conn, key, err := Server(ctx, ours, identity.NewKey(), admit)
		served <- result{conn, key, err}
	}()
	return &stranger{halfConn: theirs.(halfConn), t: t}, served
}

// socketPair returns two connected sockets, which the test closes.
func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		ends[i], err = net.FileConn(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		_ = ends[i].SetDeadline(time.Now().Add(patience))
	}
	t.Cleanup(func() { ends[0].Close(); ends[1].Close() })
	return ends[0], ends[1]
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
	return s.seal(p[4:])
}

// seal returns a packet of which b is what is sealed.
func (s *stranger) seal(b []byte) []byte {
	length := binary.BigEndian.AppendUint32(nil, uint32(len(b)))
	sealed := s.aead.Seal(length, s.nonce[:], b, length)
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

func kexInit() []byte { return kexInitOf(ssh.CipherAES128GCM) }

func kexInitOf(cipher string) []byte {
	return ssh.Marshal(struct {
		Kind                                              byte
		Cookie                                            [16]byte
		Kex, HostKeys, C1, C2, MAC1, MAC2, P1, P2, L1, L2 []string
		Follows                                           bool
		Reserved                                          uint32
	}{
		msgKexInit, [16]byte{},
		[]string{ssh.KeyExchangeCurve25519}, []string{ssh.KeyAlgoED25519}, []string{cipher}, []string{cipher},
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
	last := s.packet([]byte{newKeys})
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
	if s.behind != nil {
		last = append(last, s.packet(s.behind)...)
	}
	s.send(last...)
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
			s, served := visit(t, within(t), everybody)
			s.exchange()
			_, _ = s.Write(talk(s)) // may be cut off
			if r := <-served; !errors.Is(r.err, ErrHandshake) {
				t.Errorf("got %v, want %v", r.err, ErrHandshake)
			}
		})
	}
}

// As many of the shortest packets as may be, and more.
func TestShortestPackets(t *testing.T) {
	for _, n := range []int{1, 14, 15, 16, 17, 18, 19, 20, 21, 40} {
		for name, first := range map[string][][]byte{"at first": {}, "after a login": {requestService("ssh-userauth"), none()}} {
			t.Run(fmt.Sprint(n, " ", name), func(t *testing.T) {
				s, served := visit(t, within(t), everybody)
				s.exchange()
				var b []byte
				for _, p := range first {
					b = append(b, s.packet(p)...)
				}
				for range n {
					b = append(b, s.seal([]byte{4, msgUserAuth, 0, 0, 0, 0})...)
				}
				_, _ = s.Write(b)
				_ = s.CloseWrite()
				if r := <-served; !errors.Is(r.err, ErrHandshake) {
					t.Errorf("got %v, want %v", r.err, ErrHandshake)
				}
			})
		}
	}
}

// Who says nothing, or stops in the middle, is gone when ctx is.
func TestSlow(t *testing.T) {
	tests := map[string]func(s *stranger){
		"silent":                  func(*stranger) {},
		"in the version":          func(s *stranger) { s.send([]byte(versionPrefix)...) },
		"in a packet":             func(s *stranger) { s.send([]byte(versionPrefix + "x\r\n\x00\x00\x10")...) },
		"before the key exchange": func(s *stranger) { s.send(append([]byte(versionPrefix+"x\r\n"), s.packet(kexInit())...)...) },
		"before the login":        (*stranger).exchange,
		"in the login": func(s *stranger) {
			s.exchange()
			s.send(append(s.packet(requestService("ssh-userauth")), s.packet(none())...)...)
		},
	}
	for name, speak := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			s, served := visit(t, ctx, everybody)
			speak(s)
			late := errors.New("too late")
			cancel(late)
			if r := <-served; !errors.Is(r.err, late) || r.conn != nil {
				t.Errorf("got %v, want %v", r.err, late)
			}
			if _, err := io.Copy(io.Discard, s); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is still there")
			}
		})
	}
	t.Run("behind the login", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		e, served := gateway(t, ctx, identity.NewKey(), everybody)
		client := stockClient(t, e, ssh.Config{})
		if _, _, err := client.OpenChannel(session, nil); err != nil {
			t.Fatal(err)
		}
		cancel()
		if r := <-served; !errors.Is(r.err, context.Canceled) || r.conn != nil {
			t.Errorf("got %v, want %v", r.err, context.Canceled)
		}
	})
}

// A client does not wait longer than its ctx for a gateway that says nothing.
func TestSilentGateway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	e := carrier.Endpoint{Scheme: "ssh", Host: "127.0.0.1", Port: uint32(l.Addr().(*net.TCPAddr).Port)}
	if _, err := Dial(ctx, e, nil, identity.NewKey(), everybody); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrLogin) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}

func unsealed(length uint32, b ...byte) string {
	return string(append(binary.BigEndian.AppendUint32(nil, length), b...))
}

func TestGuard(t *testing.T) {
	hello := versionPrefix + "x\r\n"
	keys := unsealed(2, 0, newKeys)
	exchange := func(length int) string { return unsealed(uint32(length), make([]byte, length)...) }
	allowed := strings.Repeat("s", (maxPackets+1)*shortest-1)
	tests := []struct {
		name string
		in   string
		ok   bool
	}{
		{"nothing", "", true},
		{"version", hello, true},
		{"version, bit by bit", "SS", true},
		{"another protocol", "GET /", false},
		{"a line before it", "hello\r\n" + hello, false},
		{"an empty line before it", "\n" + hello, false},
		{"an old version", "SSH-1.5-x\r\n", false},
		{"longest version", versionPrefix + strings.Repeat("x", maxVersion-len(versionPrefix)), true},
		{"version too long", versionPrefix + strings.Repeat("x", maxVersion-len(versionPrefix)+1), false},
		{"exchange", hello + exchange(3000) + exchange(1300) + keys, true},
		{"a packet that is announced", hello + unsealed(maxClear), true},
		{"a packet that is too long", hello + unsealed(maxClear+1), false},
		{"a packet without a type", hello + unsealed(1), false},
		{"all that may be in the clear", hello + exchange(maxClear-4-len(hello)), true},
		{"too much in the clear", hello + exchange(4000) + exchange(4000) + exchange(4000), false},
		{"new keys and what may be sealed", hello + keys + allowed, true},
		{"too much sealed", hello + keys + allowed + "s", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := newGuard().read([]byte(tt.in)); (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
		})
	}
	g := newGuard()
	more := func(n int, ok bool) {
		t.Helper()
		if err := g.read(make([]byte, n)); (err == nil) != ok {
			t.Errorf("%d bytes more: got %v", n, err)
		}
	}
	g.wrote([]byte("SSH-2.0-Go\r\n"))
	g.wrote([]byte(keys)) // answers count from then on
	if err := g.read([]byte(hello + keys + allowed)); err != nil {
		t.Fatal(err)
	}
	g.wrote(nil)
	more(shortest, true)
	g.keyOffered()
	g.wrote(nil)
	more(withKey, true)
	more(1, false)
	g.trust()
	more(1<<20, true)
}

// However the bytes come, the guard's word is the same; it lets nobody announce what the library would
// allocate.
// exam: M14
func FuzzGuard(f *testing.F) {
	f.Add([]byte(versionPrefix+"x\r\n"+unsealed(2, 0, newKeys)+"sealed"), uint8(1))
	f.Add([]byte(versionPrefix+"x\r\n"+unsealed(12, make([]byte, 12)...)), uint8(3))
	f.Add([]byte(versionPrefix+"x\r\n\xff\xff\xff\xff"), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		whole, parts := newGuard(), newGuard()
		want := whole.read(b)
		var got error
		for rest := b; len(rest) > 0 && got == nil; {
			n := min(len(rest), int(cut)+1)
			got = parts.read(rest[:n])
			rest = rest[n:]
		}
		if got != want {
			t.Errorf("got %v in parts, %v at once", got, want)
		}
		if want == nil && (whole.phase == body && whole.length > maxClear || whole.clear > maxClear) {
			t.Errorf("%d bytes of a packet, %d in the clear", whole.length, whole.clear)
		}
	})
}

// FuzzServer sends anything to a gateway: in the place of all that a client says, or behind a key exchange.
// exam: M14
func FuzzServer(f *testing.F) {
	s := &stranger{}
	f.Add([]byte(strangerVersion+"\r\n"), false)
	f.Add(append(append([]byte(strangerVersion+"\r\n"), s.packet(kexInit())...), s.packet(append([]byte{msgECDHInit}, text(make([]byte, 32))...))...), false)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), false)
	f.Add(requestService("ssh-userauth"), true)
	f.Add(none(), true)
	f.Fuzz(func(t *testing.T, b []byte, keys bool) {
		s, served := visit(t, within(t), func(identity.Public) error { return errStranger })
		if keys {
			s.exchange()
			b = append(s.packet(requestService("ssh-userauth")), s.packet(b)...)
		}
		_, _ = s.Write(b)
		_ = s.CloseWrite()
		if r := <-served; r.err == nil || r.conn != nil || r.key != (identity.Public{}) {
			t.Errorf("got %v, %v, %v", r.conn, r.key, r.err)
		}
	})
}
