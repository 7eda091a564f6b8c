package gateway

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"ferry/internal/admission"
	"ferry/internal/identity"
	"ferry/internal/peerstore"
	"ferry/internal/proto"
)

// Finding out whether a key may come in takes 5 s; the device does not wait for it, and sends. Nothing of
// that has an effect before the answer is yes, and nothing is left when it is no.
// exam: P9, P1
func TestSlowAuthentication(t *testing.T) {
	const slow = 5 * time.Second
	for name, verdict := range map[string]error{"yes": nil, "no": errUnknown} {
		t.Run(name, func(t *testing.T) {
			withKey(t, func(l *lab) error {
				cam, err := l.add("cam1", "10.0.3.7")
				if err != nil {
					return err
				}
				l.g.tls = l.g.c().Key.Server(func(identity.Protocol, identity.Public) error {
					time.Sleep(slow)
					return verdict
				})
				r := l.dialTLS(identity.Tunnel, cam)
				go func() { // the handshake of a client ends before that of the gateway
					r.send(request("", proto.FeatureGoodbye))
					for range 10 {
						r.send(ipPacket("10.0.3.7", "10.0.0.1"))
					}
				}()
				untouched := func(when string) error {
					s, got := l.g.total.Stats(), l.m.taken()
					if n := l.owners() + l.peers(); n > 0 || len(got) > 0 || s.Packets > 0 || len(s.Drops) > 0 {
						return fmt.Errorf("%s: %d peers or owners, %d bytes to the TUN, %+v", when, n, len(got), s)
					}
					return nil
				}
				time.Sleep(slow - time.Second)
				l.settle()
				if err := errors.Join(r.want("too early", nil, false), untouched("too early")); err != nil {
					return err
				}
				time.Sleep(2 * time.Second)
				l.settle()
				if verdict != nil {
					return errors.Join(r.want("refused", nil, true), untouched("refused"))
				}
				if s := l.g.total.Stats(); s.Packets != 10 || l.owners() != 1 {
					return fmt.Errorf("admitted: %+v, %d owners; want 10 packets", s, l.owners())
				}
				return r.want("admitted", extendedReply("", "10.0.3.7"), false)
			})
		})
	}
}

// owners is how many addresses of devices are in use.
func (l *lab) owners() int {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	return len(l.g.owners)
}

// peers is how many connections there are behind their handshakes.
func (l *lab) peers() int {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	return len(l.g.peers)
}

// taken is what the exit was sent.
func (m *memory) taken() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.got)
}

// A token opens the lease that it belongs to, and only while there is one; whatever else is shown, whoever
// has the address keeps it.
// exam: U3, P4
func TestTokens(t *testing.T) {
	const features = proto.FeatureConfig | proto.FeatureGoodbye
	withKey(t, func(l *lab) error {
		cam, err := l.add("cam1", "10.0.3.7")
		if err != nil {
			return err
		}
		device, victim, thief := l.join(cam, ""), l.dial(), l.dial()
		device.take()
		addr, token, err := join(l, victim, request("10.0.200.4", features))
		if err != nil {
			return err
		}
		other, otherToken, err := join(l, thief, request("10.0.200.5", features))
		if err != nil {
			return err
		}
		guess := token
		guess[15] ^= 1
		for what, ask := range map[string][]byte{
			"guessed":              resume(addr, guess),
			"none":                 resume(addr, proto.Token{}),
			"another's":            resume(addr, otherToken),
			"for a device":         resume(netip.MustParseAddr("10.0.3.7"), token),
			"for nobody's address": resume(netip.MustParseAddr("10.0.200.9"), token),
		} {
			r := l.dial()
			if got, _, err := join(l, r, ask); err == nil && (got == addr || got == other || got.String() == "10.0.3.7") {
				return fmt.Errorf("%s: got %s", what, got)
			}
			if r.conn.Close(); len(l.g.closed.counts()) > 0 && l.g.closed.counts()["replaced"] > 0 {
				return fmt.Errorf("%s: somebody was replaced", what)
			}
			if err := errors.Join(victim.want(what, nil, false), thief.want(what, nil, false), device.want(what, nil, false)); err != nil {
				return err
			}
		}
		victim.conn.Close()
		time.Sleep(2*l.g.c().IdleTimeout + time.Second) // until it is held no longer
		l.settle()
		next := l.dial()
		if got, _, err := join(l, next, request(addr.String(), features)); err != nil || got != addr {
			return fmt.Errorf("an address that is free again: got %s, %w", got, err)
		}
		late := l.dial()
		if got, _, err := join(l, late, resume(addr, token)); err == nil && got == addr {
			return errors.New("expired: a token took an address back that somebody else has")
		}
		return next.want("expired", nil, false)
	})
}

// However often a client comes back, it has the one address, and nothing piles up.
// exam: U4, P13
func TestResumeManyTimes(t *testing.T) {
	if err := inMemory(t, Config{}, func(l *lab) error {
		addr, token, err := join(l, l.dial(), request("", proto.FeatureConfig|proto.FeatureGoodbye))
		if err != nil {
			return err
		}
		for i := range 100 {
			time.Sleep(time.Second)
			again, newToken, err := join(l, l.dial(), resume(addr, token))
			if err != nil || again != addr {
				return fmt.Errorf("resumed %d times: got %s, %w; want %s", i, again, err, addr)
			}
			token = newToken
		}
		l.settle()
		if s := l.g.leases.pool.Stats(); s.Live != 1 || s.Held != 0 || l.peers() != 1 {
			return fmt.Errorf("%+v, %d connections; want one of each", s, l.peers())
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// Ten thousand guesses of an invitation's secret from one place: all but a few end before they are looked
// at, and the invitation is still good for its owner, elsewhere.
// exam: A2
func TestManyGuesses(t *testing.T) {
	withKey(t, func(l *lab) error {
		secret, err := l.g.devices.Invite(peerstore.Invitation{Name: "cam1", Expires: time.Now().Add(24 * time.Hour)}, time.Now())
		if err != nil {
			return err
		}
		const guesses, every = 10_000, 150 * time.Millisecond // 25 minutes in all
		guesser := identity.NewKey().Client(identity.Join, l.g.c().Key.Public().Pin())
		for i := range guesses {
			guess := secret
			guess[i%16] ^= byte(1 + i>>4)
			a, b := net.Pipe()
			l.m.conns <- b
			r := collect(tls.Client(buffered(a), guesser))
			r.send(proto.AppendJoin(nil, guess))
			time.Sleep(every)
		}
		l.settle()
		ended := l.g.closed.counts()
		if n := ended["invitation"]; n < 5 || n > 30 {
			return fmt.Errorf("%d of %d guesses were looked at: %v", n, guesses, ended)
		}
		if n := ended[string(admission.Penalised)]; n < guesses*9/10 {
			return fmt.Errorf("%d of %d were refused before the handshake: %v", n, guesses, ended)
		}
		time.Sleep(time.Hour)
		r := l.dialTLS(identity.Join, identity.NewKey())
		r.send(proto.AppendJoin(nil, secret))
		l.settle()
		if b, eof := r.take(); !eof || len(b) == 0 {
			return fmt.Errorf("the owner of the invitation got %d bytes, %v", len(b), l.g.closed.counts())
		}
		if _, found := l.g.devices.Find("cam1"); !found {
			return errors.New("the owner of the invitation has not joined")
		}
		return nil
	})
}
