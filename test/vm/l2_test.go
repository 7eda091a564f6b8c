package vm

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestWithoutClient boots two machines in which there is nothing of Ferry but the probe. Their network cards are plugged into a vpnsrv that
// has no rights, each in the manner of one version of QEMU:
//
//	one  -netdev stream --qemu+unix-->  vpnsrv --exit user  <--qemu+tcp--  -netdev socket  two
//	     probe check tcp://10.0.9.2:7                                      probe echo tcp://10.0.9.2:7
//
// They get the addresses that are reserved for their MACs, by DHCP, and reach each other.
func TestWithoutClient(t *testing.T) {
	kernel := needKernel(t)
	files := build(t, "../../cmd/vpnsrv", "./probe")
	dir := t.TempDir()
	socket, config := filepath.Join(dir, "qemu.sock"), filepath.Join(dir, "vpnsrv.toml")
	port := freePort(t)
	settings := fmt.Sprintf(`exit = "user"
listen = ["unix://%s/clients"]
l2_listen = ["qemu+tcp://127.0.0.1:%d", "qemu+unix://%s"]
state = "%s/state"
push_dns = ["10.0.0.1"]
push_domains = ["site.example"]
[reserved]
52-54-00-00-00-01 = "10.0.9.1"
52-54-00-00-00-02 = "10.0.9.2"
`, dir, port, socket, dir)
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	startGateway(t, socket, files[0], "--config", config)
	var both sync.WaitGroup
	for _, m := range []struct{ mac, network, addr, traffic string }{
		{"52:54:00:00:00:01", "stream,server=off,addr.type=unix,addr.path=" + socket, "10.0.9.1", "probe check tcp://10.0.9.2:7 2000000"},
		{"52:54:00:00:00:02", fmt.Sprintf("socket,connect=127.0.0.1:%d", port), "10.0.9.2", "probe echo tcp://10.0.9.2:7"},
	} {
		both.Go(func() {
			text := "addr=" + m.addr + "\ntraffic() { " + m.traffic + "; }\n" + script(t, "without_client.sh")
			succeed(t, kernel, &Machine{Script: text, Files: files[1:], Modules: []string{"virtio_net", "af_packet"}, Network: m.network, MAC: m.mac}, 2*oneMachine)
		})
	}
	both.Wait()
}

// freePort returns a port of TCP that nobody has at the moment.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startGateway runs vpnsrv until the test ends, which has to work with status 0. socket is there when it serves.
func startGateway(t *testing.T, socket string, args ...string) {
	t.Helper()
	var log strings.Builder
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("vpnsrv: %v\n%s", err, log.String())
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("vpnsrv has made no socket")
		}
	}
}
