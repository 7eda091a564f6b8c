package netns

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"strconv"
	"testing"
	"time"

	"ferry/test/lab"
)

// ping sends count echo requests; each must be answered.
func ping(t *testing.T, ns *lab.Namespace, addr string, count int) {
	t.Helper()
	out := run(t, ns, fmt.Sprintf("ping -n -c %d -i 0.02 -w %d %s", count, int(patience.Seconds()), addr))
	if answered(out) < count { // it may be more: a question goes out before a late answer is read
		t.Errorf("%s: ping %s: %s", ns.Name, addr, out)
	}
}

var echoReply = regexp.MustCompile(`icmp_seq=(\d+) ttl`)

// answered returns how many pings have been answered, if all were up to the last one that was, or else -1. ping itself counts as lost what it has sent when
// it ends, and waits for the answer to the last one for two round trips, unless it has got -w: then it sends more until enough are answered.
func answered(out string) int {
	all := echoReply.FindAllStringSubmatch(out, -1)
	for i, m := range all {
		if m[1] != strconv.Itoa(i+1) {
			return -1
		}
	}
	return len(all)
}

// answers reports whether one ping is answered within a second.
func answers(ns *lab.Namespace, addr string) bool {
	_, err := ns.Run("ping -n -q -c 1 -W 1 " + addr)
	return err == nil
}

// iperf sends TCP for a second, and returns bits per second as received. reverse: from b to a.
func iperf(t *testing.T, a, b *lab.Namespace, addr string, reverse bool) float64 {
	t.Helper()
	server := start(t, b, "iperf3", "-s", "-1", "--forceflush")
	await(t, server, "Server listening", 0)
	cmd := "iperf3 -J -t 1 -c " + addr
	if reverse {
		cmd += " -R"
	}
	var result struct {
		End struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(run(t, a, cmd)), &result); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Wait(patience); err != nil {
		t.Fatal(err)
	}
	return result.End.Received.Rate
}

// A listener in a namespace sums up what each connection sends, and answers with the sum.
func listenSum(t *testing.T, ns *lab.Namespace) (port int) {
	t.Helper()
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp4", ":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				sum := sha256.New()
				if _, err := io.Copy(sum, conn); err == nil {
					_, _ = conn.Write(sum.Sum(nil))
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// dial connects from a namespace to an address, which must be a number.
func dial(t *testing.T, ns *lab.Namespace, addr string, port int) *net.TCPConn {
	t.Helper()
	var conn net.Conn
	err := ns.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp4", fmt.Sprintf("%s:%d", addr, port), patience)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

// transfer sends size random bytes by TCP and checks that just those came.
func transfer(t *testing.T, from, to *lab.Namespace, addr string, size int, limit time.Duration) {
	t.Helper()
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(data)
	conn := dial(t, from, addr, listenSum(t, to))
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(data); err != nil {
		t.Fatalf("%s to %s: %v", from.Name, addr, err)
	}
	_ = conn.CloseWrite()
	got, err := io.ReadAll(conn)
	if want := sha256.Sum256(data); err != nil || !bytes.Equal(got, want[:]) {
		t.Fatalf("%s to %s, %d bytes: got sum %x, %v, want %x", from.Name, addr, size, got, err, want)
	}
}

// TestTraffic is the whole thing once: two clients, each way, addresses as in 2013.
func TestTraffic(t *testing.T) {
	n := newGateway(t)
	one := newClient(t, n.c1, "-s", gatewayC1)
	a := one.waitConnected()
	two := newClient(t, n.c2, "-s", gatewayC2)
	b := two.waitConnected()
	if a != "10.0.254.254" || b != "10.0.254.253" {
		t.Fatalf("got addresses %s and %s, want 10.0.254.254 and 10.0.254.253", a, b)
	}
	for _, path := range []struct {
		name     string
		from, to *lab.Namespace
		addr     string
	}{
		{"client to gateway", n.c1, n.gw, gatewayVPN},
		{"gateway to client", n.gw, n.c1, a},
		{"client to client", n.c1, n.c2, b},
		{"and back", n.c2, n.c1, a},
	} {
		t.Run(path.name, func(t *testing.T) {
			ping(t, path.from, path.addr, 5)
			transfer(t, path.from, path.to, path.addr, 3<<20+1, patience)
			rate := iperf(t, path.from, path.to, path.addr, false)
			if rate <= 0 {
				t.Errorf("got %.0f bit/s", rate)
			}
			t.Logf("%.2f Gbit/s", rate/1e9)
		})
	}
	t.Run("reverse", func(t *testing.T) {
		if rate := iperf(t, n.c1, n.c2, b, true); rate <= 0 {
			t.Errorf("got %.0f bit/s", rate)
		}
	})
}
