package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

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
	known  []netip.Addr       // where it was: asked first
	last   []netip.Addr       // where it was: asked where its name can not be looked up
	astray bool               // the name servers in place may be those of a dead tunnel
	names  []carrier.Endpoint // to be looked up before the way out beside the tunnel is closed
	open   bool               // it is to be closed
}

// search says where to look for a server. While everything goes into a tunnel that is dead, or the gateway's own name servers
// are in place, nobody may be able to tell where it is: then it is sought where it was first, and if it has moved, the
// name servers from before are asked. Where it was serves, too, where there is no name server at all.
func (c *client) search(server carrier.Endpoint) search {
	s := search{server: server, last: c.found[server.Host]}
	if s.open = c.c.Policy.DefaultRoute && !c.applied; s.open {
		for _, e := range append(slices.Clone(c.servers), server) { // which may be one that was learned
			if _, err := netip.ParseAddr(e.Host); e.OverIP() && e.Host != "" && err != nil && !slices.ContainsFunc(s.names, func(o carrier.Endpoint) bool { return o.Host == e.Host }) {
				s.names = append(s.names, e)
			}
		}
		return s
	}
	c.renew()
	if c.state.Full() || len(c.state.DNS) > 0 {
		s.known, s.last = s.last, nil
	}
	s.astray = len(c.state.DNS) > 0 && len(s.known) > 0
	return s
}

// A seeker is what a search may need of who knows all: each is called by the goroutine that searches.
type seeker struct {
	opener carrier.Opener
	reach  reacher
	close  func(found map[string][]netip.Addr) error // the way out beside the tunnel; where hosts are
	lead   func()                                    // back to the name servers from before
}

// find reaches the server of a search.
func (s search) find(ctx context.Context, k seeker, keys *keyring) (carrier.Link, error) {
	if s.open {
		found, err := s.lookup(ctx, k.opener)
		if err == nil {
			err = k.close(found)
		}
		if err != nil {
			return nil, err
		}
		s.known, s.last = found[s.server.Host], nil
	}
	for _, at := range s.known {
		there := s.server
		there.At = at
		if l, err := k.reach(ctx, there, keys); err == nil || ctx.Err() != nil || at.String() == s.server.Host {
			return l, err
		}
	}
	if s.astray {
		k.lead()
	}
	if s.nameless(ctx, k.opener) {
		for _, at := range s.last {
			if l, err := s.again(ctx, k, keys, at); err == nil || ctx.Err() != nil {
				return l, err
			}
		}
	}
	return k.reach(ctx, s.server, keys)
}

// again tries an address where the server was, for no longer than a name server was given: it may be slow, and know better.
func (s search) again(ctx context.Context, k seeker, keys *keyring, at netip.Addr) (carrier.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, nameTime)
	defer cancel()
	there := s.server
	there.At = at
	return k.reach(ctx, there, keys)
}

// nameTime is how long a name server has to say where a host is that was found somewhere before. An attempt has 5 s (package failover).
const nameTime = time.Second

// nameless tells whether nobody says where the server is, which was somewhere.
func (s search) nameless(ctx context.Context, o carrier.Opener) bool {
	if len(s.last) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, nameTime)
	defer cancel()
	_, err := carrier.Lookup(ctx, "ip", s.server, o)
	return err != nil
}

// lookup finds out where the names of a search are, side by side; that of the server has to be known somewhere, or to have been.
func (s search) lookup(ctx context.Context, o carrier.Opener) (map[string][]netip.Addr, error) {
	patience := dialTimeout
	if len(s.last) > 0 {
		patience = nameTime
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	addrs, errs := make([][]netip.Addr, len(s.names)), make([]error, len(s.names))
	var asking sync.WaitGroup
	for i, e := range s.names {
		asking.Go(func() { addrs[i], errs[i] = carrier.Lookup(ctx, "ip", e, o) })
	}
	asking.Wait()
	found := map[string][]netip.Addr{}
	for i, e := range s.names {
		switch {
		case errs[i] == nil:
			found[e.Host] = addrs[i][:min(len(addrs[i]), maxKnown)]
		case e.Host == s.server.Host && len(s.last) == 0:
			return nil, errs[i]
		case e.Host == s.server.Host:
			found[e.Host] = s.last
		}
	}
	return found, nil
}

// lead puts the name servers from before in place.
func (c *client) lead() {
	c.state.DNS, c.state.Domains = nil, nil
	c.renew()
}

// shut closes the way out beside a full tunnel, before there is one, as soon as it is known where the gateway is: a
// name server of this host may be out of reach then.
func (c *client) shut(found map[string][]netip.Addr) error {
	if c.applied { // by another attempt
		return nil
	}
	maps.Copy(c.found, found)
	return c.apply(hostnet.State{
		Routes: []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, LocalNets: !c.c.CloseLAN,
		Outer: hostnet.Outer{Mark: c.c.Mark, Table: c.c.Table, Pings: Echo},
	})
}

// hostOf returns the address of the host at the other end; it is invalid where there is none.
func hostOf(a net.Addr) netip.Addr {
	if ip, err := netip.ParseAddrPort(a.String()); err == nil {
		return ip.Addr().Unmap()
	}
	return netip.Addr{}
}

// maxKnown is how many addresses of a host are known.
const maxKnown = 4

// first returns a and those of others that are not a, as many as are known.
func first(a netip.Addr, others []netip.Addr) []netip.Addr {
	all := append([]netip.Addr{a}, slices.DeleteFunc(slices.Clone(others), func(o netip.Addr) bool { return o.Unmap() == a })...)
	return all[:min(len(all), maxKnown)]
}

// seen notes where the host of an endpoint is, unless that is where a proxy is.
func (c *client) seen(e carrier.Endpoint, at net.Addr) {
	proxied := carriers[e.Scheme].proxied
	if from := hostOf(at); from.IsValid() && (proxied == nil || !proxied(e)) {
		c.found[e.Host] = first(from, c.found[e.Host])
	}
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
