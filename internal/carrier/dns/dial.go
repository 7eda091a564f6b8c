package dns

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"ferry/internal/carrier"
	"ferry/internal/carrier/datagram"
	"ferry/internal/carrier/polling"
)

// maxResolvers is how many are asked.
const maxResolvers = 4

// Dial connects to an endpoint dns://[host:port/]zone and makes the handshake, until ctx is done. Without a host it goes through those
// resolvers that own returns, whichever is the first that carries it. The sockets are those of the opener.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c *tls.Config, own func() []netip.Addr) (carrier.Link, error) {
	z := newZone(e.Path[1:])
	resolvers, err := resolversOf(ctx, z, e, o, own)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", e, err)
	}
	client := newClient()
	r, m, err := first(ctx, resolvers, client)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", e, err)
	}
	a, err := newAsker(ctx, r, client, m)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", e, err)
	}
	atOnce := polls
	if m.stream {
		atOnce = maxConns
	}
	to := datagram.Addr{Remote: r.at}
	l, err := datagram.Dial(ctx, polling.NewClient(a, to, config(atOnce)), to, c)
	if err != nil {
		return nil, fmt.Errorf("dial %s by %s: %w", e, r.at, err)
	}
	return l, nil
}

// newClient returns a number that nobody can guess, and so nobody can ask with.
func newClient() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:]) & clientMask
}

// resolversOf returns whom to ask.
func resolversOf(ctx context.Context, z *zone, e carrier.Endpoint, o carrier.Opener, own func() []netip.Addr) (all []*resolver, err error) {
	var addrs []netip.Addr
	if e.Host == "" {
		if addrs = own(); len(addrs) == 0 {
			return nil, errors.New("this host has no name server: name one, as in dns://192.0.2.1" + e.Path)
		}
	} else if addrs, err = carrier.Lookup(ctx, "ip", e, o); err != nil {
		return nil, err
	}
	for _, a := range addrs[:min(len(addrs), maxResolvers)] {
		all = append(all, &resolver{z: z, at: netip.AddrPortFrom(a.Unmap(), uint16(e.Port)), o: o})
	}
	return all, nil
}

// first asks all resolvers at the same time, and returns the first that carries what a client has to say.
func first(ctx context.Context, all []*resolver, client uint64) (*resolver, manner, error) {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		r   *resolver
		m   manner
		err error
	}
	results := make(chan result, len(all))
	for _, r := range all {
		go func() { // ends with ctx, and is waited for below
			m, err := r.test(ctx, client)
			results <- result{r, m, err}
		}()
	}
	var won result
	var errs error
	for range all {
		switch got := <-results; {
		case won.r != nil:
		case got.err == nil:
			won = got
			cancel()
		default:
			errs = errors.Join(errs, fmt.Errorf("%s: %w", got.r.at, advise(got.err)))
		}
	}
	cancel()
	if won.r == nil {
		return nil, manner{}, errs
	}
	return won.r, won.m, nil
}
