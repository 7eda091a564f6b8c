package netstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"

	"ferry/internal/hostnet"
	"ferry/internal/packet"
	"ferry/internal/proto"
	"ferry/internal/router"
	"ferry/test/service"
)

// A client is another stack, whose packets go through a router to the exit, and back:
//
//	client's stack --> outbox --> Forwarder --> Switch --> Exit --> sockets of this process --> servers on loopback
//
// The loopback is no destination; there is an alias for it.
const patience = 10 * time.Second

var (
	pool    = netip.MustParsePrefix("10.0.0.0/16")
	gateway = netip.MustParseAddr("10.0.0.1")
	here    = netip.MustParseAddr("10.0.0.2")
	outside = netip.MustParseAddr("192.0.2.1") // is 127.0.0.1
)

type client struct {
	*Local
	t       testing.TB
	exit    *Exit
	through atomic.Pointer[func(run []byte) []byte] // returns what is heard of a run; nil: all
}

// Send implements router.Sender.
func (c *client) Send(run []byte) (int, router.Reason) {
	if f := c.through.Load(); f != nil {
		run = (*f)(run)
	}
	return c.Local.Send(run)
}

func newClient(t testing.TB, config Config) *client {
	t.Helper()
	config.Alias = map[netip.Addr]netip.Addr{outside: netip.MustParseAddr("127.0.0.1")}
	e, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Apply(hostnet.State{Addr: netip.PrefixFrom(gateway, 16), MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	own, err := NewLocal("test")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []hostnet.State{{MTU: 1500}, {Addr: netip.PrefixFrom(here, 16), MTU: 1500}, {Addr: netip.PrefixFrom(here, 16)}} { // before a lease, with one, anew
		if err := own.Apply(s); err != nil {
			t.Fatal(err)
		}
	}
	c := &client{Local: own, t: t, exit: e}

	table, err := router.NewSwitch(router.SwitchConfig{Pool: pool, Gateway: gateway, Exit: e.Port()})
	if err != nil {
		t.Fatal(err)
	}
	port := router.NewPort(1, router.Caps{Super: true}, c)
	table.Bind(port, here)
	var all router.Counters
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx, router.NewForwarder(table, e.Port(), &all, gateway)) })
	running.Go(func() { _ = own.Run(ctx, router.NewForwarder(table, port, &all, gateway)) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if err := own.Close(); err != nil {
			t.Error(err)
		}
		if s := e.Stats(); s.Conns+s.Flows != 0 {
			t.Errorf("%d connections and %d flows are left", s.Conns, s.Flows)
		}
	})
	return c
}

func (c *client) connect(port uint16, within time.Duration) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return gonet.DialContextTCP(ctx, c.stack, full(netip.AddrPortFrom(outside, port)), ipv4.ProtocolNumber)
}

func (c *client) mustDial(port uint16) *gonet.TCPConn {
	c.t.Helper()
	x, err := c.connect(port, patience)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = x.Close() })
	_ = x.SetDeadline(time.Now().Add(patience))
	return x
}

// listen serves connections with f, each on a goroutine, until the test ends.
func listen(t testing.TB, f func(*net.TCPConn)) uint16 {
	t.Helper()
	return service.TCP(t, "127.0.0.1:0", f).Port()
}

func echo(x *net.TCPConn) { _, _ = io.Copy(x, x) }

// What is read of a socket at once is one packet for the client, where its windows allow that, and not one with a very short one behind it.
func TestPacketsAreFull(t *testing.T) {
	c := newClient(t, Config{})
	var packets, short atomic.Int64
	c.through.Store(new(func(run []byte) []byte {
		for b := run; len(b) > 0; {
			n := proto.DataLen(b)
			if ip := packet.IPv4(b[proto.DataHeaderLen:n]); len(ip) > 100 {
				packets.Add(1)
				if len(ip) < 1000 {
					short.Add(1)
				}
			}
			b = b[n:]
		}
		return run
	}))
	port := listen(t, func(x *net.TCPConn) { _, _ = x.Write(make([]byte, 64<<20)) })
	x := c.mustDial(port)
	_ = x.SetDeadline(time.Now().Add(6 * patience)) // that is much for a busy machine
	if n, err := io.Copy(io.Discard, x); err != nil || n != 64<<20 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if short.Load() > packets.Load()/5 {
		t.Errorf("%d of %d packets are short", short.Load(), packets.Load())
	}
}

// Many bytes pass both ways unchanged, and the end of each direction comes alone.
func TestHalfClose(t *testing.T) {
	c := newClient(t, Config{})
	heard := make(chan [32]byte, 1)
	answer := random(3 << 20)
	port := listen(t, func(x *net.TCPConn) {
		b, err := io.ReadAll(x) // until the client's end has come
		if err != nil {
			t.Error(err)
		}
		heard <- sha256.Sum256(b)
		_, _ = x.Write(answer)
	})
	x := c.mustDial(port)
	question := random(3 << 20)
	if _, err := x.Write(question); err != nil {
		t.Fatal(err)
	}
	if err := x.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(x)
	if err != nil || !bytes.Equal(got, answer) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(answer), err)
	}
	if <-heard != sha256.Sum256(question) {
		t.Error("the server has read something else")
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{7})
	_, _ = r.Read(b)
	return b
}

// gvproxy answers first and dials then in other places; here who is refused there is refused.
func TestRefused(t *testing.T) {
	c := newClient(t, Config{})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	_ = l.Close()
	began := time.Now()
	if _, err := c.connect(port, patience); !isRefused(err) {
		t.Errorf("a closed port: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := gonet.DialContextTCP(ctx, c.stack, full(netip.AddrPortFrom(gateway, 80)), ipv4.ProtocolNumber); !isRefused(err) {
		t.Errorf("the gateway itself: %v", err)
	}
	if d := time.Since(began); d > patience/2 {
		t.Errorf("that took %s", d)
	}
	if n := c.exit.Stats().Refused; n != 1 {
		t.Errorf("%d are counted as refused", n)
	}
}

func isRefused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Err.Error() == (&tcpip.ErrConnectionRefused{}).String()
}

// A reset there is a reset here, and the other way round.
func TestResets(t *testing.T) {
	c := newClient(t, Config{})
	ended := make(chan error, 2)
	port := listen(t, func(x *net.TCPConn) {
		b := make([]byte, 1)
		_, _ = x.Read(b)
		if b[0] == 'r' {
			_ = x.SetLinger(0)
			return
		}
		_, _ = x.Write([]byte("ab"))
		_, err := x.Read(b)
		ended <- err
	})
	x := c.mustDial(port)
	_, _ = x.Write([]byte("r"))
	if _, err := x.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("after a reset there: %v", err)
	}
	y := c.mustDial(port)
	_, _ = y.Write([]byte("x"))
	if _, err := io.ReadFull(y, make([]byte, 1)); err != nil { // and one byte stays: to close is a reset (RFC 9293, 3.10.4)
		t.Fatal(err)
	}
	_ = y.Close()
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset here: %v", err)
	}
}

// An idle connection ends; one that is busy does not.
func TestIdle(t *testing.T) {
	const idle = time.Second
	c := newClient(t, Config{Idle: func(uint8, uint16) time.Duration { return idle }})
	port := listen(t, echo)
	x := c.mustDial(port)
	b := make([]byte, 1)
	var began time.Time // before the last byte passed
	for end := time.Now().Add(3 * idle); time.Now().Before(end); time.Sleep(idle / 10) {
		began = time.Now()
		if _, err := x.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(x, b); err != nil {
			t.Fatal(err)
		}
	}
	_ = x.SetDeadline(time.Now().Add(patience))
	_, err := x.Read(b)
	if timeout, ok := err.(net.Error); err == nil || ok && timeout.Timeout() {
		t.Errorf("it has not ended: %v", err)
	}
	if d := time.Since(began); d < idle {
		t.Errorf("it ended after %s", d)
	}
}

// Where destinations hang, others are reached: gvproxy has room for ten attempts in all. One client does not take all room there is.
func TestHungDestinations(t *testing.T) {
	c := newClient(t, Config{ClientDials: 20, DialTimeout: patience / 5})
	hung := hang(t)
	var all sync.WaitGroup
	for range 19 {
		all.Go(func() {
			if x, err := c.connect(hung, time.Second); err == nil {
				t.Error("connected to who does not answer")
				_ = x.Close()
			} else if isRefused(err) {
				t.Error("refused by who does not answer")
			}
		})
	}
	port := listen(t, echo)
	for range 3 {
		x := c.mustDial(port)
		if _, err := x.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(x, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
}

// hang returns the port of a server whose queue is full: the kernel drops what else comes.
func hang(t *testing.T) uint16 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*unix.SockaddrInet4).Port
	x, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return uint16(port)
}

// When the table is full, what was idle for longest gives way.
func TestEviction(t *testing.T) {
	c := newClient(t, Config{Conns: 2, Flows: 2})
	port := listen(t, echo)
	first := c.mustDial(port)
	for i := range 3 {
		x := first // which has come to the table when it was answered
		if i > 0 {
			x = c.mustDial(port)
		}
		if _, err := x.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(x, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	}
	if _, err := first.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the first one: %v", err)
	}
	server := udpEcho(t)
	for range 3 {
		c.ask(c.mustDialUDP(server), "x")
	}
	if s := c.exit.Stats(); s.Evicted != 2 || s.Flows != 2 {
		t.Errorf("%+v", s)
	}
}

func (c *client) mustDialUDP(to netip.AddrPort) *gonet.UDPConn {
	c.t.Helper()
	address := full(to)
	x, err := gonet.DialUDP(c.stack, nil, &address, ipv4.ProtocolNumber)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = x.Close() })
	_ = x.SetDeadline(time.Now().Add(patience))
	return x
}

// ask sends a payload, and wants it back.
func (c *client) ask(x *gonet.UDPConn, payload string) {
	c.t.Helper()
	if _, err := x.Write([]byte(payload)); err != nil {
		c.t.Fatal(err)
	}
	b := make([]byte, 65535)
	n, err := x.Read(b)
	if err != nil || string(b[:n]) != payload {
		c.t.Fatalf("%d bytes came back, %v", n, err)
	}
}

// udpEcho returns a server, which answers until the test ends.
func udpEcho(t testing.TB) netip.AddrPort {
	t.Helper()
	x, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 65535)
		for {
			n, from, err := x.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = x.WriteTo(b[:n], from)
		}
	})
	t.Cleanup(func() { _ = x.Close(); serving.Wait() })
	return netip.AddrPortFrom(outside, x.LocalAddr().(*net.UDPAddr).AddrPort().Port())
}

// Datagrams of all lengths, whole and in fragments, and of none.
func TestUDP(t *testing.T) {
	c := newClient(t, Config{})
	x := c.mustDialUDP(udpEcho(t))
	for _, n := range []int{0, 1, 1472, 1473, 9000, 65507} {
		c.ask(x, string(random(n)))
	}
	if n := c.exit.Stats().Flows; n != 1 {
		t.Errorf("%d flows, want 1", n)
	}
}

// A port where nobody listens says so, by ICMP.
func TestUDPRefused(t *testing.T) {
	c := newClient(t, Config{})
	x, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := x.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	_ = x.Close()
	y := c.mustDialUDP(netip.AddrPortFrom(outside, port))
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		_, err := y.Write([]byte("x")) // says what has come about the one before
		switch {
		case isRefused(err):
			return
		case err != nil || time.Now().After(end):
			t.Fatalf("got %v", err)
		}
	}
}

func TestFlowsEnd(t *testing.T) {
	c := newClient(t, Config{Idle: func(uint8, uint16) time.Duration { return 200 * time.Millisecond }})
	x := c.mustDialUDP(udpEcho(t))
	c.ask(x, "x")
	for end := time.Now().Add(patience); c.exit.Stats().Flows > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the flow does not end")
		}
	}
	c.ask(x, "y")
}

// What was damaged on its way into the tunnel stays so.
func TestDamaged(t *testing.T) {
	c := newClient(t, Config{})
	b := make([]byte, header.IPv4MinimumSize+header.UDPMinimumSize+4)
	header.UDP(b[header.IPv4MinimumSize:]).Encode(&header.UDPFields{SrcPort: 1, DstPort: 2, Length: 12, Checksum: 0x1234})
	putIPv4(b, here, outside, protoUDP, 0)
	frame := make([]byte, proto.DataHeaderLen)
	proto.PutBareHeader(frame, len(b))
	if dropped, why := c.exit.Send(append(frame, b...)); dropped != 1 || why != router.DropExit {
		t.Errorf("%d dropped, %s", dropped, why)
	}
	if s := c.exit.Stats(); s.Checksum != 1 || s.Flows != 0 {
		t.Errorf("%+v", s)
	}
}

// An echo is answered by who is asked, and under the client's identifier; where this process may not ask, the client is told that.
func TestPing(t *testing.T) {
	fd, denied := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if denied == nil {
		_ = unix.Close(fd)
	}
	c := newClient(t, Config{})
	var queue waiter.Queue
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	queue.EventRegister(&entry)
	ep, problem := c.stack.NewEndpoint(icmp.ProtocolNumber4, ipv4.ProtocolNumber, &queue)
	if problem != nil {
		t.Fatal(problem)
	}
	defer ep.Close()
	if err := ep.Connect(full(netip.AddrPortFrom(outside, 0))); err != nil {
		t.Fatal(err)
	}
	m := make([]byte, header.ICMPv4MinimumSize+1000)
	header.ICMPv4(m).SetType(header.ICMPv4Echo)
	header.ICMPv4(m).SetSequence(5)
	if _, err := ep.Write(bytes.NewReader(m), tcpip.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if denied != nil {
		for end := time.Now().Add(patience); c.exit.Stats().Refused == 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("nobody is told")
			}
		}
		return
	}
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("no answer")
	}
	var got bytes.Buffer
	if _, err := ep.Read(&got, tcpip.ReadOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := header.ICMPv4(got.Bytes()); r.Type() != header.ICMPv4EchoReply || r.Sequence() != 5 || len(r) != len(m) {
		t.Errorf("type %d, sequence %d, %d bytes", r.Type(), r.Sequence(), len(r))
	}
}
