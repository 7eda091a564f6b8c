package icmp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	"ferry/internal/carrier/datagram"
	"ferry/internal/carrier/netsock"
	"ferry/internal/carrier/polling"
)

// A Listener takes the connections of clients.
type Listener = datagram.Listener

// Listen serves an endpoint icmp://[host], on all addresses of this machine where no host is given.
func Listen(ctx context.Context, e carrier.Endpoint) (*Listener, error) {
	at := netip.IPv4Unspecified()
	if e.Host != "" {
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", e.Host)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: it takes an IPv4 address: %w", e, err)
		}
		at = addrs[0].Unmap()
	}
	a, err := bind(at)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("listen on %s: a raw socket takes CAP_NET_RAW: run as root, or add it to the unit (AmbientCapabilities=, CapabilityBoundingSet=): %w", e, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s: this machine has no such address ('ip addr' shows what it has): %w", e, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	return datagram.Listen(polling.NewServer(a, config), datagram.Config{}), nil
}

func bind(at netip.Addr) (*answerer, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	netsock.AskLocal(fd, false)
	if err := unix.Bind(fd, netsock.Sockaddr(netip.AddrPortFrom(at, 0))); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	s, err := newSocket(fd, true)
	if err == nil {
		err = s.filter(echoRequest)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &answerer{socket: s, at: at}, nil
}

// An answerer is the gateway's end.
type answerer struct {
	*socket
	at netip.Addr
}

// back is what it takes to answer a question.
type back struct {
	to, local  [4]byte
	identifier uint16
}

var _ polling.Answerer[back] = (*answerer)(nil)

// Receive implements polling.Answerer.
func (a *answerer) Receive(q []polling.Question[back]) (n int, err error) {
	for n == 0 {
		got, _, err := a.read(len(q))
		if err != nil {
			return 0, err
		}
		for i := range got {
			e, ok := a.echo(i, echoRequest)
			from := a.in.From(i).Addr()
			if !ok || !from.Is4() {
				continue
			}
			at := netip.AddrPortFrom(from, e.identifier)
			q[n] = polling.Question[back]{
				From: at, Seen: at, Number: e.number, Data: e.data,
				Back: back{to: from.As4(), local: a.local(i), identifier: e.identifier},
			}
			n++
		}
	}
	return n, nil
}

// local returns the address of ours that the i-th packet came to.
func (a *answerer) local(i int) (local [4]byte) {
	a.in.Controls(i, func(level, kind int32, b []byte) {
		if to := netsock.To(level, kind, b); to.Is4() {
			local = to.As4()
		}
	})
	return local
}

// Answer implements polling.Answerer.
func (a *answerer) Answer(to []polling.Reply[back], b []byte, lens []int, wait bool) (int, error) {
	return a.answer(to, b, lens, wait)
}

// Max implements polling.Answerer.
func (a *answerer) Max() int { return Max }

// Takes implements polling.Answerer.
func (a *answerer) Takes() int { return Max }

// Name implements polling.Answerer.
func (a *answerer) Name(seen netip.AddrPort) net.Addr { return Addr{seen} }

// Local implements polling.Answerer.
func (a *answerer) Local() net.Addr { return Addr{netip.AddrPortFrom(a.at, 0)} }

// Dial connects to an endpoint icmp://host and makes the handshake, until ctx is done. The addresses of a name are tried side by
// side. The sockets are those of the opener.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener, c *tls.Config) (carrier.Link, error) {
	l, err := netsock.Dial(ctx, e, o, "ip4", func(ctx context.Context, to netip.Addr) (*datagram.Link, error) {
		a, err := open(to, o)
		if err != nil {
			return nil, err
		}
		at := datagram.Addr{Remote: a.to}
		return datagram.Dial(ctx, polling.NewClient(a, at, config), at, c)
	})
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%w: this process may not ping: 'sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"' lets it, or CAP_NET_RAW", err)
	}
	return nil, err
}

// open makes the client's end.
func open(to netip.Addr, o carrier.Opener) (*asker, error) {
	at := netip.AddrPortFrom(to, 0)
	var fd int
	var err error
	if o == nil {
		fd, err = netsock.Ping()
	} else {
		fd, err = netsock.Open(o, "icmp4", at)
	}
	if err != nil {
		return nil, err
	}
	return newAsker(fd, at, netsock.RouteMTU(netip.AddrPortFrom(to, 7), o))
}

func newAsker(fd int, to netip.AddrPort, mtu int) (*asker, error) {
	s, err := newSocket(fd, isRaw(fd))
	if err != nil {
		return nil, err
	}
	if s.raw {
		s.identifier = newIdentifier()
	}
	if err := s.filter(echoReply); err != nil {
		_ = s.Close()
		return nil, err
	}
	s.in.AskErrors(fd)
	a := &asker{socket: s, to: to, max: Max}
	if mtu > 0 {
		a.max = min(Max, mtu-20-headerLen)
	}
	return a, nil
}

// An asker is the client's end.
type asker struct {
	*socket
	to  netip.AddrPort
	max int
}

var _ polling.Asker = (*asker)(nil)

// Receive implements polling.Asker.
func (a *asker) Receive(all []polling.Answer) (n int, err error) {
	for n == 0 {
		got, refused, err := a.read(len(all))
		if err != nil {
			return 0, err
		}
		if refused {
			all[0] = polling.Answer{Nobody: true}
			return 1, nil
		}
		for i := range got {
			if e, ok := a.echo(i, echoReply); ok && a.in.From(i).Addr() == a.to.Addr() {
				all[n] = polling.Answer{Number: e.number, Held: e.held, Data: e.data}
				n++
			}
		}
	}
	return n, nil
}

// Ask implements polling.Asker.
func (a *asker) Ask(first uint32, b []byte, lens []int, wait bool) (int, error) {
	return a.ask(a.to, first, b, lens, wait)
}

// Max implements polling.Asker.
func (a *asker) Max() int { return a.max }

// Takes implements polling.Asker.
func (a *asker) Takes() int { return a.max }

// Name implements polling.Asker.
func (a *asker) Name() net.Addr { return Addr{a.to} }

// Local implements polling.Asker.
func (a *asker) Local() net.Addr {
	return Addr{netip.AddrPortFrom(netip.IPv4Unspecified(), a.identifier)}
}
