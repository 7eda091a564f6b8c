package netns

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ferry/internal/client"
	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// stockURL is where a client that knows RFC 9484 and nothing of Ferry comes to.
const stockURL = "https://%s/.well-known/masque/ip/*/*/"

// A stock is a client of connect-ip-go: test/tools/connectip.
type stock struct {
	*lab.Proc
	t  *testing.T
	ns *lab.Namespace
}

// buildStock builds the program.
func buildStock(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "connectip")
	build := exec.Command("go", "build", "-o", path, "ferry/test/tools/connectip")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// newStock starts one. It may end by itself.
func newStock(t *testing.T, program string, ns *lab.Namespace, host string, args ...string) *stock {
	t.Helper()
	p, err := ns.Start(append([]string{program, "-url", fmt.Sprintf(stockURL, host)}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = p.Stop(patience)
		if t.Failed() {
			t.Logf("%s: connectip %s\n%s", ns.Name, strings.Join(args, " "), p.Output())
		}
	})
	return &stock{p, t, ns}
}

// assigned waits for the interface, and returns its address.
func (s *stock) assigned() string {
	s.t.Helper()
	await(s.t, s.Proc, "up", 0)
	return regexp.MustCompile(`assigned (\S+)/32`).FindStringSubmatch(s.Output())[1]
}

// certificate writes what 'vpncli certificate' prints to a file, and returns its path and the gateway's pin in it.
func certificate(t *testing.T, ns *lab.Namespace, state string) (path, pin string) {
	t.Helper()
	text := run(t, ns, bin+"/vpncli certificate --state "+state)
	path = filepath.Join(t.TempDir(), "device.pem")
	writeFile(t, path, text)
	if m := regexp.MustCompile(`# gateway (\S+)`).FindStringSubmatch(text); m != nil {
		pin = m[1]
	}
	return path, pin
}

// TestStock: a client of connect-ip-go with the key of a device has the device's address, passes traffic of all kinds both ways
// with the gateway and with a client of Ferry's, and is gone when it is removed.
func TestStock(t *testing.T) {
	t.Parallel()
	program := buildStock(t)
	n := newSecure(t, "--listen", "tcp://:2002", "--listen", "connect-ip://:443", "--mtu", "1500")
	cert, pin := certificate(t, n.c1, n.join(n.c1, "stock1"))
	s := newStock(t, program, n.c1, gatewayC1, "-cert", cert, "-pin", pin)
	addr := s.assigned()
	if addr != "10.0.127.254" {
		t.Errorf("it has %s, want that of the device", addr)
	}
	await(t, s.Proc, "route 10.0.0.0-10.0.255.255", 0)
	other := newClient(t, n.c2, "--state", n.join(n.c2, "cam1"), "-s", "tcp://"+gatewayC2)
	otherAddr := other.waitConnected()

	ping(t, n.c1, gatewayVPN, 3)
	ping(t, n.c1, otherAddr, 3)
	ping(t, n.gw, addr, 3)
	ping(t, n.c2, addr, 3)
	transfer(t, n.c1, n.gw, gatewayVPN, 8<<20, 30*time.Second)
	transfer(t, n.gw, n.c1, addr, 8<<20, 30*time.Second)
	transfer(t, n.c2, n.c1, addr, 4<<20, 30*time.Second)
	run(t, n.c2, "ping -n -q -c 3 -i 0.05 -s 8000 "+addr) // in fragments
	up := newNumberedStream(t, n.c1, n.gw, gatewayVPN, time.Millisecond)
	down := newNumberedStream(t, n.gw, n.c1, addr, time.Millisecond)
	time.Sleep(300 * time.Millisecond)
	for name, s := range map[string]*numberedStream{"up": up, "down": down} {
		if lost, doubled, _, _ := s.end(); doubled > 0 || lost > s.sent/20 {
			t.Errorf("UDP %s: of %d packets %d are lost, %d came twice", name, s.sent, lost, doubled)
		}
	}
	if out, err := n.gw.Run("ping -n -c 1 -W 3 -M do -s 1472 " + addr); err == nil || !strings.Contains(out, "mtu") {
		t.Errorf("a packet of 1500 bytes that must not be fragmented: %v\n%s", err, out)
	}
	until(t, 2*patience, "the path is known to carry more", func() bool {
		run(t, n.gw, "ip route flush cache") // the kernel has heard of less
		out, _ := n.gw.Run("ping -n -q -c 1 -W 1 -M do -s 1350 " + addr)
		return strings.Contains(out, "1 received")
	})
	if st := n.vpnsrv("sessions"); !strings.Contains(st, addr) {
		t.Errorf("vpnsrv status does not show it:\n%s", st)
	}

	for _, tt := range []struct{ name, args, want string }{
		{"no certificate", "", "refused 403"},
		{"a key that nobody has added", "-cert " + stranger(t, n.c3), "refused 403"},
	} {
		s := newStock(t, program, n.c3, gatewayC3, strings.Fields(tt.args)...)
		await(t, s.Proc, tt.want, 0)
		if status, err := s.Wait(patience); status != 1 || err != nil {
			t.Errorf("%s: status %d, %v", tt.name, status, err)
		}
	}

	began := time.Now()
	n.vpnsrv("peer rm stock1")
	await(t, s.Proc, "ended", 0)
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("who was removed was there for %s", d)
	}
	if st := n.vpnsrv("sessions"); strings.Contains(st, addr) {
		t.Errorf("vpnsrv status shows it still:\n%s", st)
	}
}

// stranger returns a certificate with a key that no gateway knows.
func stranger(t *testing.T, ns *lab.Namespace) string {
	t.Helper()
	path, _ := certificate(t, ns, filepath.Join(t.TempDir(), "device"))
	return path
}

// TestStockPlain: where a listener allows clients without a key, each has an address of the pool as long as it is there.
func TestStockPlain(t *testing.T) {
	t.Parallel()
	program := buildStock(t)
	n := newGateway(t, "--listen", "connect-ip://:443?allow=plain")
	one := newStock(t, program, n.c1, gatewayC1)
	two := newStock(t, program, n.c2, gatewayC2, "-request", "10.0.3.7")
	a, b := one.assigned(), two.assigned()
	if b != "10.0.3.7" || a == b {
		t.Errorf("they have %s and %s", a, b)
	}
	ping(t, n.c1, b, 3)
	ping(t, n.c2, a, 3)
	taken := newStock(t, program, n.c3, gatewayC3, "-request", b)
	await(t, taken.Proc, "rejected 1", 0)
	if c := taken.assigned(); c == a || c == b {
		t.Errorf("the third has %s", c)
	}
	ping(t, n.c3, gatewayVPN, 1)
	if _, err := two.Stop(patience); err != nil {
		t.Fatal(err)
	}
	until(t, patience, "the address is free", func() bool { return !strings.Contains(n.vpnsrv("sessions"), b) })
	again := newStock(t, program, n.c2, gatewayC2, "-request", b)
	if got := again.assigned(); got != b {
		t.Errorf("the address that was freed: got %s", got)
	}
}

// A capsules is a client of RFC 9484 over HTTP/1.1, as its text has it, byte by byte.
type capsules struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

// getIP makes the request of RFC 9484, section 4.4, over TLS, and returns the first line of the answer and what comes of it.
func getIP(t *testing.T, ns *lab.Namespace, addr, cert string) (*capsules, string) {
	t.Helper()
	c := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	if cert != "" {
		own, err := tls.LoadX509KeyPair(cert, cert)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{own}
	}
	var raw net.Conn
	if err := ns.Do(func() (err error) { raw, err = net.DialTimeout("tcp4", addr, patience); return err }); err != nil {
		t.Fatal(err)
	}
	return askIP(t, tls.Client(raw, c))
}

// askIP is getIP on a connection.
func askIP(t *testing.T, conn net.Conn) (*capsules, string) {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(4 * patience))
	_, err := io.WriteString(conn, "GET /.well-known/masque/ip/*/*/ HTTP/1.1\r\nHost: gateway.example\r\n"+
		"Connection: Upgrade\r\nUpgrade: connect-ip\r\nCapsule-Protocol: ?1\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	k := &capsules{t, conn, bufio.NewReader(conn)}
	status, err := k.in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	head := ""
	for line := ""; line != "\r\n"; head += line {
		if line, err = k.in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(status, " 101 ") {
		for _, want := range []string{"connection: upgrade\r\n", "upgrade: connect-ip\r\n", "capsule-protocol: ?1\r\n"} {
			if !strings.Contains(strings.ToLower(head), want) {
				t.Errorf("the answer has no %q:\n%s", want, head)
			}
		}
	}
	return k, strings.TrimSpace(status)
}

// integer reads one of RFC 9000, section 16.
func (k *capsules) integer() (v uint64, err error) {
	b, err := k.in.ReadByte()
	if err != nil {
		return 0, err
	}
	v = uint64(b & 63)
	for range 1<<(b>>6) - 1 {
		if b, err = k.in.ReadByte(); err != nil {
			return 0, err
		}
		v = v<<8 + uint64(b)
	}
	return v, nil
}

// next returns the type and the value of the next capsule: RFC 9297, section 3.2.
func (k *capsules) next() (kind uint64, value []byte, err error) {
	if kind, err = k.integer(); err != nil {
		return 0, nil, err
	}
	n, err := k.integer()
	if err != nil {
		return 0, nil, err
	}
	value = make([]byte, n)
	_, err = io.ReadFull(k.in, value)
	return kind, value, err
}

// assigned reads the ADDRESS_ASSIGN and the ROUTE_ADVERTISEMENT that a session begins with: RFC 9484, sections 4.7.1 and 4.7.3.
func (k *capsules) assigned() netip.Addr {
	k.t.Helper()
	kind, v, err := k.next()
	if err != nil || kind != 1 || len(v) != 7 || v[0] != 0 || v[1] != 4 || v[6] != 32 {
		k.t.Fatalf("the first capsule is of type %d: % x, %v", kind, v, err)
	}
	if kind, v, err := k.next(); err != nil || kind != 3 || !bytes.Equal(v, []byte{4, 10, 0, 0, 0, 10, 0, 255, 255, 0}) {
		k.t.Fatalf("the second capsule is of type %d: % x, %v", kind, v, err)
	}
	return netip.AddrFrom4([4]byte(v[2:6]))
}

// send sends a packet in a DATAGRAM capsule with context 0: RFC 9484, section 6.
func (k *capsules) send(packet []byte) {
	k.t.Helper()
	n := len(packet) + 1
	if _, err := k.Write(append([]byte{0, 0x40 | byte(n>>8), byte(n), 0}, packet...)); err != nil {
		k.t.Fatal(err)
	}
}

// packet returns the next one.
func (k *capsules) packet() ([]byte, error) {
	kind, v, err := k.next()
	if err == nil && (kind != 0 || len(v) < 21 || v[0] != 0) {
		return nil, fmt.Errorf("a capsule of type %d: % x", kind, v)
	}
	if err != nil {
		return nil, err
	}
	return v[1:], nil
}

// ping sends an echo request, and wants the answer to be the next packet.
func (k *capsules) ping(src netip.Addr, seq uint16) {
	k.t.Helper()
	gateway := netip.MustParseAddr(gatewayVPN)
	k.send(rawvpn.Echo(src, gateway, 7, seq, make([]byte, 600)))
	got, err := k.packet()
	if err != nil {
		k.t.Fatal(err)
	}
	if err := rawvpn.Intact(got); err != nil || rawvpn.Src(got) != gateway || rawvpn.Dst(got) != src || got[20] != 0 || binary.BigEndian.Uint16(got[26:]) != seq {
		k.t.Errorf("the answer to ping %d is % x, %v", seq, got, err)
	}
}

// TestStockHTTP1: a client by HTTP/1.1 has the address of its key, what is not its own is dropped, what it says beyond RFC 9484 is
// passed over, and it is gone when it is removed.
func TestStockHTTP1(t *testing.T) {
	t.Parallel()
	n := newSecure(t, "--listen", "tcp://:2002", "--listen", "wss://:443")
	cert, _ := certificate(t, n.c1, n.join(n.c1, "stock1"))
	at := gatewayC1 + ":443"
	for name, cert := range map[string]string{"no certificate": "", "an unknown key": stranger(t, n.c1)} {
		k, status := getIP(t, n.c1, at, cert)
		if page, err := io.ReadAll(k.in); status != "HTTP/1.1 403 Forbidden" || err != nil || !strings.Contains(string(page), "vpn") {
			t.Errorf("%s: %s, %s, %v", name, status, page, err)
		}
	}
	k, status := getIP(t, n.c1, at, cert)
	if status != "HTTP/1.1 101 Switching Protocols" {
		t.Fatal(status)
	}
	own := k.assigned()
	if own.String() != "10.0.127.254" {
		t.Errorf("it has %s", own)
	}
	for seq := range uint16(3) {
		k.ping(own, seq)
	}
	_, _ = k.Write([]byte{0x40, 64, 2, 1, 2}) // a type that nobody has, RFC 9297, section 5.4
	k.send(rawvpn.Echo(netip.MustParseAddr("10.0.127.253"), netip.MustParseAddr(gatewayVPN), 7, 99, nil))
	k.ping(own, 3) // and no answer to 99 before
	if st := n.vpnsrv("status"); !strings.Contains(st, "source 1") {
		t.Errorf("the foreign source was not counted:\n%s", st)
	}
	_, _ = k.Write([]byte{2, 7, 5, 4, 10, 0, 3, 3, 32}) // another address, which this device does not have: ADDRESS_REQUEST 5
	kind, v, err := k.next()
	if want := []byte{5, 4, 0, 0, 0, 0, 32, 0, 4, 10, 0, 127, 254, 32}; err != nil || kind != 1 || !bytes.Equal(v, want) {
		t.Errorf("the answer is of type %d: % x, %v", kind, v, err)
	}
	n.vpnsrv("peer rm stock1")
	if _, err := k.packet(); !errors.Is(err, io.EOF) {
		t.Errorf("removed: got %v, want EOF", err)
	}
}

// TestJoinByConnectIP: a device that gets out by HTTP/3 alone, or by HTTP/1.1 alone, joins and connects.
func TestJoinByConnectIP(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"connect-ip", "connect-ip+h1"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			n := newSecure(t, "--listen", scheme+"://:443", "--public", scheme+"://"+gatewayC1)
			dev := newClient(t, n.c1, "--state", n.join(n.c1, "cam1"))
			addr := dev.waitConnected()
			ping(t, n.c1, gatewayVPN, 3)
			transfer(t, n.c1, n.gw, gatewayVPN, 8<<20, 30*time.Second)
			transfer(t, n.gw, n.c1, addr, 8<<20, 30*time.Second)
			began := time.Now()
			n.vpnsrv("peer rm cam1")
			lost := dev.event(client.EventLost, 0)
			if d := lost.Time.Sub(began); d > 2*time.Second || !strings.Contains(lost.Reason, "removed") {
				t.Errorf("removed: %s, %q", d, lost.Reason)
			}
			if again := dev.event(client.EventReconnecting, 1); !strings.Contains(again.Reason, "does not take this device's key") {
				t.Errorf("a removed device hears %q", again.Reason)
			}
		})
	}
}
