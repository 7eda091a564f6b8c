// Package netsock is what carriers have in common that send packets by sockets of their own: udp, icmp and dns.
//
//	Reader  several messages at once: recvmmsg; from whom, to which address of ours
//	Writer  the same the other way: sendmmsg
//	Dial    all addresses of a name, side by side, with the sockets of an opener
//
// A socket is not connected, so that either end may move, but for one whose connection belongs to somebody else (Of). Nothing is fragmented: what is too long for the way is lost. Both need no lock: a Reader
// belongs to the one goroutine that reads, a Writer to one call.
package netsock

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// BufferSize is that of a socket: 25 ms of a gigabit each way, which a busy machine needs to get to it.
const BufferSize = 4 << 20

// A Socket is one of IPv4 or IPv6.
type Socket struct {
	f   *os.File
	raw syscall.RawConn
	v6  bool // of AF_INET6; IPv4 addresses are mapped
}

// New takes a descriptor that belongs to it from now on, and sets its options: without any of them it works, only not as well.
func New(fd int, v6 bool, name string) (*Socket, error) {
	s := &Socket{f: os.NewFile(uintptr(fd), name), v6: v6}
	var err error
	if s.raw, err = s.f.SyscallConn(); err != nil {
		_ = s.f.Close()
		return nil, err
	}
	Buffers(fd, BufferSize)
	// Nothing is cut on the way: a tunnel that loses large packets is left for another carrier.
	if v6 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	return s, nil
}

// Of returns what a Writer needs of a connection of package net, to which the socket still belongs.
func Of(conn syscall.Conn, v6 bool) (*Socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &Socket{raw: raw, v6: v6}, nil
}

// Buffers sets how many bytes a socket may hold each way: beyond what the system allows to everybody, or, without the right for that
// (CAP_NET_ADMIN), as far as it does.
func Buffers(fd, size int) {
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], size) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], size)
		}
	}
}

// V6 tells whether it is one of IPv6.
func (s *Socket) V6() bool { return s.v6 }

// Control calls f with the descriptor.
func (s *Socket) Control(f func(fd uintptr)) error { return s.raw.Control(f) }

// Close makes all calls return. It is idempotent.
func (s *Socket) Close() error {
	if err := s.f.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// AskLocal makes the kernel say to which address of ours somebody speaks, as the answer has to come from there. A client's kernel chooses
// by itself, and anew when the network is another one.
func AskLocal(fd int, v6 bool) {
	if v6 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
}

// Local returns where a socket is bound.
func Local(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// Sockaddr returns an address as package unix has it.
func Sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// Passing tells errors that say something of the network, and not of the socket.
func Passing(err unix.Errno) bool {
	switch err {
	case unix.ECONNREFUSED, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EHOSTDOWN, unix.EPERM, unix.EACCES,
		unix.EMSGSIZE, unix.ENOBUFS, unix.ENOMEM, unix.EADDRNOTAVAIL, unix.EINVAL, unix.EIO, unix.EPROTO, unix.ENOPROTOOPT:
		return true
	}
	return false
}

// isUnreachable tells whether a message of the error queue says that nobody is there.
func isUnreachable(level, kind int32, b []byte) bool {
	isError := level == unix.IPPROTO_IP && kind == unix.IP_RECVERR || level == unix.IPPROTO_IPV6 && kind == unix.IPV6_RECVERR
	if !isError || len(b) < 4 { // struct sock_extended_err begins with the number
		return false
	}
	switch unix.Errno(binary.NativeEndian.Uint32(b)) {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH:
		return true
	}
	return false
}
