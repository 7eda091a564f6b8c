package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"ferry/internal/carrier"
	ferrytls "ferry/internal/carrier/tls"
	"ferry/internal/hostnet"
	"ferry/internal/identity"
)

// A reacher dials an endpoint and makes the handshake; keys are nil where the 2013 protocol is spoken as it is.
type reacher func(ctx context.Context, e carrier.Endpoint, keys *keyring) (carrier.Link, error)

// reaching returns what dials with the sockets of an opener, and gives up after a while.
func reaching(o carrier.Opener) reacher {
	return func(ctx context.Context, e carrier.Endpoint, keys *keyring) (carrier.Link, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return carriers[e.Scheme].dial(ctx, e, o, keys)
	}
}

// stream reaches a gateway by a carrier of bytes.
func stream(dial func(context.Context, carrier.Endpoint, carrier.Opener) (net.Conn, error)) dialer {
	return func(ctx context.Context, e carrier.Endpoint, o carrier.Opener, keys *keyring) (carrier.Link, error) {
		conn, err := dial(ctx, e, o)
		if err != nil {
			return nil, err
		}
		if keys == nil {
			return carrier.NewStream(conn), nil
		}
		records, err := ferrytls.Client(ctx, conn, keys.config())
		if err != nil {
			_ = conn.Close()
			return nil, notGateway(err)
		}
		return carrier.NewSecureStream(conn, records), nil
	}
}

// A search is where to look for a server.
type search struct {
	server carrier.Endpoint
	known  []carrier.Endpoint // where it was: asked first
	astray bool               // the name servers in place may be those of a dead tunnel
}

// search says where to look for a server. While everything goes into a tunnel that is dead, or the gateway's own name servers
// are in place, nobody may be able to tell where it is: then it is sought where it was first, and if it has moved, the
// name servers from before are asked.
func (c *client) search(ctx context.Context, server carrier.Endpoint) (search, error) {
	s := search{server: server}
	if err := c.shut(ctx, server); err != nil {
		return s, err
	}
	c.renew()
	if !c.state.Full() && len(c.state.DNS) == 0 {
		return s, nil
	}
	for _, a := range c.found[server] {
		there := server
		there.Host = a.String()
		s.known = append(s.known, there)
	}
	s.astray = len(c.state.DNS) > 0 && len(s.known) > 0
	return s, nil
}

// find reaches the server of a search. lead is called before the name servers from before are needed.
func (s search) find(ctx context.Context, reach reacher, keys *keyring, lead func()) (carrier.Link, error) {
	for _, there := range s.known {
		if l, err := reach(ctx, there, keys); err == nil || ctx.Err() != nil || there.Host == s.server.Host {
			return l, err
		}
	}
	if s.astray {
		lead()
	}
	return reach(ctx, s.server, keys)
}

// lead puts the name servers from before in place.
func (c *client) lead() {
	c.state.DNS, c.state.Domains = nil, nil
	c.renew()
}

// shut closes the way out beside a full tunnel, before there is one, as soon as it is known where the gateway is: a
// name server of this host may be out of reach then.
func (c *client) shut(ctx context.Context, server carrier.Endpoint) error {
	if !c.c.Policy.DefaultRoute || c.applied {
		return nil
	}
	for _, s := range c.servers {
		if _, err := netip.ParseAddr(s.Host); s.Scheme != "tcp" || err == nil || c.host == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		addrs, err := carrier.LookupTCP(ctx, s, c.host)
		cancel()
		if err != nil && s == server {
			return err
		}
		c.found[s] = addrs
	}
	return c.apply(hostnet.State{
		Routes: []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, LocalNets: !c.c.CloseLAN,
		Outer: hostnet.Outer{Mark: c.c.Mark, Table: c.c.Table},
	})
}

// hostOf returns the address of the host at the other end; it is invalid where there is none.
func hostOf(a net.Addr) netip.Addr {
	if ip, err := netip.ParseAddrPort(a.String()); err == nil {
		return ip.Addr().Unmap()
	}
	return netip.Addr{}
}

// first returns a and those of others that are not a.
func first(a netip.Addr, others []netip.Addr) []netip.Addr {
	return append([]netip.Addr{a}, slices.DeleteFunc(slices.Clone(others), func(o netip.Addr) bool { return o.Unmap() == a })...)
}

// renew makes the host's network as it was applied last: what others have done to it, as 'nft flush ruleset', may
// keep the gateway out of reach.
func (c *client) renew() {
	if !c.applied {
		return
	}
	if err := c.exit.Apply(c.state); err != nil {
		c.log.Warn("the host's network can not be renewed", "interface", c.exit.Name(), "err", err)
	}
}

// notGateway says what a handshake that failed means to the owner of the device.
func notGateway(err error) error {
	switch {
	case errors.As(err, new(tls.RecordHeaderError)), errors.Is(err, io.EOF):
		return fmt.Errorf("this is not the gateway that is known to this device: no TLS is spoken there: %w", err)
	case errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("the gateway refuses connections of this device's address for now: there were too many, or too many failed: %w", err)
	case errors.Is(err, identity.ErrWrongKey):
		return fmt.Errorf("this is not the gateway that is known to this device: if its key was replaced while this device was away, join again with a new invitation: %w", err)
	}
	return err
}
