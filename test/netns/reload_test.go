package netns

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/internal/api"
	"ferry/internal/client"
)

// A settings file that is changed while its gateway runs.
type settingsFile struct {
	t    *testing.T
	path string
	init string // as 'vpnsrv init' made it
}

func newSettings(t *testing.T, n *network) *settingsFile {
	t.Helper()
	for i, a := range n.args {
		if a == "--config" {
			return &settingsFile{t, n.args[i+1], string(readFile(t, n.args[i+1]))}
		}
	}
	t.Fatal("the gateway has no file")
	return nil
}

// add puts lines behind those of init, in the place of earlier ones.
func (f *settingsFile) add(lines string) {
	f.t.Helper()
	if err := os.WriteFile(f.path, []byte(f.init+lines), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// A reload under traffic: a download, and pings of another device, go on as if nothing had happened; what may
// not be any more ends within a second.
func TestReloadUnderTraffic(t *testing.T) {
	t.Parallel()
	n := newSecure(t, "--listen", "tcp://:2002?allow=both")
	file := newSettings(t, n)
	cam := newClient(t, n.c1, "--state", n.join(n.c1, "cam1"))
	cam.waitConnected()
	guest := newClient(t, n.c2, "-s", gatewayC2, "-a", "10.0.200.7", "--plain")
	guest.waitConnected()

	var done api.Reloaded
	reload := func() {
		t.Helper()
		if err := json.Unmarshal([]byte(n.vpnsrv("reload --json")), &done); err != nil {
			t.Fatal(err)
		}
	}
	var leases []api.Lease
	if err := json.Unmarshal([]byte(n.vpnsrv("leases --json")), &leases); err != nil || len(leases) != 1 || leases[0].Address.String() != "10.0.200.7" || leases[0].Session != 2 {
		t.Errorf("leases %+v, %v", leases, err)
	}
	pings := start(t, n.c2, "ping", "-n", "-i", "0.01", "-W", "3", gatewayVPN)
	flow := newSession(t, n.c1, n.gw, gatewayVPN)
	unload := load(t, dial(t, n.gw, "10.0.127.254", listenSum(t, n.c1)))
	for i := range 10 {
		file.add([]string{"isolate = true\nmax_sessions = 50\nlog_level = \"debug\"\n", "mtu = 1400\nnat = true\ndeny = [\"192.0.2.0/24\"]\n[sites]\n\"192.168.99.0/24\" = \"10.0.200.9\"\n"}[i%2])
		reload()
		flow.say("still here", patience)
	}
	if got := strings.Join(done.Applied, " "); !strings.Contains(got, "nat") || !strings.Contains(got, "sites") || len(done.Waiting) > 0 || done.Ended != 0 {
		t.Errorf("got %+v", done)
	}
	if out := run(t, n.gw, "nft list ruleset") + run(t, n.gw, "ip route"); !strings.Contains(out, "masquerade") || !strings.Contains(out, "192.168.99.0/24 dev vpn0") {
		t.Errorf("the host is not as configured:\n%s", out)
	}
	if err := unload(); err != nil {
		t.Error(err)
	}
	_ = pings.Signal(syscall.SIGINT)
	if status, err := pings.Wait(patience); status != 0 || err != nil {
		t.Errorf("pings: status %d, %v\n%s", status, err, lastLines(pings.Output(), 4))
	}
	if answered(pings.Output()) < 20 {
		t.Errorf("pings were lost\n%s", pings.Output())
	}
	for _, d := range []*device{cam, guest} {
		if d.Count(`"event":"lost"`) != 0 {
			t.Errorf("a client was dropped:\n%s", d.Output())
		}
	}

	// A fault changes nothing; what needs a restart says so.
	file.add("isolate = true\npool = \"10.0.0.0/33\"\n")
	out, err := n.gw.Run(filepath.Join(bin, "vpnsrv") + " reload --state " + n.state)
	if err == nil || !strings.Contains(out, file.path) || !strings.Contains(out, "pool:") {
		t.Errorf("a fault: %v, %s", err, out)
	}
	await(t, n.srv, "not applied", 0)
	file.add("tun = \"vpn7\"\n")
	if out := n.vpnsrv("reload"); !strings.Contains(out, "wait for a restart  tun") {
		t.Errorf("got %s", out)
	}
	if out := n.vpnsrv("status"); !strings.Contains(out, "tun") {
		t.Errorf("status does not say what waits: %s", out)
	}

	// By a signal, and for who may not stay.
	file.add("[reserved]\nprinter = \"10.0.200.7\"\n")
	began := time.Now()
	if err := n.srv.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	lost := guest.event(client.EventLost, 0)
	if d := lost.Time.Sub(began); d > time.Second || !strings.Contains(lost.Reason, "for another client now") {
		t.Errorf("ended after %s: %s", d, lost.Reason)
	}
	flow.say("still here", patience)
	if cam.Count(`"event":"lost"`) != 0 {
		t.Error("the device was dropped, too")
	}
}

// load sends by a connection until it is told to stop; then it compares what has come.
func load(t *testing.T, conn *net.TCPConn) (stop func() error) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	end, result := make(chan struct{}), make(chan error, 1)
	go func() { // ends with stop, or the deadline
		sum, chunk := sha256.New(), make([]byte, 64<<10)
		random := rand.NewChaCha8([32]byte{2})
		for {
			select {
			case <-end:
				_ = conn.CloseWrite()
				got, err := io.ReadAll(conn)
				if err == nil && !bytes.Equal(got, sum.Sum(nil)) {
					err = errors.New("what was sent is not what has come")
				}
				result <- err
				return
			default:
			}
			_, _ = random.Read(chunk)
			if _, err := conn.Write(chunk); err != nil {
				<-end
				result <- err
				return
			}
			sum.Write(chunk)
		}
	}()
	return func() error { close(end); return <-result }
}

func lastLines(s string, n int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(len(all)-n, 0):], "\n")
}
