package netns

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ferry/test/lab"
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
	if out, err := n.gw.Run("ping -n -c 1 -W 3 -M do -s 1472 " + addr); err == nil || !strings.Contains(out, "mtu") {
		t.Errorf("a packet of 1500 bytes that must not be fragmented: %v\n%s", err, out)
	}
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
