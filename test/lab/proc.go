package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Proc is a running program. Its output is kept, line by line.
type Proc struct {
	Cmd *exec.Cmd

	mu    sync.Mutex
	lines []string
	grown chan struct{} // closed and replaced when lines has grown or ended
	ended bool          // no more lines come
	done  chan struct{} // closed when the program has ended and its output was read
	err   error         // of Wait; set before done is closed
}

// Start starts a program in the namespace. It is killed when this process dies.
func (n *Namespace) Start(args ...string) (*Proc, error) {
	cmd := exec.Command(args[0], args[1:]...)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	p := &Proc{Cmd: cmd, grown: make(chan struct{}), done: make(chan struct{})}
	// The death signal comes when the thread that started the program ends, which must not be one
	// that Do throws away: there is one thread for this, and the program asks for the namespace itself.
	cmd.Args = append([]string{"nsenter", "--net=" + n.Path(), "--"}, args...)
	if cmd.Path, err = exec.LookPath("nsenter"); err != nil {
		return nil, err
	}
	cmd.Err = nil
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	starts() <- func() { started <- cmd.Start() }
	err = <-started
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("%s: start %s: %w", n.Name, strings.Join(args, " "), err)
	}
	read := make(chan struct{})
	go func() { // ends when the program and its children have closed their output
		p.read(r)
		close(read)
	}()
	go func() {
		p.err = cmd.Wait()
		select { // so that Output is complete
		case <-read:
		case <-time.After(outputTime):
		}
		close(p.done)
	}()
	return p, nil
}

// outputTime is how long children of a program that has ended may keep its output open.
const outputTime = time.Second

// starts takes functions for a goroutine that has a thread of its own, as long as this process lives.
var starts = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
})

func (p *Proc) read(r io.ReadCloser) {
	defer r.Close()
	s := bufio.NewScanner(r)
	for s.Scan() {
		p.note(s.Text(), false)
	}
	p.note("", true)
}

func (p *Proc) note(line string, end bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if end {
		p.ended = true
	} else {
		p.lines = append(p.lines, line)
	}
	close(p.grown)
	p.grown = make(chan struct{})
}

// Await waits for a line that contains text, after the first skip lines that do, and returns it.
func (p *Proc) Await(text string, skip int, limit time.Duration) (string, error) {
	timeout := time.After(limit)
	for {
		p.mu.Lock()
		grown, ended, n := p.grown, p.ended, skip
		for _, line := range p.lines {
			if strings.Contains(line, text) {
				if n == 0 {
					p.mu.Unlock()
					return line, nil
				}
				n--
			}
		}
		p.mu.Unlock()
		if ended {
			return "", fmt.Errorf("%s ended without a line %q:\n%s", p.name(), text, p.Output())
		}
		select {
		case <-grown:
		case <-timeout:
			return "", fmt.Errorf("%s printed no line %q within %s:\n%s", p.name(), text, limit, p.Output())
		}
	}
}

// Count returns how many lines contain text.
func (p *Proc) Count(text string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// Output returns all that was printed so far.
func (p *Proc) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// Done is closed when the program has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Pid returns the process ID of the program.
func (p *Proc) Pid() int { return p.Cmd.Process.Pid }

// Child returns the process ID of a child of that name (comm), whichever thread has started it; 0 if there is none.
func (p *Proc) Child(name string) (pid int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Pid()))
	for _, task := range tasks {
		children, _ := os.ReadFile(task)
		for field := range strings.FieldsSeq(string(children)) {
			comm, _ := os.ReadFile("/proc/" + field + "/comm")
			if strings.TrimSpace(string(comm)) == name {
				_, _ = fmt.Sscan(field, &pid)
			}
		}
	}
	return pid
}

// Signal sends sig to the program.
func (p *Proc) Signal(sig syscall.Signal) error { return unix.Kill(p.Pid(), sig) }

// Stop sends SIGTERM, waits, and returns the exit status; after limit the program is killed, which is
// an error.
func (p *Proc) Stop(limit time.Duration) (status int, err error) {
	_ = p.Signal(unix.SIGTERM)
	return p.Wait(limit)
}

// Wait waits for the program to end by itself and returns its exit status; after limit it is killed,
// which is an error, with all that it has said and, of one in Go, all goroutines.
func (p *Proc) Wait(limit time.Duration) (status int, err error) {
	select {
	case <-p.done:
	case <-time.After(limit):
		_ = p.Signal(unix.SIGQUIT) // a program in Go says where it hangs
		select {
		case <-p.done:
		case <-time.After(2 * time.Second):
		}
		p.Kill()
		return -1, fmt.Errorf("%s did not end within %s:\n%s", p.name(), limit, p.Output())
	}
	var exit *exec.ExitError
	switch {
	case p.err == nil:
		return 0, nil
	case errors.As(p.err, &exit):
		return exit.ExitCode(), nil
	}
	return -1, p.err
}

// Kill ends the program at once, and waits.
func (p *Proc) Kill() {
	_ = p.Cmd.Process.Kill()
	<-p.done
}

func (p *Proc) name() string { return strings.Join(p.Cmd.Args[3:], " ") }
