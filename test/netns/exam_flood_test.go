//go:build exam

package netns

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/identity"
	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// watchJoins lets a device of the network join from c2 again and again until stop is closed, and returns how
// often it had an address and a ping within a second.
func (n *network) watchJoins(k identity.Key, every time.Duration, stop <-chan struct{}) (good, all int, worst time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for !isClosed(stop) {
		<-ticker.C
		all++
		began := time.Now()
		c, err := n.dialKey(n.c2, gatewayC2, k)
		if err != nil {
			continue
		}
		if err = c.Join(rawvpn.Ask{Features: rawvpn.All}); err == nil {
			_, err = c.Ping(gatewayAddr)
		}
		_ = c.Close()
		took := time.Since(began)
		worst = max(worst, took)
		if err == nil && took <= time.Second {
			good++
		}
	}
	return good, all, worst
}

// dialRawFrom connects a scripted client from a namespace.
func (n *network) dialRawFrom(ns *lab.Namespace, server string) (c *rawvpn.Client, err error) {
	err = ns.Do(func() error {
		c, err = rawvpn.Dial(n.t.Context(), server+":2002")
		return err
	})
	return c, err
}

// TestAllAddresses has one source that asks for 65,000 addresses (EXAM_ADDRESSES), and then 2,100 sources that
// ask for 31 each, with the limits that vpnsrv is shipped with. Devices join as ever; those without a key are
// refused in good order, and find all addresses free within a minute after the others have left.
// exam: R4
func TestAllAddresses(t *testing.T) {
	const sources, each = 2100, 31
	count := times(t, "EXAM_ADDRESSES", 65_000)
	n := newOpen(t)
	cam := n.addDevice("cam1", "")
	all := n.status().Leases.Free
	stop := make(chan struct{})
	var good, tries int
	var worst time.Duration
	var watching sync.WaitGroup
	watching.Go(func() { good, tries, worst = n.watchJoins(cam, 200*time.Millisecond, stop) })
	// Who is refused leaves: a process can not have so many files.
	ask := func(conn net.Conn) {
		c := rawvpn.New(conn)
		if c.Timeout = time.Second; c.Join(rawvpn.Ask{Features: rawvpn.All}) != nil {
			_ = c.Close()
		}
	}
	one := newSwarm(t, n, 1)
	one.connect(count, 0, ask)
	st := n.status()
	progress(t, "one source: %d addresses, %d connections, ended %v", st.Leases.Live, st.Sessions, st.Closed)
	if st.Leases.Live > 32 || st.Leases.Live < 30 {
		t.Errorf("one source has %d addresses, want 32", st.Leases.Live)
	}
	one.leave()
	many := &swarm{n: n, hosts: sources}
	defer many.leave()
	many.connect(min(count, sources*each), time.Second/400, ask) // a bit slower than those refused at once
	st = n.status()
	c, err := n.dialRawFrom(n.c2, gatewayC2)
	if err == nil {
		err = c.Join(rawvpn.Ask{Features: rawvpn.All})
		_ = c.Close()
	}
	if refused := new(rawvpn.RefusedError); !errors.As(err, &refused) && count >= 10_000 {
		t.Errorf("a client without a key beside so many others got %v, want a goodbye that says why not", err)
	}
	progress(t, "%d sources: %d addresses, %d held, %d connections, ended %v", sources, st.Leases.Live, st.Leases.Held, st.Sessions, st.Closed)
	if st.Sessions > 10_000 || st.Leases.Live > 5000 || st.Leases.Live < min(5000, count/2) {
		t.Errorf("%d connections, %d without a key: want at most 10,000, and half of it full", st.Sessions, st.Leases.Live)
	}
	close(stop)
	watching.Wait()
	many.leave()
	left := time.Now()
	until(t, 70*time.Second, "all addresses are free again", func() bool { return n.status().Leases.Free == all })
	freed := time.Since(left)
	if good*100 < tries*99 {
		t.Errorf("%d of %d devices joined within a second, want 99 of 100", good, tries)
	}
	if took := n.joins(n.c2, gatewayC2); took > time.Second {
		t.Errorf("afterwards a client without a key needed %s", took)
	}
	figure(t, "R4", "%d of %d joins beside it within 1 s (at most %s), all addresses free after %s", good, tries, worst.Round(time.Millisecond), freed.Round(time.Second))
	// An address is held for a minute, and looked at every few seconds.
	if freed > 65*time.Second {
		t.Errorf("all addresses are free after %s, want a minute", freed)
	}
}

// TestStalledCrowd has 5,000 clients (EXAM_STALLED) that read nothing while others send to them, on a gateway with
// 256 MiB of memory and the limits that it is shipped with: it drops what they do not take, and lives.
// exam: R6
func TestStalledCrowd(t *testing.T) {
	const memory, piece = 256 << 20, 400 << 10 // bytes; of what is sent to each
	count := times(t, "EXAM_STALLED", 5000)
	n := newNetwork(t)
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	writeFile(t, file, crowd+"write_timeout = '5m'\nidle_timeout = '10m'\n") // so that all are stalled at the same time
	g := newGroup(t)
	g.bound(t, memory)
	n.startGatewayIn(g, "--config", file)
	victims := n.dialMany(count)
	var joining sync.WaitGroup
	for i, c := range victims {
		joining.Go(func() {
			ask := rawvpn.Ask{}
			if i%2 == 0 {
				ask.Features = rawvpn.All
			}
			if err := c.Join(ask); err != nil {
				t.Error(err)
			}
		})
	}
	joining.Wait()
	progress(t, "%d have joined: %s", count, n.vitals())
	other, sender := n.joinRaw(rawvpn.Ask{}), n.joinRaw(rawvpn.Ask{Features: rawvpn.All})
	sender.Timeout = time.Minute
	most := 0
	for round := range 3 {
		for i, v := range victims {
			packet := sender.Wrap(rawvpn.IPv4(sender.Lease.Addr, v.Lease.Addr, rawvpn.UDP, make([]byte, 1400)))
			if err := sender.SendRaw(bytes.Repeat(packet, piece/len(packet))); err != nil {
				t.Fatalf("round %d, victim %d: %v; killed %d\n%s", round, i, err, g.killed(t), n.srv.Output())
			}
			if i%250 == 0 {
				most = max(most, n.vitals().rss)
				if rtt, err := other.Ping(gatewayAddr); err != nil || rtt > time.Second {
					t.Errorf("a client that reads: %s, %v", rtt, err)
				}
			}
		}
		st := n.status()
		progress(t, "round %d: %s, %.1f MiB queued, drops %v", round+1, n.vitals(), float64(st.Queued)/(1<<20), st.Drops)
	}
	if k := g.killed(t); k != 0 {
		t.Errorf("the kernel has killed %d", k)
	}
	st := n.status()
	if st.Sessions < count || st.Drops["queue_full"]+st.Drops["memory"] == 0 {
		t.Errorf("%d connections, drops %v: want all of them stalled", st.Sessions, st.Drops)
	}
	figure(t, "R6", "%d stalled clients, %.0f MiB queued, memory of the gateway at most %.0f MiB", count, float64(st.Queued)/(1<<20), float64(most)/(1<<20))
	n.alive()
}

// TestHelloFlood begins 2,000 handshakes a second, of one source and of 200, for 10 s each: devices join as ever,
// and a tunnel loses little.
// exam: R7
func TestHelloFlood(t *testing.T) {
	const rate, d, lostMost = 2000, 10 * time.Second, 20.0
	for _, hosts := range []int{1, 200} {
		t.Run(fmt.Sprint(hosts, " sources"), func(t *testing.T) {
			n := newSecure(t)
			cam := n.addDevice("cam1", "")
			dir := n.join(n.c3, "cam3")
			newClient(t, n.c3, "--state", dir, "-s", gatewayC3).waitConnected()
			server := start(t, n.gw, "iperf3", "-s", "--forceflush")
			await(t, server, "Server listening", 0)
			t.Cleanup(func() { server.Kill() }) // else its status is 1
			hello := firstFlight(t, n.pin())
			s := newSwarm(t, n, hosts)
			var answered atomic.Int64
			stop := make(chan struct{})
			var all sync.WaitGroup
			all.Go(func() {
				s.connect(int(rate*d.Seconds()), time.Second/rate, func(conn net.Conn) {
					_, _ = conn.Write(hello)
					_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond)) // it goes on at once, and reads later
					if n, _ := conn.Read(make([]byte, 1)); n > 0 {
						answered.Add(1)
					}
				})
			})
			var good, tries int
			var worst time.Duration
			all.Go(func() { good, tries, worst = n.watchJoins(cam, 100*time.Millisecond, stop) })
			out := run(t, n.c3, "iperf3 -J -u -b 100M -l 1200 -t 8 -c "+gatewayVPN)
			close(stop)
			all.Wait()
			var r struct {
				End struct {
					Sum struct {
						Lost float64 `json:"lost_percent"`
					}
				}
			}
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatal(err)
			}
			progress(t, "%d sources: %v", hosts, n.status().Closed)
			figure(t, "R7", "%d of %d joins within 1 s (at most %s), %.1f %% lost beside %d hellos of %d sources", good, tries, worst.Round(time.Millisecond), r.End.Sum.Lost, int(rate*d.Seconds()), hosts)
			if good*100 < tries*99 {
				t.Errorf("%d of %d joined within a second, want 99 of 100", good, tries)
			}
			if r.End.Sum.Lost > lostMost {
				t.Errorf("%.1f %% lost, want %.0f", r.End.Sum.Lost, lostMost)
			}
			s.leave()
			n.aliveSecure(cam)
		})
	}
}

// firstFlight returns what a device that nobody knows sends first.
func firstFlight(t *testing.T, gateway identity.Pin) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() { // ends with the pipe
		_ = tls.Client(near, identity.NewKey().Client(identity.Tunnel, gateway)).HandshakeContext(context.Background())
	}()
	b := make([]byte, 16<<10)
	size, err := far.Read(b)
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b[:size]
}
