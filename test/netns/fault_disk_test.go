package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/test/lab"
	"ferry/test/rawvpn"
)

const reasonStorage = 10 // of a goodbye

// processes returns the IDs of a program and of its children: which of them serves is its own affair.
func processes(t *testing.T, p *lab.Proc) (all []int) {
	t.Helper()
	all = []int{p.Pid()}
	for i := 0; i < len(all); i++ {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			text, _ := os.ReadFile(task) // a thread that has ended has none
			for _, word := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(word); err == nil {
					all = append(all, pid)
				}
			}
		}
	}
	return all
}

// inject lets a system call of the gateway fail or wait, as strace(1) says it, until the function that it
// returns is called.
func (n *network) inject(call, fault string) (end func()) {
	n.t.Helper()
	args := []string{"strace", "-f", "-e", "trace=" + call, "-e", "inject=" + call + ":" + fault}
	pids := processes(n.t, n.srv)
	for _, pid := range pids {
		args = append(args, "-p", strconv.Itoa(pid))
	}
	p, err := n.gw.Start(args...)
	if err != nil {
		n.t.Fatal(err)
	}
	for i := range pids {
		await(n.t, p, " attached", i)
	}
	end = func() { _, _ = p.Stop(patience) } // its status is that of the signal
	n.t.Cleanup(end)
	return end
}

// refusedForStorage asks for addresses until the gateway says that it can not write down any more.
func (n *network) refusedForStorage() {
	n.t.Helper()
	const most = 400 // what is in the last page of a file that has room still
	for range most {
		c := n.dialRaw()
		err := c.Join(rawvpn.Ask{Features: rawvpn.All})
		_ = c.Close()
		var refused *rawvpn.RefusedError
		if errors.As(err, &refused) {
			if refused.Reason != reasonStorage {
				n.t.Errorf("refused with reason %d, want %d", refused.Reason, reasonStorage)
			}
			return
		}
		if err != nil {
			n.t.Fatal(err)
		}
	}
	n.t.Errorf("%d clients have got addresses from a gateway whose disk fails", most)
}

// brokenDisk checks that those who are here go on, that nobody new gets an address, that the operator
// is told, and that all is well when the fault has ended.
func (n *network) brokenDisk(here *rawvpn.Client, repair func()) {
	n.t.Helper()
	n.refusedForStorage()
	for range 20 {
		if _, err := here.Ping(gatewayAddr); err != nil {
			n.t.Fatalf("a client that was here before: %v", err)
		}
	}
	if st := n.status(); st.Leases.Err == "" {
		n.t.Error("the operator is not told")
	}
	if got := n.srv.Count("level=ERROR"); got != 1 {
		n.t.Errorf("logged %d times, want once", got)
	}
	repair()
	until(n.t, patience, "addresses are given out again", func() bool {
		c := n.dialRaw()
		defer c.Close()
		return c.Join(rawvpn.Ask{Features: rawvpn.All}) == nil
	})
	if st := n.status(); st.Leases.Err != "" {
		n.t.Errorf("the operator is still told: %s", st.Leases.Err)
	}
	n.alive()
}

// TestDiskFails has a gateway whose disk is full or can not be synced: forwarding
// goes on, and after a kill -9 the clients that had addresses have them still.
// exam: F3
func TestDiskFails(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(n *network) (repair func()){
		"full": func(n *network) func() {
			filler := filepath.Join(n.state, "filler")
			f, err := os.Create(filler)
			for err == nil {
				_, err = f.Write(make([]byte, 4096))
			}
			if !errors.Is(err, unix.ENOSPC) {
				n.t.Fatal(err)
			}
			_ = f.Close()
			return func() { _ = os.Remove(filler) }
		},
		"EIO on fsync": func(n *network) func() { return n.inject("fsync", "error=EIO") },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t)
			if err := os.Mkdir(n.state, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("none", n.state, "tmpfs", 0, "size=64k"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(n.state, unix.MNT_DETACH) })
			n.startGateway()
			here := n.joinRaw(rawvpn.Ask{Features: rawvpn.All})
			n.brokenDisk(here, fault(n))
			l := here.Lease
			n.srv.Kill()
			n.startGateway(n.args...)
			if c := n.joinRaw(rawvpn.Ask{Features: rawvpn.All, Hint: l.Addr, Resume: l.Addr, Token: l.Token}); c.Lease.Addr != l.Addr {
				t.Errorf("after a restart: got %s, want %s", c.Lease.Addr, l.Addr)
			}
		})
	}
}

// TestSlowDisk has a disk that takes seconds for each fsync: packets are as fast as ever, and who asks for an
// address waits for it. (The exam says 30 s; what waits does so in the same way.)
// exam: F18
func TestSlowDisk(t *testing.T) {
	t.Parallel()
	const slow, fast = 6 * time.Second, 500 * time.Millisecond
	n := newGateway(t)
	a, b := n.joinRaw(rawvpn.Ask{Features: rawvpn.All}), n.joinRaw(rawvpn.Ask{})
	waiting := n.dialRaw()
	waiting.Timeout = 4 * slow
	end := n.inject("fsync", fmt.Sprintf("delay_enter=%d", slow.Microseconds()))
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- waiting.Join(rawvpn.Ask{Features: rawvpn.All}) }()
	var worst time.Duration
	pings := 0
	for ; len(done) == 0 && time.Since(began) < slow-time.Second; pings++ {
		for _, c := range []*rawvpn.Client{a, b} {
			rtt, err := c.Ping(gatewayAddr)
			if err != nil {
				t.Fatal(err)
			}
			worst = max(worst, rtt)
		}
		time.Sleep(10 * time.Millisecond) // between pings
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	took := time.Since(began)
	end()
	t.Logf("%d pings, at most %s; an address after %s", pings, worst, took)
	if took < slow-100*time.Millisecond {
		t.Errorf("an address after %s: before it was on disk", took)
	}
	if worst > fast || pings < 20 {
		t.Errorf("%d pings beside it took up to %s, want %s", pings, worst, fast)
	}
	n.alive()
}
