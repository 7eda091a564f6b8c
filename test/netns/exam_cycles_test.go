//go:build exam

package netns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/identity"
	"ferry/test/rawvpn"
)

// cyclers is how many connect at a time.
const cyclers = 16

// crowdSize is so many that the gateway gives back what it has collected once no more come. Otherwise what it knew of
// addresses that were held waits for the collector, which may not come for two minutes.
const crowdSize = 1000

// A cycle is one connection from its start to its end. i is its number, who the cycler.
type cycle func(conn net.Conn, who, i int) error

// TestCycles makes 100,000 connections (EXAM_CYCLES) that fail, and as many that get an address and a ping, by
// each carrier: the gateway holds no more afterwards than before.
// exam: R13
func TestCycles(t *testing.T) {
	count := times(t, "EXAM_CYCLES", 100_000)
	path := filepath.Join(t.TempDir(), "vm.sock")
	n := newSecureFile(t, crowd+"penalty = '10ms'\npenalty_max = '10ms'\nidle_timeout = '5s'",
		"--listen", "tcp://:2002?allow=both", "--listen", "unix://"+path+"?allow=plain")
	var keys [cyclers]identity.Key
	for i := range keys {
		keys[i] = n.addDevice(fmt.Sprintf("cam%d", i), "")
	}
	s := newSwarm(t, n, 200)
	tcp := func(i int) (net.Conn, error) {
		d := net.Dialer{Timeout: rawvpn.DefaultTimeout, LocalAddr: &net.TCPAddr{IP: s.source(i).AsSlice()}}
		return d.Dial("tcp", gatewayC1+":2002")
	}
	local := func(int) (net.Conn, error) { return net.Dial("unix", path) }
	pin, stranger := n.pin(), identity.NewKey()
	shake := func(conn net.Conn, k identity.Key) (net.Conn, error) {
		c := tls.Client(conn, k.Client(identity.Tunnel, pin))
		ctx, cancel := context.WithTimeout(t.Context(), rawvpn.DefaultTimeout)
		defer cancel()
		return c, c.HandshakeContext(ctx)
	}
	for _, carrier := range []struct {
		name       string
		dial       func(i int) (net.Conn, error)
		fail, work cycle
	}{
		{"tcp", tcp, failPlain, workPlain},
		{"unix", local, failPlain, workPlain},
		{"tls", tcp, func(conn net.Conn, _, i int) error {
			switch i % 3 {
			case 0:
				_, _ = conn.Write([]byte("\x16\x03\x01\x00\x05junk and more"))
			case 1:
				_, _ = conn.Write([]byte{22, 3, 1, 1, 0})
				return nil // leaves in the middle
			default:
				c, err := shake(conn, stranger)
				if err == nil { // a client knows that it was refused by the first read
					_ = c.SetReadDeadline(time.Now().Add(rawvpn.DefaultTimeout))
					_, err = c.Read(make([]byte, 1))
				}
				if err == nil {
					return errors.New("a stranger was let in")
				}
				return nil
			}
			return ends(conn)
		}, func(conn net.Conn, who, i int) error {
			c, err := shake(conn, keys[who])
			if err != nil {
				return err
			}
			return workPlain(c, who, i)
		}},
	} {
		for _, kind := range []struct {
			name string
			do   cycle
		}{{"fail", carrier.fail}, {"work", carrier.work}} {
			t.Run(carrier.name+" "+kind.name, func(t *testing.T) {
				settled := func() vitals {
					until(t, 2*patience, "no address is held", func() bool { return n.metric(`ferry_leases{state="held"}`) == 0 })
					n.cycles(t, crowdSize, carrier.dial, carrier.fail)
					return n.least(5 * time.Second)
				}
				n.cycles(t, max(count/10, 500), carrier.dial, kind.do) // what it needs once
				before := settled()
				began := time.Now()
				n.cycles(t, count, carrier.dial, kind.do)
				rate := float64(count) / time.Since(began).Seconds()
				after := settled()
				figure(t, "R13", "%s %s: %.0f a second; %s, then %s", carrier.name, kind.name, rate, before, after)
				after.asBefore(t, before, "afterwards")
			})
		}
	}
	n.aliveSecure(keys[0])
}

// cycles makes count connections, and waits until the gateway has seen the end of each.
func (n *network) cycles(t *testing.T, count int, dial func(int) (net.Conn, error), do cycle) {
	t.Helper()
	var next, failed atomic.Int64
	var all sync.WaitGroup
	for who := range cyclers {
		all.Go(func() {
			err := n.c1.Do(func() error {
				for i := int(next.Add(1)); i <= count; i = int(next.Add(1)) {
					conn, err := dial(i)
					if err == nil {
						_ = conn.SetDeadline(time.Now().Add(2 * rawvpn.DefaultTimeout))
						err = do(conn, who, i)
						_ = conn.Close()
					}
					if err != nil && failed.Add(1) <= 3 {
						t.Errorf("connection %d: %v", i, err)
					}
					if i%20_000 == 0 {
						progress(t, "%d of %d", i, count)
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if f := failed.Load(); f > 0 {
		t.Fatalf("%d of %d connections did not go as they should", f, count)
	}
	until(t, time.Minute, "the gateway has seen the end of all", func() bool {
		st := n.status()
		return st.Sessions == 0 && st.Leases.Held == 0
	})
}

// failPlain gets no address, in one of the ways that there are.
func failPlain(conn net.Conn, _, i int) error {
	switch i % 4 {
	case 0:
		_, _ = conn.Write([]byte("PUT / HTTP/1.1\r\nHost: ferry\r\n\r\n"))
	case 1:
		_, _ = conn.Write(rawvpn.Ask{Static: gatewayAddr}.Bytes())
	case 2:
		_, _ = conn.Write(rawvpn.Ask{Features: rawvpn.All, Static: gatewayAddr}.Bytes()[:10])
		return nil // leaves in the middle
	default:
		_, _ = conn.Write([]byte{0x41, 0, 0, 20, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 9, 9, 10, 0, 0, 1})
	}
	return ends(conn)
}

// ends waits for the end of a connection, which the gateway makes.
func ends(conn net.Conn) error {
	buf := make([]byte, 512)
	for {
		if _, err := conn.Read(buf); isTimeout(err) {
			return errors.New("not closed")
		} else if err != nil {
			return nil
		}
	}
}

// workPlain gets an address, pings the gateway, and leaves in one of the ways that there are.
func workPlain(conn net.Conn, _, i int) error {
	c := rawvpn.New(conn)
	ask := rawvpn.Ask{}
	if i%2 == 0 {
		ask.Features = rawvpn.All
	}
	if err := c.Join(ask); err != nil {
		return err
	}
	if _, err := c.Ping(gatewayAddr); err != nil {
		return err
	}
	if i%4 == 0 {
		return c.SendRaw(rawvpn.Frame(0x86, []byte{1, 0, 0}))
	}
	return nil
}
