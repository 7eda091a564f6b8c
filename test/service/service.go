// Package service has small servers of this host for the tests of what leads to them, and what is common to such tests.
package service

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// patience is how long a connection may take on a busy machine.
const patience = 20 * time.Second

// TCP serves connections at an address with f, each on a goroutine, until the test ends, and returns where.
func TCP(t testing.TB, address string, f func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				f(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// UDP answers each datagram to a port of 127.0.0.1 with those that f returns, until the test ends, and returns where.
func UDP(t testing.TB, f func([]byte) [][]byte) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			for _, reply := range f(b[:n]) {
				_, _ = c.WriteToUDPAddrPort(reply, from)
			}
		}
	}()
	t.Cleanup(func() { _ = c.Close(); <-done })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Same is for UDP: the datagram itself.
func Same(b []byte) [][]byte { return [][]byte{b} }

// A Transcript is what a program has printed or logged. It may be written and read at once.
type Transcript struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (t *Transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(b)
}

// String returns all so far.
func (t *Transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}
