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

// newNeighbours returns two hosts on one Ethernet.
func newNeighbours(t *testing.T) (a, b *Neighbour) {
	t.Helper()
	var work sync.WaitGroup
	over := make(chan struct{})
	make1 := func(addr string, last byte, to **Neighbour) *Neighbour {
		frames := make(chan []byte, 1000)
		n, err := NewNeighbour(netip.MustParsePrefix(addr), net.HardwareAddr{2, 0, 0, 0, 0, last}, 1500, func(f []byte) error {
			if len(f) > 1514 {
				t.Errorf("a frame of %d bytes", len(f))
			}
			select {
			case frames <- bytes.Clone(f):
			default: // lost, as by a switch
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		work.Go(func() {
			for {
				select {
				case f := <-frames:
					(*to).Deliver(f)
				case <-over:
					return
				}
			}
		})
		return n
	}
	a = make1("203.0.113.1/24", 1, &b)
	b = make1("203.0.113.2/24", 2, &a)
	t.Cleanup(func() {
		close(over)
		work.Wait()
		a.Close()
		b.Close()
	})
	return a, b
}

// A neighbour finds another one by ARP, is refused where nobody listens, and waits no longer than it may for one that is not there.
func TestNeighbour(t *testing.T) {
	a, b := newNeighbours(t)
	l, err := gonet.ListenTCP(b.stack, tcpip.FullAddress{NIC: nic, Addr: toStack(b.addr), Port: 80}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		all, _ := io.ReadAll(c)
		heard <- all
		_ = c.Close()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := a.Dial(ctx, netip.AddrPortFrom(b.addr, 80))
	if err != nil {
		t.Fatal(err)
	}
	question := bytes.Repeat([]byte("question"), 100_000)
	if _, err := c.Write(question); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; !bytes.Equal(got, question) {
		t.Errorf("got %d bytes", len(got))
	}
	_ = c.Close()
	if _, err := a.Dial(ctx, netip.AddrPortFrom(b.addr, 81)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: got %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := a.Dial(short, netip.MustParseAddrPort("203.0.113.3:80")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody: got %v", err)
	}
}
