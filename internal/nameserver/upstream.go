package nameserver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Settings can be replaced while a Server runs.
type Settings struct {
	Upstream []netip.AddrPort            // for all names that nobody else is for
	Forward  map[string][]netip.AddrPort // for names below a domain
	Zones    []Zone                      // known here
}

// Check tells whether Set would take them.
func (s Settings) Check() error {
	_, err := newTable(s)
	return err
}

// A table is Settings in the form in which they are used.
type table struct {
	zones    Zones
	groups   []*group // the longest suffix first
	upstream *group
}

// A group are servers that know the same.
type group struct {
	suffix  string // empty: all names
	servers []netip.AddrPort
	good    atomic.Uint32 // the server that has answered last
}

func newTable(s Settings) (*table, error) {
	t := &table{upstream: &group{servers: slices.Clone(s.Upstream)}}
	for _, z := range slices.Backward(s.Zones) { // each goes in front
		if err := t.zones.add(z); err != nil {
			return nil, err
		}
	}
	for domain, servers := range s.Forward {
		if _, ok := dns.IsDomainName(domain); !ok || domain == "" {
			return nil, fmt.Errorf("%q is not a domain name: write it as corp.example", domain)
		}
		t.groups = append(t.groups, &group{suffix: dns.CanonicalName(domain), servers: slices.Clone(servers)})
	}
	slices.SortFunc(t.groups, func(a, b *group) int {
		return cmp.Or(len(b.suffix)-len(a.suffix), cmp.Compare(a.suffix, b.suffix))
	})
	return t, nil
}

// group returns who is asked for a name, which is in small letters.
func (t *table) group(name string) *group {
	for _, g := range t.groups {
		if dns.IsSubDomain(g.suffix, name) {
			return g
		}
	}
	return t.upstream
}

// except returns the servers of a group but those at an address: who asks is not asked. The one that has answered last comes first.
func (g *group) except(a netip.Addr) (servers []netip.AddrPort) {
	first := int(g.good.Load())
	for i := range g.servers {
		if server := g.servers[(first+i)%len(g.servers)]; server.Addr() != a {
			servers = append(servers, server)
		}
	}
	return servers
}

// rounds is how often each server is asked: a datagram may be lost.
const rounds = 2

var errNoAnswer = errors.New("no server has answered")

// ask sends a question, as it came, to one server after the other until one answers. whole: an answer that is cut is fetched by TCP. A server that says that it fails
// is believed when no other knows better.
func (s *Server) ask(ctx context.Context, g *group, servers []netip.AddrPort, query []byte, whole bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.c.Timeout)
	defer cancel()
	each := s.c.Timeout / time.Duration(rounds*len(servers))
	var worst []byte
	var fault error
	for range rounds {
		for _, server := range servers {
			b, err := exchange(ctx, each, server, query, whole)
			switch {
			case ctx.Err() != nil:
				return worst, cmp.Or(fault, errNoAnswer)
			case err != nil:
				fault = err
			case hasFailed(b):
				worst = b
			default:
				g.good.Store(uint32(slices.Index(g.servers, server)))
				return b, nil
			}
		}
		if worst != nil {
			return worst, nil
		}
	}
	return nil, cmp.Or(fault, errNoAnswer)
}

func hasFailed(b []byte) bool {
	rcode := int(b[3] & 0xf)
	return rcode == dns.RcodeServerFailure || rcode == dns.RcodeRefused || rcode == dns.RcodeNotImplemented
}

// exchange asks one server.
func exchange(ctx context.Context, timeout time.Duration, server netip.AddrPort, query []byte, whole bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	b, err := exchangeUDP(ctx, server, query)
	if err != nil || b[2]&bitTC == 0 || !whole {
		return b, err
	}
	return exchangeTCP(ctx, server, query)
}

// A socket for each question has a port that strangers have to guess, as they have the ID.
func dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, func() bool, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, nil, err
	}
	return conn, context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }), nil
}

func exchangeUDP(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	conn, stop, err := dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer stop()
	q, id := renumbered(query)
	if _, err := conn.Write(q); err != nil {
		return nil, err
	}
	b := make([]byte, maxQuery)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return nil, err
		}
		if answers(b[:n], question(query), id) {
			copy(b, query[:2])
			return b[:n], nil
		}
	}
}

var errForeign = errors.New("the server has answered another question")

func exchangeTCP(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	conn, stop, err := dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer stop()
	q, id := renumbered(query)
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	var in bytes.Buffer // grows by what has come, not by what was claimed
	n := int64(binary.BigEndian.Uint16(length[:]))
	if _, err := io.CopyN(&in, conn, n); err != nil {
		return nil, err
	}
	b := in.Bytes()
	if !answers(b, question(query), id) {
		return nil, errForeign
	}
	copy(b, query[:2])
	return b, nil
}

// renumbered returns a copy of a message with an ID that nobody can guess.
func renumbered(query []byte) ([]byte, uint16) {
	q := bytes.Clone(query)
	_, _ = rand.Read(q[:2])
	return q, binary.BigEndian.Uint16(q)
}
