package datagram

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/identity"
)

var (
	clientAddr  = netip.MustParseAddrPort(clientAt)
	gatewayAddr = netip.MustParseAddrPort(gatewayAt)
)

// secretOf returns a secret that TLS has logged (RFC 9850).
func secretOf(t *testing.T, log []byte, label string) []byte {
	t.Helper()
	for line := range strings.Lines(string(log)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == label {
			b, err := hex.DecodeString(f[2])
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("no %s", label)
	return nil
}

// Each direction has the keys that docs/protocol.md says: two ends that mix them up in the same way would understand each
// other, and nobody else.
func TestKeysByDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		var log bytes.Buffer
		x.server.KeyLogWriter = &log
		var fromClient, fromGateway [][]byte
		plain := x.fate
		x.change(func(from, to netip.AddrPort, p []byte) []time.Duration {
			if from == clientAddr {
				fromClient = append(fromClient, bytes.Clone(p))
			} else {
				fromGateway = append(fromGateway, bytes.Clone(p))
			}
			return plain(from, to, p)
		})
		client, gateway := x.connect(clientAt)
		if err := errors.Join(client.Write(packetOf(64), nil), gateway.Write(packetOf(64), nil)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		suite := client.levels[levelData].out.secret.Suite
		initial, initialBack, err := initialSecrets(client.client)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			what    string
			packets [][]byte
			kind    byte // 0: data
			secret  secret
		}{
			{"the client's initial packet", fromClient, typeInitial, initial},
			{"the gateway's initial packet", fromGateway, typeInitial, initialBack},
			{"the client's handshake packet", fromClient, typeHandshake, secret{suite, secretOf(t, log.Bytes(), "CLIENT_HANDSHAKE_TRAFFIC_SECRET")}},
			{"the gateway's handshake packet", fromGateway, typeHandshake, secret{suite, secretOf(t, log.Bytes(), "SERVER_HANDSHAKE_TRAFFIC_SECRET")}},
			{"the client's data", fromClient, 0, secret{suite, secretOf(t, log.Bytes(), "CLIENT_TRAFFIC_SECRET_0")}},
			{"the gateway's data", fromGateway, 0, secret{suite, secretOf(t, log.Bytes(), "SERVER_TRAFFIC_SECRET_0")}},
		} {
			i := slices.IndexFunc(tt.packets, func(p []byte) bool { return tt.kind == p[0] || tt.kind == 0 && !isLong(p) })
			if i < 0 {
				t.Fatalf("%s: there is none", tt.what)
			}
			p, header := tt.packets[i], shortLen
			number := binary.BigEndian.Uint64(p[8:])
			if tt.kind != 0 {
				header, number = longLen, binary.BigEndian.Uint64(p[10:])
			}
			k, err := tt.secret.key()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := k.open(new(nonce), nil, p, header, number); err != nil {
				t.Errorf("%s: %v", tt.what, err)
			}
		}
		_, _ = client.Close(), gateway.Close()
	})
}

// A hello that is not padded gets no answer: it would be the larger one.
// exam: R15
func TestShortHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		p := appendLong(nil, longHeader{kind: typeInitial, id: 1})
		x.arrive(clientAddr, gatewayAddr, append(p, make([]byte, smallest-1-len(p))...))
		synctest.Wait()
		if n, sent := x.listener.open.Load(), x.by(gatewayAt); n != 0 || sent != 0 || x.listener.Drops()["malformed"] != 1 {
			t.Errorf("%d handshakes are open, %d bytes were sent, dropped %v", n, sent, x.listener.Drops())
		}
	})
}

// A response that is not that to the challenge proves no address.
func TestWrongResponse(t *testing.T) {
	now := time.Now()
	var p path
	p.at, p.last = Addr{Remote: clientAddr}, Addr{Remote: clientAddr}
	p.prove()
	moved := Addr{Remote: netip.MustParseAddrPort("203.0.113.5:5")}
	if !p.heard(moved, 100, true, now, time.Second) || p.proven {
		t.Fatal("it has not moved")
	}
	p.answered(make([]byte, 8))
	if p.proven {
		t.Error("a guess proves the address")
	}
	local := Addr{Remote: moved.Remote, Local: netip.MustParseAddr("192.0.2.9")}
	if p.heard(local, 100, false, now, time.Second); p.at != moved {
		t.Error("an old packet says to which address of ours to answer from")
	}
	p.answered(p.challenge[:])
	if !p.proven {
		t.Error("the answer proves nothing")
	}
}

// A retry counts once, before the gateway has said anything else, and for whom it is.
func TestRetryOfStrangers(t *testing.T) {
	cookie := bytes.Repeat([]byte{7}, cookieLen)
	ready := func() *Link {
		l := &Link{e: newEndpoint(newNetwork().open(clientAt, 1472)), client: 5, isClient: true}
		return l
	}
	for _, tt := range []struct {
		name   string
		change func(*Link)
		packet []byte
		taken  bool
	}{
		{"as it should be", func(*Link) {}, appendFixed(nil, typeRetry, 5, cookie), true},
		{"of another connection", func(*Link) {}, appendFixed(nil, typeRetry, 6, cookie), false},
		{"too short", func(*Link) {}, appendFixed(nil, typeRetry, 5, cookie[1:]), false},
		{"a second one", func(l *Link) { l.cookie = []byte{1} }, appendFixed(nil, typeRetry, 5, cookie), false},
		{"to a gateway", func(l *Link) { l.isClient = false }, appendFixed(nil, typeRetry, 5, cookie), false},
		{"too late", func(l *Link) { l.levels[levelInitial].stream.next = 1 }, appendFixed(nil, typeRetry, 5, cookie), false},
	} {
		l := ready()
		tt.change(l)
		l.retry(tt.packet)
		if taken := bytes.Equal(l.cookie, cookie); taken != tt.taken || l.e.drops.stats()["malformed"] != map[bool]uint64{false: 1}[taken] {
			t.Errorf("%s: taken %v, want %v; dropped %v", tt.name, taken, tt.taken, l.e.drops.stats())
		}
	}
}

// Only the gateway can say that it does not know a connection: who has seen its packets can not.
func TestUnknownOfStrangers(t *testing.T) {
	token := [tokenLen]byte{1, 2, 3}
	wrong := token
	wrong[15] ^= 1
	for _, tt := range []struct {
		name     string
		hasToken bool
		packet   []byte
		ends     bool
	}{
		{"as it should be", true, appendFixed(nil, typeUnknown, 9, token[:]), true},
		{"a wrong token", true, appendFixed(nil, typeUnknown, 9, wrong[:]), false},
		{"of another connection", true, appendFixed(nil, typeUnknown, 8, token[:]), false},
		{"before the handshake was done", false, appendFixed(nil, typeUnknown, 9, make([]byte, tokenLen)), false},
		{"too long", true, append(appendFixed(nil, typeUnknown, 9, token[:]), 0), false},
	} {
		l := &Link{e: newEndpoint(newNetwork().open(clientAt, 1472)), peer: 9, hasToken: tt.hasToken, isClient: true, done: make(chan struct{})}
		if tt.hasToken {
			l.token = token
		}
		l.unknown(tt.packet)
		if ends := l.failure() == ErrLost; ends != tt.ends {
			t.Errorf("%s: the connection has ended: %v, want %v", tt.name, ends, tt.ends)
		}
	}
}

// A gateway says that it does not know a connection from the first handshake on, also where nobody has called Answer.
// exam: R15
func TestAnswersUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		client, gateway := x.connect(clientAt)
		before := x.by(gatewayAt)
		x.arrive(netip.MustParseAddrPort("203.0.113.9:9"), gatewayAddr, make([]byte, 100))
		synctest.Wait()
		if n := x.by(gatewayAt) - before; n != lostLen {
			t.Errorf("%d bytes were answered, want %d", n, lostLen)
		}
		_, _ = client.Close(), gateway.Close()
	})
}

// A handshake that has failed on this side says so to the other end; one that the other end has ended says nothing back.
func TestRefusalIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newLab(t, Config{})
		defer x.close()
		_, err := x.dial(clientAt, identity.NewKey(), identity.NewKey().Public().Pin())
		if !errors.Is(err, identity.ErrWrongKey) {
			t.Fatal(err)
		}
		if err := <-x.errs; !errors.Is(err, tls.AlertError(42)) {
			t.Fatal(err)
		}
		before := x.by(gatewayAt)
		time.Sleep(time.Minute)
		if n := x.by(gatewayAt) - before; n != 0 {
			t.Errorf("%d bytes were said behind the end", n)
		}
	})
}
