package datagram

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"ferry/internal/identity"
)

// A network carries datagrams between its transports, and does to them what networks do.
//
//	Send ── fate: lost, twice, late ──▶ timer ──▶ inbox of who has the address ── Receive
type network struct {
	mu   sync.Mutex // guards what follows
	ends map[netip.AddrPort]*memory
	// fate returns after which times a datagram arrives: none, it is lost; two, it comes twice.
	fate func(from, to netip.AddrPort, p []byte) []time.Duration
	// nat returns from where a datagram seems to come.
	nat func(from netip.AddrPort) netip.AddrPort
	// back is where what is sent to an address that nat has made goes.
	back map[netip.AddrPort]*memory
	sent map[netip.AddrPort]int // bytes, by who sent them
	nr   time.Duration          // so that what arrives at the same time does so in order
}

func newNetwork() *network {
	return &network{
		ends: map[netip.AddrPort]*memory{}, back: map[netip.AddrPort]*memory{}, sent: map[netip.AddrPort]int{},
		fate: func(netip.AddrPort, netip.AddrPort, []byte) []time.Duration { return []time.Duration{time.Millisecond} },
		nat:  func(a netip.AddrPort) netip.AddrPort { return a },
	}
}

// lossy returns a fate: each datagram is lost, doubled and delayed by chance.
func lossy(r *rand.Rand, loss, twice float64, delay, jitter time.Duration) func(from, to netip.AddrPort, p []byte) []time.Duration {
	return func(netip.AddrPort, netip.AddrPort, []byte) (at []time.Duration) {
		late := func() time.Duration { return delay + time.Duration(r.Int64N(int64(jitter)+1)) }
		if r.Float64() >= loss {
			at = append(at, late())
		}
		if r.Float64() < twice {
			at = append(at, late())
		}
		return at
	}
}

// by returns how many bytes somebody has sent.
func (n *network) by(at string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent[netip.MustParseAddrPort(at)]
}

// change sets the fate of all that is sent from now on.
func (n *network) change(fate func(from, to netip.AddrPort, p []byte) []time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fate = fate
}

// move changes from where datagrams seem to come.
func (n *network) move(nat func(from netip.AddrPort) netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nat = nat
}

// memory is a Transport on a network.
type memory struct {
	n     *network
	at    netip.AddrPort
	max   int
	inbox chan *Chunk // small: what does not fit is lost
	done  chan struct{}
	once  sync.Once
}

var _ Transport = (*memory)(nil)

func (n *network) open(at string, max int) *memory {
	m := &memory{n: n, at: netip.MustParseAddrPort(at), max: max, inbox: make(chan *Chunk, 4096), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ends[m.at] = m
	return m
}

func (m *memory) Receive(chunks []*Chunk) (int, error) {
	select {
	case c := <-m.inbox:
		chunks[0].From, chunks[0].Size = c.From, c.Size
		chunks[0].Len = copy(chunks[0].Data, c.Data)
		return 1, nil
	case <-m.done:
		return 0, net.ErrClosed
	}
}

func (m *memory) Send(b []byte, lens []int, to Addr, _ bool) (int, error) {
	select {
	case <-m.done:
		return 0, net.ErrClosed
	default:
	}
	for _, l := range lens {
		m.n.send(m, to.Remote, slices.Clone(b[:l]))
		b = b[l:]
	}
	return len(lens), nil
}

func (n *network) send(m *memory, to netip.AddrPort, p []byte) {
	if len(p) > m.max {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	from := n.nat(m.at)
	n.back[from] = m
	n.sent[from] += len(p)
	for _, after := range n.fate(from, to, p) {
		n.nr++
		time.AfterFunc(after+n.nr, func() { n.arrive(from, to, p) })
	}
}

// arrive puts a datagram into an inbox, as if it had come from somewhere.
func (n *network) arrive(from, to netip.AddrPort, p []byte) {
	n.mu.Lock()
	m := n.ends[to]
	if m == nil {
		m = n.back[to]
	}
	n.mu.Unlock()
	if m == nil {
		return
	}
	select {
	case m.inbox <- &Chunk{From: Addr{Remote: from}, Size: len(p), Data: p}:
	default:
	}
}

func (m *memory) Max(Addr) int         { return m.max }
func (m *memory) Name(a Addr) net.Addr { return net.UDPAddrFromAddrPort(a.Remote) }
func (m *memory) Local() net.Addr      { return net.UDPAddrFromAddrPort(m.at) }
func (m *memory) Close() error         { m.once.Do(func() { close(m.done) }); return nil }

const (
	gatewayAt = "192.0.2.1:2002"
	clientAt  = "198.51.100.7:1024"
)

func everybody(identity.Protocol, identity.Public) error { return nil }

// A lab is a gateway on a network.
type lab struct {
	*network
	t        testing.TB
	gateway  identity.Key
	listener *Listener
	server   *tls.Config
	links    chan *Link // of the gateway
	errs     chan error
	loop     sync.WaitGroup
}

func newLab(t testing.TB, c Config) *lab {
	x := &lab{network: newNetwork(), t: t, gateway: identity.NewKey(), links: make(chan *Link, 100), errs: make(chan error, 1000)}
	x.server = x.gateway.Server(everybody)
	x.serve(c)
	return x
}

// serve starts the gateway.
func (x *lab) serve(c Config) {
	x.listener = Listen(x.open(gatewayAt, 1472), c)
	l := x.listener
	x.loop.Go(func() {
		for {
			p, err := l.Accept()
			if err != nil {
				return
			}
			x.loop.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				link, _, _, err := p.Handshake(ctx, x.server)
				if err != nil {
					x.errs <- err
					return
				}
				x.links <- link
			})
		}
	})
}

// close ends the gateway and waits.
func (x *lab) close() {
	_ = x.listener.Close()
	x.loop.Wait()
}

func (x *lab) dial(at string, key identity.Key, pin identity.Pin) (*Link, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return Dial(ctx, x.open(at, 1472), Addr{Remote: netip.MustParseAddrPort(gatewayAt)}, key.Client(identity.Tunnel, pin))
}

// connect returns both ends of a connection.
func (x *lab) connect(at string) (client, gateway *Link) {
	x.t.Helper()
	client, err := x.dial(at, identity.NewKey(), x.gateway.Public().Pin())
	if err != nil {
		x.t.Fatal(err)
	}
	select {
	case gateway = <-x.links:
	case err := <-x.errs:
		x.t.Fatal(err)
	case <-time.After(20 * time.Second):
		x.t.Fatal("the gateway has no connection")
	}
	return client, gateway
}

// A sink reads all that comes by a link.
type sink struct {
	mu    sync.Mutex
	bytes []byte
	err   error
	done  chan struct{}
}

func drain(l *Link) *sink {
	s := &sink{done: make(chan struct{})}
	go func() { // ends with the link
		defer close(s.done)
		for {
			buf, start, end, err := l.Fill()
			s.mu.Lock()
			if err != nil {
				s.err = err
				s.mu.Unlock()
				return
			}
			s.bytes = append(s.bytes, buf[start:end]...)
			s.mu.Unlock()
			l.Consume(end - start)
		}
	}()
	return s
}

func (s *sink) got() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bytes)
}

// end returns the error of the link.
func (s *sink) end(t testing.TB) error {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		t.Fatal("the connection does not end")
	}
	return s.err
}

var errStranger = errors.New("stranger")
