package netns

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/api"
	"ferry/internal/identity"
	"ferry/test/lab"
	"ferry/test/rawvpn"
)

// TestOtherUser has another user of the gateway's host, and of the device: what is theirs is closed to him,
// and no process shows a secret.
// exam: S15
func TestOtherUser(t *testing.T) {
	t.Parallel()
	n := newSecure(t)
	dir := filepath.Join(t.TempDir(), "device")
	string1 := n.invite("cam1")
	join := start(t, n.c1, "sh", "-c", fmt.Sprintf("echo %s | exec %s/vpncli join - --state %s", string1, bin, dir))
	if status, err := join.Wait(patience); status != 0 || err != nil {
		t.Fatal(status, err)
	}
	d := newClient(t, n.c1, "--state", dir)
	d.waitConnected()
	for _, above := range []string{n.state, dir} { // so that only what Ferry made is in his way
		for p := filepath.Dir(above); p != "/"; p = filepath.Dir(p) {
			if info, err := os.Stat(p); err == nil && info.Mode().Perm()&0o005 != 0o005 {
				if err := os.Chmod(p, info.Mode().Perm()|0o055); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	const as = "setpriv --reuid 65534 --regid 65534 --clear-groups "
	if got := run(t, n.gw, as+"id -u"); strings.TrimSpace(got) != "65534" {
		t.Fatalf("he is %q", got)
	}
	run(t, n.gw, as+"ls "+filepath.Dir(n.state)) // so he gets as far as that
	tries := []string{"ls " + n.state, "ls " + dir}
	for _, f := range []string{"gateway.key", "peers.json", "leases", "control.sock"} {
		tries = append(tries, "cat "+filepath.Join(n.state, f), "test -e "+filepath.Join(n.state, f))
	}
	for _, f := range []string{"device.key", "gateway.json"} {
		tries = append(tries, "cat "+filepath.Join(dir, f), "test -e "+filepath.Join(dir, f))
	}
	tries = append(tries,
		fmt.Sprintf("%s/vpnsrv status --state %s", bin, n.state),
		"ip link set vpn0 down", "ip address flush dev vpn0", "ip tuntap del dev vpn0 mode tun", "ip tuntap add dev vpn0 mode tun")
	for _, p := range []*lab.Proc{n.srv, d.Proc} {
		for _, pid := range processes(t, p) {
			tries = append(tries, fmt.Sprintf("ls /proc/%d/fd", pid), fmt.Sprintf("cat /proc/%d/environ", pid), fmt.Sprintf("kill -0 %d", pid))
		}
	}
	for _, try := range tries {
		if out, err := n.gw.Run(as + try); err == nil && out != "" || err == nil && !strings.HasPrefix(try, "ls /proc") {
			t.Errorf("%s: works: %q", try, out)
		}
	}
	secrets := secretsOf(t, n.state, dir)
	secrets = append(secrets, string1)
	for _, p := range []*lab.Proc{n.srv, d.Proc} {
		for _, pid := range processes(t, p) {
			for _, what := range []string{"cmdline", "environ"} {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, what))
				if err != nil {
					t.Fatal(err)
				}
				showsNone(t, fmt.Sprintf("%s of process %d", what, pid), string(b), secrets)
			}
		}
	}
	ping(t, n.c1, gatewayVPN, 1)
}

// secretsOf are the secret halves of the keys in state directories, as anybody could print them.
func secretsOf(t *testing.T, dirs ...string) (all []string) {
	t.Helper()
	for _, dir := range dirs {
		keys, err := filepath.Glob(filepath.Join(dir, "*.key"))
		if err != nil || len(keys) != 1 {
			t.Fatalf("keys in %s: %q, %v", dir, keys, err)
		}
		text := string(readFile(t, keys[0]))
		middle := strings.Split(text, "\n")[1]
		der, err := base64.StdEncoding.DecodeString(middle)
		if err != nil || len(der) < 32 {
			t.Fatalf("%s: %v", keys[0], err)
		}
		all = append(all, spellings(der[len(der)-32:])...)
		all = append(all, middle)
	}
	return all
}

// spellings are the ways in which a secret may be printed.
func spellings(secret []byte) []string {
	return []string{
		string(secret), hex.EncodeToString(secret), strings.TrimRight(base64.StdEncoding.EncodeToString(secret), "="),
		base64.RawURLEncoding.EncodeToString(secret), strings.Trim(fmt.Sprint(secret), "[]"),
	}
}

func showsNone(t *testing.T, what, text string, secrets []string) {
	t.Helper()
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("%s shows the secret %q", what, s)
		}
	}
}

// get asks the gateway's control socket.
func (n *network) get(path string) (status int, body string) {
	n.t.Helper()
	c := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(n.state, api.SocketName))
		},
	}}
	r, err := c.Get("http://ferry" + path)
	if err != nil {
		n.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// series are the names of the metrics with their labels.
func series(text string) (all []string) {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			name, _, _ := strings.Cut(line, "} ")
			all = append(all, name)
		}
	}
	return all
}

// TestShowsNoSecrets looks at all that the gateway says of itself, also with log_level = debug: keys, secrets,
// tokens and what is inside of packets are not there; what strangers call themselves makes no labels; and
// there is nothing for debuggers.
// exam: H7, M13
func TestShowsNoSecrets(t *testing.T) {
	t.Parallel()
	n := newSecureFile(t, "metrics = '192.168.101.1:9102'\nlog_level = 'debug'", "--listen", "tcp://:2002?allow=both")
	dir := n.join(n.c1, "cam1")
	d := newClient(t, n.c1, "--state", dir, "--log-level", "debug")
	d.waitConnected()
	text := n.invite("cam2")
	open, err := identity.ParseInvitation(text)
	if err != nil {
		t.Fatal(err)
	}
	run(t, n.c1, "ping -n -q -c 3 -i 0.02 -p feedfacecafebeef "+gatewayVPN)
	guest := n.joinRaw(rawvpn.Ask{Features: rawvpn.All})
	if err := guest.SendIP(rawvpn.Echo(guest.Lease.Addr, gatewayAddr, 1, 1, []byte("inner-payload"))); err != nil {
		t.Fatal(err)
	}
	_, before := n.get("/metrics")
	for i := range 20 {
		name := fmt.Sprintf("x%d\n\x1b[2Jlevel=ERROR msg=forged\x00\u202e{a=\"b\"}", i)
		c := n.dialRaw()
		_ = c.Join(rawvpn.Ask{Features: rawvpn.All, Name: name})
		_ = c.Close()
	}
	until(t, patience, "they have left", func() bool { return n.status().Leases.Live <= 1 })
	_, after := n.get("/metrics")
	if a, b := series(before), series(after); len(b) > len(a)+8 {
		t.Errorf("20 strangers have made %d series of %d", len(b), len(a))
	}
	if m := regexp.MustCompile(`forged|cam1|10\.0\.\d`).FindString(after); m != "" {
		t.Errorf("metrics have %q", m)
	}
	n.report()
	all := map[string]string{"metrics": after, "log": n.srv.Output(), "log of the device": d.Output()}
	for _, path := range []string{"/v1/status", "/v1/sessions", "/v1/peers", "/v1/leases", "/v1/forwards", "/v1/routes", "/healthz"} {
		_, all[path] = n.get(path)
	}
	for _, cmd := range []string{"status", "sessions", "peer list", "peer list --json"} {
		all["vpnsrv "+cmd] = n.vpnsrv(cmd)
	}
	secrets := append(secretsOf(t, n.state, dir), spellings(open.Secret[:])...)
	secrets = append(secrets, spellings(guest.Lease.Token[:])...)
	secrets = append(secrets, text, "inner-payload", "feedface", "\xfe\xed\xfa\xce")
	for what, said := range all {
		showsNone(t, what, said, secrets)
		for _, c := range []string{"\x1b", "\x00", "\u202e", "\nlevel=ERROR msg=forged"} {
			if strings.Contains(said, c) {
				t.Errorf("%s has %q", what, c)
			}
		}
	}
	for _, path := range []string{"/debug/pprof/", "/debug/vars", "/debug/pprof/heap", "/v1/debug"} {
		if status, body := n.get(path); status != http.StatusNotFound {
			t.Errorf("%s: status %d, %.100s", path, status, body)
		}
		if got := n.byTCP(path); !strings.Contains(got, " 404 ") {
			t.Errorf("%s by TCP: %.100q", path, got)
		}
	}
	if got := n.byTCP("/metrics"); !strings.Contains(got, "ferry_sessions 2") {
		t.Errorf("metrics by TCP: %.300q", got)
	}
}

// byTCP asks the listener for metrics from c1.
func (n *network) byTCP(path string) string {
	n.t.Helper()
	var conn net.Conn
	if err := n.c1.Do(func() (err error) { conn, err = net.Dial("tcp", "192.168.101.1:9102"); return err }); err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: 192.168.101.1:9102\r\nConnection: close\r\n\r\n", path); err != nil {
		n.t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(b)
}

// TestBusyOperator opens a thousand connections to the control socket, twenty times a second, each with half of a
// request or with a whole one, while a client pings: hardly slower than beside the same at another gateway of this machine, which takes
// as much of its cores.
// exam: H3
func TestBusyOperator(t *testing.T) {
	const slowest, ratio = 20 * time.Millisecond, 4 // of 99 in 100, and this machine may do other things
	n := newRawGateway(t)
	c := n.joinRaw(rawvpn.Ask{})
	other := filepath.Join(t.TempDir(), "other")
	await(t, start(t, n.lan, filepath.Join(bin, "vpnsrv"), "--exit", "user", "--listen", "tcp://127.0.0.1:2002", "--state", other, "--config="), "msg=serving", 0)
	beside := pingsBesideCrowd(t, c, filepath.Join(other, api.SocketName))
	p99 := pingsBesideCrowd(t, c, filepath.Join(n.state, api.SocketName))
	if p99 > max(slowest, ratio*beside) {
		t.Errorf("99 of 100 pings took up to %s; want %s, or %d times the %s beside another gateway", p99, slowest, ratio, beside)
	}
	t.Logf("exam: H3: p99 of pings %s, beside the same at another gateway %s: ratio %.2f", p99, beside, float64(p99)/float64(beside))
	until(t, patience, "the operator is answered", func() bool { _, err := api.NewClient(n.state).Status(t.Context()); return err == nil })
	n.alive()
}

// pingsBesideCrowd returns what 99 of 100 pings of c take at most, while a crowd opens connections to a socket.
func pingsBesideCrowd(t *testing.T, c *rawvpn.Client, path string) time.Duration {
	t.Helper()
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() { crowdAt(path, stop) })
	end := time.Now().Add(2 * time.Second)
	p99, err := percentile(c, func() bool { return time.Now().After(end) })
	close(stop)
	all.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return p99
}

// crowdAt opens connections to a socket, as many as it takes, until stop.
func crowdAt(path string, stop <-chan struct{}) {
	const atOnce, rounds = 1000, 20 // in each second
	ticker := time.NewTicker(time.Second / rounds)
	defer ticker.Stop()
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	for !isClosed(stop) {
		<-ticker.C
		for i, conn := range conns {
			if i%2 == 0 { // the others end without a request
				_, _ = io.WriteString(conn, "\r\n")
			}
			_ = conn.Close()
		}
		conns = conns[:0]
		for range atOnce {
			conn, err := net.Dial("unix", path)
			if err != nil {
				break // the backlog is full
			}
			_, _ = io.WriteString(conn, "GET /v1/sessions HTTP/1.1\r\nHost: ferry\r\n")
			conns = append(conns, conn)
		}
	}
}

// TestSynFlood sends SYNs of addresses that do not answer, as fast as it can: the kernel's cookies let those
// in who mean it.
// exam: R8
func TestSynFlood(t *testing.T) {
	n := newOpen(t)
	run(t, n.gw, "ip route add 10.77.0.0/16 via 192.168.101.2") // c1 does not forward: nobody answers
	stop, sent := make(chan struct{}), make(chan int, 1)
	go func() {
		count := 0
		err := n.c1.Do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for ; !isClosed(stop); count++ {
				src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, byte(rand.IntN(256)), byte(1 + rand.IntN(250))}), uint16(1024+rand.IntN(60000)))
				err := unix.Sendto(fd, syn(src, netip.MustParseAddrPort(gatewayC1+":2002")), 0, &unix.SockaddrInet4{Addr: [4]byte{192, 168, 101, 1}})
				if err != nil && !errors.Is(err, unix.ENOBUFS) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		sent <- count
	}()
	until(t, patience, "the kernel answers with cookies", func() bool { return n.tcpExt("SyncookiesSent") > 1000 })
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for range 20 {
		<-ticker.C
		if took := n.joins(n.c2, gatewayC2); took > time.Second {
			t.Errorf("a client that means well needed %s", took)
		}
	}
	close(stop)
	count := <-sent
	t.Logf("exam: R8: %d SYNs, %d cookies", count, n.tcpExt("SyncookiesSent"))
	if took := n.joins(n.c1, gatewayC1); took > time.Second {
		t.Errorf("afterwards a client needed %s", took)
	}
}

// syn is the first packet of a connection.
func syn(src, dst netip.AddrPort) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint32(b[4:], rand.Uint32())
	b[12], b[13], b[14] = 5<<4, 2, 0xff
	ip := rawvpn.IPv4(src.Addr(), dst.Addr(), rawvpn.TCP, b)
	sum := uint32(rawvpn.TCP + len(b)) // the pseudo-header: both addresses, protocol, length
	for i := 12; i < len(ip); i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(ip[20+16:], ^uint16(sum>>16+sum))
	return ip
}

// tcpExt is a counter of the kernel for the gateway's namespace.
func (n *network) tcpExt(name string) int {
	n.t.Helper()
	var names []string
	for line := range strings.Lines(run(n.t, n.gw, "cat /proc/thread-self/net/netstat")) {
		words := strings.Fields(line)
		if words[0] != "TcpExt:" {
			continue
		}
		if names == nil {
			names = words
			continue
		}
		for i, w := range names {
			if w == name {
				v, _ := strconv.Atoi(words[i])
				return v
			}
		}
	}
	n.t.Fatalf("no counter %s", name)
	return 0
}

// TestFragments sends 60,000 first fragments whose rest never comes: each goes where it should, and the
// gateway remembers none.
// exam: R11
func TestFragments(t *testing.T) {
	const count, slack = 60_000, 8 << 20
	n := newRawGateway(t)
	from, to := n.joinRaw(rawvpn.Ask{Features: rawvpn.All}), n.joinRaw(rawvpn.Ask{Features: rawvpn.All})
	n.alive()
	memory := 0
	for _, pid := range processes(t, n.srv) {
		memory += statusOf(t, pid, "VmRSS") << 10
	}
	const batch = 100
	got, under := make(chan error, 1), make(chan struct{}, 10) // as many batches under way as a queue takes
	go func() {
		for i := range count {
			if item, err := to.ReadItem(); err != nil || item.Kind != rawvpn.KindPacket {
				got <- fmt.Errorf("packet %d: got %s, %w", i, item.Kind, err)
				return
			}
			if i%batch == batch-1 {
				<-under
			}
		}
		got <- nil
	}()
	for i := 0; i < count; i += batch {
		select {
		case under <- struct{}{}:
		case err := <-got:
			t.Fatalf("%v; drops %v", err, n.report().maps["drops"])
		}
		var b []byte
		for j := range batch {
			ip := rawvpn.IPv4(from.Lease.Addr, to.Lease.Addr, rawvpn.UDP, make([]byte, 64))
			binary.BigEndian.PutUint16(ip[4:], uint16(i+j))
			ip[6] = 0x20 // more fragments
			rawvpn.SetTTL(ip, 64)
			b = append(b, from.Wrap(ip)...)
		}
		send(t, from, b)
	}
	if err := <-got; err != nil {
		t.Fatalf("%v; drops %v", err, n.report().maps["drops"])
	}
	after := 0
	for _, pid := range processes(t, n.srv) {
		after += statusOf(t, pid, "VmRSS") << 10
	}
	t.Logf("exam: R11: memory of the gateway %+d KiB", (after-memory)>>10)
	if after > memory+slack {
		t.Errorf("memory has grown by %d KiB", (after-memory)>>10)
	}
	n.alive()
}
