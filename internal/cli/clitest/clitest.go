// Package clitest runs real commands in tests: Build makes the binary, Check compares calls with
// what they must answer, Start keeps one running as a service manager would.
package clitest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ferry/internal/cli"
)

// patience is how long a command may take for what should take milliseconds.
const patience = 20 * time.Second

// Build returns the path of the binary of the command in the current directory. The cache of go test
// does not know what only that binary is made of: -count=1 goes around it.
func Build(t *testing.T, name string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // for calls as nobody
		t.Fatal(err)
	}
	bin := filepath.Join(dir, name)
	args := append([]string{"build", "-o", bin}, flags...)
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// A Call is a command line and what must come of it.
type Call struct {
	Name   string
	Args   string // separated by spaces
	Nobody bool   // as a user without capabilities
	Status int
	Stdout string // a part of it; empty: nothing is printed
	Stderr string // all of it, without the newline
}

// Check makes each of the calls in a subtest.
func Check(t *testing.T, bin string, calls []Call) {
	t.Helper()
	for _, c := range calls {
		t.Run(c.Name, func(t *testing.T) { c.check(t, bin) })
	}
}

func (c Call) check(t *testing.T, bin string) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, strings.Fields(c.Args)...)
	cmd.Dir = "/"
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if c.Nobody && os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != c.Status {
		t.Errorf("status: got %d, want %d", got, c.Status)
	}
	if got := strings.TrimSuffix(stderr.String(), "\n"); got != c.Stderr {
		t.Errorf("stderr:\n got %s\nwant %s", got, c.Stderr)
	}
	if got := stdout.String(); !strings.Contains(got, c.Stdout) || c.Stdout == "" && got != "" {
		t.Errorf("stdout:\n got %s\nwant %s", got, c.Stdout)
	}
}

// CheckCompletion checks that the completion scripts of a command are accepted by their shells, of
// which those that are not installed are left out.
func CheckCompletion(t *testing.T, bin string) {
	t.Helper()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run("completion "+shell, func(t *testing.T) {
			script, err := exec.CommandContext(t.Context(), bin, "completion", shell).Output()
			if err != nil || !bytes.Contains(script, []byte(filepath.Base(bin))) {
				t.Fatalf("got %q, %v, want a script", script, err)
			}
			if _, err := exec.LookPath(shell); err != nil {
				t.Skip(err)
			}
			check := exec.CommandContext(t.Context(), shell, "-n")
			check.Stdin = bytes.NewReader(script)
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("%s -n: %v\n%s", shell, err, out)
			}
		})
	}
}

// A Service is a command that runs in a network namespace of its own.
type Service struct {
	*exec.Cmd
	Stderr bytes.Buffer // to be read after Wait
	notify *net.UnixConn
}

// Start starts a command as systemd does a Type=notify service. stdout may be nil. The test is
// skipped where namespaces or TUNs cannot be made.
func Start(t *testing.T, stdout *os.File, bin string, args ...string) *Service {
	t.Helper()
	if err := cli.CanTunnel("go test", "for this test"); err != nil {
		t.Skip(err)
	}
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	s := &Service{Cmd: exec.CommandContext(ctx, bin, args...), notify: conn}
	s.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	s.Cmd.Stderr = &s.Stderr
	if stdout != nil {
		s.Stdout = stdout
	}
	s.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = s.Wait() // again, if the test did: that is an error and nothing else
	})
	return s
}

// Await reads notifications until one has want in it.
func (s *Service) Await(t *testing.T, want string) {
	t.Helper()
	b := make([]byte, 4096)
	for {
		n, err := s.notify.Read(b)
		if err != nil {
			_ = s.Process.Kill()
			_ = s.Wait()
			t.Fatalf("waiting for %q: %v\n%s", want, err, &s.Stderr)
		}
		if strings.Contains(string(b[:n]), want) {
			return
		}
	}
}

// Stop sends SIGTERM and checks that the service stops cleanly.
func (s *Service) Stop(t *testing.T) {
	t.Helper()
	if err := s.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.Await(t, "STOPPING=1")
	if err := s.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, &s.Stderr)
	}
}
