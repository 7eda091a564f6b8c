package netns

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ferry/internal/client"
)

// nobody is a user who has nothing to do with Ferry.
const nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups "

func (d *device) status(args string) client.Status {
	d.t.Helper()
	var s client.Status
	if err := json.Unmarshal([]byte(run(d.t, d.ns, filepath.Join(bin, "vpncli")+" status --json "+args)), &s); err != nil {
		d.t.Fatal(err)
	}
	return s
}

func TestClientStatus(t *testing.T) {
	t.Parallel()
	n := newSecure(t, "--push-route", "203.0.113.0/24")
	c := newClient(t, n.c1, "--state", n.join(n.c1, "cam1"), "--tun", "cam0")
	c.waitConnected()
	ping(t, n.c1, gatewayVPN, 20)
	s := c.status("") // the only one here
	if s.State != client.EventConnected || s.Interface != "cam0" || s.Address.String() != "10.0.127.254" || !s.Secure || s.Fingerprint == nil || s.Connections != 1 {
		t.Errorf("got %+v", s)
	}
	if len(s.Routes) != 1 || s.Routes[0].String() != "203.0.113.0/24" || s.Sent.Packets < 20 || s.Received.Packets < 20 || s.Sent.Bytes < 20*84 {
		t.Errorf("got %+v", s)
	}
	vpncli := filepath.Join(bin, "vpncli")
	for what, want := range map[string]struct{ command, says string }{
		"another user":      {nobody + vpncli + " status", "vpncli does not answer this user: run as root"},
		"another interface": {vpncli + " status --tun ferry0", "no vpncli is running with the interface ferry0; there is one with cam0"},
	} {
		if out, err := n.c1.Run(want.command); err == nil || !strings.Contains(out, want.says) {
			t.Errorf("%s: %v, %s", what, err, out)
		}
	}
	if out, err := n.c2.Run(vpncli + " status"); err == nil || !strings.Contains(out, "no vpncli is running") {
		t.Errorf("another namespace: %v, %s", err, out)
	}

	n.vpnsrv("peer disable cam1")
	c.event(client.EventReconnecting, 1)
	if s := c.status("--tun cam0"); s.State == client.EventConnected || len(s.Faults) < 2 || !strings.Contains(s.Faults[0].Error, "removed") {
		t.Errorf("disabled: %+v", s)
	}
	n.vpnsrv("peer enable cam1")
	c.event(client.EventConnected, 1)
	if s := c.status("--tun cam0"); s.State != client.EventConnected || s.Connections != 2 {
		t.Errorf("enabled: %+v", s)
	}
	stop(t, c.Proc)
	if out, err := n.c1.Run(vpncli + " status --tun cam0"); err == nil || !strings.Contains(out, "no vpncli is running") {
		t.Errorf("after its end: %v, %s", err, out)
	}
}

// Somebody else has taken the name first: he is not believed, and the tunnel works all the same.
func TestClientStatusSquatter(t *testing.T) {
	t.Parallel()
	n := newGateway(t)
	var l net.Listener
	err := n.c1.Do(func() error {
		// Of this thread alone, which is thrown away.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			return errno
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@ferry/vpncli/ferry0"}); err != nil {
			return err
		}
		if err := unix.Listen(fd, 10); err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "squatter")
		defer f.Close()
		l, err = net.FileListener(f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(`{"state":"connected","interface":"ferry0"}`))
			_ = conn.Close()
		}
	}()
	c := newClient(t, n.c1, "-s", gatewayC1)
	c.waitConnected()
	await(t, c.Proc, "will not find this process", 0)
	ping(t, n.c1, gatewayVPN, 3)
	out, err := n.c1.Run(filepath.Join(bin, "vpncli") + " status")
	if err == nil || !strings.Contains(out, "not to be believed: it belongs to user 65534") {
		t.Errorf("%v, %s", err, out)
	}
}
