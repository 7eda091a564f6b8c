package main

import (
	"context"
	"errors"
	"fmt"
	"go/build"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"ferry/test/lab"
)

const (
	installGvproxy = "scripts/deps.sh bench, or set GVPROXY and GVFORWARDER"
	viaFerry       = "192.0.2.2" // addresses of c2, of which c1 reaches each by one subject
	viaGvproxy     = "192.0.2.3"
	gvproxyAddr    = "192.168.127.1" // inside
	gvproxyTap     = "gvtap0"
	gvproxyMTU     = 65500 // with which it is fastest
)

// userRow measures one flow from c1 to c2 through a gateway that has no TUN: vpnsrv --exit user by a carrier of TCP, and gvproxy by a unix socket.
//
//	c1 [tun] --- tcp --- vpnsrv [sockets] --- c2 [192.0.2.2]
//	c1 [tap] --- unix -- gvproxy [sockets] -- c2 [192.0.2.3]
func userRow(ctx context.Context, b *bench) ([]*line, error) {
	err := errors.Join(
		runs(b.net.c2, "ip address add "+viaFerry+"/32 dev lo"), runs(b.net.c2, "ip address add "+viaGvproxy+"/32 dev lo"),
		runs(b.net.gw, "ip route add 192.0.2.0/28 via "+bareC2))
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = runs(b.net.c2, "ip address del "+viaFerry+"/32 dev lo")
		_ = runs(b.net.c2, "ip address del "+viaGvproxy+"/32 dev lo")
		_ = runs(b.net.gw, "ip route del 192.0.2.0/28")
	}()
	server, err := startIperf(b.net.c2)
	if err != nil {
		return nil, err
	}
	defer stop(server)
	f, err := b.startWith(ferry{}, fmt.Sprintf("exit = 'user'\npush_route = [%q]\n", viaFerry+"/32"), b.net.c1)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []*line
	for _, mtu := range []int{1500, gvproxyMTU} {
		more, err := b.userFlows(ctx, mtu)
		lines = append(lines, more...)
		if err != nil {
			return lines, err
		}
	}
	return lines, nil
}

// userFlows measures both directions, with an MTU of gvproxy's. That of Ferry is 1500: super-packets pass it whole.
func (b *bench) userFlows(ctx context.Context, mtu int) ([]*line, error) {
	over := []path{{bare, bareC2}, {ours, viaFerry}}
	g, err := b.startGvproxy(mtu)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		progress("gvproxy is not installed: %s", installGvproxy)
	case err != nil:
		return nil, err
	default:
		defer g.Close()
		over = append(over, path{gvproxy, viaGvproxy})
	}
	timesGvproxy := bar{">= 1 x gvproxy", ratioTo(gvproxy), func(x float64) bool { return x >= 1 }}
	about := fmt.Sprintf("TCP, without root, gvproxy's MTU %d, client to ", mtu)
	up := &line{what: about + "network, Gbit/s", ratios: true, bars: []bar{timesGvproxy}}
	down := &line{what: about + "network, back, Gbit/s", ratios: true, bars: []bar{timesGvproxy}}
	if err = b.inTurn(ctx, over, b.flowFrom(b.net.c1, false), up); err == nil {
		err = b.inTurn(ctx, over, b.flowFrom(b.net.c1, true), down)
	}
	return []*line{up, down}, err
}

// A gvproxyPair is gvproxy at the gateway, and its forwarder with a TAP at c1.
type gvproxyPair struct {
	dir   string
	ns    *lab.Namespace
	procs []*lab.Proc
}

// startGvproxy starts both and waits until a ping has passed. Its error is exec.ErrNotFound where one is not installed.
func (b *bench) startGvproxy(mtu int) (_ *gvproxyPair, err error) {
	proxy, forwarder := findProgram("GVPROXY", "gvproxy"), findProgram("GVFORWARDER", "gvforwarder", "vm")
	if proxy == "" || forwarder == "" {
		return nil, exec.ErrNotFound
	}
	g := &gvproxyPair{ns: b.net.c1}
	defer func() {
		if err != nil {
			g.Close()
			err = fmt.Errorf("gvproxy: %w", err)
		}
	}()
	if g.dir, err = os.MkdirTemp("", "ferry-gvproxy-"); err != nil {
		return nil, err
	}
	socket := "unix://" + filepath.Join(g.dir, "s")
	if err := g.start(b.net.gw, proxy, "-listen", socket, "-ssh-port", "-1", "-mtu", fmt.Sprint(mtu)); err != nil {
		return nil, err
	}
	err = errors.Join(
		runs(g.ns, "ip tuntap add "+gvproxyTap+" mode tap"),
		runs(g.ns, fmt.Sprintf("ip link set %s address 5a:94:ef:e4:0c:ee mtu %d up", gvproxyTap, mtu)),
		runs(g.ns, "ip address add 192.168.127.2/24 dev "+gvproxyTap),
		runs(g.ns, "ip route add "+viaGvproxy+"/32 via "+gvproxyAddr),
	)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if _, err = os.Stat(filepath.Join(g.dir, "s")); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if err := g.start(g.ns, forwarder, "-url", socket, "-iface", gvproxyTap, "-mtu", fmt.Sprint(mtu), "-preexisting", "-stop-if-exist", ""); err != nil {
		return nil, err
	}
	return g, runs(g.ns, "ping -q -n -c 1 -w 10 "+gvproxyAddr)
}

func (g *gvproxyPair) start(ns *lab.Namespace, args ...string) error {
	p, err := ns.Start(args...)
	if err == nil {
		g.procs = append(g.procs, p)
	}
	return err
}

// Close stops both, and takes the TAP away.
func (g *gvproxyPair) Close() {
	stop(g.procs...)
	_ = runs(g.ns, "ip link del "+gvproxyTap)
	_ = os.RemoveAll(g.dir)
}

// findProgram returns a program that a variable of the environment, scripts/deps.sh, the path or 'go install' has; empty: none.
func findProgram(variable string, names ...string) string {
	if path := os.Getenv(variable); path != "" {
		return path
	}
	for _, name := range names {
		own, _ := filepath.Abs(filepath.Join("bin", "peers", name))
		for _, place := range []string{own, name, filepath.Join(os.Getenv("GOBIN"), name), filepath.Join(build.Default.GOPATH, "bin", name)} {
			if path, err := exec.LookPath(place); err == nil && (filepath.IsAbs(path) || place == name) {
				return path
			}
		}
	}
	return ""
}
