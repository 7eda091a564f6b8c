// Package hypervisor is one that keeps vsock in user space, for tests: it takes who dials a port of a guest, by the dialect of vhost-device-vsock or that of Firecracker,
// to a unix socket at which the guest listens.
//
//	host --"CONNECT 1234\n"--> path    "OK ...\n" <--> path_1234 --> guest
package hypervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Dialect is how a hypervisor behaves.
type Dialect struct {
	Name   string
	Answer string // %d is the port that was asked for
	Halves bool   // an end of one direction is passed on alone; else that of the host ends both, and that of the guest is not heard of
}

// Dialects are those that there are. The last one is of hypervisors that have learnt it (Cloud Hypervisor, 2026-06).
var Dialects = []Dialect{
	{"vhost-device-vsock", "OK %d\n", false},
	{"Firecracker", "OK 1073741824\n", false},
	{"half-open states", "OK %d\n", true},
}

// Serve serves until ctx is done, and returns when all connections have ended.
func Serve(ctx context.Context, l net.Listener, path string, d Dialect) error {
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		all.Go(func() {
			defer conn.Close()
			guest := d.answer(conn, path)
			if guest == nil {
				return // silently, as they do
			}
			defer guest.Close()
			stop := context.AfterFunc(ctx, func() { _, _ = conn.Close(), guest.Close() })
			defer stop()
			join(conn.(*net.UnixConn), guest.(*net.UnixConn), d.Halves)
		})
	}
}

// answer reaches the guest; nil: it does not listen. What was sent behind the line is lost, as with vhost-device-vsock.
func (d Dialect) answer(conn net.Conn, path string) net.Conn {
	var port int
	line, _ := bufio.NewReader(conn).ReadString('\n')
	if _, err := fmt.Sscanf(line, "CONNECT %d\n", &port); err != nil {
		return nil
	}
	guest, err := net.Dial("unix", fmt.Sprintf("%s_%d", path, port))
	if err != nil {
		return nil
	}
	_, _ = io.WriteString(conn, strings.ReplaceAll(d.Answer, "%d", fmt.Sprint(port)))
	return guest
}

// join copies both ways.
func join(host, guest *net.UnixConn, halves bool) {
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(host, guest)
		if !halves {
			awaitClose(guest)
		}
		_ = host.CloseWrite()
		if !halves {
			_, _ = host.Close(), guest.Close()
		}
	})
	_, _ = io.Copy(guest, host)
	if _ = guest.CloseWrite(); !halves {
		_, _ = host.Close(), guest.Close()
	}
	back.Wait()
}

// awaitClose waits until the other end has closed both directions, or this one.
func awaitClose(c *net.UnixConn) {
	raw, err := c.SyscallConn()
	for over := false; err == nil && !over; time.Sleep(time.Millisecond) {
		err = raw.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd)}}
			n, pollErr := unix.Poll(p, 0)
			over = n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 || pollErr != nil && !errors.Is(pollErr, unix.EINTR)
		})
	}
}
