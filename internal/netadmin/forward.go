package netadmin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier"
	unixsocket "ferry/internal/carrier/unix"
)

// Published ports (package forward). The client may listen on ports of this host, which is what its operator has it do, and connect to what the
// interface leads to: there it may send packets anyway. It may connect to nothing else.

// errNoForward is returned to a client that publishes no ports.
var errNoForward = errors.New("this program was started to publish no ports")

// listen makes a socket that listens.
func (a *admin) listen(ctx context.Context, network, address string) (fd int, err error) {
	if !a.rules.Forward {
		return -1, errNoForward
	}
	if at, err := netip.ParseAddrPort(address); a.rules.Inside && (err != nil || !at.Addr().IsValid() || at.Addr() != a.state.Addr.Addr()) {
		return -1, fmt.Errorf("%s is not at the address of the interface %s: this program was started to listen nowhere else", address, a.rules.TUN)
	}
	var s interface {
		File() (*os.File, error)
		Close() error
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // splice(2) knows TCP
	switch network {
	case "tcp":
		l, err := lc.Listen(ctx, carrier.Family(network, address), address)
		if err != nil {
			return -1, err
		}
		s = l.(*net.TCPListener)
	case "udp":
		l, err := lc.ListenPacket(ctx, carrier.Family(network, address), address)
		if err != nil {
			return -1, err
		}
		s = l.(*net.UDPConn)
	case "unix":
		l, err := a.listenPath(ctx, address)
		if err != nil {
			return -1, err
		}
		s = l
	default:
		return -1, fmt.Errorf("network %q is none of tcp, udp, unix", network)
	}
	defer s.Close()
	f, err := s.File()
	if err != nil {
		return -1, err
	}
	defer f.Close()
	if fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	if err = unix.SetNonblock(fd, true); err != nil { // Fd has made it wait
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("fcntl", err)
	}
	return fd, nil
}

// listenPath makes a unix socket, for its owner alone. Landlock says where it may be.
func (a *admin) listenPath(ctx context.Context, path string) (*net.UnixListener, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return nil, fmt.Errorf("%q is no whole path", path)
	}
	l, err := unixsocket.ListenPrivate(ctx, carrier.Endpoint{Scheme: "unix", Path: path})
	if err != nil {
		return nil, err
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false)
	if !slices.Contains(a.made, path) {
		a.made = append(a.made, path)
	}
	return u, nil
}

// remove removes a unix socket that was made here, unless somebody listens there.
func (a *admin) remove(path string) error {
	i := slices.Index(a.made, path)
	if i < 0 {
		return fmt.Errorf("%s is no socket that was made here", path)
	}
	a.made = slices.Delete(a.made, i, i+1)
	removeDead(path)
	return nil
}

// dial makes a socket that connects to a client. It does not wait until it has.
func (a *admin) dial(network, from, to string) (fd int, err error) {
	if !a.rules.Forward {
		return -1, errNoForward
	}
	addr, err := netip.ParseAddrPort(to)
	if err != nil || !addr.Addr().Is4() {
		return -1, fmt.Errorf("%q is no address of a client", to)
	}
	if !a.leadsTo(addr.Addr()) {
		return -1, fmt.Errorf("%s is not behind the interface %s", addr.Addr(), a.rules.TUN)
	}
	kind := map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM}[network]
	if kind == 0 {
		return -1, fmt.Errorf("network %q is none of tcp, udp", network)
	}
	if fd, err = newSocket(unix.AF_INET, kind); err != nil {
		return -1, err
	}
	if err = connectFrom(fd, from, addr); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func connectFrom(fd int, from string, to netip.AddrPort) error {
	if from != "" {
		a, err := netip.ParseAddr(from)
		if err != nil || !a.Is4() {
			return fmt.Errorf("%q is no address of this host for a client", from)
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: a.As4()}); err != nil {
			return os.NewSyscallError("bind", err)
		}
	}
	err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if errors.Is(err, syscall.EINPROGRESS) {
		return nil
	}
	return os.NewSyscallError("connect", err)
}

// leadsTo tells whether an address is that of a client, or in a network behind one.
func (a *admin) leadsTo(to netip.Addr) bool {
	own := a.rules.Addr
	if a.link == nil || to == own.Addr() {
		return false
	}
	return own.Contains(to) || slices.ContainsFunc(a.state.Routes, func(r netip.Prefix) bool { return r.Contains(to) })
}

// ListenSocket implements forward.Lender.
func (c *Client) ListenSocket(network, address string) (*os.File, error) {
	return c.lend(question{Op: opListen, Arg: network, To: address})
}

// DialSocket implements forward.Lender.
func (c *Client) DialSocket(network string, from netip.Addr, to netip.AddrPort) (*os.File, error) {
	q := question{Op: opDial, Arg: network, To: to.String()}
	if from.IsValid() {
		q.From = from.String()
	}
	return c.lend(q)
}

// RemoveSocket implements forward.Lender.
func (c *Client) RemoveSocket(path string) error {
	_, err := c.ask(question{Op: opRemove, Arg: path})
	return err
}

func (c *Client) lend(q question) (*os.File, error) {
	r, err := c.descriptor(q)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(r.fd), q.To), nil
}
