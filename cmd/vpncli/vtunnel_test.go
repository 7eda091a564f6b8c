//go:build !minimal

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/internal/cli/clitest"
)

const vtunnelPatience = 20 * time.Second

// vtunnel as its users call it. What it says comes by a pipe here: bug 6 of the original is that it is lost there.
func TestVtunnel(t *testing.T) {
	bin := clitest.Build(t, "vpncli")
	link := filepath.Join(t.TempDir(), vtunnelName)
	if err := os.Symlink(bin, link); err != nil {
		t.Fatal(err)
	}
	clitest.Check(t, link, []clitest.Call{
		{Name: "BugLostOutput version", Args: "-V", Stdout: "vtunnel: version 0.6.0\n"},
		{Name: "BugLostOutput help", Args: "-h", Stdout: "-r, --dst-ip address"},
		{Name: "no port", Args: "-b", Status: 1, Stdout: "vtunnel: neither local nor destination port set\n", Stderr: "vpncli: neither local nor destination port set"},
		{Name: "a port of letters", Args: "-d ssh", Status: 1, Stdout: "Usage:", Stderr: `vpncli: --dst-port: "ssh" is not a whole number`},
		{Name: "a port too high", Args: "-d 72537", Status: 1, Stdout: "Usage:", Stderr: "vpncli: a port is a number from 1 to 65535"},
		{Name: "server with options of a client", Args: "-s -d 22", Status: 1, Stdout: "vtunnel: invalid option set for server mode\n", Stderr: "vpncli: invalid option set for server mode"},
		{Name: "client with an option of a server", Args: "-d 22 -A 0.0.0.0/0", Status: 1, Stdout: "vtunnel: invalid option set for client mode\n", Stderr: "vpncli: invalid option set for client mode"},
		{Name: "no auth string", Args: "-d 22 --auth=", Status: 1, Stdout: "vtunnel: -a: ", Stderr: "vpncli: -a: an auth string is not empty and has no spaces"},
		{Name: "no prefix", Args: "-s -A 10.0.0.0", Status: 1, Stdout: "vtunnel: invalid address for accept: ", Stderr: `vpncli: invalid address for accept: "10.0.0.0" is no IPv4 network: write it as 10.0.0.0/8, or 127.0.0.1/32`},
		{Name: "BugUnbindable", Args: "-d 22 -l 192.0.2.1 --socket unix:///nowhere", Status: 1, Stdout: "vtunnel: this machine has no address 192.0.2.1", Stderr: "vpncli: this machine has no address 192.0.2.1 ('ip addr' shows what it has): listen tcp4 192.0.2.1:22: bind: cannot assign requested address"},
		{Name: "BugUnbindable literal", Args: "-d 22 -l localhost", Status: 1, Stdout: "Usage:", Stderr: `vpncli: -l: "localhost" is no IPv4 address`},
	})
	v := &vtunnelLab{bin: bin, url: "unix://" + filepath.Join(t.TempDir(), "s")}
	t.Run("tunnels", v.tunnels)
	t.Run("background", v.background)
	t.Run("signals", v.signals)
}

// A vtunnelLab starts programs of vtunnel.
type vtunnelLab struct{ bin, url string }

// A vtunnelProc is one that runs.
type vtunnelProc struct {
	*exec.Cmd
	lines *bufio.Reader
}

func (v *vtunnelLab) start(t *testing.T, args ...string) *vtunnelProc {
	t.Helper()
	cmd := exec.Command(v.bin, append([]string{"vtunnel", "--socket", v.url}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &vtunnelProc{cmd, bufio.NewReader(out)}
	timer := time.AfterFunc(3*vtunnelPatience, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		timer.Stop()
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return p
}

// await reads lines until one has want in it.
func (p *vtunnelProc) await(t *testing.T, want string) string {
	t.Helper()
	var all strings.Builder
	for {
		line, err := p.lines.ReadString('\n')
		all.WriteString(line)
		if strings.Contains(line, want) {
			return strings.TrimSuffix(line, "\n")
		}
		if err != nil {
			t.Fatalf("%v before %q:\n%s", err, want, &all)
		}
	}
}

// confined checks that a server has given up its rights.
func (p *vtunnelProc) confined(t *testing.T) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"\nNoNewPrivs:\t1\n", "\nSeccomp:\t2\n", "\nCapPrm:\t0000000000000000\n"}
	for _, line := range want {
		if !strings.Contains(string(status), line) {
			t.Errorf("got %s\nwant %q", status, line)
		}
	}
	if strings.Contains(string(status), "\nUid:\t0") {
		t.Errorf("it is still root:\n%s", status)
	}
}

// listening returns where a client listens, of the line that scripts read.
func (p *vtunnelProc) listening(t *testing.T, pid int) string {
	t.Helper()
	line := p.await(t, "listening")
	m := regexp.MustCompile(`^vtunnel: pid (\d+) listening on tcp (127\.0\.0\.1:\d+)$`).FindStringSubmatch(line)
	if m == nil || pid != 0 && m[1] != strconv.Itoa(pid) {
		t.Fatalf("got %q, want that of process %d", line, pid)
	}
	return m[2]
}

// banner is a destination of TCP that speaks first, and then returns what comes.
func banner(t *testing.T) (port string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, "hello\n")
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// echoes is a destination of UDP that returns what comes.
func echoes(t *testing.T) (port string) {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(b[:n], from)
		}
	}()
	_, port, _ = net.SplitHostPort(c.LocalAddr().String())
	return port
}

// exchange speaks with a destination through a tunnel, and returns what it gets.
func exchange(t *testing.T, network, addr, send string, want int) string {
	t.Helper()
	conn, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(vtunnelPatience))
	if _, err := io.WriteString(conn, send); err != nil {
		return err.Error()
	}
	got := make([]byte, want)
	n, err := io.ReadFull(conn, got)
	if err != nil {
		return err.Error()
	}
	return string(got[:n])
}

func (v *vtunnelLab) tunnels(t *testing.T) {
	server := v.start(t, "-s", "-A", "127.0.0.1/32")
	if got, want := server.await(t, "listening"), "vtunnel: listening on "+v.url; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	port := banner(t)
	client := v.start(t, "-d", port, "-p", port) // which is taken: the next one
	at := client.listening(t, client.Process.Pid)
	if strings.HasSuffix(at, ":"+port) {
		t.Errorf("listens on %s, where the destination does", at)
	}
	if got := exchange(t, "tcp", at, "world\n", 12); got != "hello\nworld\n" {
		t.Errorf("got %q", got)
	}
	client.await(t, "vtunnel: received connection on "+at+" tcp")
	client.await(t, "vtunnel: finished processing tunnel, thread exiting")
	server.await(t, "vtunnel: setting up tunnel to 127.0.0.1:"+port+" tcp")
	server.await(t, "vtunnel: finished processing tunnel, thread exiting")
	server.confined(t)

	t.Run("udp", func(t *testing.T) {
		client := v.start(t, "-u", "-d", echoes(t))
		if got := exchange(t, "udp", client.listening(t, 0), "datagram", 8); got != "datagram" {
			t.Errorf("got %q", got)
		}
		server.await(t, " udp")
	})
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"nobody listens", []string{"-p", port, "-d", "1"}, "vtunnel: remote connect failed"},
		{"not accepted", []string{"-d", port, "-r", "127.0.0.2"}, "vtunnel: remote addr failed"},
		{"no address", []string{"-d", port, "-r", "localhost"}, "vtunnel: remote addr failed"},
		{"auth string", []string{"-d", port, "-a", "BAD"}, "vtunnel: remote auth failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := v.start(t, test.args...)
			at := client.listening(t, 0)
			if conn, err := net.Dial("tcp", at); err == nil {
				defer conn.Close()
			}
			client.await(t, test.want)
			client.await(t, "vtunnel: could not setup tunnel")
		})
	}
}

// With -b the line comes from the process that goes on, and the one that was started ends.
func (v *vtunnelLab) background(t *testing.T) {
	server := v.start(t, "-s")
	server.await(t, "listening")
	port := banner(t)
	client := v.start(t, "-b", "-d", port)
	line := client.await(t, "listening")
	var pid int
	var at string
	if _, err := fmt.Sscanf(line, "vtunnel: pid %d listening on tcp %s", &pid, &at); err != nil || pid == client.Process.Pid {
		t.Fatalf("got %q from process %d", line, client.Process.Pid)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	if err := client.Wait(); err != nil {
		t.Error(err)
	}
	if got := exchange(t, "tcp", at, "x", 7); got != "hello\nx" {
		t.Errorf("got %q", got)
	}
	for fd := range 3 {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); to != os.DevNull {
			t.Errorf("descriptor %d: got %q, %v", fd, to, err)
		}
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(vtunnelPatience); ; time.Sleep(10 * time.Millisecond) {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(state), ") Z ") { // nobody may wait for it here
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not stop")
		}
	}
	t.Run("BugForksWhenVerbose", func(t *testing.T) {
		client := v.start(t, "-b", "-v", "-d", port)
		client.await(t, "vtunnel: does not daemonize when verbose")
		client.listening(t, client.Process.Pid)
	})
	t.Run("fault", func(t *testing.T) {
		client := v.start(t, "-b", "-d", port, "-l", "192.0.2.1")
		client.await(t, "vtunnel: this machine has no address 192.0.2.1")
		if err := client.Wait(); client.ProcessState.ExitCode() != 1 {
			t.Errorf("got %v, want status 1", err)
		}
	})
}

// INT, TERM and QUIT are orders to stop, HUP is none.
func (v *vtunnelLab) signals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT} {
		for _, args := range [][]string{{"-s"}, {"-d", "7001"}} {
			p := v.start(t, args...)
			p.await(t, "listening")
			_ = p.Process.Signal(syscall.SIGHUP)
			_ = p.Process.Signal(sig)
			if err := p.Wait(); err != nil {
				t.Errorf("%v, %s: %v", args, sig, err)
			}
		}
	}
}
