package netns

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ferry/internal/client"
	"ferry/test/lab"
)

// TestStatic uses the flags of 2013. The second client wants the address of the first.
// exam: P4
func TestStatic(t *testing.T) {
	t.Parallel()
	n := newGateway(t, "--listen", "tcp://:2013")
	one := newClient(t, n.c1, "-s", gatewayC1, "-p", "2013", "-a", "10.0.3.4")
	if got := one.waitConnected(); got != "10.0.3.4" {
		t.Fatalf("got address %s, want 10.0.3.4", got)
	}
	pings := start(t, n.c1, "ping", "-n", "-i", "0.02", "-c", "50", "-w", "10", gatewayVPN)
	await(t, pings, "icmp_seq=1 ", 0)

	two := newClient(t, n.c2, "-s", gatewayC2, "-p", "2013", "-a", "10.0.3.4")
	status, err := two.Wait(patience)
	if err != nil || status != 1 {
		t.Errorf("refused client: got status %d, %v, want 1", status, err)
	}
	line := await(t, two.Proc, "vpncli: ", 0)
	if n := two.Count("vpncli: "); n != 1 || !strings.Contains(line, "choose another with -a, or leave -a out") {
		t.Errorf("got %d lines, the first %q, want one that says what to do", n, line)
	}
	select {
	case <-pings.Done():
		t.Error("the refusal took longer than the pings")
	default:
	}
	if status, err := pings.Wait(patience); status != 0 || err != nil || answered(pings.Output()) < 50 {
		t.Errorf("the victim's pings: status %d, %v\n%s", status, err, pings.Output())
	}
	if n := one.Count(`"event":"connected"`); n != 1 {
		t.Errorf("the victim has connected %d times, want once", n)
	}
}

// TestReserved has a client with a name in the gateway's file.
func TestReserved(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	writeFile(t, file, "pool = '10.9.0.0/24'\n[reserved]\nprinter = '10.9.0.254'\n")
	n := newGateway(t, "--config", file)
	other := newClient(t, n.c2, "-s", gatewayC2).waitConnected()
	if other == "10.9.0.254" {
		t.Error("another client got the reserved address")
	}
	if got := newClient(t, n.c1, "-s", gatewayC1, "--name", "printer").waitConnected(); got != "10.9.0.254" {
		t.Errorf("got address %s, want 10.9.0.254", got)
	}
	ping(t, n.c1, "10.9.0.1", 1)
	ping(t, n.c1, other, 1)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// withFile runs a program that finds the file at path in place of another one.
func withFile(file, path string, program ...string) []string {
	return append([]string{"unshare", "-m", "sh", "-c", `mount --bind "$0" "$1" && shift && exec "$@"`, file, path}, program...)
}

// TestNames dials names of which the first address does not work.
func TestNames(t *testing.T) {
	t.Parallel()
	n := newGateway(t)
	for _, test := range []struct {
		name, hosts, want string
		limit             time.Duration
	}{
		{"refused, works", "127.0.0.1 gw.test\n192.168.101.1 gw.test\n", "192.168.101.1:2002", 2 * time.Second},
		{"silent IPv6, IPv4", "fd00:101::99 gw.test\n192.168.101.1 gw.test\n", "192.168.101.1:2002", 2 * time.Second},
		{"IPv6, silent IPv4", "fd00:101::1 gw.test\n192.168.101.99 gw.test\n", "[fd00:101::1]:2002", 2 * time.Second},
		{"silent, works", "192.168.101.99 gw.test\n192.168.101.1 gw.test\n", "192.168.101.1:2002", 8 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			hosts := filepath.Join(t.TempDir(), "hosts")
			writeFile(t, hosts, test.hosts)
			began := time.Now()
			args := withFile(hosts, "/etc/hosts", filepath.Join(bin, "vpncli"), "--json", "-s", "gw.test")
			d := &device{start(t, n.c1, args...), t, n.c1}
			e := d.event(client.EventConnected, 0)
			if took := time.Since(began); e.Server != test.want || took > test.limit {
				t.Errorf("connected to %s after %s, want %s within %s", e.Server, took, test.want, test.limit)
			}
			ping(t, n.c1, gatewayVPN, 1)
			stop(t, d.Proc)
		})
	}
}

// TestServers has the other forms that -s takes.
func TestServers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	vm := filepath.Join(dir, "vm.sock")
	n := newGateway(t, "--listen", "tcp://:2002", "--listen", "unix://"+vm+"_2002")
	hypervisor(t, vm, "OK 2002\n")
	other := filepath.Join(dir, "other.sock")
	hypervisor(t, other, "OK 1073741824\n", vm)
	for _, test := range []struct{ name, server, want string }{
		{"IPv6", "fd00:101::1", "[fd00:101::1]:2002"},
		{"tcp", "tcp://[fd00:101::1]:2002", "[fd00:101::1]:2002"},
		{"host and port", "192.168.101.1:2002", "192.168.101.1:2002"},
		{"unix", "unix://" + vm + "_2002", vm + "_2002"},
		{"hypervisor, guest's port", "unix://" + vm + "?vsock=2002", vm},
		{"hypervisor, own port", "unix://" + other + "?vsock=2002", other},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newClient(t, n.c1, "-s", test.server)
			if e := d.event(client.EventConnected, 0); !strings.HasSuffix(e.Server, test.want) {
				t.Errorf("connected to %s, want %s", e.Server, test.want)
			}
			ping(t, n.c1, gatewayVPN, 2)
			transfer(t, n.c1, n.gw, gatewayVPN, 1<<20, patience)
			stop(t, d.Proc)
		})
	}
}

// hypervisor fakes one: a host process that dials path and asks for port P of the guest is brought to
// the socket guest_P, where the gateway listens. guest is path when it is not given.
func hypervisor(t *testing.T, path, answer string, guest ...string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	to := append(guest, path)[0]
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go connectGuest(conn, to, answer)
		}
	}()
}

func connectGuest(conn net.Conn, to, answer string) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	var port int
	if _, err := fmt.Fscanf(r, "CONNECT %d\n", &port); err != nil || r.Buffered() > 0 {
		return // bytes before the answer are against the rules
	}
	guest, err := net.Dial("unix", fmt.Sprintf("%s_%d", to, port))
	if err != nil {
		return
	}
	defer guest.Close()
	_, _ = io.WriteString(conn, answer)
	go func() {
		_, _ = io.Copy(guest, r)
		_ = guest.Close()
	}()
	_, _ = io.Copy(conn, guest)
}

// TestErrors checks that what a user can put right ends the programs with status 1 and one line that
// says how.
func TestErrors(t *testing.T) {
	t.Parallel()
	n := newGateway(t)
	first := newClient(t, n.c1, "-s", gatewayC1)
	first.waitConnected()
	nameServer(t, n.c2)
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	writeFile(t, resolv, "nameserver 127.0.0.1\n")

	srv, cli := filepath.Join(bin, "vpnsrv"), filepath.Join(bin, "vpncli")
	nobody := []string{"setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"} // works in a user namespace, too
	noTUN := []string{"unshare", "-m", "sh", "-c", `mount -t tmpfs none /dev/net && exec "$@"`, "sh"}
	state := t.TempDir()
	for _, test := range []struct {
		name string
		ns   *lab.Namespace
		args []string
		want []string
	}{
		{"no root, client", n.c2, append(nobody, cli, "-s", gatewayC2), []string{"CAP_NET_ADMIN", "run as root (sudo vpncli"}},
		{"no root, gateway", n.c2, append(nobody, srv), []string{"CAP_NET_ADMIN", "run as root (sudo vpnsrv"}},
		{"no TUN, client", n.c2, append(noTUN, cli, "-s", gatewayC2), []string{"/dev/net/tun", "modprobe tun"}},
		{"no TUN, gateway", n.c2, append(noTUN, srv), []string{"/dev/net/tun", "modprobe tun"}},
		{"port taken", n.gw, []string{srv, "--state", state, "--tun", "vpn1", "--pool", "10.9.0.0/16", "--listen", "tcp://:2002"}, []string{"port 2002 is taken", "--listen"}},
		{"no such address", n.gw, []string{srv, "--state", state, "--tun", "vpn1", "--listen", "tcp://192.0.2.1:2002"}, []string{"no such address"}},
		{"interface taken", n.c1, []string{cli, "-s", gatewayC1}, []string{"ferry0", "--tun"}},
		{"interface of another kind", n.c1, []string{cli, "-s", gatewayC1, "--tun", "eth0"}, []string{"eth0"}},
		{"name not found", n.c2, withFile(resolv, "/etc/resolv.conf", cli, "-s", "no-such-gateway.test"), []string{"no-such-gateway.test", "check it, or use an address"}},
		{"outside the pool", n.c2, []string{cli, "-s", gatewayC2, "-a", "10.8.0.1"}, []string{"choose another with -a, or leave -a out"}},
		{"the gateway's own", n.c2, []string{cli, "-s", gatewayC2, "-a", gatewayVPN}, []string{"choose another with -a, or leave -a out"}},
		{"state cannot be written", n.gw, []string{srv, "--state", "/proc/ferry", "--tun", "vpn1", "--listen", "tcp://:2003"}, []string{"/proc/ferry"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := test.ns.Start(test.args...)
			if err != nil {
				t.Fatal(err)
			}
			if status, err := p.Wait(patience); err != nil || status != 1 {
				t.Fatalf("got status %d, %v, want 1\n%s", status, err, p.Output())
			}
			var own []string // without what was logged before
			for _, line := range strings.Split(p.Output(), "\n") {
				if strings.HasPrefix(line, "vpn") {
					own = append(own, line)
				}
			}
			if len(own) != 1 {
				t.Fatalf("got %d lines for the user, want 1:\n%s", len(own), p.Output())
			}
			for _, want := range test.want {
				if !strings.Contains(own[0], want) {
					t.Errorf("got %q, want %q in it", own[0], want)
				}
			}
		})
	}
	ping(t, n.c1, gatewayVPN, 2) // nothing of this has touched those who were there
}

// TestNoNameServer starts vpncli before the network is there, as at boot: it goes on trying.
// exam: F20
func TestNoNameServer(t *testing.T) {
	t.Parallel()
	n := newGateway(t)
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	writeFile(t, resolv, "nameserver 127.0.0.1\n")
	p := start(t, n.c2, withFile(resolv, "/etc/resolv.conf", filepath.Join(bin, "vpncli"), "-s", "gateway.test")...)
	await(t, p, "gateway.test can not be looked up: is a name server reachable?", 1)
	stop(t, p)
}

// nameServer knows no name at all.
func nameServer(t *testing.T, ns *lab.Namespace) {
	t.Helper()
	var conn net.PacketConn
	err := ns.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", "127.0.0.1:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() { // ends with the socket
		b := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			b[2], b[3] = 0x85, 0x83 // an authoritative answer: NXDOMAIN (RFC 1035, 4.1.1)
			_, _ = conn.WriteTo(b[:n], from)
		}
	}()
}

// TestNotify runs vpncli as systemd does: it is ready when it has an address.
func TestNotify(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n := newGateway(t)
	p := start(t, n.c1, "env", "NOTIFY_SOCKET="+path, filepath.Join(bin, "vpncli"), "-s", gatewayC1)
	b := make([]byte, 4096)
	for {
		size, err := conn.Read(b)
		if err != nil {
			t.Fatalf("no READY=1: %v", err)
		}
		if strings.Contains(string(b[:size]), "READY=1") {
			break
		}
	}
	if got := run(t, n.c1, "ip -4 -brief address show dev ferry0"); !strings.Contains(got, "10.0.254.254/16") {
		t.Errorf("ready without an address: %q", got)
	}
	stop(t, p)
	size, err := conn.Read(b)
	for err == nil && !strings.Contains(string(b[:size]), "STOPPING=1") {
		size, err = conn.Read(b)
	}
	if err != nil {
		t.Errorf("no STOPPING=1: %v", err)
	}
}
