// Package vsock is the carrier between a virtual machine and its host, over AF_VSOCK (vsock(7)).
// The host is context ID 2, the machine itself is 1, and each guest has one that its hypervisor chose.
package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/mdlayher/vsock"

	"ferry/internal/carrier"
)

// Device is there when the kernel has AF_VSOCK.
const Device = "/dev/vsock"

// Available reports whether this machine can speak vsock.
func Available() bool {
	_, err := os.Stat(Device)
	return err == nil
}

// Listen serves an endpoint vsock://[cid]:port.
func Listen(_ context.Context, e carrier.Endpoint) (net.Listener, error) {
	l, err := vsock.ListenContextID(e.CID, e.Port, nil)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: port %d is taken ('ss --vsock -lnp' shows by whom): stop the other program, or name the listeners, as in --listen tcp://:2002: %w", e, e.Port, err)
	case err != nil:
		return nil, explain("listen on", e, err)
	}
	return listener{l, e}, nil
}

// A listener tells its address as it was asked for: the library's own prints any CID as a number.
type listener struct {
	*vsock.Listener
	e carrier.Endpoint
}

type addr string

func (a addr) Network() string { return "vsock" }
func (a addr) String() string  { return strings.TrimPrefix(string(a), "vsock://") }

// Addr implements net.Listener.
func (l listener) Addr() net.Addr { return addr(l.e.String()) }

// From returns the context ID at the other end of a connection.
func From(conn net.Conn) (uint32, error) {
	a, ok := conn.RemoteAddr().(*vsock.Addr)
	if !ok {
		return 0, fmt.Errorf("%s is no address of vsock", conn.RemoteAddr())
	}
	return a.ContextID, nil
}

// Dial connects to an endpoint vsock://cid:port.
func Dial(ctx context.Context, e carrier.Endpoint, _ carrier.Opener) (net.Conn, error) {
	conn, err := vsock.DialContext(ctx, e.CID, e.Port, nil)
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("dial %s: nothing listens there: is the program at the other end running?: %w", e, err)
	case err != nil:
		return nil, explain("dial", e, err)
	}
	return conn, nil
}

func explain(op string, e carrier.Endpoint, err error) error {
	switch {
	case errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s %s: this kernel has no vsock: load it with 'modprobe vsock' (a host: vhost_vsock; a guest: vmw_vsock_virtio_transport): %w", op, e, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("%s %s: no machine has context ID %d: %w", op, e, e.CID, err)
	}
	return fmt.Errorf("%s %s: %w", op, e, err)
}

// LocalCID returns the context ID of this machine.
func LocalCID() (uint32, error) {
	cid, err := vsock.ContextID()
	if err != nil {
		return 0, fmt.Errorf("ask for this machine's context ID: this kernel has no vsock: load it with 'modprobe vsock' (a host: vhost_vsock; a guest: vmw_vsock_virtio_transport): %w", err)
	}
	return cid, nil
}
