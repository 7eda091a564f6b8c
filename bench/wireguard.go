package main

import (
	"cmp"
	"crypto/ecdh"
	"crypto/rand"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ferry/test/lab"
)

const (
	installWireguard = "scripts/deps.sh bench, or set WIREGUARD_GO"
	wireguardDir     = "/var/run/wireguard" // of the control sockets
	wireguardAddr    = "10.77.0.1"          // of the gateway, inside
	wireguardPeer    = "10.77.0.2"
	wireguardPort    = 51820
	wireguardMTU     = 1420 // what wg-quick(8) takes on a link of 1500
	wireguardAlive   = 25   // seconds between persistent keepalives: https://www.wireguard.com/quickstart/
)

// findWireguard returns the program wireguard-go, which 'go install' calls wireguard.
func findWireguard() string { return findProgram("WIREGUARD_GO", "wireguard-go", "wireguard") }

// wireguardVersion is for the report.
func wireguardVersion(program string) string {
	if program == "" {
		return "not installed: " + installWireguard
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "unknown: " + err.Error()
	}
	return info.Main.Version + " built with " + info.GoVersion
}

// A tunnel is wireguard-go between the gateway and c1.
type tunnel struct {
	procs   []*lab.Proc
	sockets []string
	madeDir bool
}

// A wgEnd is one end of it.
type wgEnd struct {
	ns        *lab.Namespace
	iface     string // named by the process ID and the count of tunnels, for the socket lies in a directory of all
	addr      string
	key       *ecdh.PrivateKey
	peer      string // address inside of the other end
	peerOuter string // outside
}

// startWireguard starts both ends and waits until a ping has passed.
func (b *bench) startWireguard() (*tunnel, error) {
	t := &tunnel{}
	if err := t.start(b); err != nil {
		t.Close()
		return nil, fmt.Errorf("wireguard-go: %w", err)
	}
	return t, nil
}

func (t *tunnel) start(b *bench) error {
	_, err := os.Stat(wireguardDir)
	t.madeDir = errors.Is(err, os.ErrNotExist)
	n := b.tunnels.Add(1)
	ends := [2]wgEnd{
		{ns: b.net.gw, iface: fmt.Sprintf("wg%dg%d", os.Getpid(), n), addr: wireguardAddr, peer: wireguardPeer, peerOuter: "192.168.101.2"},
		{ns: b.net.c1, iface: fmt.Sprintf("wg%dc%d", os.Getpid(), n), addr: wireguardPeer, peer: wireguardAddr, peerOuter: bareGateway},
	}
	for i := range ends {
		if ends[i].key, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return err
		}
	}
	for i, e := range ends {
		if err := t.startEnd(b, e, ends[1-i].key.PublicKey()); err != nil {
			return err
		}
	}
	return runs(b.net.c1, "ping -q -n -c 1 -w 10 "+wireguardAddr)
}

func (t *tunnel) startEnd(b *bench, e wgEnd, peer *ecdh.PublicKey) error {
	socket := filepath.Join(wireguardDir, e.iface+".sock")
	t.sockets = append(t.sockets, socket)
	p, err := e.ns.Start("env", "LOG_LEVEL=error", "WG_PROCESS_FOREGROUND=1", b.wireguard, "-f", e.iface)
	if err != nil {
		return err
	}
	t.procs = append(t.procs, p)
	err = configure(socket, p, fmt.Sprintf("set=1\nprivate_key=%x\nlisten_port=%d\npublic_key=%x\nallowed_ip=%s/32\nendpoint=%s:%d\npersistent_keepalive_interval=%d\n\n",
		e.key.Bytes(), wireguardPort, peer.Bytes(), e.peer, e.peerOuter, wireguardPort, wireguardAlive))
	if err != nil {
		return err
	}
	return errors.Join(
		runs(e.ns, fmt.Sprintf("ip address add %s/24 dev %s", e.addr, e.iface)),
		runs(e.ns, fmt.Sprintf("ip link set %s mtu %d up", e.iface, cmp.Or(b.mtu, wireguardMTU))),
	)
}

// configure sends a request to wireguard-go when its socket is there
// (https://www.wireguard.com/xplatform/).
func configure(socket string, p *lab.Proc, request string) error {
	var conn net.Conn
	var err error
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		select {
		case <-p.Done():
			return fmt.Errorf("it ended: %s", p.Output())
		default:
		}
		if time.Now().After(end) {
			return err
		}
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	answer := make([]byte, 256)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	if got := string(answer[:n]); !strings.HasPrefix(got, "errno=0\n") {
		return fmt.Errorf("configure: %q", got)
	}
	return nil
}

// told is what both ends have printed.
func (t *tunnel) told() string { return printed(t.procs) }

// Close stops both ends; their interfaces vanish with them.
func (t *tunnel) Close() {
	stop(t.procs...)
	for _, s := range t.sockets {
		_ = os.Remove(s)
	}
	if t.madeDir {
		_ = os.Remove(wireguardDir) // fails if another has put something there
	}
}
