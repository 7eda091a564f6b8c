package netstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// inside serves connections that come to the client with f, until the test ends.
func (c *client) inside(f func(*gonet.TCPConn)) netip.AddrPort {
	c.t.Helper()
	const port = 8080
	l, err := gonet.ListenTCP(c.stack, tcpip.FullAddress{NIC: nic, Addr: toStack(here), Port: port}, ipv4.ProtocolNumber)
	if err != nil {
		c.t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			x, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer x.Close()
				_ = x.SetDeadline(time.Now().Add(patience))
				f(x.(*gonet.TCPConn))
			})
		}
	})
	c.t.Cleanup(func() { l.Shutdown(); _ = l.Close(); all.Wait() })
	return netip.AddrPortFrom(here, port)
}

func (c *client) dialFrom(network string, to netip.AddrPort) *Conn {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	x, err := c.exit.Dial(ctx, network, to)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = x.Close() })
	return x.(*Conn)
}

// The gateway connects to a client from its own address; bytes pass both ways, and each direction ends alone.
func TestDialTCP(t *testing.T) {
	c := newClient(t, Config{})
	question, answer := random(3<<20), random(3<<20)
	heard := make(chan []byte, 1)
	x := c.dialFrom("tcp", c.inside(func(x *gonet.TCPConn) {
		b, err := io.ReadAll(x)
		if err != nil {
			t.Error(err)
		}
		heard <- b
		_, _ = x.Write(answer)
	}))
	if from := x.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); from != gateway {
		t.Errorf("from %s, want %s", from, gateway)
	}
	if _, err := x.Write(question); err != nil {
		t.Fatal(err)
	}
	if err := x.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if n, err := x.WriteTo(&got); err != nil || n != int64(len(answer)) || !bytes.Equal(got.Bytes(), answer) {
		t.Errorf("got %d bytes, %v, want the %d of the answer", n, err, len(answer))
	}
	if !bytes.Equal(<-heard, question) {
		t.Error("the question arrived changed")
	}
}

// Refused is refused, silence takes as long as the context, and the gateway itself is no client.
func TestDialFaults(t *testing.T) {
	c := newClient(t, Config{})
	for name, tt := range map[string]struct {
		to   netip.AddrPort
		want error
	}{
		"closed port":    {netip.AddrPortFrom(here, 81), syscall.ECONNREFUSED},
		"nobody":         {netip.MustParseAddrPort("10.0.0.77:80"), context.DeadlineExceeded},
		"the gateway":    {netip.AddrPortFrom(gateway, 80), syscall.EHOSTUNREACH},
		"another family": {netip.MustParseAddrPort("[::1]:80"), syscall.EHOSTUNREACH},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if x, err := c.exit.Dial(ctx, "tcp", tt.to); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, %v, want %v", name, x, err, tt.want)
		}
		cancel()
	}
}

// A reset passes, in both directions; and Close wakes who waits.
func TestDialReset(t *testing.T) {
	c := newClient(t, Config{})
	heard := make(chan error, 1)
	to := c.inside(func(x *gonet.TCPConn) {
		_, _ = x.Write([]byte("x"))
		_, err := io.ReadAll(x)
		heard <- err
	})
	x := c.dialFrom("tcp", to)
	_, _ = x.Read(make([]byte, 1))
	ended := make(chan error, 1)
	go func() {
		_, err := x.WriteTo(io.Discard)
		ended <- err
	}()
	_ = x.SetLinger(0)
	_ = x.Close()
	if err := <-heard; err == nil {
		t.Error("the client read an end of file, want a reset")
	}
	if err := <-ended; err == nil {
		t.Error("who waited was told that all had come")
	}
}

// Datagrams keep their length, the empty one, too; a port where nobody listens just now is no end.
func TestDialUDP(t *testing.T) {
	c := newClient(t, Config{})
	at := tcpip.FullAddress{NIC: nic, Addr: toStack(here), Port: 5353}
	x := c.dialFrom("udp", netip.AddrPortFrom(here, 5353))
	got := make(chan []byte, 16)
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = x.WriteTo(datagrams(got)) })
	defer func() { _ = x.Close(); reading.Wait() }()
	_, _ = x.Write([]byte("nobody"))
	for end := time.Now().Add(patience); c.exit.stack.Stats().ICMP.V4.PacketsReceived.DstUnreachable.Value() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the client does not say that nobody listens")
		}
	}
	l, err := gonet.DialUDP(c.stack, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	// That error is read first, and what comes behind it is heard.
	if _, err := l.WriteTo([]byte("now"), x.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	select {
	case b := <-got:
		if string(b) != "now" {
			t.Errorf("got %q", b)
		}
	case <-time.After(patience):
		t.Fatal("nothing is heard any more")
	}
	var echoing sync.WaitGroup
	echoing.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = l.WriteTo(b[:n], from)
		}
	})
	defer func() { _ = l.Close(); echoing.Wait() }()
	for _, n := range []int{1, 0, 1472, 8193} {
		b := random(n)
		_, _ = x.Write(b)
		for tries := 0; ; {
			select {
			case back := <-got:
				if bytes.Equal(back, b) {
					tries = -1 // else it is of an earlier one
				}
			case <-time.After(time.Second):
				_, _ = x.Write(b)
				if tries++; tries == 20 {
					t.Fatalf("%d bytes: they do not come back", n)
				}
			}
			if tries < 0 {
				break
			}
		}
	}
}

// datagrams takes each Write as a datagram.
type datagrams chan []byte

func (d datagrams) Write(b []byte) (int, error) {
	d <- bytes.Clone(b)
	return len(b), nil
}
