package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Lender is a process with more rights than this one: it makes sockets and hands them over.
type Lender interface {
	// ListenSocket returns one that listens: on tcp, udp or unix.
	ListenSocket(network, address string) (*os.File, error)
	// DialSocket returns one that connects to a client, which may take it some time yet.
	DialSocket(network string, from netip.Addr, to netip.AddrPort) (*os.File, error)
	// RemoveSocket removes the socket of a path, where nobody listens any more.
	RemoveSocket(path string) error
}

// Lent is the Network of a process that may make no sockets.
type Lent struct{ From Lender }

var _ Network = Lent{}

// Listen implements Listener.
func (n Lent) Listen(_ context.Context, network, address string) (net.Listener, error) {
	f, err := n.From.ListenSocket(network, address)
	if err != nil {
		return nil, err
	}
	defer f.Close() // FileListener has one of its own
	l, err := net.FileListener(f)
	if err == nil && network == "unix" {
		l = &lentPath{Listener: l, from: n.From, path: address}
	}
	return l, err
}

// ListenPacket implements Listener.
func (n Lent) ListenPacket(_ context.Context, address string) (PacketConn, error) {
	f, err := n.From.ListenSocket("udp", address)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a socket of %T came for udp", c), c.Close())
	}
	return u, nil
}

// A lentPath is a listener whose path is out of reach for this process.
type lentPath struct {
	net.Listener
	from Lender
	path string
	once sync.Once
}

func (l *lentPath) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() { err = errors.Join(err, l.from.RemoveSocket(l.path)) })
	return err
}

// Dial implements Dialer. It knows no names.
func (n Lent) Dial(ctx context.Context, network string, from netip.Addr, to string) (net.Conn, error) {
	addr, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	f, err := n.From.DialSocket(network, from, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	defer f.Close() // FileConn has one of its own
	if err := connected(ctx, f); err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	return net.FileConn(f)
}

// connected waits until a socket has connected.
func connected(ctx context.Context, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var fault error
	err = raw.Write(func(fd uintptr) bool {
		var done bool
		done, fault = progress(int(fd))
		return done
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	}
	return fault
}

// progress tells whether a socket has connected, or can not.
func progress(fd int) (done bool, err error) {
	if _, err := unix.Getpeername(fd); err == nil {
		return true, nil
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		return true, os.NewSyscallError("getsockopt", err)
	case code != 0:
		return true, os.NewSyscallError("connect", syscall.Errno(code))
	}
	return false, nil
}
