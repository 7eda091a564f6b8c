package netns

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/test/lab"
)

// A side is one end of the tunnel, to be broken.
type side struct {
	name string
	proc *lab.Proc
	ns   *lab.Namespace
	dev  string
	addr string // of dev
	peer string // the other end
}

// whole waits until the interface is up again with its address and routes, and carries packets.
func (s side) whole(t *testing.T, since time.Time, routes string) {
	t.Helper()
	const limit = 2 * time.Second
	until(t, limit-time.Since(since), s.dev+" is back with its address and routes", func() bool {
		addr, err := s.ns.Run("ip -4 -brief address show dev " + s.dev)
		return err == nil && strings.Contains(addr, s.addr+"/16") && s.routes(t) == routes
	})
	until(t, limit, s.dev+" carries packets", func() bool { return answers(s.ns, s.peer) })
}

func (s side) routes(t *testing.T) string {
	t.Helper()
	return run(t, s.ns, "ip route show table all dev "+s.dev)
}

// newSides is a tunnel with both ends, and routes on both.
func newSides(t *testing.T) (*network, []side) {
	t.Helper()
	n := newGateway(t, "--push-route", "203.0.113.0/24")
	one := newClient(t, n.c1, "-s", gatewayC1)
	a := one.waitConnected()
	return n, []side{
		{"client", one.Proc, n.c1, "ferry0", a, gatewayVPN},
		{"gateway", n.srv, n.gw, "vpn0", gatewayVPN, a},
	}
}

// TestInterfaceDeleted: the interface is deleted under load.
// exam: F9
func TestInterfaceDeleted(t *testing.T) {
	t.Parallel()
	n, sides := newSides(t)
	server := start(t, n.gw, "iperf3", "-s", "--forceflush")
	await(t, server, "Server listening", 0)
	t.Cleanup(func() { server.Kill() }) // else its status is 1
	for _, s := range sides {
		t.Run(s.name, func(t *testing.T) {
			routes := s.routes(t)
			load := start(t, n.c1, "iperf3", "-c", gatewayVPN, "-t", "60", "--forceflush")
			await(t, load, "connected to", 0)
			for range 5 {
				index := ifIndex(t, s.ns, s.dev)
				began := time.Now()
				run(t, s.ns, "ip link delete "+s.dev)
				s.whole(t, began, routes)
				if ifIndex(t, s.ns, s.dev) == index {
					t.Fatal("it is the same interface still: nothing was deleted")
				}
			}
			load.Kill()
			if n := s.proc.Count("interface is back"); n != 5 {
				t.Errorf("made again %d times, want 5", n)
			}
			idles(t, s.proc)
		})
	}
}

// TestInterfaceChanged has an operator, or his tools, at work on the interface.
// exam: F11
func TestInterfaceChanged(t *testing.T) {
	t.Parallel()
	n, sides := newSides(t)
	for _, s := range sides {
		for _, change := range []struct{ name, cmd string }{
			{"set down", "ip link set %s down"},
			{"address flushed", "ip address flush dev %s"},
			{"routes flushed", "ip route flush dev %s"},
			{"moved", "ip link set %s netns " + n.lan.Path()},
		} {
			t.Run(s.name+" "+change.name, func(t *testing.T) {
				routes := s.routes(t)
				began := time.Now()
				run(t, s.ns, fmt.Sprintf(change.cmd, s.dev))
				s.whole(t, began, routes)
				idles(t, s.proc)
			})
		}
		t.Run(s.name+" moved, and that namespace deleted", func(t *testing.T) {
			routes := s.routes(t)
			gone, err := lab.NewNamespace("gone")
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			run(t, s.ns, fmt.Sprintf("ip link set %s netns %s", s.dev, gone.Path()))
			if err := gone.Close(); err != nil { // nobody else is in it
				t.Fatal(err)
			}
			s.whole(t, began, routes)
			idles(t, s.proc)
		})
		for _, alarm := range []string{"setting it right", "interface lost"} {
			if s.proc.Count(alarm) == 0 {
				t.Errorf("%s: no alarm %q", s.name, alarm)
			}
		}
	}
	if links := run(t, n.lan, "ip -o link"); strings.Contains(links, "ferry0") || strings.Contains(links, "vpn0") {
		t.Errorf("left in the other namespace:\n%s", links)
	}
}

func ifIndex(t *testing.T, ns *lab.Namespace, dev string) string {
	t.Helper()
	index, _, _ := strings.Cut(run(t, ns, "ip -o link show dev "+dev), ":")
	return index
}

// idles checks that a program that has nothing to do does nothing.
func idles(t *testing.T, p *lab.Proc) {
	t.Helper()
	const window, allowed = 300 * time.Millisecond, 100 * time.Millisecond
	before := cpuTime(t, p)
	time.Sleep(window) // what is measured
	if used := cpuTime(t, p) - before; used > allowed {
		t.Errorf("used %s of CPU in %s without load", used, window)
	}
}

// cpuTime is that of the program so far.
func cpuTime(t *testing.T, p *lab.Proc) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name may have spaces
	fields := strings.Fields(rest)             // from field 3 on: proc_pid_stat(5)
	user, err1 := strconv.Atoi(fields[14-3])
	system, err2 := strconv.Atoi(fields[15-3])
	if err1 != nil || err2 != nil {
		t.Fatalf("%q", b)
	}
	const tick = time.Second / 100 // USER_HZ
	return time.Duration(user+system) * tick
}

// TestMTU: the MTU changes at run time, and packets that are too big are answered.
// exam: F13
func TestMTU(t *testing.T) {
	t.Parallel()
	n := newGateway(t)
	a := newClient(t, n.c1, "-s", gatewayC1).waitConnected()
	b := newClient(t, n.c2, "-s", gatewayC2).waitConnected()
	df := func(ns *lab.Namespace, addr string, size int) string {
		out, err := ns.Run(fmt.Sprintf("ping -n -c 1 -W 1 -M do -s %d %s", size, addr))
		if err == nil {
			return "answered"
		}
		return out
	}
	for _, step := range []struct {
		name     string
		in       *lab.Namespace
		dev      string
		mtu      int
		from, to *lab.Namespace
		addr     string
		size     int // of the ICMP payload; 28 bytes of headers come on top
		want     string
	}{
		{"fits", n.c1, "ferry0", 1500, n.c1, n.c2, b, 1472, "answered"},
		{"too big for the own interface", n.c1, "ferry0", 1280, n.c1, n.gw, gatewayVPN, 1253, "message too long, mtu=1280"},
		{"fits the own interface", n.c1, "ferry0", 1280, n.c1, n.gw, gatewayVPN, 1252, "answered"},
		{"too big for the gateway's interface", n.gw, "vpn0", 1280, n.gw, n.c2, b, 1253, "message too long, mtu=1280"},
		{"large here, small there", n.c1, "ferry0", 9000, n.c1, n.c2, b, 4000, "From 10.0.0.1 icmp_seq=1 Frag needed and DF set (mtu = 1500)"},
		{"the next one is known to be too big", n.c1, "ferry0", 9000, n.c1, n.c2, b, 4000, "message too long, mtu=1500"},
		{"large interface of the gateway", n.gw, "vpn0", 9000, n.gw, n.c2, b, 4000, "Frag needed and DF set (mtu = 1500)"},
	} {
		t.Run(step.name, func(t *testing.T) {
			run(t, step.in, fmt.Sprintf("ip link set %s mtu %d", step.dev, step.mtu))
			if got := df(step.from, step.addr, step.size); !strings.Contains(got, step.want) {
				t.Errorf("ping -M do -s %d: got %s, want %q", step.size, got, step.want)
			}
			transfer(t, step.from, step.to, step.addr, 1<<20, patience)
			transfer(t, n.c2, n.c1, a, 1<<20, patience)
			run(t, n.c1, fmt.Sprintf("ping -n -q -c 1 -W 1 -M dont -s 4000 %s", b)) // in fragments
			if got := run(t, step.in, "ip link show dev "+step.dev); !strings.Contains(got, fmt.Sprintf(" mtu %d ", step.mtu)) {
				t.Errorf("the MTU was not left as it was set: %s", got)
			}
		})
	}
}

// TestSmuggle puts packets on the TUN of a client that its kernel would never send: none
// of them gets to the gateway.
// exam: M6, M9
func TestSmuggle(t *testing.T) {
	t.Parallel()
	n := newGateway(t)
	one := newClient(t, n.c1, "-s", gatewayC1)
	one.waitConnected()
	header := func(length byte, src, dst string) []byte {
		b := make([]byte, 28)
		b[0], b[3], b[8], b[9] = 0x45, length, 64, 17
		copy(b[12:], src)
		copy(b[16:], dst)
		b[25] = 8 // of UDP
		for sum, i := uint32(0), 0; i < 20; i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
			folded := ^(sum>>16 + sum&0xffff)
			if i == 18 {
				b[10], b[11] = byte(folded>>8), byte(folded)
			}
		}
		return b
	}
	const mine, gw, zero, ones = "\x0a\x00\xfe\xfe", "\x0a\x00\x00\x01", "\x00\x00\x00\x00", "\xff\xff\xff\xff"
	ipv6 := make([]byte, 48)
	ipv6[0], ipv6[5], ipv6[6], ipv6[7] = 0x60, 8, 17, 64
	copy(ipv6[8:], "\xfe\x80")
	sendRaw(t, n.c1, "ferry0", ipv6)
	sendRaw(t, n.c1, "ferry0", header(200, mine, gw))
	sendRaw(t, n.c1, "ferry0", header(28, zero, zero))
	sendRaw(t, n.c1, "ferry0", header(28, mine, zero))
	sendRaw(t, n.c1, "ferry0", header(28, ones, ones))
	ping(t, n.c1, gatewayVPN, 1) // behind them
	if err := one.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	report := await(t, one.Proc, "msg=report", 0)
	for _, want := range []string{"ipv6:1", "length:1", "martian:3"} {
		if !strings.Contains(report, want) {
			t.Errorf("got %q, want %q in it", report, want)
		}
	}
	if err := n.srv.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if report := await(t, n.srv, "msg=report", 0); !strings.Contains(report, " drops=map[] ") {
		t.Errorf("the gateway has seen some of them: %s", report)
	}
}

// sendRaw sends a packet by an interface as it is.
func sendRaw(t *testing.T, ns *lab.Namespace, dev string, packet []byte) {
	t.Helper()
	err := ns.Do(func() error {
		i, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		protocol := uint16(0x0008) // ETH_P_IP, in network order
		if packet[0]>>4 == 6 {
			protocol = 0xdd86
		}
		fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		return syscall.Sendto(fd, packet, 0, &syscall.SockaddrLinklayer{Protocol: protocol, Ifindex: i.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
}
