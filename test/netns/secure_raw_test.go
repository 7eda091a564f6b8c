package netns

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ferry/internal/identity"
	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// addDevice makes a key of a device of the gateway. args are those of 'peer add' behind the key.
func (n *network) addDevice(name, args string) identity.Key {
	n.t.Helper()
	k := identity.NewKey()
	n.vpnsrv(fmt.Sprintf("peer add %s %s %s", name, k.Public(), args))
	return k
}

// pin is that of the gateway's key.
func (n *network) pin() identity.Pin {
	n.t.Helper()
	k, err := identity.LoadKey(filepath.Join(n.state, "gateway.key"))
	if err != nil {
		n.t.Fatal(err)
	}
	return k.Public().Pin()
}

// dialKey connects a scripted client with a key, by TLS.
func (n *network) dialKey(ns *lab.Namespace, server string, k identity.Key) (*rawvpn.Client, error) {
	c := k.Client(identity.Tunnel, n.pin())
	var conn net.Conn
	err := ns.Do(func() (err error) {
		d := net.Dialer{Timeout: rawvpn.DefaultTimeout}
		conn, err = d.Dial("tcp", server+":2002")
		return err
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(n.t.Context(), rawvpn.DefaultTimeout)
	defer cancel()
	secure := tls.Client(conn, c)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("%w, %w", err, conn.Close())
	}
	return rawvpn.New(secure), nil
}

// joinKey connects a scripted client with a key from c1, and gets an address.
func (n *network) joinKey(k identity.Key, a rawvpn.Ask) *rawvpn.Client {
	n.t.Helper()
	c, err := n.dialKey(n.c1, gatewayC1, k)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	if err := c.Join(a); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// aliveSecure is alive for a gateway that wants keys.
func (n *network) aliveSecure(k identity.Key) {
	n.t.Helper()
	select {
	case <-n.srv.Done():
		n.t.Fatal("the gateway has ended")
	default:
	}
	began := time.Now()
	c := n.joinKey(k, rawvpn.Ask{Features: rawvpn.All})
	if _, err := c.Ping(gatewayAddr); err != nil {
		n.t.Errorf("a new client: %v", err)
	}
	if took := time.Since(began); took > time.Second {
		n.t.Errorf("a new client needed %s for an address and a ping", took)
	}
	_ = c.Close()
}

// TestSpoofSecure is TestSpoof for devices with keys: a key opens its own addresses, and no other.
// exam: S1, S3, S5, P4
func TestSpoofSecure(t *testing.T) {
	t.Parallel()
	n := newSecure(t)
	keys := map[string]identity.Key{
		"victim": n.addDevice("victim", "--ip 10.0.3.1"),
		"router": n.addDevice("router", "--ip 10.0.3.7 --route 192.168.8.0/24"),
		"thief":  n.addDevice("thief", "--ip 10.0.3.66"),
		"last":   n.addDevice("last", ""),
	}
	victim, router := n.joinKey(keys["victim"], rawvpn.Ask{}), n.joinKey(keys["router"], rawvpn.Ask{Features: rawvpn.All})
	for _, who := range []struct {
		name string
		ask  rawvpn.Ask
	}{{"bare", rawvpn.Ask{}}, {"data frames", rawvpn.Ask{Features: rawvpn.All}}} {
		c := n.joinKey(keys["thief"], who.ask)
		for _, test := range foreign {
			t.Run(who.name+", "+test.name, func(t *testing.T) {
				spoofed(t, n, c, []*rawvpn.Client{victim, router}, netip.MustParseAddr(test.src), test.reason)
			})
		}
		before := n.report()
		n.nothingIn("what is nobody's business", func() {
			for _, dst := range []string{"127.0.0.1", "169.254.169.254", "198.51.100.1", "192.168.101.1"} {
				if err := c.SendIP(rawvpn.Echo(c.Lease.Addr, netip.MustParseAddr(dst), 1, 1, nil)); err != nil {
					t.Fatal(err)
				}
			}
			packet := rawvpn.Echo(c.Lease.Addr, netip.MustParseAddr("10.0.9.9"), 1, 1, nil)
			rawvpn.SetTTL(packet, 255)
			if err := c.SendIP(packet); err != nil {
				t.Fatal(err)
			}
			quiet(t, c, "the thief")
		})
		n.counted(before, "drops", "denied", 4)
		n.counted(before, "drops", "unassigned", 1)
		if _, err := c.Ping(gatewayAddr); err != nil {
			t.Error(err)
		}
		_ = c.Close()
	}
	own := rawvpn.Echo(netip.MustParseAddr("192.168.8.8"), victim.Lease.Addr, 1, 1, nil)
	if err := router.SendIP(own); err != nil {
		t.Fatal(err)
	}
	if item, err := victim.ReadItem(); err != nil || !bytes.Equal(item.Packet, own) {
		t.Errorf("from a site: got %v, %v", item, err)
	}
	for _, addr := range []string{"10.0.3.1", "10.0.3.99", "10.0.200.1", gatewayVPN, "10.0.255.255", "8.8.8.8"} {
		c, err := n.dialKey(n.c1, gatewayC1, keys["thief"])
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Join(rawvpn.Ask{Static: netip.MustParseAddr(addr), Features: rawvpn.All}); err == nil {
			t.Errorf("a device got %s, which is not its own", addr)
		}
		_ = c.Close()
	}
	quiet(t, victim, "victim")
	n.aliveSecure(keys["last"])
}

// TestMixed has devices and clients without a key on one gateway: whatever the latter do, they take nothing
// of the former, reach none of them, and leave room for them.
// exam: C7
func TestMixed(t *testing.T) {
	t.Parallel()
	n := newOpen(t, "--pool", "10.0.0.0/24") // guests have the upper half
	cam, late := n.addDevice("cam1", "--ip 10.0.0.7"), n.addDevice("late", "--ip 10.0.0.8")
	victim := n.joinKey(cam, rawvpn.Ask{Features: rawvpn.All})
	for _, taken := range []string{"10.0.0.7", "10.0.0.8", "10.0.0.9", gatewayVPN} {
		if err := n.dialRaw().Join(rawvpn.Ask{Static: netip.MustParseAddr(taken), Features: rawvpn.All}); err == nil {
			t.Errorf("a client without a key has got %s", taken)
		}
		if err := n.dialRaw().Join(rawvpn.Ask{Resume: netip.MustParseAddr(taken), Token: rawvpn.Token{1}, Static: netip.MustParseAddr(taken), Features: rawvpn.All}); err == nil {
			t.Errorf("a client without a key has resumed %s", taken)
		}
	}
	guest := n.joinRaw(rawvpn.Ask{Features: rawvpn.All})
	spoofed(t, n, guest, []*rawvpn.Client{victim}, victim.Lease.Addr, "source")
	before := n.report()
	if err := guest.SendIP(rawvpn.Echo(guest.Lease.Addr, victim.Lease.Addr, 1, 1, nil)); err != nil {
		t.Fatal(err)
	}
	quiet(t, guest, "guest")
	if err := victim.SendIP(rawvpn.Echo(victim.Lease.Addr, guest.Lease.Addr, 1, 1, nil)); err != nil {
		t.Fatal(err)
	}
	quiet(t, victim, "victim")
	quiet(t, guest, "guest")
	n.counted(before, "drops", "isolated", 2)

	s := newSwarm(t, n, 20)
	s.connect(400, 5*time.Millisecond, func(conn net.Conn) { _, _ = conn.Write(rawvpn.Ask{}.Bytes()) })
	until(t, patience, "the guests' part of the pool is full", func() bool { return n.status().Leases.Free == 0 })
	if _, err := victim.Ping(gatewayAddr); err != nil {
		t.Error(err)
	}
	began := time.Now()
	c, err := n.dialKey(n.c2, gatewayC2, late)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Join(rawvpn.Ask{Features: rawvpn.All}); err != nil || c.Lease.Addr.String() != "10.0.0.8" {
		t.Errorf("a device beside so many guests: got %s, %v", c.Lease.Addr, err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it needed %s", took)
	}
}

// alert is one of TLS, in the open: a record of type 21 with two bytes (RFC 8446, section 5.1 and 6).
const alertLen = 7

// TestHellos shows to a gateway what only begins like TLS: it ends within 10 s, with one alert at most, and a
// hello that comes in pieces is one all the same.
// exam: M11, R2, A3
func TestHellos(t *testing.T) {
	t.Parallel()
	n := newSecure(t)
	k := n.addDevice("cam1", "")
	var hello bytes.Buffer
	near, far := net.Pipe()
	go func() { _, _ = io.Copy(&hello, near); near.Close() }() // ends with the pipe
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	_ = tls.Client(far, k.Client(identity.Tunnel, n.pin())).HandshakeContext(ctx)
	cancel()
	far.Close()
	old := k.Client(identity.Tunnel, n.pin())
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12

	huge := []byte{22, 3, 1, 0x40, 0, 1, 1, 0, 1} // 64 KiB and a byte of hello, in records of 16 KiB
	huge = append(huge, make([]byte, 16<<10-4)...)
	for range 3 {
		huge = append(append(huge, 22, 3, 1, 0x40, 0), make([]byte, 16<<10)...)
	}
	const now, deadline = 2 * time.Second, 10 * time.Second
	var all sync.WaitGroup
	for name, tt := range map[string]struct {
		send       func(net.Conn)
		took       time.Duration
		mostAlerts int
	}{
		"junk":           {func(c net.Conn) { _, _ = c.Write(append([]byte{22}, bytes.Repeat([]byte("junk"), 100)...)) }, now, 1},
		"64 KiB":         {func(c net.Conn) { _, _ = c.Write(huge) }, now, 1},
		"TLS 1.2":        {func(c net.Conn) { _ = tls.Client(c, old).Handshake() }, now, 1},
		"one byte":       {func(c net.Conn) { _, _ = c.Write([]byte{22}) }, deadline, 0},
		"half of one":    {func(c net.Conn) { _, _ = c.Write(hello.Bytes()[:hello.Len()/2]) }, deadline, 0},
		"a byte per 5 s": {func(c net.Conn) { trickle(rawvpn.New(c), hello.Bytes(), 5*time.Second, nil) }, deadline, 0},
	} {
		all.Go(func() {
			var conn net.Conn
			if err := n.c1.Do(func() (err error) { conn, err = net.Dial("tcp", gatewayC1+":2002"); return err }); err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			seen := &recorder{Conn: conn}
			began := time.Now()
			done := make(chan struct{})
			go func() { defer close(done); tt.send(seen) }()
			_ = conn.SetReadDeadline(began.Add(2 * deadline))
			if name == "TLS 1.2" { // it reads itself
				<-done
			} else if _, err := io.Copy(io.Discard, seen); isTimeout(err) {
				t.Errorf("%s: not closed", name)
			}
			took := time.Since(began)
			if took > tt.took+time.Second || tt.took == deadline && took < deadline-time.Second {
				t.Errorf("%s: closed after %s, want %s", name, took, tt.took)
			}
			got := seen.bytes()
			if len(got) > tt.mostAlerts*alertLen || len(got) > 0 && got[0] != 21 {
				t.Errorf("%s: got % x, want %d alerts at most", name, got, tt.mostAlerts)
			}
			conn.Close()
			<-done
		})
	}
	all.Wait()

	var conn net.Conn
	if err := n.c1.Do(func() (err error) { conn, err = net.Dial("tcp", gatewayC1+":2002"); return err }); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	secure := tls.Client(bytewise{conn}, k.Client(identity.Tunnel, n.pin()))
	c := rawvpn.New(secure)
	if err := c.Join(rawvpn.Ask{Features: rawvpn.All}); err != nil {
		t.Errorf("byte by byte: %v", err)
	} else if _, err := c.Ping(gatewayAddr); err != nil {
		t.Errorf("byte by byte: %v", err)
	}
	closed := n.report().maps["closed"]
	if closed["handshake"] < 3 || closed["join_timeout"] < 3 {
		t.Errorf("counted %v, want 3 handshakes that failed and 3 that took too long", closed)
	}
	n.aliveSecure(n.addDevice("cam2", ""))
}

// recorder keeps what is read.
type recorder struct {
	net.Conn
	mu  sync.Mutex
	got []byte
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, b[:n]...)
	return n, err
}

func (r *recorder) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got
}

// bytewise writes one byte at a time, each in a segment of its own: Go sets TCP_NODELAY.
type bytewise struct{ net.Conn }

func (b bytewise) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := b.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}
