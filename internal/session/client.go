package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"ferry/internal/proto"
)

// legacyBits and legacyMTU are what a 2013 server implies: the netmask and MTU of the C client.
const (
	legacyBits = 16
	legacyMTU  = 1500
)

// ErrAnswer is returned when a gateway's answer makes no sense.
var ErrAnswer = errors.New("the gateway's answer makes no sense")

// A Lease is what a client got.
type Lease struct {
	Prefix   netip.Prefix // the address with the length of the pool's prefix
	Gateway  netip.Addr   // inside the tunnel; invalid: unknown
	MTU      int          // bytes
	Routes   []netip.Prefix
	DNS      []netip.Addr
	Domains  []string
	Features proto.Features  // what the gateway can receive; 0 for a 2013 server
	Extended bool            // false for a 2013 server
	Token    proto.Token     // proves the lease to the gateway later; zero: none
	Idle     time.Duration   // silence that the gateway tolerates; 0: unknown
	NextKey  [32]byte        // pin of the gateway's next key; zero: none
	Session  proto.SessionID // that outlives the connection; zero: none
	Carriers []string        // URLs by which the gateway can be reached, without its host
}

// Want is what a client asks for.
type Want struct {
	Static   netip.Addr     // invalid: any
	Name     string         // told to a Ferry gateway; may be empty
	Features proto.Features // what this client can receive
	Last     Lease          // the lease of an earlier connection; zero: none
}

// A Client is the client's half. It belongs to the goroutine that reads the connection.
type Client struct {
	want    Want
	lease   Lease
	replied bool
	done    bool
}

// NewClient returns the half of a client at the start of a connection.
func NewClient(w Want) *Client { return &Client{want: w} }

// Resumed returns the half of a client on one more connection of a session, which has its lease.
func Resumed(l Lease) *Client { return &Client{lease: l, replied: true, done: true} }

// Ask appends what to send first. A hello follows the request only when there is something to say
// in it; towards a gateway that never was seen that is a name, which only a Ferry gateway has a use for.
func (c *Client) Ask(b []byte) []byte {
	r := proto.Request{Static: c.want.Static, Extended: true, Features: c.want.Features}
	hello := proto.HelloMessage{Name: c.want.Name}
	if last := c.want.Last; last.Prefix.IsValid() {
		addr := last.Prefix.Addr().As4()
		r.Hint = binary.BigEndian.Uint16(addr[2:])
		if last.Token != (proto.Token{}) {
			hello.Resume, hello.Token = last.Prefix.Addr(), last.Token
		}
	}
	if hello == (proto.HelloMessage{}) {
		return proto.AppendRequest(b, r)
	}
	r.Features |= proto.FeatureHello
	return proto.AppendHello(proto.AppendRequest(b, r), hello)
}

// Reply takes a reply. done is set when the lease is complete. A 2013 server sends every reply
// twice, and some reflect a dynamic request as it was: both are passed over.
func (c *Client) Reply(b []byte) (done bool, err error) {
	r := proto.ParseReply(b)
	if c.replied || r.Addr.IsUnspecified() {
		return c.done, nil
	}
	if err := usable(r.Addr); err != nil {
		return false, err
	}
	if c.want.Static.IsValid() && r.Addr != c.want.Static {
		return false, fmt.Errorf("%w: asked for %s, got %s", ErrAnswer, c.want.Static, r.Addr)
	}
	c.replied = true
	c.lease = Lease{
		Prefix: netip.PrefixFrom(r.Addr, legacyBits), MTU: legacyMTU,
		Extended: r.Extended, Features: r.Features,
	}
	c.done = !r.Features.Has(proto.FeatureConfig)
	return c.done, nil
}

// Config takes the config frame behind a reply. What contradicts the reply or itself is an error; what
// of the rest to believe is left to the owner, who knows what this device may do.
func (c *Client) Config(frame []byte) (done bool, err error) {
	p, err := proto.ParseConfig(frame)
	if err != nil {
		return false, err
	}
	if !c.replied {
		return false, fmt.Errorf("%w: configuration before an address", ErrAnswer)
	}
	if p.Prefix.IsValid() {
		if p.Prefix.Addr() != c.lease.Prefix.Addr() || p.Prefix.Bits() < 8 || p.Prefix.Bits() > 30 {
			return false, fmt.Errorf("%w: prefix %s for address %s", ErrAnswer, p.Prefix, c.lease.Prefix.Addr())
		}
		c.lease.Prefix = p.Prefix
	}
	if p.Gateway.IsValid() {
		if !c.lease.Prefix.Contains(p.Gateway) {
			return false, fmt.Errorf("%w: gateway %s outside of %s", ErrAnswer, p.Gateway, c.lease.Prefix.Masked())
		}
		c.lease.Gateway = p.Gateway
	}
	if p.MTU != 0 {
		c.lease.MTU = p.MTU
	}
	c.lease.Routes, c.lease.DNS, c.lease.Domains = p.Routes, p.DNS, p.Domains
	c.lease.Token, c.lease.Idle = p.Token, p.Idle
	c.lease.NextKey, c.lease.Session, c.lease.Carriers = p.NextKey, p.Session, p.Carriers
	c.done = true
	return true, nil
}

// Lease returns what was got; it is complete once Reply or Config have said so.
func (c *Client) Lease() Lease { return c.lease }

// usable tells whether a gateway may assign addr: neither loopback, link-local, multicast nor reserved.
func usable(a netip.Addr) error {
	first := a.As4()[0]
	if a.IsLoopback() || a.IsLinkLocalUnicast() || first == 0 || first >= 224 {
		return fmt.Errorf("%w: address %s", ErrAnswer, a)
	}
	return nil
}
