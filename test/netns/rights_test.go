package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/test/lab"
)

// helper returns the process with the rights that a program has started.
func helper(t *testing.T, p *lab.Proc) (pid int) {
	t.Helper()
	until(t, patience, "ferry-netadmin runs", func() bool {
		pid = p.Child("ferry-netadmin")
		return pid != 0
	})
	return pid
}

// statuses returns what the kernel says of each thread of a process.
func statuses(t *testing.T, pid int) (all []map[string]string) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatal(pid, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // this thread has ended
		}
		s := map[string]string{}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			s[key] = strings.TrimSpace(value)
		}
		all = append(all, s)
	}
	return all
}

// TestRights is exam A6 and A7: who reads what strangers send has no rights, and who has them reads nothing
// of it and was given no descriptor by mistake.
// exam: A6, A7, S15
func TestRights(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 || !mapsEverybody() {
		t.Skip("a user namespace has no other user to become")
	}
	n := newNetwork(t)
	secret := filepath.Join(t.TempDir(), "left-open")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	leaky := func(name, args string) []string { // as a shell that has a file open
		return []string{"sh", "-c", fmt.Sprintf("exec 9<%s; exec %s/%s %s", secret, bin, name, args)}
	}
	n.srv = start(t, n.gw, leaky("vpnsrv", "--config= --nat --listen tcp://:2002 --state "+n.state)...)
	await(t, n.srv, "msg=serving", 0)
	cli := start(t, n.c1, leaky("vpncli", "--config= --default-route -s "+gatewayC1+" --state "+filepath.Join(t.TempDir(), "c"))...)
	await(t, cli, "msg=connected", 0)
	ping(t, n.c1, lanHost, 1)

	for _, p := range []*lab.Proc{n.srv, cli} {
		noRights(t, p)
		pid := helper(t, p)
		for _, s := range statuses(t, pid) {
			caps := "0000000000001000"
			if p == n.srv { // it publishes ports below 1024, too
				caps = "0000000000001400"
			}
			for key, want := range map[string]string{"CapEff": caps, "CapBnd": caps, "NoNewPrivs": "1", "Seccomp": "2"} {
				if s[key] != want {
					t.Errorf("%s: %s is %q, want %q", s["Name"], key, s[key], want)
				}
			}
		}
		for _, of := range []int{pid, p.Pid()} {
			fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", of))
			if err != nil || len(fds) < 4 {
				t.Fatal(fds, err)
			}
			for _, fd := range fds {
				if to, _ := os.Readlink(fd); to == secret {
					t.Errorf("%s is what somebody else has left open", fd)
				}
			}
		}
	}
	// Nobody else gets at the TUN, or at anything of the worker (exam S15).
	nobody := fmt.Sprintf("setpriv --reuid=65534 --regid=65534 --clear-groups ls /proc/%d/fd", n.srv.Pid())
	if out, err := n.gw.Run(nobody); err == nil {
		t.Errorf("another user sees the descriptors of vpnsrv: %s", out)
	}
	stop(t, cli)
	stop(t, n.srv)
}

// noRights checks that each thread of a program has none, and is another user's.
func noRights(t *testing.T, p *lab.Proc) {
	t.Helper()
	for _, s := range statuses(t, p.Pid()) {
		for key, want := range map[string]string{
			"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000000",
			"NoNewPrivs": "1", "Seccomp": "2", "Groups": "",
		} {
			if s[key] != want {
				t.Errorf("%s: %s is %q, want %q", s["Name"], key, s[key], want)
			}
		}
		if uid := strings.Fields(s["Uid"]); uid[0] == "0" || uid[0] == "65534" || uid[0] != uid[1] || uid[0] != uid[2] {
			t.Errorf("%s runs as %v", s["Name"], uid)
		}
	}
}

// mapsEverybody reports whether this user namespace is the machine's.
func mapsEverybody() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Contains(string(text), "4294967295")
}

// A gateway that was killed leaves nothing behind: the other process takes it back. A full tunnel stays, to
// let nothing out.
// exam: U1
func TestKilledLeavesNothing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	run(t, n.gw, "sysctl -qw net.ipv4.ip_forward=0")
	n.settle()
	gw, c1 := hostState(t, n.gw), hostState(t, n.c1)
	n.startGateway("--nat", "--push-route", "198.51.100.0/24")
	c := newClient(t, n.c1, "-s", gatewayC1, "--route", "192.168.0.0/16")
	c.waitConnected()
	c.Kill()
	n.srv.Kill()
	until(t, patience, "the hosts are as they were", func() bool { return hostState(t, n.gw) == gw && hostState(t, n.c1) == c1 })
}

// Who loses the process with the rights ends, for a supervisor to start both anew.
func TestHelperKilled(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.startGateway()
	c := newClient(t, n.c1, "-s", gatewayC1)
	c.waitConnected()
	for _, p := range []*lab.Proc{c.Proc, n.srv} {
		if err := unix.Kill(helper(t, p), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		status, err := p.Wait(5 * time.Second)
		if err != nil || status != 1 {
			t.Errorf("status %d, %v", status, err)
		}
		if !strings.Contains(p.Output(), "ferry-netadmin) has ended") {
			t.Errorf("it does not say why:\n%s", p.Output())
		}
	}
}

// Who is to end with its parent does so, though it has become another user since: these tests depend on it.
func TestEndsWithParent(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	p := start(t, n.gw, "sh", "-c", fmt.Sprintf("setpriv --pdeathsig KILL %s/vpnsrv --config= --listen tcp://:2002 --state %s & wait", bin, n.state))
	await(t, p, "msg=serving", 0)
	srv := p.Child("vpnsrv")
	if srv == 0 {
		t.Fatal("no vpnsrv")
	}
	p.Kill()
	until(t, patience, "vpnsrv has ended", func() bool { return unix.Kill(srv, 0) != nil })
}
