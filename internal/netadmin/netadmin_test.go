package netadmin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/hostnet"
	"ferry/internal/policy"
	"ferry/internal/tun"
)

// inNetns is set in the process whose tests run in a network namespace of their own.
const inNetns = "FERRY_NETADMIN_NETNS"

func TestMain(m *testing.M) {
	if IsChild() {
		os.Exit(Main(func(string, string) *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }))
	}
	if os.Getenv(inNetns) == "" {
		os.Exit(again())
	}
	os.Exit(m.Run())
}

// again runs this test in a namespace.
func again() int {
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), inNetns+"=1")
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		c.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if err := c.Run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func begin(t *testing.T, r Rules) *Client {
	t.Helper()
	if r.Policy == nil && !r.Addr.IsValid() {
		r.Policy = &policy.Rules{Accept: policy.DefaultAccept, DefaultRoute: true}
		r.Table = 77
	}
	r.Program, r.TUN, r.MTU, r.LogFormat, r.LogLevel = "test", "tun7", 1400, "text", "info"
	c, err := Start(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func open(t *testing.T, c *Client) *tun.Device {
	t.Helper()
	d, err := c.OpenTUN()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func routes(list ...string) (all []netip.Prefix) {
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func ip(t *testing.T, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}

// eventually waits for what other processes do.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("not within 20 s: %s", what)
			return
		}
	}
}

func exists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

// state is that of a device whose table and mark are those of begin and of no mark.
var state = hostnet.State{Addr: netip.MustParsePrefix("10.1.0.5/16"), MTU: 1300, Outer: hostnet.Outer{Table: 77}}

func TestInterface(t *testing.T) {
	c := begin(t, Rules{})
	if err := c.Apply(state); err == nil {
		t.Error("a state was applied to no interface")
	}
	d := open(t, c)
	if d.Name() != "tun7" || !d.Here() {
		t.Errorf("name %q, here %v", d.Name(), d.Here())
	}
	if err := c.Apply(state); err != nil {
		t.Fatal(err)
	}
	if out := ip(t, "address show dev tun7"); !strings.Contains(out, "10.1.0.5/16") || !strings.Contains(out, "mtu 1300") {
		t.Error(out)
	}
	// A packet to the kernel comes back as an answer: the descriptor works.
	read := make(chan error, 1)
	go func() {
		_, err := d.ReadFrames(make([]byte, tun.BatchSize))
		read <- err
	}()
	conn, err := net.Dial("udp", "10.1.0.9:9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-read:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(4 * time.Second):
		t.Error("no packet came out of the interface")
	}
	if err := c.Undo(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(d.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	eventually(t, "the interface is gone", func() bool { return !exists("tun7") })
}

// A deleted interface is made again, with its name.
func TestAgain(t *testing.T) {
	c := begin(t, Rules{})
	first := open(t, c)
	ip(t, "link del tun7")
	if _, err := first.ReadFrames(make([]byte, tun.BatchSize)); err == nil {
		t.Error("reading does not say that it is gone")
	}
	if d := open(t, c); d.Name() != "tun7" || !d.Here() || first.Here() {
		t.Error("it is not the interface that was asked for")
	}
}

// Nothing can be asked for but what the rules name.
func TestRules(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "named"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := begin(t, Rules{Mark: 7, Connect: []string{l.Addr().String()}, Read: []string{file}, Write: []string{file}})
	open(t, c)

	marked, err := c.Socket("tcp4", "192.0.2.1:2002")
	if err != nil {
		t.Fatal(err)
	}
	defer marked.Close()
	raw, err := marked.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		if mark, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK); err != nil || mark != 7 {
			t.Errorf("mark %d, %v", mark, err)
		}
	})
	conn, err := c.Connect(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := c.Replace(file, []byte("other text")); err != nil {
		t.Error(err)
	}
	f, err := c.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || string(b) != "other text" {
		t.Errorf("got %q, %v", b, err)
	}

	if os.Getuid() == 0 && os.Chown(file, 61002, 61002) == nil { // in a user namespace there is nobody else
		if _, err := c.Open(file); err == nil {
			t.Error("a file that somebody else has made is opened")
		}
		if err := os.Chown(file, 0, 0); err != nil {
			t.Fatal(err)
		}
	}

	other := state
	other.Outer.Mark = 8
	for what, err := range map[string]error{
		"a state with another mark": c.Apply(other),
		"another path":              second(c.Connect(filepath.Join(dir, "other"))),
		"reading another file":      second(c.Open("/etc/passwd")),
		"writing another file":      c.Replace(filepath.Join(dir, "other"), nil),
		"a raw socket":              second(c.Socket("ip4:1", "192.0.2.1")),
		"a program": func() error {
			_, err := c.ask(question{Op: "exec", Arg: "/bin/true"})
			return err
		}(),
	} {
		if err == nil {
			t.Errorf("%s: nothing keeps it from that", what)
		}
	}
	bare := begin(t, Rules{})
	for what, err := range map[string]error{"a socket": second(bare.Socket("tcp4", "192.0.2.1:2002")), "a file": second(bare.Open(file))} {
		if err == nil {
			t.Errorf("%s without rules: nothing keeps it from that", what)
		}
	}
	// The cause of an error is known here, too.
	_ = l.Close()
	if _, err := c.Connect(l.Addr().String()); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("got %v, want %v", err, syscall.ENOENT)
	}
}

func second[T any](_ T, err error) error { return err }

// What a client that was killed has done is taken back, but for a full tunnel, which the next one takes back.
func TestClientKilled(t *testing.T) {
	before := ip(t, "rule") + ip(t, "route show table all")
	full := state
	full.Routes, full.Outer.Mark = routes("0.0.0.0/0"), 7
	for _, s := range []hostnet.State{state, full} {
		c := begin(t, Rules{Mark: s.Outer.Mark})
		d := open(t, c)
		if err := c.Apply(s); err != nil {
			t.Fatal(err)
		}
		_ = c.wire.conn.Close() // as the kernel does for a process that has ended
		_ = c.cmd.Wait()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		eventually(t, "the interface is gone", func() bool { return !exists("tun7") })
		after := ip(t, "rule") + ip(t, "route show table all")
		if same := after == before; same == s.Full() {
			t.Errorf("full tunnel %v: the state is as before: %v\n%s", s.Full(), same, after)
		}
		for range c.answers { // receive has ended
		}
		c.closing.Do(func() {})
	}
	c := begin(t, Rules{})
	open(t, c)
	if after := ip(t, "rule"); strings.Contains(after, "77") {
		t.Errorf("the next one left this:\n%s", after)
	}
}

func TestEvents(t *testing.T) {
	c := begin(t, Rules{})
	open(t, c)
	if err := c.Apply(state); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	events, ended := make(chan hostnet.Event, 100), make(chan error, 1)
	go func() { ended <- c.Watch(ctx, func(e hostnet.Event) { events <- e }) }()
	want := func(e hostnet.Event) {
		t.Helper()
		select {
		case got := <-events:
			if got != e {
				t.Errorf("got %v, want %v", got, e)
			}
		case <-time.After(4 * time.Second):
			t.Errorf("no event, want %v", e)
		}
	}
	ip(t, "link set tun7 mtu 1200")
	want(hostnet.MTUChanged)
	ip(t, "link set tun7 down")
	want(hostnet.Down)
	ip(t, "link del tun7")
	want(hostnet.Gone)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Who asks a process that is gone hears it, also who asks already.
func TestEnds(t *testing.T) {
	c := begin(t, Rules{})
	open(t, c)
	ended := make(chan error, 1)
	go func() { ended <- c.Watch(t.Context(), func(hostnet.Event) {}) }()
	if err := c.Apply(state); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrEnded) {
		t.Errorf("Watch: %v", err)
	}
	for what, err := range map[string]error{"Apply": c.Apply(state), "OpenTUN": second(c.OpenTUN()), "Close": c.Close()} {
		if !errors.Is(err, ErrEnded) {
			t.Errorf("%s: got %v, want %v", what, err, ErrEnded)
		}
	}
}

func TestLongMessages(t *testing.T) {
	c := begin(t, Rules{})
	open(t, c)
	many := state
	for i := range 8000 {
		many.Routes = append(many.Routes, netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0}), 24))
	}
	if err := c.Apply(many); err != nil {
		t.Error(err)
	}
	many.Routes = slices.Concat(many.Routes, many.Routes)
	if err := c.Apply(many); err == nil || !strings.Contains(err.Error(), "more than 10,000 routes") {
		t.Errorf("got %v", err)
	}
	if err := c.Apply(state); err != nil {
		t.Errorf("after a message that was too long: %v", err)
	}
}

// A message that is none ends it, and is no harm to the host.
func TestNonsense(t *testing.T) {
	c := begin(t, Rules{})
	open(t, c)
	if err := c.Apply(state); err != nil {
		t.Fatal(err)
	}
	if _, err := c.wire.conn.Write([]byte("}{")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if out := ip(t, "route show table all"); strings.Contains(out, "proto 202") {
		t.Error(out)
	}
}

// Descriptors that nobody expects are closed, and one watch is enough.
// exam: A7
func TestNothingPilesUp(t *testing.T) {
	c := begin(t, Rules{})
	open(t, c)
	count := func() int {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", c.cmd.Process.Pid))
		if err != nil || len(fds) == 0 {
			t.Fatal(fds, err)
		}
		return len(fds)
	}
	before := count()
	if _, err := c.ask(question{Op: opWatch}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it watches", func() bool { return count() > before })
	before = count()
	const rounds = 20
	for range rounds {
		if _, err := c.ask(question{Op: opWatch}); err == nil {
			t.Fatal("a second watch")
		}
		if _, _, err := c.wire.conn.WriteMsgUnix([]byte(`{"op":"none"}`), unix.UnixRights(0, 1, 2), nil); err != nil {
			t.Fatal(err)
		}
		<-c.answers
	}
	if after := count(); after >= before+rounds { // the watch itself may have opened more meanwhile
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// A tunnel that is not full any more is taken back when its client was killed.
func TestFullNoMore(t *testing.T) {
	before := ip(t, "rule") + ip(t, "route show table all")
	c := begin(t, Rules{Mark: 7})
	d := open(t, c)
	full := state
	full.Routes, full.Outer.Mark = routes("0.0.0.0/0"), 7
	less := state
	less.Outer.Mark = 7
	for _, s := range []hostnet.State{full, less} {
		if err := c.Apply(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(c.Close(), d.Close()); err != nil {
		t.Error(err)
	}
	if after := ip(t, "rule") + ip(t, "route show table all"); after != before {
		t.Errorf("this is left:\n%s", after)
	}
}

// A socket that is on its way to an address which is routed into the tunnel gets around it: the gateway may have
// moved there, or a name server be there that says where it is.
func TestDetour(t *testing.T) {
	c := begin(t, Rules{Mark: 7})
	open(t, c)
	s := state
	s.Routes, s.Outer.Mark = routes("20.1.0.0/16"), 7
	if err := c.Apply(s); err != nil {
		t.Fatal(err)
	}
	marked := func() bool { // is table 77 in use, which the mark leads past?
		return strings.Contains(ip(t, "rule"), "not from all fwmark 0x7 lookup 77") && strings.Contains(ip(t, "route show table 77"), "20.1.0.0/16")
	}
	if marked() {
		t.Fatal("there is a detour already")
	}
	for _, address := range []string{"20.2.0.1:53", "127.0.0.1:53", "nonsense"} {
		f, err := c.Socket("udp4", address)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if marked() {
			t.Errorf("%s is not in the tunnel", address)
		}
	}
	f, err := c.Socket("tcp4", "20.1.2.3:2002")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !marked() {
		t.Errorf("the socket's way leads into the tunnel:\n%s%s", ip(t, "rule"), ip(t, "route show table all"))
	}
}
