//go:build exam

package netns

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	"ferry/internal/identity"
	"ferry/internal/packet"
	"ferry/test/rawvpn"
)

// cyclers is how many connect at a time.
const cyclers = 16

// crowdSize is so many that the gateway gives back what it has collected once no more come. Otherwise what it knew of
// addresses that were held waits for the collector, which may not come for two minutes.
const crowdSize = 1000

// A cycle is one connection from its start to its end. i is its number, who the cycler.
type cycle func(who, i int) error

// A mill is a way in which connections come and go.
type mill struct {
	name string
	do   cycle
	// share says that one in so many of all connections comes so: its handshake takes that much longer than none.
	share int
	// once is how many it takes until the gateway has all that it will need.
	once int
}

// TestCycles makes 100,000 connections (EXAM_CYCLES) that fail, and as many that get an address and a ping, by TCP, unix socket
// and TLS, and 2,500 of both kinds by each of the other carriers, 1,000 by dns: the gateway holds no more afterwards than before.
// exam: R13
func TestCycles(t *testing.T) {
	count := times(t, "EXAM_CYCLES", 100_000)
	path := filepath.Join(t.TempDir(), "vm.sock")
	all := scriptedCarriers(path)
	all[0].listen, all[1].listen = "tcp://:2002?allow=both", "unix://"+path+"?allow=both"
	n := newSecureFile(t, crowd+"penalty = '10ms'\npenalty_max = '10ms'\nidle_timeout = '5s'\njoin_timeout = '2s'", listens(all)...)
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
	overTLS, worksOverTLS := n.tlsCycles(tcp, keys[:])
	mills := []mill{
		{"tcp fail", over(tcp, failPlain), 1, 500}, {"tcp work", over(tcp, workPlain), 1, 500},
		{"unix fail", over(local, failPlain), 1, 500}, {"unix work", over(local, workPlain), 1, 500},
		{"tls fail", overTLS, 1, 500}, {"tls work", worksOverTLS, 1, 500},
	}
	for _, c := range all[2:] {
		if c.name != "wss" { // which is ws in the TLS of connect-ip+h1
			mills = append(mills, n.millOf(c, keys[:]))
		}
	}
	scatter := sync.OnceFunc(func() { n.scatter(200) }) // behind the others: the kernel can not remember as many as they are
	for _, m := range mills {
		t.Run(m.name, func(t *testing.T) {
			if m.share > 1 {
				scatter()
			}
			settled := func() vitals {
				until(t, 2*patience, "no address is held", func() bool { return n.metric(`ferry_leases{state="held"}`) == 0 })
				n.cycles(t, crowdSize, mills[0].do)
				return n.least(4 * time.Second)
			}
			count := max(count/m.share, 100)
			n.cycles(t, max(count/10, m.once), m.do)
			before := settled()
			rate := n.cycles(t, count, m.do)
			after := settled()
			figure(t, "R13", "%s: %d, %.0f a second; %s, then %s", m.name, count, rate, before, after)
			after.asBefore(t, before, "afterwards")
		})
	}
	n.aliveSecure(keys[0])
}

// scatter gives connections of c1 other addresses, one after the other: who fails from one of them has to wait there.
func (n *network) scatter(hosts int) {
	n.t.Helper()
	var to []string
	for i := range hosts {
		to = append(to, fmt.Sprintf("%d : 10.66.0.%d", i, 1+i))
	}
	run(n.t, n.c1, "nft add table ip swarm")
	run(n.t, n.c1, "nft add chain ip swarm out { type nat hook postrouting priority 100 ; }")
	run(n.t, n.c1, fmt.Sprintf("nft add rule ip swarm out ip saddr 192.168.101.2 snat to numgen inc mod %d map { %s }", hosts, strings.Join(to, ", ")))
}

// cycles makes count connections, and waits until the gateway has seen the end of each. It returns how many it made a second.
func (n *network) cycles(t *testing.T, count int, do cycle) (rate float64) {
	t.Helper()
	began := time.Now()
	var next, failed atomic.Int64
	var all sync.WaitGroup
	for who := range cyclers {
		all.Go(func() {
			err := n.c1.Do(func() error {
				for i := int(next.Add(1)); i <= count; i = int(next.Add(1)) {
					if err := do(who, i); err != nil && failed.Add(1) <= 3 {
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
	rate = float64(count) / time.Since(began).Seconds()
	if f := failed.Load(); f > 0 {
		t.Fatalf("%d of %d connections did not go as they should", f, count)
	}
	until(t, time.Minute, "the gateway has seen the end of all", func() bool {
		st := n.status()
		return st.Sessions == 0 && st.Unauthenticated == 0 && st.Leases.Held == 0
	})
	return rate
}

// over makes a cycle of what is done over a connection.
func over(dial func(i int) (net.Conn, error), do func(conn net.Conn, i int) error) cycle {
	return func(_, i int) error {
		conn, err := dial(i)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(2 * rawvpn.DefaultTimeout))
		return do(conn, i)
	}
}

// tlsCycles are those with the TLS of the standard library.
func (n *network) tlsCycles(dial func(int) (net.Conn, error), keys []identity.Key) (fail, work cycle) {
	pin, stranger := n.pin(), identity.NewKey()
	shake := func(conn net.Conn, k identity.Key) (net.Conn, error) {
		c := tls.Client(conn, k.Client(identity.Tunnel, pin))
		ctx, cancel := context.WithTimeout(n.t.Context(), rawvpn.DefaultTimeout)
		defer cancel()
		return c, c.HandshakeContext(ctx)
	}
	fail = over(dial, func(conn net.Conn, i int) error {
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
	})
	work = func(who, i int) error {
		return over(dial, func(conn net.Conn, i int) error {
			c, err := shake(conn, keys[who])
			if err != nil {
				return err
			}
			return workPlain(c, i)
		})(who, i)
	}
	return fail, work
}

// millOf has a carrier as vpncli has it. Every other connection fails.
func (n *network) millOf(c scriptedCarrier, keys []identity.Key) mill {
	m := mill{name: c.name, share: 40, once: 5000}
	if c.name == "dns" { // it knows 4096 clients, for resolvers that ask once more, and each of them for two minutes
		m.share, m.once = 100, 9000
	}
	at, pin, stranger := c.endpoint(n.t), n.pin(), identity.NewKey()
	m.do = func(who, i int) error {
		if i%2 == 0 {
			return n.workBy(&c, showing(keys[who], identity.Tunnel, pin), i/2)
		}
		return n.failBy(&c, at, pin, keys[who], stranger, i/2)
	}
	return m
}

// failBy comes by a carrier and is not let in, in one of the ways that there are.
func (n *network) failBy(c *scriptedCarrier, at carrier.Endpoint, pin identity.Pin, known, stranger identity.Key, i int) error {
	shown, patience := showing(stranger, identity.Tunnel, pin), rawvpn.DefaultTimeout
	switch {
	case i%4 == 0:
		shown = showing(known, identity.Tunnel, stranger.Public().Pin())
	case i%32 == 1:
		patience = time.Duration(i%7) * time.Millisecond / 2 // leaves in the middle
	case i%4 == 1:
		return n.junk(at)
	}
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	conn, err := c.connect(ctx, at, n.c1, shown)
	if err == nil {
		defer conn.Close()
	}
	switch {
	case i%4 == 0 && !errors.Is(err, identity.ErrWrongKey):
		return fmt.Errorf("another gateway than is expected: %w", err)
	case i%32 != 1 && errors.Is(err, context.DeadlineExceeded):
		return err
	case err != nil || i%32 == 1:
		return nil
	}
	_ = conn.SetReadDeadline(time.Now().Add(rawvpn.DefaultTimeout))
	if _, err = conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		return fmt.Errorf("a stranger was let in: %w", err)
	}
	return nil
}

// workBy is workPlain by a carrier.
func (n *network) workBy(c *scriptedCarrier, shown credentials, i int) error {
	r, err := n.joinBy(c, shown, rawvpn.Ask{Features: rawvpn.All})
	if err != nil {
		return err
	}
	defer r.Close()
	if i%4 == 0 {
		return r.SendRaw(rawvpn.Frame(0x86, []byte{1, 0, 0}))
	}
	return nil
}

// junk sends what is no word of a carrier, and leaves.
func (n *network) junk(at carrier.Endpoint) error {
	b := make([]byte, 1200)
	_, _ = rand.Read(b) // never fails
	network := "udp4"
	switch at.Scheme {
	case "udp", "quic", "connect-ip", "dns":
		copy(b, []byte{0x80, 1}) // a first packet of udp, with a seal that is broken
	case "icmp":
		network = "icmp4"
		copy(b, []byte{8, 0, 0, 0, b[4], b[5], b[6], b[7], 0x46, 0x72, 0x79, 0x3f, b[12], b[13], 0, 0, 0x80, 1})
		binary.BigEndian.PutUint16(b[2:], packet.Checksum(b, 0))
	default:
		conn, err := (&net.Dialer{Timeout: rawvpn.DefaultTimeout}).Dial(map[bool]string{true: "tcp", false: "unix"}[at.OverIP()], at.Target())
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(2 * rawvpn.DefaultTimeout))
		_, _ = conn.Write(append([]byte("junk\r\n\r\n"), b...))
		return ends(conn)
	}
	f, err := socketsOf{n.c1}.Socket(network, "")
	if err != nil {
		return err
	}
	defer f.Close()
	to := &unix.SockaddrInet4{Port: int(at.Port), Addr: netip.MustParseAddr(at.Host).As4()}
	return unix.Sendto(int(f.Fd()), b, 0, to)
}

// failPlain gets no address, in one of the ways that there are.
func failPlain(conn net.Conn, i int) error {
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
func workPlain(conn net.Conn, i int) error {
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
