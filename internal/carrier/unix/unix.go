// Package unix is the carrier over unix sockets. Hypervisors that keep vsock in user space
// (Firecracker, Cloud Hypervisor, vhost-device-vsock) map it to such sockets:
//
//	guest dials the host's port P     the hypervisor dials path_P; vpnsrv listens there
//	host dials the guest's port P     dial path, send "CONNECT P\n", expect "OK n\n"
//
// The number in the answer is the guest's port with some of them and a port of the host's side with
// others, so it says nothing.
package unix

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
)

// maxAnswer is the longest answer of a hypervisor: "OK 4294967295\n" and some room.
const maxAnswer = 32

// Listen serves an endpoint unix:///path. A socket that a dead process left there is replaced;
// anything else that exists is left alone and is an error.
func Listen(ctx context.Context, e carrier.Endpoint) (net.Listener, error) {
	return listen(ctx, e, net.ListenConfig{})
}

// ListenPrivate is Listen for a socket with mode 0600 from the start. What the mode of a socket is when it is bound, the file gets.
func ListenPrivate(ctx context.Context, e carrier.Endpoint) (net.Listener, error) {
	return listen(ctx, e, net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		controlErr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(controlErr, err)
	}})
}

func listen(ctx context.Context, e carrier.Endpoint, lc net.ListenConfig) (net.Listener, error) {
	if err := RemoveDead(ctx, "unix", e.Path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	l, err := lc.Listen(ctx, "unix", e.Path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	return l, nil
}

// RemoveDead makes way for a socket of a network of package net: it removes one that nobody listens on any more, and says why it
// does not remove anything else that is there.
func RemoveDead(ctx context.Context, network, path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return nil // nothing there, or listening will say what is wrong
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("the path exists and is not a socket: move it away or choose another")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("another process listens there ('ss -xlp src %s' shows it)", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("the path exists: %w", err)
	}
	return os.Remove(path)
}

// From returns the user ID at the other end of a connection: of the process that connected.
func From(conn net.Conn) (uint32, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("%s is no unix socket", conn.RemoteAddr())
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(controlErr, err); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// Dial connects to an endpoint unix:///path, and through it to a guest's vsock port when the
// endpoint names one. ctx bounds the answer of the hypervisor too.
func Dial(ctx context.Context, e carrier.Endpoint, o carrier.Opener) (net.Conn, error) {
	var d net.Dialer
	open := func(path string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }
	if o != nil {
		open = o.Connect
	}
	conn, err := open(e.Path)
	switch {
	case errors.Is(err, syscall.ENOENT):
		return nil, fmt.Errorf("dial %s: there is no such socket: is the virtual machine running?: %w", e, err)
	case err != nil:
		return nil, fmt.Errorf("dial %s: %w", e, err)
	}
	if e.HybridPort == 0 {
		return conn, nil
	}
	// A deadline set a moment too late would end the connection later.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = connect(ctx, conn, e.HybridPort)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("dial %s: %w", e, err)
	}
	return conn, nil
}

// connect asks the hypervisor for a port of the guest. Nothing of the tunnel may be sent before the
// answer, and nothing behind the answer may be read here: so it is read byte by byte.
func connect(ctx context.Context, conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	line := make([]byte, 0, maxAnswer)
	for {
		var b [1]byte
		if _, err := conn.Read(b[:]); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return fmt.Errorf("the hypervisor refused port %d: does a program listen on it in the guest?: %w", port, err)
		}
		if b[0] == '\n' {
			break
		}
		if line = append(line, b[0]); len(line) == maxAnswer {
			return fmt.Errorf("answer %q is no line", line)
		}
	}
	if !isOK(string(line)) {
		return fmt.Errorf("the hypervisor answered %q instead of OK and a number", line)
	}
	return nil
}

func isOK(line string) bool {
	n, ok := strings.CutPrefix(line, "OK ")
	return ok && n != "" && strings.Trim(n, "0123456789") == ""
}
