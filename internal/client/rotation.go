package client

import (
	"crypto/tls"

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

// trust takes the gateway by these keys from now on.
func (c *client) trust(gateway, next identity.Pin) {
	c.pins.gateway, c.pins.next = gateway, next
	all := []identity.Pin{gateway}
	if next != (identity.Pin{}) {
		all = append(all, next)
	}
	c.tls = c.c.Key.Client(identity.Tunnel, all...)
}

// keys returns the configuration of one handshake, and where the key that the gateway shows is found once it has
// succeeded; nil, and a zero pin, where no TLS is spoken.
func (c *client) keys() (*tls.Config, *identity.Pin) {
	shown := new(identity.Pin)
	if c.tls == nil {
		return nil, shown
	}
	t := c.tls.Clone()
	verify := t.VerifyConnection
	t.VerifyConnection = func(s tls.ConnectionState) error {
		if err := verify(s); err != nil {
			return err
		}
		_, key, err := identity.Proven(s)
		*shown = key.Pin()
		return err
	}
	return t, shown
}

// learn keeps what the gateway says of its keys. If that can not be stored, all stays as it was.
func (c *client) learn(l session.Lease, shown identity.Pin) {
	if c.tls == nil || c.c.Joined == "" || !l.Extended {
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
	c.trust(gateway, next)
	c.story.setPin(gateway)
}
