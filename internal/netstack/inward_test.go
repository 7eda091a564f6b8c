package netstack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A device without a TUN listens: who connects from the tunnel is taken as a Conn, and datagrams with whom they are from.
func TestInward(t *testing.T) {
	c := newClient(t, Config{})
	l, err := c.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	u, err := c.ListenPacket(0)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			x, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			_, _ = x.(*Conn).WriteTo(x)
			_ = x.(*Conn).CloseWrite()
			_ = x.Close()
		}
	})
	serving.Go(func() {
		b := make([]byte, 100)
		for {
			n, _, _, from, err := u.ReadMsgUDPAddrPort(b, nil)
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			_, _, _ = u.WriteMsgUDPAddrPort(b[:n], nil, from)
		}
	})
	for network, port := range map[string]net.Addr{"tcp": l.Addr(), "udp": u.LocalAddr()} {
		to := netip.AddrPortFrom(here, port.(interface{ AddrPort() netip.AddrPort }).AddrPort().Port())
		x, err := c.exit.Dial(t.Context(), network, to)
		if err != nil {
			t.Fatal(network, err)
		}
		_ = x.SetDeadline(time.Now().Add(patience))
		_, _ = x.Write([]byte("hello"))
		b := make([]byte, 5)
		if _, err := io.ReadFull(x, b); err != nil || string(b) != "hello" {
			t.Errorf("%s: got %q, %v", network, b, err)
		}
		_ = x.Close()
	}
	if _, err := c.Listen(uint16(l.Addr().(*net.TCPAddr).Port)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port of TCP that is taken: %v", err)
	}
	if _, err := c.ListenPacket(uint16(u.LocalAddr().(*net.UDPAddr).Port)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port of UDP that is taken: %v", err)
	}
	_, _ = l.Close(), u.Close()
	serving.Wait()
}
