package netstack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"ferry/internal/hostnet"
	"ferry/internal/packet"
	"ferry/internal/proto"
	"ferry/internal/router"
)

// A Local is the network of a device that has no TUN: what is in the tunnel is reached by Dial, and only by this process.
//
//	Dial, Listen <--> stack, with the device's address <--> outbox, Send <--> router
type Local struct {
	name  string
	port  *router.Port
	link  *link
	stack *stack.Stack
	up    chan struct{} // closed when there is an address for the first time
	conns *group

	mu   sync.Mutex // guards what follows
	addr netip.Addr
	dns  []netip.Addr // name servers in the tunnel
}

// NewLocal returns the network of a device that is called by a name. It has no address until Apply.
func NewLocal(name string) (*Local, error) {
	l := &Local{name: name, link: newLink(), up: make(chan struct{})}
	l.port = router.NewPort(0, router.Caps{Super: true, Exit: true}, l)
	var err error
	if l.stack, err = newStack(l.link); err != nil {
		return nil, err
	}
	l.conns = newGroup(deviceMemory)
	return l, nil
}

// Refused returns how many connections were refused or reset for want of memory, by reason, none that is 0: "memory" has waited for it in vain, "stalled"
// has held most for longest. All hold 64 MiB together of what their ends have not taken.
func (l *Local) Refused() map[string]uint64 {
	m := l.conns.memory
	all := map[string]uint64{"memory": m.refused.Load(), "stalled": m.stalled.Load()}
	maps.DeleteFunc(all, func(_ string, n uint64) bool { return n == 0 })
	return all
}

// Name returns what it is called.
func (l *Local) Name() string { return l.name }

// Port returns its place in the router.
func (l *Local) Port() *router.Port { return l.port }

// Around returns nothing: no route of this host can lead into the tunnel, and none out of it.
func (l *Local) Around(netip.Addr, uint32) (addrs []netip.Prefix, way netip.Prefix, err error) {
	return nil, netip.Prefix{}, nil
}

// Apply takes the address, the MTU and the name servers of a state. All else is about a kernel's network.
func (l *Local) Apply(s hostnet.State) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.MTU > 0 {
		l.link.SetMTU(uint32(s.MTU))
	}
	if !s.Addr.IsValid() { // before the first lease
		return nil
	}
	if l.addr.IsValid() && l.addr != s.Addr.Addr() {
		l.abandon(l.addr)
	}
	if err := move(l.stack, l.addr, s.Addr.Addr()); err != nil {
		return err
	}
	if !l.addr.IsValid() {
		close(l.up)
	}
	l.addr, l.dns = s.Addr.Addr(), s.DNS
	return nil
}

// abandon ends what is connected from an address that the device has no more: nobody else would say so to the programs that wait for it.
func (l *Local) abandon(old netip.Addr) {
	for _, ep := range l.stack.RegisteredEndpoints() {
		if e, ok := ep.(tcpip.Endpoint); ok {
			if info, ok := e.Info().(*stack.TransportEndpointInfo); ok && info.ID.LocalAddress == toStack(old) {
				e.Abort()
			}
		}
	}
}

// Send implements router.Sender.
func (l *Local) Send(run []byte) (dropped int, why router.Reason) {
	for len(run) > 0 {
		n := proto.DataLen(run)
		o, _ := packet.ConsumeOffload(run[proto.FrameHeaderLen:])
		ip := packet.IPv4(run[proto.DataHeaderLen:n])
		if isDamaged(o, ip) || !l.link.deliver(ip) {
			dropped, why = dropped+1, router.DropExit
		}
		run = run[n:]
	}
	return dropped, why
}

// Run hands what is sent to f until ctx is done.
func (l *Local) Run(ctx context.Context, f *router.Forwarder) error {
	l.link.run(ctx, f)
	return nil
}

// Close ends all connections. It is called after Run has returned.
func (l *Local) Close() error {
	l.conns.close()
	l.stack.Destroy()
	return nil
}

// ready waits until there is an address.
func (l *Local) ready(ctx context.Context) (netip.Addr, error) {
	select {
	case <-l.up:
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.addr, nil
	case <-ctx.Done():
		return netip.Addr{}, errors.New("the gateway has given no address yet: is it reached? See vpncli status")
	}
}

// Dial connects, by tcp or udp, to host:port in the tunnel, and returns a *Conn. Names are asked of the gateway's name servers, and of this host's where it has none.
func (l *Local) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	own, addrs, port, err := l.resolve(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn, err := race(ctx, addrs, func(ctx context.Context, a netip.Addr) (*Conn, error) {
		return l.conns.dial(ctx, l.stack, network, own, netip.AddrPortFrom(a, port))
	})
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return conn, nil
}

// question connects to a name server. What it returns tells package net by its type whether it carries datagrams.
func (l *Local) question(ctx context.Context, network string, own netip.Addr, to netip.AddrPort) (net.Conn, error) {
	from := full(netip.AddrPortFrom(own, 0))
	at := full(to)
	if network == "udp" {
		return gonet.DialUDP(l.stack, &from, &at, ipv4.ProtocolNumber)
	}
	return gonet.DialTCPWithBind(ctx, l.stack, from, at, ipv4.ProtocolNumber)
}

// resolve returns the addresses and the port of host:port, and the device's own address, for which it waits.
func (l *Local) resolve(ctx context.Context, network, address string) (own netip.Addr, addrs []netip.Addr, port uint16, err error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return own, nil, 0, err
	}
	number, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err == nil {
		own, err = l.ready(ctx)
	}
	if err == nil {
		addrs, err = l.lookup(ctx, host)
	}
	if err != nil {
		err = fmt.Errorf("dial %s: %w", address, err)
	}
	return own, addrs, uint16(number), err
}

// lookup returns the IPv4 addresses of a host.
func (l *Local) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		if a = a.Unmap(); !a.Is4() {
			return nil, fmt.Errorf("dial %s: the tunnel carries IPv4 only", host)
		}
		return []netip.Addr{a}, nil
	}
	all, err := l.resolver().LookupNetIP(ctx, "ip4", host)
	for i := range all {
		all[i] = all[i].Unmap()
	}
	return all, err
}

// resolver asks the gateway's name servers, one after the other.
func (l *Local) resolver() *net.Resolver {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.dns) == 0 {
		return net.DefaultResolver
	}
	own, servers, next := l.addr, l.dns, 0
	var mu sync.Mutex // guards next
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		mu.Lock()
		server := servers[next%len(servers)]
		next++
		mu.Unlock()
		ctx, cancel := context.WithTimeout(ctx, nameTimeout)
		defer cancel()
		return l.question(ctx, network[:3], own, netip.AddrPortFrom(server, 53))
	}}
}

// nameTimeout is how long a name server has to accept a connection.
const nameTimeout = 5 * time.Second
