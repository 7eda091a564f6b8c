package carrier

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// An Opener opens for who dials what it has not got the rights for. Where it is nil, the carrier does.
type Opener interface {
	// Socket makes a socket for a network of package net (tcp4, tcp6, udp4 or udp6), or icmp4, which is for pings, with the firewall mark
	// that keeps it, on its way to an address, out of the tunnel.
	Socket(network, address string) (*os.File, error)
	// Connect connects to a unix socket.
	Connect(path string) (net.Conn, error)
}

// PutSocket puts the socket that an opener makes in the place of one that package net has just made, in a func
// that is called as net.Dialer.Control. Without an opener it does nothing.
func PutSocket(o Opener, network, address string, raw syscall.RawConn) error {
	if o == nil {
		return nil
	}
	f, err := o.Socket(network, address)
	if err != nil {
		return err
	}
	defer f.Close()
	from, err := f.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(to uintptr) {
		fromErr := from.Control(func(fd uintptr) { err = unix.Dup3(int(fd), int(to), unix.O_CLOEXEC) })
		err = errors.Join(fromErr, err, unix.SetNonblock(int(to), true)) // as package net has made the other one
	})
	return errors.Join(controlErr, err)
}

// Resolver asks name servers with the sockets of an opener, for a full tunnel must not swallow the questions. Without
// one it is net.DefaultResolver.
func Resolver(o Opener) *net.Resolver {
	if o == nil {
		return net.DefaultResolver
	}
	d := net.Dialer{Control: func(network, address string, raw syscall.RawConn) error { return PutSocket(o, network, address, raw) }}
	return &net.Resolver{PreferGo: true, Dial: d.DialContext}
}
