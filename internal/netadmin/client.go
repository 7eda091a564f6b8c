package netadmin

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/hostnet"
	"ferry/internal/tun"
)

// ErrEnded is returned when the process with the rights is gone.
var ErrEnded = errors.New("the process that looks after the network of this host (ferry-netadmin) has ended")

// askTime is how long an answer may take: a process that was stopped must not stop this one.
const askTime = 30 * time.Second

// A Client asks the process with the rights. Its methods may be called from any goroutine.
type Client struct {
	cmd  *exec.Cmd
	wire *wire

	turn    chan struct{} // capacity 1: whoever puts something in may ask
	answers chan reply    // sent to by receive, which closes it at the end

	events atomic.Uint32 // a bit for each hostnet.Event that came and was not reported
	came   chan struct{} // capacity 1: there are some; closed when the process has ended

	closing sync.Once
	err     error // of Close
}

type reply struct {
	answer
	fd int // -1: none
}

// Start starts the process.
func Start(r Rules) (*Client, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("start the process for the network of this host: %w", err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{childName, r.Program}
	cmd.Env = []string{}
	for _, name := range []string{"JOURNAL_STREAM", "TZ"} { // for the log
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	err = cmd.Start()
	_ = theirs.Close() // else its end would not be seen
	if err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("start the process for the network of this host (is /proc mounted?): %w", err)
	}
	c := &Client{
		cmd: cmd, wire: newWire(ours),
		turn: make(chan struct{}, 1), answers: make(chan reply), came: make(chan struct{}, 1),
	}
	go c.receive() // until Close, or until the process has ended
	if _, err := c.ask(r); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "netadmin")
	defer ours.Close()
	theirs := os.NewFile(uintptr(fds[1]), "netadmin")
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// Close tells the process to take everything back, if Undo has not, and waits for its end.
func (c *Client) Close() error {
	c.closing.Do(func() {
		err := c.wire.conn.CloseWrite()
		late := time.AfterFunc(askTime, func() { _ = c.wire.conn.Close() }) // ends receive
		for r := range c.answers {
			r.close()
		}
		ended := make(chan error, 1)
		go func() { ended <- c.cmd.Wait() }() // until the process has ended, or this one has
		select {
		case waitErr := <-ended:
			if waitErr != nil {
				err = fmt.Errorf("%w: %w", ErrEnded, waitErr)
			}
		case <-time.After(askTime):
			err = errors.New("ferry-netadmin does not end: was it stopped?")
		}
		late.Stop()
		if closeErr := c.wire.conn.Close(); !errors.Is(closeErr, net.ErrClosed) {
			err = errors.Join(err, closeErr)
		}
		c.err = err
	})
	return c.err
}

// receive takes answers and events until there are no more.
func (c *Client) receive() {
	defer close(c.answers)
	defer close(c.came)
	for {
		r := reply{}
		var err error
		r.fd, err = c.wire.receive(&r.answer)
		if err != nil {
			return
		}
		if r.Event == nil {
			c.answers <- r
			continue
		}
		r.close()
		c.events.Or(1 << *r.Event)
		select {
		case c.came <- struct{}{}:
		default:
		}
	}
}

func (r reply) close() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
	}
}

// ask sends a question and waits for its answer, whose error it returns.
func (c *Client) ask(q any) (reply, error) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	none := reply{fd: -1}
	switch err := c.wire.send(q, -1); {
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed):
		return none, fmt.Errorf("%w: %w", ErrEnded, err)
	case err != nil:
		return none, err
	}
	late := time.AfterFunc(askTime, func() { _ = c.wire.conn.Close() }) // ends receive
	defer late.Stop()
	r, ok := <-c.answers
	if !ok {
		return none, ErrEnded
	}
	if r.Error != "" {
		r.close()
		return none, &remoteError{r.Error, syscall.Errno(r.Errno)}
	}
	return r, nil
}

// A remoteError happened in the other process.
type remoteError struct {
	text  string
	cause syscall.Errno // 0: not the kernel's
}

func (e *remoteError) Error() string { return e.text }

// Unwrap returns the cause, if it is the kernel's.
func (e *remoteError) Unwrap() error {
	if e.cause == 0 {
		return nil
	}
	return e.cause
}

// descriptor is ask for a question whose answer comes with a descriptor.
func (c *Client) descriptor(q question) (reply, error) {
	r, err := c.ask(q)
	if err == nil && r.fd < 0 {
		err = fmt.Errorf("%s: no descriptor came", q.Op)
	}
	return r, err
}

// OpenTUN implements exit.Host.
func (c *Client) OpenTUN() (*tun.Device, error) {
	r, err := c.descriptor(question{Op: opTUN})
	if err != nil {
		return nil, err
	}
	return tun.New(r.fd, tun.Interface{Name: r.TUN.Name, Index: r.TUN.Index, USO: r.TUN.USO})
}

// Apply implements exit.Host.
func (c *Client) Apply(s hostnet.State) error {
	_, err := c.ask(question{Op: opApply, State: &s})
	return err
}

// Undo implements exit.Host.
func (c *Client) Undo() error {
	_, err := c.ask(question{Op: opUndo})
	return err
}

// Watch implements exit.Host. Events of one kind that come while another is reported become one.
func (c *Client) Watch(ctx context.Context, report func(hostnet.Event)) error {
	if _, err := c.ask(question{Op: opWatch}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-c.came:
			if !ok {
				return ErrEnded
			}
		}
		for set := c.events.Swap(0); set != 0; set &= set - 1 {
			report(hostnet.Event(bits.TrailingZeros32(set)))
		}
	}
}

// Socket implements carrier.Opener.
func (c *Client) Socket(network, address string) (*os.File, error) {
	r, err := c.descriptor(question{Op: opSocket, Arg: network, To: address})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(r.fd), network), nil
}

// Connect implements carrier.Opener.
func (c *Client) Connect(path string) (net.Conn, error) {
	r, err := c.descriptor(question{Op: opConnect, Arg: path})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(r.fd), path)
	defer f.Close()
	return net.FileConn(f)
}

// Open opens a file of Rules.Read.
func (c *Client) Open(path string) (*os.File, error) {
	r, err := c.descriptor(question{Op: opRead, Arg: path})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(r.fd), path), nil
}

// Names returns the names of the programs that have sockets, by inode, as far as they are shown.
func (c *Client) Names(inodes []uint32) (map[uint32]string, error) {
	r, err := c.ask(question{Op: opNames, Inodes: inodes})
	return r.Names, err
}

// Replace writes a file of Rules.Write or Rules.Open, in the place of one that may be there.
func (c *Client) Replace(path string, b []byte) error {
	_, err := c.ask(question{Op: opWrite, Arg: path, Data: b})
	return err
}
