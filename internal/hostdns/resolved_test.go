//go:build !minimal

package hostdns

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// A manager stands in for systemd-resolved, on a bus of its own.
type manager struct{ calls chan string }

func (m manager) SetLinkDNS(index int32, servers []server) *dbus.Error {
	m.calls <- fmt.Sprint("dns ", index, servers)
	return nil
}

func (m manager) SetLinkDomains(index int32, domains []domain) *dbus.Error {
	m.calls <- fmt.Sprint("domains ", index, domains)
	return nil
}

func (m manager) SetLinkDefaultRoute(index int32, all bool) *dbus.Error {
	m.calls <- fmt.Sprint("default ", index, all)
	return nil
}

func (m manager) RevertLink(index int32) *dbus.Error {
	m.calls <- fmt.Sprint("revert ", index)
	return nil
}

const busConfig = `<busconfig><type>session</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// startBus starts a bus that ends with the test.
func startBus(t *testing.T) (path string) {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("needs the program dbus-daemon: scripts/deps.sh test")
	}
	dir := t.TempDir()
	path = filepath.Join(dir, "bus")
	put(t, filepath.Join(dir, "conf"), fmt.Sprintf(busConfig, path))
	ready, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	c := exec.Command(daemon, "--config-file="+filepath.Join(dir, "conf"), "--nofork", "--nopidfile", "--print-address=3")
	c.ExtraFiles, c.Stderr = []*os.File{w}, os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	_ = w.Close()
	if n, err := ready.Read(make([]byte, 256)); n == 0 { // its address, once it listens
		t.Fatal("dbus-daemon did not start: ", err)
	}
	return path
}

func TestResolved(t *testing.T) {
	l, log := newLink(t, "ferry0")
	l.bus = startBus(t)
	const stub = "nameserver 127.0.0.53\n"
	put(t, l.file, stub)

	// On the bus there is nobody yet: the file is the way.
	l.Apply(7, full)
	if got := text(t, l); !strings.Contains(got, "nameserver 10.0.0.1\n") || !strings.Contains(log.String(), "systemd-resolved does not take") {
		t.Errorf("without resolved: got %q, log %s", got, log)
	}
	l.Close()
	if got := text(t, l); got != stub {
		t.Errorf("closed: got %q, want %q", got, stub)
	}

	conn, err := dbus.Connect("unix:path=" + l.bus)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m := manager{make(chan string, 10)}
	if err := conn.Export(m, "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName("org.freedesktop.resolve1", 0); err != nil {
		t.Fatal(err)
	}
	want := func(calls ...string) {
		t.Helper()
		for _, c := range calls {
			if got := <-m.calls; got != c {
				t.Errorf("got call %q, want %q", got, c)
			}
		}
		if len(m.calls) > 0 {
			t.Errorf("another call: %q", <-m.calls)
		}
	}
	l.Apply(7, full)
	want("dns 7 [{2 [10 0 0 1]} {2 [192 168 7 53]}]", "domains 7 [{site.example false} {lan false} {. true}]", "default 7 true")
	split := full
	split.All = false
	l.Apply(8, split) // the link was made again
	want("dns 8 [{2 [10 0 0 1]} {2 [192 168 7 53]}]", "domains 8 [{site.example false} {lan false}]", "default 8 false")
	if got := text(t, l); got != stub {
		t.Errorf("the file was changed: %q", got)
	}
	l.Close()
	want("revert 8")
	l.Close()
	want()
}

// A bus that says nothing, or nonsense, ends in an error.
func TestDeafBus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	bus, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		conn, err := bus.Accept()
		if err == nil {
			_, _ = conn.Write([]byte("220 mail.example ESMTP\r\n"))
			_ = conn.Close()
		}
	}()
	defer func() { _ = bus.Close(); <-answered }()
	if err := setResolved(path, 7, full); err == nil {
		t.Error("nonsense was taken for an answer")
	}
}
