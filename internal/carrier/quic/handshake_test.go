package quic

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/proto"
)

var errStranger = errors.New("stranger")

// end returns how a link ends for who reads it.
func end(t *testing.T, l *Link) error {
	t.Helper()
	watch := time.AfterFunc(patience, func() { l.Close() })
	defer watch.Stop()
	for {
		_, start, end, err := l.Fill()
		if err != nil {
			return err
		}
		l.Consume(end - start)
	}
}

// Both ends know afterwards who the other one is, and what it wants.
func TestHandshake(t *testing.T) {
	noGoroutines(t)
	key, device := identity.NewKey(), identity.NewKey()
	for _, protocol := range []identity.Protocol{identity.Tunnel, identity.Join} {
		l, err := Listen(t.Context(), endpointOf(netip.MustParseAddrPort("127.0.0.1:0")), key.Server(everybody))
		if err != nil {
			t.Fatal(err)
		}
		type answer struct {
			protocol identity.Protocol
			key      identity.Public
			err      error
		}
		answers := make(chan answer, 1)
		go func() {
			p, err := l.Accept()
			if err != nil {
				answers <- answer{err: err}
				return
			}
			if a, ok := p.RemoteAddr().(Addr); !ok || a.Network() != "quic" || !a.AddrPort().Addr().IsLoopback() {
				t.Errorf("the client is at %v", p.RemoteAddr())
			}
			link, protocol, public, err := p.Handshake(t.Context())
			if err == nil {
				t.Cleanup(func() { link.Close() })
			}
			answers <- answer{protocol, public, err}
		}()
		e := endpointOf(l.Addr().(Addr).AddrPort())
		link, err := Dial(t.Context(), e, nil, device.Client(protocol, identity.NewKey().Public().Pin(), key.Public().Pin()))
		if err != nil {
			t.Fatal(err)
		}
		if a := <-answers; a.err != nil || a.protocol != protocol || a.key != device.Public() {
			t.Errorf("got %v, want %s", a, protocol)
		}
		if got := link.RemoteAddr(); got.Network() != "quic" || got.String() != l.Addr().String() {
			t.Errorf("the gateway is at %s %s", got.Network(), got)
		}
		link.Close()
		l.Close()
	}
}

// A client does not talk to a gateway with another key.
func TestWrongGateway(t *testing.T) {
	noGoroutines(t)
	g := newGateway(t, identity.NewKey(), "127.0.0.1:0", everybody)
	_, err := dialTest(t, g.endpoint(), identity.NewKey().Public().Pin())
	if !errors.Is(err, identity.ErrWrongKey) || !errors.Is(err, ErrHandshake) || errors.Is(err, net.ErrClosed) {
		t.Errorf("client: %v", err)
	}
	if err := <-g.errs; !errors.Is(err, tls.AlertError(42)) || errors.Is(err, net.ErrClosed) {
		t.Errorf("gateway: %v", err)
	}
}

// A client whose key is refused hears so by the alert, with the first thing that it reads; it gets no link at the other end.
func TestRefusedKey(t *testing.T) {
	noGoroutines(t)
	g := newGateway(t, identity.NewKey(), "127.0.0.1:0", func(identity.Protocol, identity.Public) error { return errStranger })
	l, err := dialTest(t, g.endpoint(), g.key.Public().Pin())
	if err == nil {
		err = end(t, l)
	}
	if !errors.Is(err, tls.AlertError(42)) || errors.Is(err, net.ErrClosed) {
		t.Errorf("client: %v", err)
	}
	if err := <-g.errs; !errors.Is(err, errStranger) || errors.Is(err, net.ErrClosed) {
		t.Errorf("gateway: %v", err)
	}
}

// Who shows no certificate, or speaks another protocol, does not come in.
func TestOthers(t *testing.T) {
	noGoroutines(t)
	key := identity.NewKey()
	for name, change := range map[string]func(*tls.Config){
		"no certificate":   func(c *tls.Config) { c.Certificates = nil },
		"another protocol": func(c *tls.Config) { c.NextProtos = []string{"h3"}; c.VerifyConnection = nil },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, key, "127.0.0.1:0", everybody)
			c := identity.NewKey().Client(identity.Tunnel, key.Public().Pin())
			change(c)
			l, err := Dial(t.Context(), g.endpoint(), nil, c)
			if err == nil {
				err = end(t, l.(*Link))
				l.Close()
			}
			if err == io.EOF || errors.Is(err, net.ErrClosed) {
				t.Errorf("client: %v", err)
			}
			if err := <-g.errs; err == nil || errors.Is(err, net.ErrClosed) {
				t.Errorf("gateway: %v", err)
			}
		})
	}
}

// A connection gives nothing away by which a later one could be shorter: no ticket, no early data.
func TestNoResumption(t *testing.T) {
	g := newGateway(t, identity.NewKey(), "127.0.0.1:0", everybody)
	c := identity.NewKey().Client(identity.Tunnel, g.key.Public().Pin())
	cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	c.ClientSessionCache = cache
	for range 2 {
		l, err := Dial(t.Context(), g.endpoint(), nil, c)
		if err != nil {
			t.Fatal(err)
		}
		server := <-g.links
		write(t, l.(*Link), request())
		read(t, server, len(request())) // what the gateway sends behind its handshake has come
		write(t, server, request())
		if state := l.(*Link).conn.q.ConnectionState(); state.TLS.DidResume || state.Used0RTT || state.TLS.CurveID != tls.X25519MLKEM768 {
			t.Errorf("%+v", state)
		}
		l.Close()
		server.Close()
	}
	if n := cache.put.Load(); n != 0 {
		t.Errorf("got %d tickets", n)
	}
}

type countingCache struct {
	tls.ClientSessionCache
	put atomic.Int32
}

func (c *countingCache) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		c.put.Add(1)
	}
	c.ClientSessionCache.Put(key, s)
}

// A stranger is there for Accept before the key of the gateway was used, and refusing him costs nothing more.
func TestAcceptBeforeHandshake(t *testing.T) {
	noGoroutines(t)
	key := identity.NewKey()
	c := key.Server(everybody)
	var used atomic.Int32
	certificate := c.Certificates[0]
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		used.Add(1)
		return &certificate, nil
	}
	c.Certificates = nil
	l, err := Listen(t.Context(), endpointOf(netip.MustParseAddrPort("127.0.0.1:0")), c)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled := make(chan error, 1)
	go func() {
		_, err := dialTest(t, endpointOf(l.Addr().(Addr).AddrPort()), key.Public().Pin())
		dialled <- err
	}()
	p, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-dialled:
		t.Fatal("the client does not wait:", err)
	case <-time.After(100 * time.Millisecond):
	}
	if used.Load() != 0 || l.open.Load() != 1 {
		t.Errorf("the key was used %d times, %d handshakes are open", used.Load(), l.open.Load())
	}
	p.Close()
	if err := <-dialled; !errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) {
		t.Errorf("the client who is refused: %v", err)
	}
	if used.Load() != 0 {
		t.Error("the key was used for him")
	}
	waitFor(t, "no handshake is open", func() bool { return l.open.Load() == 0 })
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s until %s", patience, what)
		}
	}
}

// While many handshakes are open a client has to prove its address, and more than so many are refused; afterwards others
// come in.
func TestCrowd(t *testing.T) {
	noGoroutines(t)
	key := identity.NewKey()
	l, err := Listen(t.Context(), endpointOf(netip.MustParseAddrPort("127.0.0.1:0")), key.Server(everybody))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := endpointOf(l.Addr().(Addr).AddrPort())
	if l.crowded() {
		t.Error("crowded with nobody there")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2*maxHandshakes)
	dials := 0
	dial := func() {
		dials++
		to := e
		go func() {
			_, err := Dial(ctx, to, nil, identity.NewKey().Client(identity.Tunnel, key.Public().Pin()))
			ended <- err
		}()
	}
	var pending []*Pending
	for len(pending) < proveFrom {
		dial()
		p, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		pending = append(pending, p)
	}
	if !l.crowded() {
		t.Error("not crowded")
	}
	r := newRelay(t, l.Addr().(Addr).AddrPort(), 0)
	e = endpointOf(r.addr())
	dial() // who proves its address comes in nevertheless
	p, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	pending = append(pending, p)
	r.mu.Lock()
	if r.retries == 0 {
		t.Error("he did not have to prove it")
	}
	r.mu.Unlock()
	// The rest of the places are taken without their clients, which this machine would be long about.
	l.open.Add(maxHandshakes - int64(len(pending)))
	if _, err := dialTest(t, e, key.Public().Pin()); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("one too many: %v", err)
	}
	l.open.Add(int64(len(pending)) - maxHandshakes)
	for _, p := range pending {
		p.Close()
	}
	for range dials {
		if err := <-ended; err == nil {
			t.Error("somebody came in")
		}
	}
	cancel()
	waitFor(t, "no handshake is open", func() bool { return l.open.Load() == 0 })
	// The second packet of one who was refused may count as another stranger, who then says no more.
	ctx, cancel = context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for p, err := l.Accept(); err == nil; p, err = l.Accept() {
			all.Go(func() {
				if link, _, _, err := p.Handshake(ctx); err == nil {
					<-ctx.Done()
					link.Close()
				}
			})
		}
	})
	if _, err := dialTest(t, e, key.Public().Pin()); err != nil {
		t.Error(err)
	}
	cancel()
	l.Close()
	all.Wait()
}

// Handshake ends with its context; the client is not left with half a connection.
func TestHandshakeContext(t *testing.T) {
	noGoroutines(t)
	key := identity.NewKey()
	l, err := Listen(t.Context(), endpointOf(netip.MustParseAddrPort("127.0.0.1:0")), key.Server(everybody))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled := make(chan error, 1)
	go func() {
		link, err := dialTest(t, endpointOf(l.Addr().(Addr).AddrPort()), key.Public().Pin())
		if err == nil {
			err = end(t, link)
		}
		dialled <- err
	}()
	p, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	link, _, _, err := p.Handshake(ctx)
	if err == nil {
		link.Close() // it was as fast
	} else if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := <-dialled; !errors.Is(err, io.EOF) { // also while it dials
		t.Errorf("client: %v", err)
	}
}

// Who is turned away in the middle of a handshake is not waited for.
func TestHandshakeClose(t *testing.T) {
	noGoroutines(t)
	key := identity.NewKey()
	asked, answer := make(chan struct{}), make(chan struct{})
	l, err := Listen(t.Context(), endpointOf(netip.MustParseAddrPort("127.0.0.1:0")), key.Server(func(identity.Protocol, identity.Public) error {
		close(asked)
		<-answer
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled := make(chan struct{})
	go func() {
		defer close(dialled)
		if link, err := dialTest(t, endpointOf(l.Addr().(Addr).AddrPort()), key.Public().Pin()); err == nil {
			_ = end(t, link)
		}
	}()
	p, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-asked
		_ = p.Close()
	}()
	if _, _, _, err := p.Handshake(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
	close(answer)
	<-dialled
}

// Garbage to the port disturbs nobody, and gets no answer.
// exam: M14
func TestGarbage(t *testing.T) {
	noGoroutines(t)
	g := newGateway(t, identity.NewKey(), "127.0.0.1:0", everybody)
	c := loopback(t)
	defer c.Close()
	to := net.UDPAddrFromAddrPort(g.Addr().(Addr).AddrPort())
	for n := range 1500 {
		b := frame(max(n, 15), uint32(n))[:n]
		if n > 0 && n%3 == 0 {
			b[0] |= 0xc0
		}
		if n > 5 && n%9 == 0 {
			copy(b[1:], []byte{0, 0, 0, 1}) // the version is right
		}
		if _, err := c.WriteToUDP(b, to); err != nil {
			t.Fatal(err)
		}
	}
	client, err := dialTest(t, g.endpoint(), g.key.Public().Pin())
	if err != nil {
		t.Fatal(err)
	}
	server := <-g.links
	defer server.Close()
	write(t, client, request())
	read(t, server, proto.ControlLen)
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	b := make([]byte, 2048)
	answered := 0
	for {
		n, err := c.Read(b)
		if err != nil {
			break
		}
		if answered++; n >= 1200 {
			t.Errorf("%d bytes of an answer", n)
		}
	}
	if answered > 1500 {
		t.Errorf("%d answers", answered)
	}
}

// Close refuses who waits, and leaves those alone who are in.
func TestListenerClose(t *testing.T) {
	noGoroutines(t)
	client, server := pair(t)
	g := newGateway(t, identity.NewKey(), "127.0.0.1:0", everybody)
	other, err := dialTest(t, g.endpoint(), g.key.Public().Pin())
	if err != nil {
		t.Fatal(err)
	}
	in := <-g.links
	g.Close()
	if _, err := g.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	write(t, other, request())
	read(t, in, proto.ControlLen)
	in.Close()
	if err := end(t, other); err != io.EOF {
		t.Error(err)
	}
	write(t, client, request())
	read(t, server, proto.ControlLen)

	key := identity.NewKey()
	l, err := Listen(t.Context(), endpointOf(netip.MustParseAddrPort("127.0.0.1:0")), key.Server(everybody))
	if err != nil {
		t.Fatal(err)
	}
	dialled := make(chan error, 1)
	go func() {
		_, err := dialTest(t, endpointOf(l.Addr().(Addr).AddrPort()), key.Public().Pin())
		dialled <- err
	}()
	if _, err := l.Accept(); err != nil { // and nothing is decided
		t.Fatal(err)
	}
	l.Close()
	if err := <-dialled; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("who waited: %v", err)
	}
}

// A gateway that was started anew tells clients of before that it does not know them.
func TestRestart(t *testing.T) {
	noGoroutines(t)
	key := identity.NewKey()
	g := newGateway(t, key, "127.0.0.1:0", everybody)
	r := newRelay(t, g.Addr().(Addr).AddrPort(), 0)
	client, err := dialTest(t, endpointOf(r.addr()), key.Public().Pin())
	if err != nil {
		t.Fatal(err)
	}
	server := <-g.links
	write(t, client, request())
	read(t, server, proto.ControlLen)
	again := newGateway(t, key, "127.0.0.1:0", everybody)
	r.mu.Lock()
	r.gateway = again.Addr().(Addr).AddrPort()
	r.mu.Unlock()
	write(t, client, frame(1000, 1))
	if err := end(t, client); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}

// What can not be dialled or listened on says what to do.
func TestErrors(t *testing.T) {
	g := newGateway(t, identity.NewKey(), "127.0.0.1:0", everybody)
	_, err := Listen(t.Context(), g.endpoint(), g.key.Server(everybody))
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "ss -lunp") {
		t.Errorf("port in use: %v", err)
	}
	_, err = Listen(t.Context(), carrier.Endpoint{Scheme: "quic", Host: "192.0.2.1", Port: 1}, g.key.Server(everybody))
	if !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("foreign address: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	silent := loopback(t)
	defer silent.Close()
	_, err = Dial(ctx, endpointOf(silent.LocalAddr().(*net.UDPAddr).AddrPort()), nil, g.key.Client(identity.Tunnel, g.key.Public().Pin()))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "does UDP pass") {
		t.Errorf("nobody answers: %v", err)
	}
}

// An opener makes the sockets.
type opener struct{ networks, addresses []string }

func (o *opener) Socket(network, address string) (*os.File, error) {
	o.networks, o.addresses = append(o.networks, network), append(o.addresses, address)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "socket"), syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_PRIORITY, 3)
}

func (*opener) Connect(string) (net.Conn, error) { return nil, errStranger }

func TestOpener(t *testing.T) {
	g := newGateway(t, identity.NewKey(), "127.0.0.1:0", everybody)
	o := new(opener)
	l, err := Dial(t.Context(), g.endpoint(), o, g.key.Client(identity.Tunnel, g.key.Public().Pin()))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer (<-g.links).Close()
	if len(o.networks) != 1 || o.networks[0] != "udp4" || o.addresses[0] != g.Addr().String() {
		t.Errorf("asked for %v on the way to %v", o.networks, o.addresses)
	}
	raw, err := l.(*Link).socket.udp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var priority int
	_ = raw.Control(func(fd uintptr) {
		priority, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_PRIORITY)
	})
	if err != nil || priority != 3 {
		t.Errorf("the socket is another one: %d, %v", priority, err)
	}
}

// A listener without a host takes clients of both families, and tells IPv4 addresses as such; a name leads to it.
func TestAnyHost(t *testing.T) {
	key := identity.NewKey()
	l, err := Listen(t.Context(), carrier.Endpoint{Scheme: "quic"}, key.Server(everybody))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := uint32(l.Addr().(Addr).AddrPort().Port())
	for _, host := range []string{"127.0.0.1", "localhost"} {
		dialled := make(chan error, 1)
		go func() {
			_, err := dialTest(t, carrier.Endpoint{Scheme: "quic", Host: host, Port: port}, key.Public().Pin())
			dialled <- err
		}()
		p, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		link, _, _, err := p.Handshake(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if a := link.RemoteAddr().(Addr); a.AddrPort().Addr().Is4In6() || a.AddrPort().Addr() != p.RemoteAddr().(Addr).AddrPort().Addr() || !a.AddrPort().Addr().IsLoopback() {
			t.Errorf("%s: the client is at %s", host, a)
		}
		if err := <-dialled; err != nil {
			t.Error(err)
		}
		link.Close()
	}
}
