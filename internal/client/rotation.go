package client

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"

	"ferry/internal/identity"
	"ferry/internal/session"
)

// A gateway that replaces its key announces the next one to those who have proven theirs:
//
//	             pushed: next                    shown: next
//	{gateway} ----------------> {gateway, next} -------------> {next}
//	     ^        nothing pushed       |
//	     +-----------------------------+
//
// Whoever has stolen the old key can announce one, too; so a device that he gets to speak to before the new key
// is in use is his until it is told another by its owner.

// pins are the keys that the gateway may have. They belong to the goroutine that connects.
type pins struct {
	gateway, next identity.Pin // next is zero if there is none
}

// all returns those that there are.
func (p pins) all() []identity.Pin {
	if p.next == (identity.Pin{}) {
		return []identity.Pin{p.gateway}
	}
	return []identity.Pin{p.gateway, p.next}
}

// A keyring is what one handshake needs: the key of this device, and those that the gateway may have.
type keyring struct {
	key      identity.Key
	protocol identity.Protocol
	pins     []identity.Pin
	shown    identity.Pin // the one that the gateway has, once the handshake has succeeded
	inside   []netip.Addr // name servers of the tunnel, which do not lead to it
}

// keys returns what the next handshake needs; nil where the 2013 protocol is spoken as it is.
func (c *client) keys() *keyring {
	if c.c.Key.IsZero() {
		return nil
	}
	return &keyring{key: c.c.Key, protocol: identity.Tunnel, pins: c.pins.all(), inside: c.state.DNS}
}

// config is for a handshake by TLS 1.3.
func (k *keyring) config() *tls.Config {
	t := k.key.Client(k.protocol, k.pins...)
	verify := t.VerifyConnection
	t.VerifyConnection = func(s tls.ConnectionState) error {
		if err := verify(s); err != nil {
			return err
		}
		_, key, err := identity.Proven(s)
		k.shown = key.Pin()
		return err
	}
	return t
}

// verify takes a key of the gateway that was proven in a handshake of another kind.
func (k *keyring) verify(key identity.Public) error {
	if !slices.Contains(k.pins, key.Pin()) {
		return fmt.Errorf("%w: the gateway has %s, want %s", identity.ErrWrongKey, key.Pin(), k.pins)
	}
	k.shown = key.Pin()
	return nil
}

// learn keeps what the gateway says of its keys. If that can not be stored, all stays as it was.
func (c *client) learn(l session.Lease, shown identity.Pin) {
	if c.c.Key.IsZero() || c.c.Joined == "" || !l.Extended {
		return
	}
	gateway, next := shown, identity.Pin(l.NextKey)
	if next == gateway {
		next = identity.Pin{}
	}
	if gateway == c.pins.gateway && next == c.pins.next {
		return
	}
	if err := learn(c.host, c.c.Joined, gateway, next); err != nil {
		c.log.Error("what the gateway says of its keys can not be stored", "err", err)
		return
	}
	attrs := []any{"has", gateway}
	if next != (identity.Pin{}) {
		attrs = append(attrs, "next", next)
	}
	c.log.Info("the gateway replaces its key", attrs...)
	c.pins = pins{gateway, next}
	c.story.setPin(gateway)
}
