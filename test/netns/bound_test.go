package netns

import (
	"encoding/binary"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"ferry/internal/client"
	"ferry/test/lab"
)

// boundPort is that of all datagrams which a sender wants to leave by eth0.
const boundPort = 7777

// bound sends a datagram from a socket that names the interface eth0, as any user may. That it can not
// be sent is no error.
func bound(t *testing.T, ns *lab.Namespace, addr string, from, to int, prepare func(fd, index int) error) {
	t.Helper()
	a := netip.MustParseAddr(addr)
	err := ns.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		family := unix.AF_INET
		var local, remote unix.Sockaddr = &unix.SockaddrInet4{Port: from}, &unix.SockaddrInet4{Port: to}
		if a.Is4() {
			remote.(*unix.SockaddrInet4).Addr = a.As4()
		} else {
			family, local, remote = unix.AF_INET6, &unix.SockaddrInet6{Port: from}, &unix.SockaddrInet6{Port: to, Addr: a.As16()}
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
			return err
		}
		if err := prepare(fd, link.Index); err != nil {
			return err
		}
		if err := unix.Bind(fd, local); err != nil {
			return err
		}
		_ = unix.Sendto(fd, []byte("ferry"), 0, remote)
		return nil
	})
	if err != nil {
		t.Fatalf("send to %s by eth0: %v", addr, err)
	}
}

func toDevice(fd, _ int) error { return unix.BindToDevice(fd, "eth0") }

// leave sends out of the tunnel, in each way that there is.
func leave(t *testing.T, ns *lab.Namespace) {
	t.Helper()
	for _, a := range []string{"203.0.113.9", gatewayC1, "255.255.255.255", "2001:db8::9"} {
		bound(t, ns, a, 0, boundPort, toDevice)
	}
	bound(t, ns, "2001:db8::10", 0, boundPort, func(fd, index int) error {
		return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, string(binary.NativeEndian.AppendUint32(make([]byte, 16), uint32(index))))
	})
	bound(t, ns, "239.1.2.3", 0, boundPort, func(fd, index int) error {
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)})
	})
	bound(t, ns, "ff0e::77", 0, boundPort, func(fd, index int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index)
	})
}

// left are parts of lines by which a capture shows what leave sends.
var left = []string{"203.0.113.9", gatewayC1 + ".7777", "255.255.255.255.7777", "2001:db8::9", "2001:db8::10", "239.1.2.3", "ff0e::77"}

// TestBoundSockets has programs on a device that choose the interface themselves, which routing rules do
// not see: nothing of theirs leaves beside a full tunnel, unless it is for a LAN that is spared.
func TestBoundSockets(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	run(t, n.c1, "ip -6 route add default via fd00:101::1")
	n.settle()
	before := hostState(t, n.c1)
	n.startGateway("--nat")
	const filter = "udp port 7777 or udp port 67 or udp port 547 or arp net 203.0.113.0/24 or (icmp6 and ip6[40] == 135 and ip6[48:4] == 0x20010db8)"
	leaks := capture(t, n.gw, "eth1", filter)
	none := func(when string) {
		t.Helper()
		for _, what := range left {
			if leaks.Count(what) > 0 {
				t.Errorf("%s: %s left the tunnel", when, what)
			}
		}
	}
	fence := 0 // the capture has seen all that came before it
	dhcp := func() {
		t.Helper()
		bound(t, n.c1, "255.255.255.255", 68, 67, toDevice)
		await(t, leaks, ".67: ", fence)
		bound(t, n.c1, "ff02::1:2", 546, 547, toDevice)
		await(t, leaks, ".547: ", fence)
		fence++
	}
	one := newClient(t, n.c1, "-s", gatewayC1, "--default-route")
	one.waitConnected()
	leave(t, n.c1)
	ping(t, n.c1, lanHost, 1)
	ping(t, n.c1, "fd00:101::1", 1)
	bound(t, n.c1, "192.168.101.255", 0, boundPort, toDevice)
	await(t, leaks, "192.168.101.255.7777", 0)
	bound(t, n.c1, "224.0.0.251", 0, boundPort, toDevice)
	await(t, leaks, "224.0.0.251.7777", 0)
	dhcp()
	none("connected")

	n.srv.Kill()
	one.event(client.EventReconnecting, 0)
	leave(t, n.c1)
	dhcp()
	none("without a gateway")
	one.Kill()
	leave(t, n.c1)
	dhcp()
	none("after kill -9")

	n.startGateway(n.args...)
	one = newClient(t, n.c1, "-s", gatewayC1, "--default-route", "--allow-lan=false")
	one.waitConnected()
	mdns := leaks.Count("224.0.0.251.7777")
	leave(t, n.c1)
	bound(t, n.c1, "224.0.0.251", 0, boundPort, toDevice)
	dhcp()
	none("closed LAN")
	if leaks.Count("224.0.0.251.7777") > mdns {
		t.Error("closed LAN: a group of the link was sent to")
	}
	stop(t, one.Proc)
	leave(t, n.c1) // without a tunnel all of it is seen
	for _, what := range left {
		await(t, leaks, what, 0)
	}
	equalState(t, n.c1, before)
}

// TestKillSwitchIsItsOwn has a vpncli that was killed, and other programs in its network namespace that
// start, and clean up: they do not open what it has closed.
func TestKillSwitchIsItsOwn(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.settle()
	before := hostState(t, n.c1)
	n.startGateway("--nat")
	one := newClient(t, n.c1, "-s", gatewayC1, "--default-route")
	one.waitConnected()
	ping(t, n.c1, lanHost, 1)
	one.Kill()
	two := newClient(t, n.c1, "-s", gatewayC1, "--tun", "other0")
	two.waitConnected()
	if answers(n.c1, lanHost) {
		t.Error("another vpncli has opened the full tunnel of the one that was killed")
	}
	stop(t, two.Proc)
	srv := start(t, n.c1, alone([]string{filepath.Join(bin, "vpnsrv"), "--state", filepath.Join(t.TempDir(), "state"), "--listen", "tcp://:2003"})...)
	await(t, srv, "msg=serving", 0)
	stop(t, srv)
	if srv.Count("left over from an earlier run") > 0 {
		t.Errorf("vpnsrv speaks of leftovers where it finds none:\n%s", srv.Output())
	}
	if answers(n.c1, lanHost) {
		t.Error("a vpnsrv has opened the full tunnel of the vpncli that was killed")
	}
	one = newClient(t, n.c1, "-s", gatewayC1, "--default-route")
	one.waitConnected()
	ping(t, n.c1, lanHost, 1)
	stop(t, one.Proc)
	equalState(t, n.c1, before)
}

// TestTableOfAnother has two tunnels on a device that are told to use the same routing table: the second
// one is refused, and leaves the first as it is.
func TestTableOfAnother(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		routes []string
	}{
		{"full tunnel", []string{"--default-route"}},
		{"route that contains the server", []string{"--route", "198.51.100.0/24"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := newGateway(t, "--nat")
			const server = "198.51.100.1"
			one := newClient(t, n.c1, append([]string{"-s", server}, test.routes...)...)
			one.waitConnected()
			ping(t, n.c1, lanHost, 1)
			n.settle()
			before := hostState(t, n.c1)
			changes := start(t, n.c1, "ip", "-4", "monitor", "rule")
			mark := func(table string) { // the monitor runs, and has told all that came before
				until(t, patience, "the monitor tells of rules", func() bool {
					run(t, n.c1, "ip rule add priority 9000 lookup "+table)
					run(t, n.c1, "ip rule del priority 9000 lookup "+table)
					return changes.Count("lookup "+table) > 0
				})
			}
			mark("7001")
			two := newClient(t, n.c1, append([]string{"-s", server, "--tun", "other0"}, test.routes...)...)
			status, err := two.Wait(patience)
			if status == 0 || err != nil || two.Count("choose another --table") == 0 {
				t.Errorf("second tunnel: status %d, %v\n%s", status, err, two.Output())
			}
			mark("7002")
			if changes.Count("lookup 2002") > 0 { // the first one repairs it, too late
				t.Errorf("the first tunnel's rules were changed:\n%s", changes.Output())
			}
			changes.Kill()
			equalState(t, n.c1, before)
			leaks := capture(t, n.gw, "eth1", "icmp")
			ping(t, n.c1, lanHost, 1)
			wantNone(t, "beside a second tunnel", leaks)
		})
	}
}
