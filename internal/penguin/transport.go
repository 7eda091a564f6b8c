package penguin

import (
	"context"
	"fmt"
	"net"
	"syscall"

	"ferry/internal/carrier"
	"ferry/internal/carrier/unix"
	"ferry/internal/carrier/vsock"
	"ferry/internal/penguin/wire"
)

// A stream is a socket of the kernel that ends in two halves: TCP, unix or vsock.
type stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// A Transport leads to the guest.
type Transport struct {
	CID  uint32 // context ID of the guest
	Path string // of the unix socket of a hypervisor that keeps vsock in user space; empty: the kernel has it
	Port uint32 // of requests; the next two are for raw packets and frames
}

// passesHalves tells whether it passes on a half-close.
func (t Transport) passesHalves() bool { return t.Path == "" }

// dial connects to the guest's port for a kind of request, and asks.
func (t Transport) dial(ctx context.Context, r wire.Request) (stream, error) {
	e := carrier.Endpoint{Scheme: "vsock", CID: t.CID, Port: t.Port + uint32(r.Kind)}
	open := vsock.Dial
	if t.Path != "" {
		e = carrier.Endpoint{Scheme: "unix", Path: t.Path, HybridPort: e.Port}
		open = unix.Dial
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := open(ctx, e, nil)
	if err != nil {
		return nil, fmt.Errorf("reach the guest (does 'vpn guest' run in it?): %w", err)
	}
	s, ok := conn.(stream)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("reach the guest: %s is no stream", conn.RemoteAddr())
	}
	// A request fits into what a socket takes at once, so this does not wait.
	if _, err := s.Write(wire.AppendRequest(nil, r)); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("ask the guest: %w", err)
	}
	return s, nil
}
