package netstack

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// What listens on the gateway's own address is reached by clients, by both protocols; ports beside it are refused.
func TestListen(t *testing.T) {
	c := newClient(t, Config{})
	const port = 53
	l, err := c.exit.ListenTCP(port)
	if err != nil {
		t.Fatal(err)
	}
	u, err := c.exit.ListenUDP(port)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer func() { _, _ = l.Close(), u.Close() }()
	serving.Go(func() {
		if x, err := l.Accept(); err == nil {
			_ = x.SetDeadline(time.Now().Add(patience))
			_, _ = io.Copy(x, x)
			_ = x.Close()
		}
	})
	serving.Go(func() {
		b := make([]byte, 100)
		if n, from, err := u.ReadFrom(b); err == nil {
			_, _ = u.WriteTo(b[:n], from)
		}
	})

	own := full(netip.AddrPortFrom(gateway, port))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	x, err := gonet.DialContextTCP(ctx, c.stack, own, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	y, err := gonet.DialUDP(c.stack, nil, &own, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{x, y} {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		b := make([]byte, 5)
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		if n, err := io.ReadFull(conn, b); err != nil || string(b[:n]) != "hello" {
			t.Errorf("got %q, %v", b[:n], err)
		}
	}
	other := full(netip.AddrPortFrom(gateway, port+1))
	if z, err := gonet.DialContextTCP(ctx, c.stack, other, ipv4.ProtocolNumber); err == nil {
		_ = z.Close()
		t.Error("a port where nobody listens is open")
	}
	if _, err := c.exit.ListenTCP(port); err == nil {
		t.Error("a port that is taken was given away again")
	}
}

// Before the gateway has an address there is nothing to listen on.
func TestListenTooEarly(t *testing.T) {
	e, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.ListenTCP(53); err == nil {
		t.Error("TCP")
	}
	if _, err := e.ListenUDP(53); err == nil {
		t.Error("UDP")
	}
}
