package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"ferry/internal/carrier"
	"ferry/internal/hostnet"
	"ferry/internal/identity"
	"ferry/internal/proto"
	"ferry/internal/router"
)

// memory is an exit that keeps what it is sent, and a listener of pipes.
type memory struct {
	port  *router.Port
	conns chan net.Conn
	done  chan struct{}
	close sync.Once

	mu  sync.Mutex
	got []byte
}

func newMemory() *memory {
	m := &memory{conns: make(chan net.Conn), done: make(chan struct{})}
	m.port = router.NewPort(0, router.Caps{Super: true, Exit: true}, m)
	return m
}

func (m *memory) Port() *router.Port        { return m.port }
func (m *memory) Apply(hostnet.State) error { return nil }
func (m *memory) Run(ctx context.Context, _ *router.Forwarder) error {
	<-ctx.Done()
	return nil
}
func (m *memory) Send(run []byte) (int, router.Reason) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = append(m.got, run...)
	return 0, router.None
}
func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}
func (m *memory) Close() error {
	m.close.Do(func() { close(m.done) })
	return nil
}
func (m *memory) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "pipe"} }

// lab is a gateway in memory.
type lab struct {
	g *Gateway
	m *memory
}

// inMemory runs a gateway in a bubble of fake time until f returns. Errors are returned, for f may run
// under rapid, which wants to see failures in a goroutine of its own.
func inMemory(t *testing.T, c Config, f func(*lab) error) (err error) {
	return inMemoryOn(t, c, listener{allow: carrier.Plain | carrier.TLS}, f)
}

// inMemoryOn is inMemory with a listener of another kind. Without a key it is one for plain alone.
func inMemoryOn(t *testing.T, c Config, on listener, f func(*lab) error) (err error) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c.StateDir = dir
		c.SetDefaults()
		leases, openErr := openLeases(&c)
		if openErr != nil {
			t.Fatal(openErr)
		}
		m := newMemory()
		g, newErr := newGateway(c, m, leases)
		if newErr != nil {
			t.Fatal(newErr)
		}
		if on.entrance = (entranceOf[net.Conn]{m}); c.Key.IsZero() {
			on.allow = carrier.Plain
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- g.run(ctx, []*listener{&on})
		}()
		err = f(&lab{g, m})
		cancel()
		if runErr := <-ended; runErr != nil && !errors.Is(runErr, net.ErrClosed) {
			t.Errorf("gateway ended with %v", runErr)
		}
		if err := leases.Close(); err != nil {
			t.Error(err)
		}
	})
	return err
}

// settle waits until nothing moves any more. Writing leases to disk is real I/O, which the bubble does
// not wait for: so it waits for the store as well.
func (l *lab) settle() {
	synctest.Wait()
	_ = l.g.leases.store.Append()(context.Background())
	synctest.Wait()
}

// A raw client collects what it is sent.
type raw struct {
	conn net.Conn
	mu   sync.Mutex
	got  []byte
	eof  bool
}

func (l *lab) dial() *raw {
	a, b := net.Pipe()
	l.m.conns <- b
	return collect(a)
}

// dialTLS dials as the device with a key does, with the standard library's TLS.
func (l *lab) dialTLS(p identity.Protocol, key identity.Key) *raw {
	a, b := net.Pipe()
	l.m.conns <- b
	return collect(tls.Client(buffered(a), key.Client(p, l.g.c().Key.Public().Pin())))
}

// A patient connection takes what is written at once, as a socket does. Both ends of a handshake may
// write at the same time.
type patient struct {
	net.Conn
	out  chan []byte // closed by nobody; the goroutine that empties it ends with done
	done chan struct{}
	once sync.Once
}

func buffered(conn net.Conn) *patient {
	p := &patient{Conn: conn, out: make(chan []byte, 1000), done: make(chan struct{})}
	go func() {
		for {
			select {
			case b := <-p.out:
				if _, err := conn.Write(b); err != nil {
					p.Close()
				}
			case <-p.done:
				return
			}
		}
	}()
	return p
}

func (p *patient) Write(b []byte) (int, error) {
	select {
	case <-p.done:
		return 0, net.ErrClosed
	case p.out <- bytes.Clone(b):
		return len(b), nil
	}
}

func (p *patient) Close() error {
	p.once.Do(func() { close(p.done) })
	return p.Conn.Close()
}

func collect(a net.Conn) *raw {
	r := &raw{conn: a}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := a.Read(buf)
			r.mu.Lock()
			r.got = append(r.got, buf[:n]...)
			r.eof = err != nil
			r.mu.Unlock()
			if err != nil {
				_ = a.Close()
				return
			}
		}
	}()
	return r
}

func (r *raw) send(b []byte) { _, _ = r.conn.Write(b) }

func (r *raw) take() ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got, r.eof
}

func request(static string, f proto.Features) []byte {
	r := proto.Request{Extended: f != 0, Features: f}
	if static != "" {
		r.Static = netip.MustParseAddr(static)
	}
	return proto.AppendRequest(nil, r)
}

// ipPacket returns a UDP packet of 28 bytes.
func ipPacket(src, dst string) []byte {
	b := make([]byte, 28)
	b[0], b[3], b[8], b[9], b[25] = 0x45, 28, 64, 17, 8
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	return b
}

// want compares what a client has got, and whether it was disconnected.
func (r *raw) want(what string, b []byte, eof bool) error {
	if got, ended := r.take(); !bytes.Equal(got, b) || ended != eof {
		return fmt.Errorf("%s: got %d bytes, %.40x…, disconnected %v; want %d bytes, %.40x…, %v", what, len(got), got, ended, len(b), b, eof)
	}
	return nil
}

func reply(request []byte, addr string) []byte {
	b := bytes.Clone(request[:20])
	clear(b[12:16])
	a := netip.MustParseAddr(addr).As4()
	copy(b[16:], a[:])
	return b
}
