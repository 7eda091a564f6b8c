package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/internal/cli/clitest"
	"ferry/test/hypervisor"
)

const patience = 20 * time.Second

func TestCommandLine(t *testing.T) {
	clitest.Check(t, clitest.Build(t, "vpn"), []clitest.Call{
		{Name: "version", Args: "-V", Stdout: "ferry-penguin "},
		{Name: "help", Args: "host -h", Stdout: "-e, --event-path file"},
		{Name: "nothing", Status: 1, Stderr: "vpn: name a command: host, guest, wan-probe, raw or raw-attach ('vpn -h' explains them)"},
		{Name: "an argument", Args: "host x", Status: 1, Stderr: `vpn: unexpected argument "x" ('vpn host -h' lists the flags)`},
		{Name: "no ports", Args: "wan-probe", Status: 1, Stderr: "vpn: name ports, as --ports 80,443"},
		{Name: "no port", Args: "wan-probe --ports 80,http", Status: 1, Stderr: `vpn: invalid port "http": numbers up to 65535 with commas between are expected`},
		{Name: "no address", Args: "raw --src-ip ::1", Status: 1, Stderr: `vpn: --src-ip: "::1" is no IPv4 address`},
		{Name: "half a byte", Args: "raw --packet 450", Status: 1, Stderr: "vpn: the packet is not written in hex: encoding/hex: odd length hex string"},
		{Name: "no directory", Args: "host -e /nowhere/events -u /nowhere/v", Status: 1, Stderr: "vpn: watch /nowhere/events: is there such a directory?: no such file or directory"},
		{Name: "no directory in the background", Args: "-d host -e /nowhere/events", Status: 1, Stderr: "vpn: watch /nowhere/events: is there such a directory?: no such file or directory"},
		{Name: "bad socket", Args: "guest -d --socket /nowhere/v", Status: 1, Stderr: "vpn: listen on unix:///nowhere/v_1234: listen unix /nowhere/v_1234: bind: no such file or directory"},
	})
}

// A lab is what the plugin of Penguin runs, with a fake hypervisor.
type lab struct {
	bin, dir, uds, events, out string
	service                    string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	n := &lab{bin: clitest.Build(t, "vpn.x86_64"), dir: dir, uds: filepath.Join(dir, "vsocket"), events: filepath.Join(dir, "vpn_events_4_x"), out: filepath.Join(dir, "out")}
	for _, err := range []error{os.Mkdir(n.out, 0o700), os.WriteFile(n.events, nil, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	l, err := net.Listen("unix", n.uds)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- hypervisor.Serve(ctx, l, n.uds, hypervisor.Dialects[0]) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	s, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.service = s.Addr().String()
	go func() { // ends with the listener
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	t.Cleanup(func() { _ = s.Close() })
	return n
}

// run starts a command line.
func (n *lab) run(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(n.bin, args...)
	cmd.Stderr = os.Stderr // and stdout is discarded
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// publish adds an event, as the plugin writes it, and connects to what is there then.
func (n *lab) publish(t *testing.T) *net.TCPConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	f, err := os.OpenFile(n.events, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintf(f, "tcp,%s,0.0.0.0:%d,127.0.0.1:0\n", n.service, at)
	_ = f.Close()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", at)); err == nil {
			t.Cleanup(func() { _ = c.Close() })
			_ = c.SetDeadline(time.Now().Add(patience))
			return c.(*net.TCPConn)
		}
		if time.Now().After(end) {
			t.Fatal("nothing is published")
		}
	}
}

// end sends SIGTERM as the plugin does, which kills after 2 s.
func end(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	start := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if took := time.Since(start); err != nil || took > 2*time.Second {
		t.Errorf("after SIGTERM: %v, %s", err, took)
	}
}

// The command lines of the plugin and of the guest's init, with this program in the place of vpnguin. SIGTERM comes while bytes pass: all that has passed is in the files.
func TestPlugin(t *testing.T) {
	n := newLab(t)
	// Without a kernel that has vsock the guest listens where the hypervisor dials; that is all that is not the guest's line.
	guest := n.run(t, "guest", "-c", "4", "--socket", n.uds)
	host := n.run(t, "host", "-e", n.events, "-c", "4", "-u", n.uds, "-o", n.out, "-l", filepath.Join(n.out, "vpn.pcap"))
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(n.uds + "_1236"); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the guest does not listen")
		}
	}
	c := n.publish(t)
	total, got := 0, 0
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	back := make([]byte, len(chunk))
	for range 50 {
		m, err := c.Write(chunk)
		total += m
		if err == nil {
			m, err = io.ReadFull(c, back)
			got += m
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	end(t, host)
	end(t, guest)
	name := strings.ReplaceAll(n.service, ":", "_")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(n.out, name))
		if err != nil {
			t.Error(err)
		}
		return b
	}
	if response := read("vpn_response_" + name); len(response) != got {
		t.Errorf("%d bytes of %d are in the response", len(response), got)
	}
	if text := string(read("vpn_" + name)); text != fmt.Sprintf("%d,%d\n", total, got) {
		t.Errorf("the summary says %q, not %d,%d", text, total, got)
	}
	packets, payload, last := capture(t, read("vpn.pcap"))
	if payload != total+got || packets < 8 || last != 1<<4 {
		t.Errorf("the capture has %d packets, %d bytes of %d, the last one with flags %d", packets, payload, total+got, last)
	}
}

// capture returns what a capture has, which ends with a whole packet.
func capture(t *testing.T, b []byte) (packets, payload int, flags byte) {
	t.Helper()
	for b = b[24:]; len(b) > 0; packets++ {
		n := int(binary.BigEndian.Uint32(b[8:]))
		if len(b) < 16+n {
			t.Fatal("the last packet is torn")
		}
		flags = b[16+14+20+13]
		payload += n - 14 - 40
		b = b[16+n:]
	}
	return packets, payload, flags
}

// Bug 2.5.5: a host that has nothing to do takes 90 % of a core.
func TestBugIdle(t *testing.T) {
	n := newLab(t)
	host := n.run(t, "host", "-e", n.events, "-c", "4", "-u", n.uds)
	time.Sleep(1500 * time.Millisecond) // what is measured is a time
	end(t, host)
	if used := host.ProcessState.UserTime() + host.ProcessState.SystemTime(); used > 300*time.Millisecond {
		t.Errorf("it took %s", used)
	}
}

// -d returns when the guest listens, with relative paths, too.
func TestDaemonize(t *testing.T) {
	n := newLab(t)
	for _, args := range [][]string{{"-d", "guest", "--socket", "a"}, {"guest", "-d", "--socket", "b"}} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, n.bin, args...)
		cmd.Dir = n.dir
		cmd.Env = append(os.Environ(), inherited) // which is another's, and keeps nothing in front
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("%v: %v, %s", args, err, out)
		}
		c, err := net.Dial("unix", filepath.Join(n.dir, args[len(args)-1]+"_1234"))
		if err != nil {
			t.Fatal(err)
		}
		pid := daemon(t, c)
		_ = c.Close()
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(patience); syscall.Kill(pid, 0) == nil && !isZombie(pid); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it does not end")
			}
		}
		if left, _ := filepath.Glob(filepath.Join(n.dir, args[len(args)-1]+"_*")); len(left) > 0 {
			t.Errorf("%v are there still", left)
		}
	}
}

// inherited is what a child of a program in the background has in its environment, if that is not kept from it.
const inherited = "FERRY_BACKGROUND=1"

// Without -d a host stays in front and on its terminal, whatever it has inherited.
func TestInFront(t *testing.T) {
	n := newLab(t)
	var log bytes.Buffer
	host := exec.Command(n.bin, "host", "-e", n.events, "-u", n.uds)
	host.Stderr, host.Env = &log, append(os.Environ(), inherited, "RUST_LOG=info")
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Process.Kill(); _ = host.Wait() })
	n.publish(t)
	end(t, host)
	if text := log.String(); !strings.Contains(text, "msg=published") || !strings.Contains(text, "host ends") {
		t.Errorf("it has said %q", text)
	}
}

// daemon returns the process at the other end.
func daemon(t *testing.T, c net.Conn) (pid int) {
	t.Helper()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		if err != nil {
			t.Fatal(err)
		}
		pid = int(cred.Pid)
	})
	if err != nil || pid == 0 || pid == os.Getpid() {
		t.Fatalf("process %d, %v", pid, err)
	}
	return pid
}

// isZombie: where nobody waits for orphans they stay.
func isZombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}
