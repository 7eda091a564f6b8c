package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ferry/internal/gateway/settings"
	"ferry/internal/identity"
	"ferry/internal/peerstore"
	"ferry/internal/proto"
)

// withKey runs a gateway that has a key.
func withKey(t *testing.T, f func(l *lab) error) {
	t.Helper()
	if err := inMemory(t, Config{Key: identity.NewKey()}, f); err != nil {
		t.Error(err)
	}
}

// add makes a key a device of the gateway.
func (l *lab) add(name string, addrs ...string) (identity.Key, error) {
	k := identity.NewKey()
	p := peerstore.Peer{Name: name, Key: k.Public()}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
	}
	_, err := l.g.devices.Add(p)
	return k, err
}

// join connects a device, and asks for an address.
func (l *lab) join(k identity.Key, static string) *raw {
	r := l.dialTLS(identity.Tunnel, k)
	r.send(request(static, proto.FeatureGoodbye))
	l.settle()
	return r
}

func extendedReply(static, addr string) []byte {
	r := proto.Reply{Addr: netip.MustParseAddr(addr), Extended: true, Features: proto.FeatureGoodbye}
	return proto.AppendReply(nil, request(static, proto.FeatureGoodbye), r)
}

// bye returns the reason of the goodbye with which a connection has ended.
func (r *raw) bye() (proto.Reason, error) {
	b, eof := r.take()
	if !eof {
		return 0, fmt.Errorf("still connected; got %x", b)
	}
	if len(b) == 0 {
		return 0, nil
	}
	g, err := proto.ParseGoodbye(b)
	return g.Reason, err
}

func TestDevices(t *testing.T) {
	withKey(t, func(l *lab) error {
		cam, err := l.add("cam1")
		if err != nil {
			return err
		}
		hub, err := l.add("hub", "10.0.3.7", "10.0.3.8")
		if err != nil {
			return err
		}
		a, b := l.join(cam, ""), l.join(hub, "10.0.3.8")
		c := l.join(hub, "")
		err = errors.Join(
			a.want("the address that was chosen", extendedReply("", "10.0.127.254"), false),
			b.want("one of two, asked for", extendedReply("10.0.3.8", "10.0.3.8"), false),
			c.want("the other one", extendedReply("", "10.0.3.7"), false))
		packet := ipPacket("10.0.127.254", "10.0.3.8")
		a.send(packet)
		l.settle()
		err = errors.Join(err, b.want("packet", packet, false))

		d := l.join(hub, "")
		reason, byeErr := b.bye()
		if reason != proto.ReasonReplaced {
			err = errors.Join(err, fmt.Errorf("the oldest connection: reason %s, %v; want it replaced", reason, byeErr))
		}
		return errors.Join(err, d.want("the third of two", extendedReply("", "10.0.3.8"), false), c.want("the second", nil, false))
	})
}

// Exam A1, P4, C6: nobody gets in, or gets what is another's.
func TestStrangers(t *testing.T) {
	withKey(t, func(l *lab) error {
		cam, err := l.add("cam1", "10.0.3.7")
		if err != nil {
			return err
		}
		off, err := l.add("off", "10.0.3.9")
		if err != nil {
			return err
		}
		if _, err := l.g.devices.Disable("off", true); err != nil {
			return err
		}
		victim := l.join(cam, "")
		err = victim.want("victim", extendedReply("", "10.0.3.7"), false)
		for name, r := range map[string]*raw{"unknown key": l.join(identity.NewKey(), ""), "disabled key": l.join(off, "")} {
			if b, eof := r.take(); !eof || len(b) > 0 {
				err = errors.Join(err, fmt.Errorf("%s: disconnected %v, %d bytes; want the end and no bytes", name, eof, len(b)))
			}
		}
		other, addErr := l.add("other", "10.0.3.8")
		err = errors.Join(err, addErr)
		thief := l.join(other, "10.0.3.7")
		if reason, byeErr := thief.bye(); reason != proto.ReasonRefused {
			err = errors.Join(err, fmt.Errorf("another's address: reason %s, %v; want it refused", reason, byeErr))
		}
		plain := l.dial()
		plain.send(request("10.0.3.7", 0))
		l.settle()
		err = errors.Join(err, plain.want("another's address without a key", nil, true))
		guest := l.dial()
		guest.send(request("", 0))
		l.settle()
		err = errors.Join(err, guest.want("a guest", reply(request("", 0), "10.0.254.254"), false))
		guest.send(ipPacket("10.0.254.254", "10.0.3.7"))
		guest.send(ipPacket("10.0.3.7", "10.0.0.1"))
		l.settle()
		return errors.Join(err, victim.want("from a guest", nil, false))
	})
}

// Exam U7: who was removed is gone at once, and does not come back; a connection that had shaken hands
// before that gets nothing either.
func TestRevoked(t *testing.T) {
	withKey(t, func(l *lab) error {
		cam, err := l.add("cam1")
		if err != nil {
			return err
		}
		a := l.join(cam, "")
		early := l.dialTLS(identity.Tunnel, cam)
		early.send(nil)
		l.settle()
		a.take()
		if _, err := l.g.devices.Remove("cam1"); err != nil {
			return err
		}
		early.send(request("", proto.FeatureGoodbye))
		l.settle()
		if reason, byeErr := early.bye(); reason != proto.ReasonRevoked {
			err = errors.Join(err, fmt.Errorf("asked after the removal: reason %s, %v", reason, byeErr))
		}
		l.g.revoke(cam.Public())
		l.settle()
		if reason, byeErr := a.bye(); reason != proto.ReasonRevoked {
			err = errors.Join(err, fmt.Errorf("live: reason %s, %v", reason, byeErr))
		}
		return errors.Join(err, l.join(cam, "").want("again", nil, true))
	})
}

func TestEnrol(t *testing.T) {
	withKey(t, func(l *lab) error {
		site := netip.MustParsePrefix("192.168.7.0/24")
		secret, err := l.g.devices.Invite(peerstore.Invitation{
			Name: "cam1", Routes: []netip.Prefix{site}, Expires: time.Now().Add(time.Minute),
		}, time.Now())
		if err != nil {
			return err
		}
		ask := func(k identity.Key, b []byte) *raw {
			r := l.dialTLS(identity.Join, k)
			r.send(b)
			l.settle()
			return r
		}
		k := identity.NewKey()
		joined := proto.AppendJoined(nil, proto.JoinedMessage{Name: "cam1", Addr: netip.MustParseAddr("10.0.127.254")})
		err = errors.Join(
			ask(k, request("", 0)).want("a request in the place of a secret", nil, true),
			ask(k, proto.AppendJoin(nil, secret)).want("joined", joined, true),
			ask(k, proto.AppendJoin(nil, secret)).want("joined again", joined, true))
		for name, s := range map[string]proto.Secret{"used": secret, "guessed": {1}} {
			if reason, byeErr := ask(identity.NewKey(), proto.AppendJoin(nil, s)).bye(); reason != proto.ReasonInvitation {
				err = errors.Join(err, fmt.Errorf("%s: reason %s, %v", name, reason, byeErr))
			}
		}
		silent := l.dialTLS(identity.Join, identity.NewKey())
		silent.send(nil)
		time.Sleep(11 * time.Second)
		l.settle()
		if _, eof := silent.take(); !eof {
			err = errors.Join(err, errors.New("a device that shows no secret is waited for"))
		}
		a := l.join(k, "")
		b, _ := a.take()
		if !bytes.Equal(b, extendedReply("", "10.0.127.254")) {
			err = errors.Join(err, fmt.Errorf("after joining: got %x", b))
		}
		a.send(ipPacket("192.168.7.9", "10.0.0.1"))
		l.settle()
		if n := l.g.total.Stats(); n.Packets != 1 {
			err = errors.Join(err, fmt.Errorf("a packet from its site: %+v", n))
		}
		return err
	})
}

func TestUpperHalf(t *testing.T) {
	for pool, want := range map[string]string{
		"10.0.0.0/16": "10.0.128.0/17", "10.9.0.0/24": "10.9.0.128/25", "172.16.4.0/22": "172.16.6.0/23", "10.0.0.0/29": "10.0.0.4/30",
	} {
		if got := settings.UpperHalf(netip.MustParsePrefix(pool)); got.String() != want {
			t.Errorf("%s: got %s, want %s", pool, got, want)
		}
	}
}
