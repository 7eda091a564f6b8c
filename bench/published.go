package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"ferry/test/lab"
)

const (
	installSSH  = "scripts/deps.sh bench"
	bareC1      = "192.168.101.2"
	publishedAt = "192.168.102.1" // of the gateway, for c2
	iperfPort   = "5201"
	sshPort     = "2222"
	viaFerryTCP = publishedAt + ":8001" // what c2 connects to
	viaSSHTCP   = publishedAt + ":8002"
	viaExpose   = publishedAt + ":8003"
)

// publishedRow measures one connection from c2 to a port of the gateway's host that leads to c1.
//
//	c2 --- gw :8001 vpnsrv forward ==== TLS ==== vpncli c1    with the exit of the kernel, and of a user
//	c2 --- gw :8002 ssh -L ============ SSH ======== sshd c1
//	c2 --- gw :8003 gvproxy expose ==== unix === gvforwarder c1
func publishedRow(ctx context.Context, b *bench) ([]*line, error) {
	server, err := startIperf(b.net.c1)
	if err != nil {
		return nil, err
	}
	defer stop(server)
	over := []path{{bare, bareC1}, {ours, viaFerryTCP}}
	s, err := b.startSSH(ctx)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		progress("sshd is not installed: %s", installSSH)
	case err != nil:
		return nil, err
	default:
		defer s.Close()
		over = append(over, path{sshForward, viaSSHTCP})
	}
	g, err := b.startGvproxy(gvproxyMTU)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		progress("gvproxy is not installed: %s", installGvproxy)
	case err != nil:
		return nil, err
	default:
		defer g.Close()
		if err := g.expose(ctx, viaExpose, "192.168.127.2:"+iperfPort); err != nil {
			return nil, err
		}
		over = append(over, path{gvproxy, viaExpose})
	}
	var lines []*line
	for _, exit := range []string{"kernel", "user"} {
		more, err := b.published(ctx, exit, over)
		lines = append(lines, more...)
		if err != nil {
			return lines, err
		}
	}
	return lines, nil
}

// published measures both directions with one exit of Ferry.
func (b *bench) published(ctx context.Context, exit string, over []path) ([]*line, error) {
	f, err := b.startWith(ferry{secure: true}, fmt.Sprintf("exit = %q\n", exit), b.net.c1)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := runs(b.net.gw, fmt.Sprintf("%s forward add tcp://%s %s:%s --state %s", b.program("vpnsrv"), viaFerryTCP, f.addrs[0], iperfPort, f.state)); err != nil {
		return nil, err
	}
	timesSSH := bar{">= 1 x ssh -L", ratioTo(sshForward), func(x float64) bool { return x >= 1 }}
	what := fmt.Sprintf("TCP by a published port, exit %s, ", exit)
	to := &line{what: what + "to the client, Gbit/s", ratios: true, bars: []bar{timesSSH}}
	back := &line{what: what + "back, Gbit/s", ratios: true, bars: []bar{timesSSH}}
	if err = b.inTurn(ctx, over, b.flowFrom(b.net.c2, false), to); err == nil {
		err = b.inTurn(ctx, over, b.flowFrom(b.net.c2, true), back)
	}
	return []*line{to, back}, err
}

// expose asks gvproxy for a port of its host.
func (g *gvproxyPair) expose(ctx context.Context, local, remote string) error {
	body, err := json.Marshal(map[string]string{"local": local, "remote": remote, "protocol": "tcp"})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gvproxy/services/forwarder/expose", bytes.NewReader(body))
	if err != nil {
		return err
	}
	var d net.Dialer
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", filepath.Join(g.dir, "s"))
	}}}
	answer, err := c.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("gvproxy: expose %s: %s", local, answer.Status)
	}
	return nil
}

// An sshPair is sshd at c1, and ssh -L at the gateway.
type sshPair struct {
	dir   string
	procs []*lab.Proc
	made  string // a directory of the host that was made; empty: none
}

// startSSH starts both with keys of their own, and waits until the port is open. Its error is exec.ErrNotFound where one is not installed.
func (b *bench) startSSH(ctx context.Context) (_ *sshPair, err error) {
	const daemon, privileges = "/usr/sbin/sshd", "/run/sshd" // which it wants to be there
	if _, err := os.Stat(daemon); err != nil {
		return nil, exec.ErrNotFound
	}
	s := &sshPair{}
	defer func() {
		if err != nil {
			s.Close()
			err = fmt.Errorf("ssh: %w", err)
		}
	}()
	if s.dir, err = os.MkdirTemp("", "ferry-ssh-"); err != nil {
		return nil, err
	}
	switch err := os.Mkdir(privileges, 0o755); {
	case err == nil:
		s.made = privileges
	case !errors.Is(err, os.ErrExist):
		return nil, err
	}
	host, key := filepath.Join(s.dir, "host"), filepath.Join(s.dir, "key")
	for _, file := range []string{host, key} {
		if _, err := output(ctx, b.net.gw, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file); err != nil {
			return nil, err
		}
	}
	if err := s.start(b.net.c1, "Server listening", daemon, "-D", "-e", "-f", "/dev/null", "-h", host, "-p", sshPort, "-o", "PidFile=none",
		"-o", "StrictModes=no", "-o", "PermitRootLogin=yes", "-o", "AuthorizedKeysFile="+key+".pub"); err != nil {
		return nil, err
	}
	err = s.start(b.net.gw, "Local forwarding listening on", "ssh", "-v", "-F", "none", "-N", "-i", key, "-p", sshPort, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes", "-L", viaSSHTCP+":127.0.0.1:"+iperfPort, "root@"+bareC1)
	return s, err
}

// start starts a program and waits for what it says.
func (s *sshPair) start(ns *lab.Namespace, ready string, args ...string) error {
	p, err := ns.Start(args...)
	if err != nil {
		return err
	}
	s.procs = append(s.procs, p)
	_, err = p.Await(ready, 0, patience)
	return err
}

// Close stops both, and removes their keys.
func (s *sshPair) Close() {
	stop(s.procs...)
	_ = os.RemoveAll(s.dir)
	if s.made != "" {
		_ = os.Remove(s.made)
	}
}
