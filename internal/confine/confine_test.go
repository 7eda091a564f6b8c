package confine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A trial is what a process that confines itself is asked to do before and after.
type trial struct {
	Rules    Rules
	Only     string // one of the layers: landlock, seccomp; empty: all
	Readable string // a file in a directory that may be read
	Writable string // a directory that may be written to
}

const trialEnv = "FERRY_CONFINE_TRIAL"

func TestMain(m *testing.M) {
	if text := os.Getenv(trialEnv); text != "" {
		var tr trial
		if err := json.Unmarshal([]byte(text), &tr); err != nil {
			panic(err)
		}
		_ = json.NewEncoder(os.Stdout).Encode(tr.run())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// attempts are what a confined process tries. Each says what came of it: "" when it worked.
func (tr trial) attempts() map[string]func() error {
	return map[string]func() error{
		"read a file of others":     func() error { return tryOpen("/etc/passwd", os.O_RDONLY) },
		"read /etc/shadow":          func() error { return tryOpen("/etc/shadow", os.O_RDONLY) },
		"read what may be read":     func() error { return tryOpen(tr.Readable, os.O_RDONLY) },
		"write what may be read":    func() error { return tryOpen(tr.Readable, os.O_WRONLY) },
		"write what may be written": func() error { return os.WriteFile(filepath.Join(tr.Writable, "new"), []byte("x"), 0o600) },
		"replace a file": func() error {
			return os.Rename(filepath.Join(tr.Writable, "new"), filepath.Join(tr.Writable, "old"))
		},
		"listen on TCP":         func() error { return tryListen("tcp", "127.0.0.1:0") },
		"bind UDP":              func() error { return tryListen("udp", "127.0.0.1:0") },
		"bind a vsock port":     func() error { return tryBind(unix.AF_VSOCK, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: 62002}) },
		"bind netlink":          func() error { return tryBind(unix.AF_NETLINK, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) },
		"make a raw socket":     func() error { return trySocket(unix.AF_PACKET, unix.SOCK_RAW) },
		"make a TCP socket":     func() error { return trySocket(unix.AF_INET, unix.SOCK_STREAM) },
		"connect":               tryConnect,
		"start a program":       func() error { return exec.Command("/bin/true").Run() },
		"look into a process":   tryLook,
		"kill another process":  func() error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) },
		"limit another process": func() error { return unix.Prlimit(os.Getppid(), unix.RLIMIT_NOFILE, nil, new(unix.Rlimit)) },
		"link a file": func() error {
			_ = os.Remove(filepath.Join(tr.Writable, "link"))
			return os.Link(filepath.Join(tr.Writable, "new"), filepath.Join(tr.Writable, "link"))
		},
		"unshare":             func() error { return unix.Unshare(unix.CLONE_NEWUTS) },
		"become root":         func() error { return syscall.Setuid(0) },
		"be dumped":           func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) },
		"change a sysctl":     func() error { return tryOpen("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY) },
		"set a socket's mark": tryMark,
		"start threads":       tryThreads,
	}
}

// A result is what came of a trial.
type result struct {
	Lacking []string
	Err     string
	Before  map[string]string // of attempts
	After   map[string]string
	Status  []map[string]string // of each thread: /proc/self/task/*/status
}

func (tr trial) run() (r result) {
	attempts := tr.attempts()
	order := make([]string, 0, len(attempts))
	for name := range attempts {
		order = append(order, name)
	}
	slices.Sort(order) // "replace" before "write": so there is a second round
	try := func() map[string]string {
		came := map[string]string{}
		for range 2 {
			for _, name := range order {
				if name == "become root" && os.Geteuid() == 0 {
					continue
				}
				came[name] = ""
				if err := attempts[name](); err != nil {
					came[name] = err.Error()
				}
			}
		}
		return came
	}
	r.Before = try()
	var err error
	switch tr.Only {
	case "landlock":
		err = errors.Join(allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1), tr.Rules.landlock())
	case "seccomp":
		err = errors.Join(allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1), tr.Rules.seccomp())
	default:
		r.Lacking, err = Process(tr.Rules)
	}
	if err != nil {
		r.Err = err.Error()
	}
	r.After = try()
	r.Status = threads()
	return r
}

func tryOpen(path string, flag int) error {
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func tryListen(network, addr string) error {
	if network == "udp" {
		c, err := net.ListenPacket(network, addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		return err
	}
	return l.Close()
}

func trySocket(family, kind int) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func tryBind(family int, addr unix.Sockaddr) error {
	kind := unix.SOCK_STREAM
	if family == unix.AF_NETLINK {
		kind = unix.SOCK_RAW
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Bind(fd, addr)
}

// tryConnect connects to a port where nobody listens: that is how far one has to get.
func tryConnect() error {
	c, err := net.Dial("tcp", "127.0.0.1:1")
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err == nil {
		_ = c.Close()
	}
	return err
}

func tryMark() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 7)
}

// tryLook reads the memory of this process as debuggers do that of another one.
func tryLook() error {
	var from, to [8]byte
	local, remote := unix.Iovec{Base: &to[0]}, unix.RemoteIovec{Base: uintptr(unsafe.Pointer(&from)), Len: len(from)}
	local.SetLen(len(to))
	_, err := unix.ProcessVMReadv(os.Getpid(), []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
	return err
}

func tryThreads() error {
	var all sync.WaitGroup
	ready := make(chan struct{})
	for range 10 {
		all.Go(func() { <-ready; _ = syscall.Nanosleep(&syscall.Timespec{Nsec: 1e6}, nil) })
	}
	close(ready)
	all.Wait()
	return nil
}

func threads() (all []map[string]string) {
	// Landlock closes /proc to those who may not read it: what follows was opened by whoever may.
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join("/proc/self/task", e.Name(), "status"))
		if err != nil {
			continue
		}
		status := map[string]string{}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			status[key] = strings.TrimSpace(value)
		}
		all = append(all, status)
	}
	return all
}

// perform runs a trial in a process of its own, as root of this machine or of a user namespace.
func perform(t *testing.T, tr trial) result {
	t.Helper()
	dir := t.TempDir()
	tr.Readable, tr.Writable = filepath.Join(dir, "r", "file"), filepath.Join(dir, "w")
	for _, d := range []string{filepath.Dir(tr.Readable), tr.Writable} {
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
		_ = os.Chmod(d, 0o777)
	}
	if err := os.WriteFile(tr.Readable, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(tr.Readable, 0o666)
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	tr.Rules.Read = append(tr.Rules.Read, filepath.Dir(tr.Readable), "/proc/self")
	tr.Rules.Write = append(tr.Rules.Write, tr.Writable)
	text, err := json.Marshal(tr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), trialEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var r result
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if r.Err != "" {
		t.Fatal(r.Err)
	}
	return r
}

// wantDenied checks that the named attempts fail after and, as root, have worked before; and that all
// others work as before.
func wantDenied(t *testing.T, r result, denied ...string) {
	t.Helper()
	for _, name := range denied {
		if _, known := r.After[name]; !known && name != "become root" {
			t.Errorf("%q was not tried", name)
		}
		if came := r.Before[name]; came != "" && os.Geteuid() == 0 {
			t.Errorf("%s: failed before already: %s", name, came)
		}
	}
	for name, came := range r.After {
		switch wanted := slices.Contains(denied, name); {
		case wanted && came == "":
			t.Errorf("%s: nothing keeps it from that", name)
		case !wanted && came != "" && r.Before[name] == "":
			t.Errorf("%s: %s", name, came)
		}
	}
}

// withoutVsock: what has no vsock can not be kept from it.
func withoutVsock(t *testing.T, r result, denied []string) []string {
	t.Helper()
	if r.Before["bind a vsock port"] != "" {
		return slices.DeleteFunc(slices.Clone(denied), func(s string) bool { return s == "bind a vsock port" })
	}
	return denied
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// TestGateway is exam A6 for what vpnsrv keeps.
// exam: A6
func TestGateway(t *testing.T) {
	needRoot(t)
	user := fallback
	r := perform(t, trial{Rules: Rules{User: &user, Families: []int{unix.AF_NETLINK}}})
	if len(r.Lacking) > 0 {
		t.Fatalf("not in this kernel: %v", r.Lacking)
	}
	wantDenied(t, r, withoutVsock(t, r, []string{
		"read a file of others", "read /etc/shadow", "write what may be read", "listen on TCP", "bind UDP", "bind a vsock port",
		"make a raw socket", "make a TCP socket", "connect", "start a program", "look into a process", "unshare", "be dumped",
		"change a sysctl", "set a socket's mark", "become root", "kill another process", "limit another process", "link a file",
	})...)
	if len(r.Status) < 2 {
		t.Errorf("%d threads: this says nothing about all of them", len(r.Status))
	}
	id := fmt.Sprint(user.UID)
	for _, s := range r.Status {
		for key, want := range map[string]string{
			"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
			"NoNewPrivs": "1", "Seccomp": "2", "Uid": strings.Join([]string{id, id, id, id}, "\t"), "Groups": "",
		} {
			if s[key] != want {
				t.Errorf("thread %s: %s is %q, want %q", s["Pid"], key, s[key], want)
			}
		}
	}
}

// What vpncli keeps: it dials.
// exam: A6
func TestClient(t *testing.T) {
	needRoot(t)
	user := fallback
	r := perform(t, trial{Rules: Rules{User: &user, Families: []int{unix.AF_INET, unix.AF_INET6, unix.AF_VSOCK, unix.AF_NETLINK}, Connect: true}})
	wantDenied(t, r, withoutVsock(t, r, []string{
		"read a file of others", "read /etc/shadow", "write what may be read", "listen on TCP", "bind UDP", "bind a vsock port",
		"make a raw socket", "start a program", "look into a process", "unshare", "be dumped", "change a sysctl", "set a socket's mark",
		"become root", "kill another process", "limit another process", "link a file",
	})...)
}

// Each layer holds by itself.
func TestLayers(t *testing.T) {
	needRoot(t)
	r := perform(t, trial{Only: "landlock"})
	wantDenied(t, r, "read a file of others", "read /etc/shadow", "write what may be read", "listen on TCP", "change a sysctl", "start a program")
	if !strings.Contains(r.After["listen on TCP"], "permission denied") {
		t.Errorf("listening: %s", r.After["listen on TCP"])
	}
	r = perform(t, trial{Only: "seccomp", Rules: Rules{Families: []int{unix.AF_NETLINK}}})
	wantDenied(t, r, withoutVsock(t, r, []string{
		"listen on TCP", "bind UDP", "bind a vsock port", "make a raw socket", "make a TCP socket", "connect", "start a program",
		"look into a process", "unshare", "be dumped", "set a socket's mark", "kill another process", "limit another process", "link a file",
	})...)
}

// What ferry-netadmin keeps.
func TestCapabilities(t *testing.T) {
	needRoot(t)
	r := perform(t, trial{Rules: Rules{
		Capabilities: []int{unix.CAP_NET_ADMIN}, Write: []string{"/proc/sys/net"}, Families: []int{unix.AF_NETLINK, unix.AF_INET}, Bind: true,
	}})
	for _, name := range []string{"change a sysctl", "set a socket's mark", "bind UDP"} {
		if r.After[name] != "" {
			t.Errorf("%s: %s", name, r.After[name])
		}
	}
	for _, name := range []string{"make a raw socket", "read a file of others", "start a program", "unshare"} {
		if r.After[name] == "" {
			t.Errorf("%s: nothing keeps it from that", name)
		}
	}
	for _, s := range r.Status {
		if s["CapEff"] != "0000000000001000" {
			t.Errorf("thread %s: CapEff is %s", s["Pid"], s["CapEff"])
		}
	}
}

func TestFindUser(t *testing.T) {
	for name, want := range map[string]User{"root": {0, 0}, "4711": {4711, 4711}} {
		if u, err := FindUser(name); err != nil || u != want {
			t.Errorf("%s: got %v, %v", name, u, err)
		}
	}
	if _, err := FindUser("no-such-user"); err == nil || !strings.Contains(err.Error(), "useradd --system no-such-user") {
		t.Errorf("got %v", err)
	}
	if u, err := FindUser(""); err != nil || u.UID == 0 || u.UID == 65534 {
		t.Errorf("no name: got %v, %v", u, err)
	}
	for text, want := range map[string]bool{
		"         0       1000          1\n": false, "0 0 4294967295\n": true, "0 1000 1\n1 100000 65536\n": true, "": false,
	} {
		if got := mapped(text, 61002); got != want {
			t.Errorf("%q: got %v", text, got)
		}
	}
}
