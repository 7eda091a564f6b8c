// Package lab makes networks of namespaces for tests and benchmarks, and runs programs in them.
//
// A namespace has no name in the system: it lives as long as this process has it open, and so do
// the links in it. Nothing is left behind, not even by a process that was killed. It needs root, or
// a user namespace (unshare -Urnm).
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// commandTime is how long Run lets a command take.
const commandTime = 60 * time.Second

// A Namespace is a network namespace with its own loopback interface up.
type Namespace struct {
	Name string // for messages
	file *os.File
}

// NewNamespace makes a network namespace. The congestion control is cubic, the Linux default, even
// where the machine has another one, if it lets namespaces choose that: Cubic tells.
func NewNamespace(name string) (*Namespace, error) {
	n := &Namespace{Name: name}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace %s (as root, or in 'unshare -Urnm'): %w", name, err)
		}
		var err error
		n.file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		return err
	})
	if err != nil {
		return nil, err
	}
	if _, err := n.Run("ip link set lo up"); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	_, _ = n.Run("sysctl -qw " + congestionControl + "=cubic")
	return n, nil
}

const congestionControl = "net.ipv4.tcp_congestion_control"

// Cubic is an error where TCP of the namespace has another congestion control, which would flatter or hurt what is measured.
func (n *Namespace) Cubic() error {
	out, err := n.Run("sysctl -n " + congestionControl)
	if err == nil && strings.TrimSpace(out) != "cubic" {
		err = fmt.Errorf("namespaces have %s here, and may not choose cubic", strings.TrimSpace(out))
	}
	return err
}

// OpenNamespace opens a network namespace that others have made, as /run/netns/NAME or /proc/PID/ns/net.
func OpenNamespace(path string) (*Namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &Namespace{Name: path, file: file}, nil
}

// Close lets go of the namespace; it vanishes when no process is in it any more.
func (n *Namespace) Close() error { return n.file.Close() }

// Path can be given to ip-link(8) as a namespace, by processes that run while this one does.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Do calls f on a thread in the namespace: what f opens belongs to it.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", n.Name, err)
		}
		return f()
	})
}

// onThread calls f on a thread that is thrown away afterwards, for it is in another namespace then.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// Run runs a command of words without quotes, and returns what it printed.
func (n *Namespace) Run(command string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	return n.Output(exec.CommandContext(ctx, strings.Fields(command)[0], strings.Fields(command)[1:]...))
}

// Output runs cmd in the namespace and returns all that it printed.
func (n *Namespace) Output(cmd *exec.Cmd) (string, error) {
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.Do(cmd.Start); err != nil {
		return "", fmt.Errorf("%s: %s: %w", n.Name, strings.Join(cmd.Args, " "), err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s", n.Name, strings.Join(cmd.Args, " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// Join makes a veth pair: interface nameA with address addrA (a prefix) in a, nameB with addrB in b.
func Join(a *Namespace, nameA, addrA string, b *Namespace, nameB, addrB string) error {
	for _, step := range []struct {
		in  *Namespace
		cmd string
	}{
		{a, fmt.Sprintf("ip link add %s type veth peer name %s netns %s", nameA, nameB, b.Path())},
		{a, fmt.Sprintf("ip address add %s dev %s", addrA, nameA)},
		{b, fmt.Sprintf("ip address add %s dev %s", addrB, nameB)},
		{a, fmt.Sprintf("ip link set %s up", nameA)},
		{b, fmt.Sprintf("ip link set %s up", nameB)},
	} {
		if _, err := step.in.Run(step.cmd); err != nil {
			return err
		}
	}
	return nil
}
