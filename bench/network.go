package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"ferry/test/lab"
)

// patience is for what should take milliseconds.
const patience = 15 * time.Second

// addresses outside of the tunnels, as main.go draws them.
const (
	bareGateway = "192.168.101.1"
	bareC2      = "192.168.102.2"
	ferryAddr   = "10.0.0.1" // of the gateway, inside
)

// A network is a gateway and two clients. All traffic between them stays in it.
type network struct {
	gw, c1, c2 *lab.Namespace
}

// newNetwork makes the namespaces and links that main.go draws. There is no default route: an address
// inside a tunnel can be reached through that tunnel only.
func newNetwork() (*network, error) {
	n := &network{}
	for _, ns := range []struct {
		name string
		to   **lab.Namespace
	}{{"gw", &n.gw}, {"c1", &n.c1}, {"c2", &n.c2}} {
		made, err := lab.NewNamespace(ns.name)
		if err == nil {
			*ns.to = made
			err = made.Cubic()
		}
		if err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	err := errors.Join(
		lab.Join(n.gw, "eth1", bareGateway+"/24", n.c1, "eth0", "192.168.101.2/24"),
		lab.Join(n.gw, "eth2", "192.168.102.1/24", n.c2, "eth0", bareC2+"/24"),
		runs(n.gw, "sysctl -qw net.ipv4.ip_forward=1"),
		runs(n.c1, "ip route add 192.168.102.0/24 via 192.168.101.1"),
		runs(n.c2, "ip route add 192.168.101.0/24 via 192.168.102.1"),
	)
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// runs runs a command for its effect.
func runs(ns *lab.Namespace, command string) error {
	_, err := ns.Run(command)
	return err
}

// Close lets go of the namespaces.
func (n *network) Close() (err error) {
	for _, ns := range []*lab.Namespace{n.gw, n.c1, n.c2} {
		if ns != nil {
			err = errors.Join(err, ns.Close())
		}
	}
	return err
}

// output runs a program in ns, until it ends or ctx does.
func output(ctx context.Context, ns *lab.Namespace, args ...string) (string, error) {
	return ns.Output(exec.CommandContext(ctx, args[0], args[1:]...))
}

// stop stops programs that may have ended already.
func stop(procs ...*lab.Proc) {
	for _, p := range procs {
		select {
		case <-p.Done():
		default:
			_, _ = p.Stop(patience)
		}
	}
}

// crowd are limits for thousands of clients behind one address, who come all at once.
const crowd = `
max_unauthenticated = 100000
source_unauthenticated = 100000
source_sessions = 100000
source_rate = 100000
source_burst = 100000
accept_rate = 100000
`

// A ferry is a vpnsrv with clients.
type ferry struct {
	secure  bool     // with keys and TLS
	verbose bool     // the clients tell why they change the carrier
	listen  []string // URLs; none: as by default
	server  string   // what clients connect to; empty: the gateway, by TCP
	state   string   // directory of the gateway and of the clients
	srv     *lab.Proc
	clients []*lab.Proc
	addrs   []netip.Addr // of the clients, inside
}

// startFerry starts vpnsrv, and a vpncli in each of the namespaces.
func (b *bench) startFerry(clients ...*lab.Namespace) (*ferry, error) {
	return b.startWith(ferry{}, crowd, clients...)
}

// startSecure does the same with keys.
func (b *bench) startSecure(clients ...*lab.Namespace) (*ferry, error) {
	return b.startWith(ferry{secure: true}, crowd, clients...)
}

// startWith starts f with lines in the file of vpnsrv.
func (b *bench) startWith(f ferry, lines string, clients ...*lab.Namespace) (*ferry, error) {
	err := f.start(b, lines)
	for _, ns := range clients {
		if err == nil {
			err = f.connect(b, ns)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &f, nil
}

func (f *ferry) start(b *bench, lines string) (err error) {
	if f.state, err = os.MkdirTemp("", "ferry-bench-"); err != nil {
		return err
	}
	settings := filepath.Join(f.state, "vpnsrv.toml")
	if f.secure {
		if _, err := b.net.gw.Run(fmt.Sprintf("%s init --state %s --config %s", b.program("vpnsrv"), f.state, settings)); err != nil {
			return err
		}
	} else { // vsock, which vpnsrv serves by default, knows no namespaces
		lines = fmt.Sprintf("state = %q\nlisten = ['tcp://:2002']\n", f.state) + lines
	}
	file, err := os.OpenFile(settings, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(lines)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return f.serve(b)
}

// serve starts vpnsrv, after its file was written.
func (f *ferry) serve(b *bench) (err error) {
	args := []string{b.program("vpnsrv"), "--config", filepath.Join(f.state, "vpnsrv.toml")}
	for _, url := range f.listen {
		args = append(args, "--listen", url)
	}
	if f.srv, err = b.net.gw.Start(args...); err != nil {
		return err
	}
	_, err = f.srv.Await("msg=serving", 0, patience)
	return err
}

// invitationIn finds it among what vpnsrv says to people.
func invitationIn(out string) string {
	for _, word := range strings.Fields(out) {
		if strings.HasPrefix(word, "ferry1-") {
			return word
		}
	}
	return ""
}

// connect starts a vpncli, with a key if f is a secure one, and waits until packets pass.
func (f *ferry) connect(b *bench, ns *lab.Namespace) error {
	if f.secure {
		if err := f.join(b, ns); err != nil {
			return err
		}
	}
	return f.run(b, ns)
}

// join makes what runs in ns a device of the gateway.
func (f *ferry) join(b *bench, ns *lab.Namespace) error {
	out, err := b.net.gw.Run(fmt.Sprintf("%s invite %s --state %s", b.program("vpnsrv"), ns.Name, f.state))
	if err != nil {
		return err
	}
	return runs(ns, fmt.Sprintf("%s join %s --state %s", b.program("vpncli"), invitationIn(out), f.stateOf(ns)))
}

func (f *ferry) stateOf(ns *lab.Namespace) string { return filepath.Join(f.state, ns.Name) }

// launch starts a vpncli.
func (f *ferry) launch(b *bench, ns *lab.Namespace) (*lab.Proc, error) {
	server := cmp.Or(f.server, bareGateway)
	if f.server == "" && ns == b.net.c2 {
		server = "192.168.102.1"
	}
	args := []string{b.program("vpncli"), "--config=", "-s", server, "--state", f.stateOf(ns), "--json"}
	if f.verbose {
		args = append(args, "--log-level", "debug")
	}
	p, err := ns.Start(args...)
	if err == nil {
		f.clients = append(f.clients, p)
	}
	return p, err
}

// run starts a vpncli, and waits until packets pass.
func (f *ferry) run(b *bench, ns *lab.Namespace) error {
	p, err := f.launch(b, ns)
	if err != nil {
		return err
	}
	line, err := p.Await(`"event":"connected"`, 0, patience)
	if err != nil {
		return err
	}
	var e struct{ Address netip.Addr }
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		return fmt.Errorf("parse event %s: %w", line, err)
	}
	f.addrs = append(f.addrs, e.Address)
	// "connected" is not yet "packets pass".
	return runs(ns, "ping -q -n -c 1 -w 5 "+ferryAddr)
}

// Close stops the clients and the gateway.
func (f *ferry) Close() {
	stop(f.clients...)
	if f.srv != nil {
		stop(f.srv)
	}
	_ = os.RemoveAll(f.state)
}

const allowedFile = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"

// allowCubic lets namespaces choose cubic, and returns what takes that back.
func allowCubic() (restore func(), err error) {
	nothing := func() {}
	was, err := os.ReadFile(allowedFile)
	if err != nil {
		return nothing, nil // a user namespace, or an old kernel: making the network tells
	}
	if strings.Contains(" "+string(was)+" ", "cubic") {
		return nothing, nil
	}
	list := strings.TrimSpace(string(was)) + " cubic"
	if err := os.WriteFile(allowedFile, []byte(list), 0o644); err != nil {
		return nothing, fmt.Errorf("namespaces may not use cubic here: as root, 'sysctl net.ipv4.tcp_allowed_congestion_control=\"%s\"', after 'modprobe tcp_cubic' where it is a module: %w", list, err)
	}
	progress("net.ipv4.tcp_allowed_congestion_control did not list cubic; it does until the end of this run")
	return func() { _ = os.WriteFile(allowedFile, was, 0o644) }, nil
}
