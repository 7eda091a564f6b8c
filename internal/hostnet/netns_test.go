package hostnet

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Each kernel test runs in a child of the test binary, which is alone in a network namespace
// that has no name and dies with it:
//
//	vpn0 (TUN, held open)      veth0 192.0.2.2/24, 2001:db8::2/64 ──── veth1
//	                           default via 192.0.2.1 and 2001:db8::1
const childEnv = "FERRY_HOSTNET_CHILD"

// inNetns returns true in the child. In the parent it runs the child and reports for it.
func inNetns(t *testing.T) bool { return inNamespaces(t, unix.CLONE_NEWNET) }

func inNamespaces(t *testing.T, flags uintptr) bool {
	t.Helper()
	if os.Getenv(childEnv) == t.Name() {
		setUp(t)
		return true
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs the program %s", tool)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	// The race detector would sleep for a second at the end of each child.
	c.Env = append(os.Environ(), childEnv+"="+t.Name(), "GORACE=atexit_sleep_ms=0")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 || flags&unix.CLONE_NEWUSER != 0 {
		c.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := c.CombinedOutput()
	switch {
	case c.Process == nil && os.Getuid() == 0 && flags&unix.CLONE_NEWUSER == 0: // skipped, it would look as if all was well
		t.Fatalf("cannot make a namespace: %v", err)
	case c.Process == nil:
		t.Skipf("cannot make a namespace: %v", err)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("%s", out)
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case !strings.Contains(string(out), "--- PASS"):
		t.Errorf("the child ran nothing:\n%s", out)
	}
	return false
}

func setUp(t *testing.T) {
	t.Helper()
	run(t, "sysctl -qw net.ipv4.ip_forward=0",
		"ip link set lo up",
		"sysctl -qw net.ipv6.conf.default.addr_gen_mode=1", // the veths get no address at some later time
		"ip link add veth0 type veth peer name veth1",
		"sysctl -qw net.ipv6.conf.default.addr_gen_mode=0",
		"ip link set veth1 up", "ip link set veth0 up",
		"ip addr add 192.0.2.2/24 dev veth0", "ip addr add 2001:db8::2/64 dev veth0 nodad",
		"ip route add default via 192.0.2.1", "ip -6 route add default via 2001:db8::1")
	waitFor(t, "IPv6 address of veth0", func() bool {
		out, _ := try("ip route get 2001:db8::2")
		return strings.Contains(out, "local 2001:db8::2")
	})
}

// waitFor asks again and again for what the kernel does in the background.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not there after 5 s", what)
		}
	}
}

// openTUN makes an interface that lives until the file is closed.
func openTUN(t *testing.T, name string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("open TUN: %v", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatalf("make TUN %s: %v", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { f.Close() })
	return f
}

func run(t *testing.T, commands ...string) {
	t.Helper()
	for _, c := range commands {
		if out, err := try(c); err != nil {
			t.Fatalf("%s: %v\n%s", c, err, out)
		}
	}
}

func try(command string) (string, error) {
	f := strings.Fields(command)
	out, err := exec.Command(f[0], f[1:]...).CombinedOutput()
	return string(out), err
}

var qdisc = regexp.MustCompile(` qdisc \S+`) // stays after a link was up

// snapshot is all the state that this package may touch, as text.
func snapshot(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, c := range []string{"ip addr", "ip -4 route show table all", "ip -6 route show table all",
		"ip -4 rule", "ip -6 rule", "nft list ruleset",
		"sysctl -e net.ipv4.ip_forward net.ipv4.conf.all.src_valid_mark net.ipv4.conf.vpn0.promote_secondaries net.ipv6.conf.vpn0.disable_ipv6"} {
		out, err := try(c)
		if err != nil {
			t.Fatalf("%s: %v\n%s", c, err, out)
		}
		fmt.Fprintf(&b, "# %s\n%s", c, qdisc.ReplaceAllString(out, ""))
	}
	return b.String()
}

func wantSame(t *testing.T, when, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: state differs\nmissing:\n%s\nunexpected:\n%s", when, without(want, got), without(got, want))
	}
}

// without returns the lines of a that are not in b.
func without(a, b string) string {
	var lines []string
	for line := range strings.Lines(a) {
		if !strings.Contains(b, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// wantRoute checks what the kernel says about a destination.
func wantRoute(t *testing.T, query, want string) {
	t.Helper()
	out, _ := try("ip route get " + query)
	if !strings.Contains(out, want) {
		t.Errorf("ip route get %s: got %q, want %q in it", query, out, want)
	}
}

func mustApply(t *testing.T, l *Link, s State) {
	t.Helper()
	if err := l.Apply(s); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

func mustClose(t *testing.T, l *Link) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// waitForNetns returns when a child has left our network namespace.
func waitForNetns(t *testing.T, pid int) {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "network namespace of a child", func() bool {
		other, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net")
		return err == nil && other != own
	})
}
