package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newUserGateway makes a network whose gateway is started by a user without rights, who may send pings.
func newUserGateway(t *testing.T, args ...string) *network {
	t.Helper()
	if os.Getuid() != 0 || !mapsEverybody() {
		t.Skip("a user namespace has no other user to become")
	}
	n := newNetwork(t)
	run(t, n.gw, "sysctl -qw net.ipv4.ip_forward=0")
	until(t, patience, "pings are allowed", func() bool {
		return n.gw.Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0)
		}) == nil
	})
	var err error
	if n.state, err = os.MkdirTemp("", "ferry-user-"); err == nil { // nobody can not reach into that of the test
		t.Cleanup(func() { _ = os.RemoveAll(n.state) })
		err = os.Chown(n.state, 65534, 65534)
	}
	if err != nil {
		t.Fatal(err)
	}
	command := append(strings.Fields(nobody), filepath.Join(bin, "vpnsrv"), "--exit", "user", "--state", n.state, "--config=", "--listen", "tcp://:2002", "--push-route", "198.51.100.0/24")
	n.srv = start(t, n.gw, append(command, args...)...)
	await(t, n.srv, "msg=serving", 0)
	return n
}

// TestUserExit is a gateway without root: its clients reach its networks, and one another.
//
//	c1 [tun] --- tcp --- vpnsrv, user nobody [sockets] --- lan
//	c2 [tun] --- tcp ---/
func TestUserExit(t *testing.T) {
	t.Parallel()
	n := newUserGateway(t)
	for _, s := range statuses(t, n.srv.Pid()) {
		for key, want := range map[string]string{"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"} {
			if s[key] != want {
				t.Errorf("%s: %s is %q, want %q", s["Name"], key, s[key], want)
			}
		}
	}
	if n.srv.Child("ferry-netadmin") != 0 {
		t.Error("it has started a process for rights that it has not")
	}
	one := newClient(t, n.c1, "-s", gatewayC1)
	one.waitConnected()
	two := newClient(t, n.c2, "-s", gatewayC2)
	b := two.waitConnected()

	ping(t, n.c1, lanHost, 5)
	ping(t, n.c1, gatewayVPN, 5)
	ping(t, n.c1, b, 5)
	transfer(t, n.c1, n.lan, lanHost, 3<<20+1, patience)
	for _, reverse := range []bool{false, true} {
		rate := iperf(t, n.c1, n.lan, lanHost, reverse)
		if rate <= 0 {
			t.Errorf("got %.0f bit/s", rate)
		}
		t.Logf("%.2f Gbit/s", rate/1e9)
	}

	refused := func(what, addr string, want error) {
		t.Helper()
		began := time.Now()
		err := n.c1.Do(func() error {
			conn, err := net.DialTimeout("tcp4", addr, patience)
			if err == nil {
				_ = conn.Close()
			}
			return err
		})
		if !errors.Is(err, want) || time.Since(began) > patience/2 {
			t.Errorf("%s: %v after %s, want %v", what, err, time.Since(began), want)
		}
	}
	refused("a closed port", lanHost+":9", syscall.ECONNREFUSED)
	refused("the gateway", gatewayVPN+":2002", syscall.ECONNREFUSED)
	if answers(n.c1, "198.51.100.1") {
		t.Error("the host of the gateway is reached by its address in the LAN")
	}
	status := run(t, n.gw, nobody+filepath.Join(bin, "vpnsrv")+" status --state "+n.state)
	for _, want := range []string{"10.0.0.1 on sockets of its own", "refused 1", "denied"} {
		if !strings.Contains(status, want) {
			t.Errorf("status has no %q:\n%s", want, status)
		}
	}
}

// TestUserExitUDP sends datagrams of all lengths through sockets of the gateway, and hears where nobody listens.
func TestUserExitUDP(t *testing.T) {
	t.Parallel()
	n := newUserGateway(t)
	newClient(t, n.c1, "-s", gatewayC1).waitConnected()
	var server net.PacketConn
	if err := n.lan.Do(func() (err error) {
		server, err = net.ListenPacket("udp4", lanHost+":0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	go func() { // ends with the socket
		b := make([]byte, 65535)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(b[:n], from)
		}
	}()
	ask := func(addr string, size int) error {
		var conn net.Conn
		if err := n.c1.Do(func() (err error) { conn, err = net.Dial("udp4", addr); return err }); err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write(make([]byte, size)); err != nil {
			return err
		}
		got, err := conn.Read(make([]byte, 65535))
		if err == nil && got != size {
			t.Errorf("%d bytes come back as %d", size, got)
		}
		return err
	}
	for _, size := range []int{0, 1, 1472, 1473, 9000, 65507} {
		if err := ask(server.LocalAddr().String(), size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if err := ask(lanHost+":9", 1); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
}

// TestUserExitHops sees the way as far as a router behind the gateway, by pings and by UDP: a loop that leads through the exit ends, and traceroute sees it.
//
//	c1 [tun] --- tcp --- vpnsrv [sockets] --- lan --- 203.0.113.0/24, which does not exist
func TestUserExitHops(t *testing.T) {
	t.Parallel()
	const far = "203.0.113.9"
	n := newUserGateway(t, "--push-route", "203.0.113.0/24")
	run(t, n.gw, "ip route add 203.0.113.0/24 via "+lanHost)
	run(t, n.lan, "sysctl -qw net.ipv4.ip_forward=1")
	run(t, n.lan, "ip link add far type veth peer name beyond")
	run(t, n.lan, "ip link set far up")
	run(t, n.lan, "ip route add 203.0.113.0/24 dev far")
	newClient(t, n.c1, "-s", gatewayC1).waitConnected()
	for ttl, router := range []string{1: gatewayVPN, 2: lanHost} {
		if ttl == 0 {
			continue
		}
		out, err := n.c1.Run(fmt.Sprintf("ping -n -c 1 -W 3 -t %d %s", ttl, far))
		if said := fmt.Sprint(out, err); !strings.Contains(said, "From "+router+" icmp_seq=1 Time to live exceeded") {
			t.Errorf("ping with a TTL of %d: %s", ttl, said)
		}
		if err := n.c1.Do(func() error { return hop(far+":33434", ttl) }); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("UDP with a TTL of %d: %v", ttl, err)
		}
	}
}

// hop sends a datagram over so many hops, and returns what is said about it.
func hop(addr string, ttl int) error {
	conn, err := net.Dial("udp4", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	_ = raw.Control(func(fd uintptr) {
		err = errors.Join(syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_TTL, ttl),
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_RECVERR, 1))
	})
	if err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}
