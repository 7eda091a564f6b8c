package netns

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/api"
	"ferry/test/lab"
)

// A machine is a kernel without a client. Its network card is a TAP, whose cable ends in a socket of vpnsrv:
//
//	c1: tap0 <--frames--> the test <--length, frame--> qemu.sock <-- vpnsrv in gw
//
// It gets its address as every Linux does: by DHCP.
type machine struct {
	t   *testing.T
	ns  *lab.Namespace
	mac string
}

// leaseScript is what udhcpc calls when it has a lease: what a distribution would do, and a note of what it was told.
const leaseScript = `#!/bin/sh
[ "$1" = bound ] || exit 0
ip address flush dev $interface
ip address add $ip/$mask dev $interface
ip link set $interface mtu $mtu
ip route replace default via $router
echo "$ip/$mask router=$router mtu=$mtu dns=$dns search=$search lease=$lease" >&2
`

// plug makes a machine and plugs its cable in. unplug pulls it out.
func plug(t *testing.T, ns *lab.Namespace, socket, mac string) (m *machine, unplug func()) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	return plugInto(t, ns, conn, mac)
}

// plugInto is plug with a connection, to which each frame has its length before it.
func plugInto(t *testing.T, ns *lab.Namespace, conn net.Conn, mac string) (m *machine, unplug func()) {
	t.Helper()
	var tap *os.File
	if err := ns.Do(func() (err error) { tap, err = openTAP("tap0"); return err }); err != nil {
		t.Fatal(err)
	}
	run(t, ns, "ip link set tap0 address "+mac)
	run(t, ns, "ip link set tap0 up")
	var pumps sync.WaitGroup
	pumps.Go(func() { _ = fromTAP(conn, tap) })
	pumps.Go(func() { _ = toTAP(tap, conn) })
	unplug = sync.OnceFunc(func() {
		_, _ = conn.Close(), tap.Close()
		pumps.Wait()
	})
	t.Cleanup(unplug)
	return &machine{t, ns, mac}, unplug
}

func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

func fromTAP(conn net.Conn, tap *os.File) error {
	b := make([]byte, 4+65536)
	for {
		n, err := tap.Read(b[4:])
		if err != nil {
			return err
		}
		binary.BigEndian.PutUint32(b, uint32(n))
		if _, err := conn.Write(b[:4+n]); err != nil {
			return err
		}
	}
}

func toTAP(tap *os.File, conn net.Conn) error {
	b := make([]byte, 65536)
	for {
		if _, err := io.ReadFull(conn, b[:4]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(b)
		if _, err := io.ReadFull(conn, b[:n]); err != nil {
			return err
		}
		if _, err := tap.Write(b[:n]); err != nil {
			return err
		}
	}
}

// dhcp gets an address, and returns it with what the machine was told.
func (m *machine) dhcp(options string) (addr, told string) {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(leaseScript), 0o755); err != nil {
		m.t.Fatal(err)
	}
	out := run(m.t, m.ns, "busybox udhcpc -f -q -n -O search -O mtu -i tap0 -s "+path+" "+options)
	for line := range strings.Lines(out) {
		if strings.Contains(line, "router=") {
			addr, _, _ = strings.Cut(line, "/")
			return addr, strings.TrimSpace(line)
		}
	}
	m.t.Fatalf("no lease: %s", out)
	return "", ""
}

// sessions asks the gateway.
func (n *network) machines() (all []api.Session) {
	n.t.Helper()
	out := run(n.t, n.gw, filepath.Join(bin, "vpnsrv")+" sessions --json --state "+n.state)
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		n.t.Fatalf("%s: %v", out, err)
	}
	return all
}

// Machines without a client get addresses by DHCP, and reach the gateway, each other, a client, and what is behind the gateway, as they
// are reached; under the address of another nobody sends. Their names are their MACs, and who comes back has its address again.
func TestMachines(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "qemu.sock")
	n := newGateway(t, "--nat", "--l2-listen", "qemu+unix://"+socket, "--push-dns", "10.0.0.1", "--push-domains", "site.example")
	c3 := newClient(t, n.c3, "-s", gatewayC3).waitConnected()
	one, unplug := plug(t, n.c1, socket, "52:54:00:00:00:01")
	two, _ := plug(t, n.c2, socket, "52:54:00:00:00:02")
	addr1, told := one.dhcp("")
	if want := addr1 + "/16 router=10.0.0.1 mtu=1500 dns=10.0.0.1 search=site.example lease=3600"; told != want {
		t.Errorf("told %q, want %q", told, want)
	}
	addr2, _ := two.dhcp("")

	for _, to := range []string{gatewayVPN, addr2, c3, lanHost} {
		run(t, n.c1, "ping -c 2 -i 0.2 -W 5 "+to)
	}
	run(t, n.gw, "ping -c 2 -i 0.2 -W 5 "+addr1)
	run(t, n.c3, "ping -c 2 -i 0.2 -W 5 "+addr1)
	run(t, n.c3, "ping -c 1 -W 5 -M do -s 1472 "+addr1) // a whole MTU
	t.Logf("machine to machine %.0f Mbit/s, to a client %.0f, from it %.0f",
		iperf(t, n.c1, n.c2, addr2, false)/1e6, iperf(t, n.c1, n.c3, c3, false)/1e6, iperf(t, n.c1, n.c3, c3, true)/1e6)

	run(t, n.c1, "ip address add 10.0.77.77/32 dev tap0")
	if out, err := n.c1.Run("ping -c 1 -W 1 -I 10.0.77.77 " + addr2); err == nil {
		t.Errorf("under the address of another: %s", out)
	}
	found := false
	for _, s := range n.machines() {
		if s.Address == netip.MustParseAddr(addr1) {
			found = true
			if s.Name != "52-54-00-00-00-01" || s.From != socket || s.Drops["source"] == 0 || s.Drops["l2_ipv6"] == 0 {
				t.Errorf("got %+v", s)
			}
		}
	}
	if !found {
		t.Errorf("%s is not among the sessions", addr1)
	}

	unplug()
	await(t, n.srv, "client left", 0)
	stranger, _ := plug(t, n.lan, socket, "52:54:00:00:00:03")
	if a, _ := stranger.dhcp(""); a == addr1 || a == addr2 {
		t.Errorf("a stranger got %s, which is held", a)
	}
	one, unplug = plug(t, n.c1, socket, "52:54:00:00:00:01")
	if a, _ := one.dhcp(""); a != addr1 {
		t.Errorf("came back and got %s, had %s", a, addr1)
	}
	if a, _ := one.dhcp("-r 10.0.99.99"); a != addr1 {
		t.Errorf("asked for another and got %s, has %s", a, addr1)
	}
	unplug()
	stop(t, n.srv)
	n.startGateway(n.args...)
	one, _ = plug(t, n.c1, socket, "52:54:00:00:00:01")
	if a, _ := one.dhcp(""); a != addr1 {
		t.Errorf("after a restart of the gateway: got %s, had %s", a, addr1)
	}
}

// A lengthless connection takes and gives frames with a length before them, and has datagrams of a frame.
type lengthless struct {
	net.Conn
	frame []byte // that Read has begun to give
}

func (l *lengthless) Write(b []byte) (int, error) {
	n, err := l.Conn.Write(b[4:])
	return 4 + n, err
}

func (l *lengthless) Read(b []byte) (int, error) {
	if len(l.frame) == 0 {
		frame := make([]byte, 65536)
		n, err := l.Conn.Read(frame[4:])
		if err != nil {
			return 0, err
		}
		binary.BigEndian.PutUint32(frame, uint32(n))
		l.frame = frame[:4+n]
	}
	n := copy(b, l.frame)
	l.frame = l.frame[n:]
	return n, nil
}

// Machines of User-mode Linux and vfkit, whose frames are messages. vpnsrv has no rights any more when it answers them.
func TestMachineKinds(t *testing.T) {
	dir := t.TempDir()
	bess, vfkit, guest := filepath.Join(dir, "bess.sock"), filepath.Join(dir, "vfkit.sock"), filepath.Join(dir, "guest.sock")
	n := newGateway(t, "--l2-listen", "bess+unix://"+bess, "--l2-listen", "vfkit+unix://"+vfkit)
	uml, err := net.Dial("unixpacket", bess)
	if err != nil {
		t.Fatal(err)
	}
	apple, err := net.DialUnix("unixgram", &net.UnixAddr{Name: guest, Net: "unixgram"}, &net.UnixAddr{Name: vfkit, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Dir(dir), guest} { // vpnsrv is another user, who answers there
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := apple.Write([]byte("VFKT")); err != nil {
		t.Fatal(err)
	}
	one, _ := plugInto(t, n.c1, &lengthless{Conn: uml}, "52:54:00:00:00:01")
	two, _ := plugInto(t, n.c2, &lengthless{Conn: apple}, "52:54:00:00:00:02")
	addr1, _ := one.dhcp("")
	two.dhcp("")
	run(t, n.c2, "ping -c 2 -i 0.2 -W 5 "+addr1)
	run(t, n.c2, "ping -c 2 -i 0.2 -W 5 "+gatewayVPN)
	t.Logf("%.0f Mbit/s", iperf(t, n.c2, n.c1, addr1, false)/1e6)
	stop(t, n.srv)
	for _, path := range []string{bess, vfkit} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

// A program that starts vpnsrv with pipes is a machine: it asks where the gateway is, and gets an answer; and vpnsrv stops as ever.
func TestMachineOfStdio(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(filepath.Join(bin, "vpnsrv"), "--exit", "user", "--config=", "--state", filepath.Join(dir, "state"), "--listen", "unix://"+filepath.Join(dir, "s"), "--l2-listen", "stdio:")
	var log strings.Builder
	cmd.Stderr = &log
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, log.String())
		}
	}()
	whoHas := []byte("\x2a\x00\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01\x52\x54\x00\x00\x00\x01\x0a\x00\x07\x07\x00\x00\x00\x00\x00\x00\x0a\x00\x00\x01")
	if _, err := in.Write(whoHas); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(whoHas))
	if _, err := io.ReadFull(out, got); err != nil {
		t.Fatal(err)
	}
	if want := "\x2a\x00\x52\x54\x00\x00\x00\x01\x5a\x94\xef\xe4\x0c\xdd\x08\x06"; !strings.HasPrefix(string(got), want) {
		t.Errorf("got %x", got)
	}
}

// The same without root: the machine reaches a server behind the gateway through sockets of vpnsrv.
func TestMachineOfUserExit(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "qemu.sock")
	n := newGateway(t, "--exit", "user", "--l2-listen", "qemu+unix://"+socket)
	m, _ := plug(t, n.c1, socket, "52:54:00:00:00:01")
	m.dhcp("")
	var l net.Listener
	if err := n.lan.Do(func() (err error) { l, err = net.Listen("tcp4", lanHost+":80"); return err }); err != nil {
		t.Fatal(err)
	}
	body := strings.Repeat("ferry", 200_000)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	var got []byte
	err := n.c1.Do(func() error {
		conn, err := net.DialTimeout("tcp4", lanHost+":80", patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		got, err = io.ReadAll(conn)
		return err
	})
	if err != nil || !strings.HasSuffix(string(got), body) {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(body))
	}
}
