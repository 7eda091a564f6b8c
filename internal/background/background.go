// Package background lets a program go on in the background, as daemons of old do:
//
//	Start: the same command line in a session of its own --> it is ready: Detach --> Start returns
//
// Go can not fork, so the child is the program started anew. Unlike with a fork, a number of a process that it has told is its own.
package background

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// variable is in the environment of a child: the number of the process that has started it. Whoever inherits it from somebody else has another parent.
const variable = "FERRY_BACKGROUND"

// ready is what a child says last: a byte that is in no text.
const ready = 0

// isChild is found out once, for the parent may end at any time. What this process starts is none.
var isChild = sync.OnceValue(func() bool {
	parent := os.Getenv(variable)
	_ = os.Unsetenv(variable)
	return parent == strconv.Itoa(os.Getppid())
})

// IsChild tells whether this process was started by Start.
func IsChild() bool { return isChild() }

// Start runs the command line of this process anew until that detaches, or ends. It writes to stdout what the child says until then, and returns the exit status of
// one that has ended, which has said why.
func Start() (status int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	child := exec.Command(self, os.Args[1:]...)
	child.Env = append(os.Environ(), variable+"="+strconv.Itoa(os.Getpid()))
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := child.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := child.Start(); err != nil {
		return 0, err
	}
	text, _ := io.ReadAll(out) // until it detaches, or ends
	text, detached := bytes.CutSuffix(text, []byte{ready})
	_, _ = os.Stdout.Write(text)
	if detached {
		return 0, child.Process.Release()
	}
	err = child.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// Detach leaves the terminal, the directory and who has called Start. In a process that is no child it does nothing.
func Detach() {
	if !IsChild() {
		return
	}
	_ = os.Chdir("/")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	_, _ = os.Stdout.Write([]byte{ready})
	for fd := range 3 {
		_ = unix.Dup3(int(null.Fd()), fd, 0)
	}
}
