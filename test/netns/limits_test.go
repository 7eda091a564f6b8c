package netns

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"ferry/internal/api"
	"ferry/internal/identity"
	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// A swarm are strangers with many addresses behind c1.
type swarm struct {
	n     *network
	hosts int
	mu    sync.Mutex // guards conns
	conns []net.Conn
}

// newSwarm gives c1 addresses 10.66.0.1 and on, to which gw has a route.
func newSwarm(t *testing.T, n *network, hosts int) *swarm {
	t.Helper()
	run(t, n.c1, "ip route add local 10.66.0.0/16 dev lo")
	run(t, n.gw, "ip route add 10.66.0.0/16 via 192.168.101.2")
	s := &swarm{n: n, hosts: hosts}
	t.Cleanup(s.leave)
	return s
}

func (s *swarm) source(i int) netip.Addr {
	i = i % s.hosts
	return netip.AddrFrom4([4]byte{10, 66, byte(i / 250), byte(1 + i%250)})
}

// connect makes count connections a bit apart from each other, and keeps those that are not refused. then
// is done with each.
func (s *swarm) connect(count int, apart time.Duration, then func(net.Conn)) {
	s.n.t.Helper()
	const threads = 8
	var all sync.WaitGroup
	for thread := range threads {
		all.Go(func() {
			err := s.n.c1.Do(func() error {
				tick := time.NewTicker(max(threads*apart, time.Microsecond))
				defer tick.Stop()
				for i := thread; i < count; i += threads {
					<-tick.C
					d := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: s.source(i).AsSlice()}}
					conn, err := d.Dial("tcp", gatewayC1+":2002")
					if err != nil {
						continue
					}
					if then != nil {
						then(conn)
					}
					s.mu.Lock()
					s.conns = append(s.conns, conn)
					s.mu.Unlock()
				}
				return nil
			})
			if err != nil {
				s.n.t.Error(err)
			}
		})
	}
	all.Wait()
}

func (s *swarm) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
}

// newOpen makes a network with a gateway that has a key, and takes clients without one as well.
func newOpen(t *testing.T, args ...string) *network {
	t.Helper()
	return newSecure(t, append([]string{"--listen", "tcp://:2002?allow=both"}, args...)...)
}

// status asks the gateway how it does.
func (n *network) status() (s api.Status) {
	n.t.Helper()
	if err := json.Unmarshal([]byte(n.vpnsrv("status --json")), &s); err != nil {
		n.t.Fatal(err)
	}
	return s
}

// joins tells how long a client from another place needs for an address and a ping. It tries again when it is
// refused, as every client does, for as long as it may take.
func (n *network) joins(ns *lab.Namespace, server string) time.Duration {
	n.t.Helper()
	began := time.Now()
	for {
		err := n.tryToJoin(ns, server)
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > time.Second {
			n.t.Errorf("a client that means well: %v", err)
			return took
		}
		time.Sleep(50 * time.Millisecond) // its pause
	}
}

func (n *network) tryToJoin(ns *lab.Namespace, server string) error {
	var c *rawvpn.Client
	err := ns.Do(func() (err error) { c, err = rawvpn.Dial(n.t.Context(), server+":2002"); return err })
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Join(rawvpn.Ask{Features: rawvpn.All}); err != nil {
		return err
	}
	_, err = c.Ping(gatewayAddr)
	return err
}

// Ten thousand connections that never speak, of one source and of 200: few of them are kept, and
// who means well joins within a second.
// exam: R1
func TestSilentCrowd(t *testing.T) {
	t.Parallel()
	for _, hosts := range []int{1, 200} {
		t.Run(fmt.Sprint(hosts, " sources"), func(t *testing.T) {
			n := newOpen(t)
			s := newSwarm(t, n, hosts)
			done := make(chan struct{})
			go func() { defer close(done); s.connect(10_000, 0, nil) }()
			for running := true; running; {
				select {
				case <-done:
					running = false
				case <-time.After(200 * time.Millisecond):
				}
				if took := n.joins(n.c2, gatewayC2); took > time.Second {
					t.Errorf("a client that means well needed %s", took)
				}
			}
			st := n.status()
			if st.Unauthenticated > 256 || hosts == 1 && st.Unauthenticated > 16 {
				t.Errorf("%d are waited for, want at most 256, and 16 of one source", st.Unauthenticated)
			}
			refused := st.Closed["source_rate"] + st.Closed["source_unauthenticated"] + st.Closed["accept_rate"] + st.Closed["unauthenticated"]
			if refused < 9000 {
				t.Errorf("ended: %v; want at least 9000 of the 10000 counted as refused", st.Closed)
			}
			t.Log(st.Closed)
		})
	}
}

// One source that wants all addresses gets 32; where many want them all, the pool is full, and is
// there again within a minute after they have left.
// exam: R4
func TestManyAddresses(t *testing.T) {
	t.Parallel()
	n := newOpen(t, "--pool", "10.0.0.0/23") // half of it for them
	ask := func(conn net.Conn) { _, _ = conn.Write(rawvpn.Ask{}.Bytes()) }
	one := newSwarm(t, n, 1)
	one.connect(100, 20*time.Millisecond, ask)
	n.settle()
	if st := n.status(); st.Leases.Live != 32 {
		t.Errorf("one source has %d addresses, want 32 (%v)", st.Leases.Live, st.Closed)
	}
	many := &swarm{n: n, hosts: 20}
	defer many.leave()
	many.connect(20*20, 5*time.Millisecond, ask)
	n.settle()
	st := n.status()
	if st.Leases.Free != 0 || st.Closed["pool_exhausted"] == 0 {
		t.Errorf("leases %+v, ended %v; want the pool full, and refusals counted", st.Leases, st.Closed)
	}
	one.leave()
	many.leave()
	until(t, time.Minute, "all addresses are free again", func() bool { return n.status().Leases.Free == 253 })
	if took := n.joins(n.c2, gatewayC2); took > time.Second {
		t.Errorf("a client that means well needed %s", took)
	}
}

// Who shows secrets that open nothing is refused for ever longer; the others are not.
// exam: A2
func TestGuessing(t *testing.T) {
	t.Parallel()
	n := newSecure(t)
	dir := n.join(n.c2, "cam1 --ip 10.0.3.7")
	good := n.invite("cam2")
	for range 8 {
		_, err := n.c1.Run(fmt.Sprintf("%s/vpncli join %s --state %s", bin, wrong(t, good), t.TempDir()))
		if err == nil {
			t.Fatal("a secret that was guessed opens")
		}
	}
	st := n.status()
	if st.Closed["invitation"] < 5 || st.Closed["source_penalty"] == 0 {
		t.Errorf("ended %v; want some refused before TLS", st.Closed)
	}
	newClient(t, n.c2, "--state", dir).waitConnected()
	n.join(n.c3, "cam3")
}

// wrong returns an invitation with another secret.
func wrong(t *testing.T, good string) string {
	t.Helper()
	i, err := identity.ParseInvitation(good)
	if err != nil {
		t.Fatal(err)
	}
	i.Secret = identity.NewSecret()
	return i.String()
}
