package netns

import (
	"bytes"
	"encoding/json"
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

// newSecure makes a network with a gateway that has a key, as 'vpnsrv init' makes it. args go to vpnsrv.
func newSecure(t *testing.T, args ...string) *network {
	t.Helper()
	return newSecureFile(t, "", args...)
}

// newSecureFile is newSecure with lines before the others in the gateway's file.
func newSecureFile(t *testing.T, lines string, args ...string) *network {
	t.Helper()
	n := newNetwork(t)
	file := filepath.Join(t.TempDir(), "vpnsrv.toml")
	run(t, n.gw, fmt.Sprintf("%s/vpnsrv init --state %s --config %s", bin, n.state, file))
	writeFile(t, file, lines+"\n"+string(readFile(t, file)))
	n.startSecure(append([]string{"--config", file}, args...)...)
	return n
}

// startSecure starts vpnsrv, or starts it again, with the listeners of its file.
func (n *network) startSecure(args ...string) {
	n.t.Helper()
	n.args = args
	n.srv = start(n.t, n.gw, append([]string{filepath.Join(bin, "vpnsrv")}, args...)...)
	await(n.t, n.srv, "msg=serving", 0)
}

// vpnsrv runs a command of the gateway's operator.
func (n *network) vpnsrv(command string) string {
	n.t.Helper()
	return run(n.t, n.gw, fmt.Sprintf("%s/vpnsrv %s --state %s", bin, command, n.state))
}

// invite returns an invitation.
func (n *network) invite(args string) string {
	n.t.Helper()
	line, _, _ := strings.Cut(n.vpnsrv("invite "+args), "\n")
	return line
}

// join lets a device join, and returns its state directory.
func (n *network) join(ns *lab.Namespace, args string) string {
	n.t.Helper()
	dir := filepath.Join(n.t.TempDir(), "device")
	run(n.t, ns, fmt.Sprintf("%s/vpncli join %s --state %s", bin, n.invite(args), dir))
	return dir
}

// TestSecure goes from the key to the tunnel and back: nothing of what is inside is to be seen outside,
// and who is removed is gone within a second.
// exam: U7
func TestSecure(t *testing.T) {
	t.Parallel()
	n := newSecure(t)
	dir := n.join(n.c1, "cam1")
	c := newClient(t, n.c1, "--state", dir)
	if a := c.waitConnected(); a != "10.0.127.254" {
		t.Errorf("got %s, want the highest address for devices", a)
	}
	seen := start(t, n.gw, "tcpdump", "-i", "eth1", "-U", "-w", filepath.Join(t.TempDir(), "wire"), "-s", "0")
	await(t, seen, "listening on", 0)
	wire := seen.Cmd.Args[len(seen.Cmd.Args)-3]
	run(t, n.c1, "ping -n -q -c 20 -i 0.02 -s 1000 -p feedfacecafebeef "+gatewayVPN)
	run(t, n.gw, "ping -n -q -c 20 -i 0.02 -s 1000 -p feedfacecafebeef 10.0.127.254")
	run(t, n.c1, "ping -n -q -c 3 -i 0.02 -s 1000 -p badc0ffee0ddf00d "+gatewayC1) // tcpdump sees what there is
	until(t, patience, "the pings beside the tunnel are written down", func() bool {
		return bytes.Contains(readFile(t, wire), []byte{0xba, 0xdc, 0x0f, 0xfe, 0xe0, 0xdd, 0xf0, 0x0d})
	})
	if bytes.Contains(readFile(t, wire), []byte{0xfe, 0xed, 0xfa, 0xce, 0xca, 0xfe}) {
		t.Error("the inside of the tunnel is to be seen outside")
	}
	transfer(t, n.c1, n.gw, gatewayVPN, 32<<20, 30*time.Second)
	transfer(t, n.gw, n.c1, "10.0.127.254", 32<<20, 30*time.Second)

	began := time.Now()
	n.vpnsrv("peer rm cam1")
	lost := c.event(client.EventLost, 0)
	if d := lost.Time.Sub(began); d > time.Second {
		t.Errorf("the session ended after %s, want at most 1s", d)
	}
	if !strings.Contains(lost.Reason, "removed") {
		t.Errorf("the device was told %q", lost.Reason)
	}
	again := c.event(client.EventReconnecting, 1)
	if !strings.Contains(again.Reason, "does not take this device's key") {
		t.Errorf("a removed device hears %q", again.Reason)
	}
}

// Who has a pinned gateway speaks TLS or nothing, whatever is answered; and a listener for TLS
// has no bytes for who speaks the 2013 protocol.
// exam: C6
func TestNoFallback(t *testing.T) {
	t.Parallel()
	n := newSecure(t)
	dir := n.join(n.c1, "cam1")

	old := newClient(t, n.c2, "-s", gatewayC2)
	if e := old.event(client.EventReconnecting, 1); !strings.Contains(e.Reason, "without an answer") {
		t.Errorf("a client without a key hears %q", e.Reason)
	}
	stop(t, old.Proc)
	stop(t, n.srv)

	// The same address, but a gateway for everybody; one that answers 2013 replies; another key.
	n.srv = start(t, n.gw, filepath.Join(bin, "vpnsrv"), "--config=", "--state", filepath.Join(t.TempDir(), "s"), "--listen", "tcp://:2002")
	await(t, n.srv, "msg=serving", 0)
	c := newClient(t, n.c1, "--state", dir)
	c.event(client.EventReconnecting, 3)
	stop(t, n.srv)
	if out := n.srv.Output(); strings.Contains(out, "joined") || !strings.Contains(out, "not_ip") {
		t.Errorf("a gateway without a key heard something else than TLS:\n%s", out)
	}
	first := liar(t, n.gw, 2002)
	c.event(client.EventReconnecting, 6)
	for len(first) > 0 {
		if b := <-first; b != 22 {
			t.Errorf("the device began with %#x, want TLS", b)
		}
	}
	if c.Count(`"event":"connected"`) != 0 {
		t.Error("connected to who is not the gateway")
	}
}

// liar answers whatever comes with a 2013 reply, and returns the first byte of each connection.
func liar(t *testing.T, ns *lab.Namespace, port int) <-chan byte {
	t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); return err }); err != nil {
		t.Fatal(err)
	}
	first := make(chan byte, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 20)
			if _, err := io.ReadFull(conn, b); err == nil {
				first <- b[0]
				clear(b[12:16])
				copy(b[16:], []byte{10, 0, 254, 254})
				b[0] = 0x45
				_, _ = conn.Write(append(b, b...))
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return first
}

// A device keeps its address, whatever happens to the gateway, and its newest connection wins.
func TestSecureAgain(t *testing.T) {
	t.Parallel()
	n := newSecure(t)
	dir := n.join(n.c1, "cam1 --ip 10.0.3.7")
	c := newClient(t, n.c1, "--state", dir)
	c.waitConnected()
	n.srv.Kill()
	n.startSecure(n.args...)
	if e := c.event(client.EventConnected, 1); e.Address.String() != "10.0.3.7" {
		t.Errorf("after a crash of the gateway: got %s", e.Address)
	}
	ping(t, n.c1, gatewayVPN, 3)

	// The same device twice, as after an update that went wrong.
	twin := newClient(t, n.c2, "--state", dir, "-s", gatewayC2)
	if a := twin.waitConnected(); a != "10.0.3.7" {
		t.Errorf("its newest connection: got %s", a)
	}
	if e := c.event(client.EventLost, 1); !strings.Contains(e.Reason, "replaced") {
		t.Errorf("the older connection was told %q", e.Reason)
	}
	stop(t, twin.Proc)

	var all struct {
		Peers []struct {
			Name     string
			Sessions []uint64
		}
	}
	until(t, patience, "the older connection is there again, alone", func() bool { // its second connection may have been another way to the same session
		all.Peers = nil
		err := json.Unmarshal([]byte(n.vpnsrv("peer list --json")), &all)
		return err == nil && len(all.Peers) == 1 && len(all.Peers[0].Sessions) == 1
	})
	until(t, patience, "it carries packets", func() bool { return answers(n.c1, gatewayVPN) })
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
