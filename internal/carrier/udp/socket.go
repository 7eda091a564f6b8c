package udp

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier/datagram"
)

const (
	// bufferSize is that of the socket: 25 ms of a gigabit each way, which a busy machine needs to get to it.
	bufferSize = 4 << 20
	// What one message can be: UDP_MAX_SEGMENTS of old kernels, and what fits into an IP packet.
	maxSegments = 64
	maxMessage  = 65000
	// maxMessages is how many messages one call of the kernel takes.
	maxMessages = 64
	// readMessages is how many chunks are read at once.
	readMessages = 8
	// controlLen has room for the address of ours and the length of segments.
	controlLen = 96

	// MaxIPv4 and MaxIPv6 are the lengths of the longest datagrams on a path of 1500 bytes.
	MaxIPv4 = 1500 - 20 - 8
	MaxIPv6 = 1500 - 40 - 8
)

// A socket is a datagram.Transport.
type socket struct {
	f     *os.File
	raw   syscall.RawConn
	v6    bool // of AF_INET6; IPv4 addresses are mapped
	local net.Addr
	mtu   int // of the route; 0: not known

	segments atomic.Bool // the kernel cuts what we send (UDP_SEGMENT)

	in   receiver
	outs sync.Pool // of *sender
}

var _ datagram.Transport = (*socket)(nil)

// mmsghdr is that of recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	n uint32
}

// newSocket takes a descriptor that belongs to it from now on.
func newSocket(fd int, v6 bool) (*socket, error) {
	s := &socket{f: os.NewFile(uintptr(fd), "udp"), v6: v6}
	s.outs.New = func() any { return newSender(s) }
	s.in.try = s.in.receive
	var err error
	if s.raw, err = s.f.SyscallConn(); err != nil {
		_ = s.f.Close()
		return nil, err
	}
	s.set(fd)
	return s, nil
}

// set sets the options of the socket. Without any of them it works, only not as well.
func (s *socket) set(fd int) {
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], bufferSize) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], bufferSize)
		}
	}
	// Nothing is cut on the way: a tunnel that loses large packets is left for another carrier.
	if s.v6 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	_, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT)
	s.segments.Store(err == nil)
	_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	if sa, err := unix.Getsockname(fd); err == nil {
		s.local = net.UDPAddrFromAddrPort(addrPort(sa))
	}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// Max implements datagram.Transport.
func (s *socket) Max(to datagram.Addr) int {
	n := MaxIPv4
	header := 1500 - MaxIPv4
	if to.Remote.Addr().Is6() {
		n, header = MaxIPv6, 1500-MaxIPv6
	}
	if s.mtu > 0 {
		n = min(n, s.mtu-header)
	}
	return n
}

// Name implements datagram.Transport.
func (s *socket) Name(a datagram.Addr) net.Addr { return net.UDPAddrFromAddrPort(a.Remote) }

// Local implements datagram.Transport.
func (s *socket) Local() net.Addr { return s.local }

// Close implements datagram.Transport.
func (s *socket) Close() error {
	if err := s.f.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// A receiver has what recvmmsg needs. It belongs to the one goroutine that reads.
type receiver struct {
	msgs     [readMessages]mmsghdr
	iovs     [readMessages]unix.Iovec
	names    [readMessages]unix.RawSockaddrInet6
	controls [readMessages][controlLen]byte
	n        int // messages wanted, then had
	err      error
	control  [controlLen + 64]byte
	errors   bool                  // ICMP errors are asked for: a client's
	refused  bool                  // one has come
	try      func(fd uintptr) bool // receive, bound once
}

// Receive implements datagram.Transport.
func (s *socket) Receive(chunks []*datagram.Chunk) (int, error) {
	r := &s.in
	r.n = min(len(chunks), readMessages)
	for i, c := range chunks[:r.n] {
		r.iovs[i].Base = &c.Data[0]
		r.iovs[i].SetLen(len(c.Data))
		h := &r.msgs[i].Msghdr
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&r.names[i])), unix.SizeofSockaddrInet6
		h.Control = &r.controls[i][0]
		h.SetControllen(controlLen)
	}
	if s.raw.Read(r.try) != nil { // which package os has no name for
		return 0, net.ErrClosed
	}
	if r.err != nil {
		return 0, os.NewSyscallError("recvmmsg", r.err)
	}
	if r.refused {
		r.refused = false
		chunks[0].Len = 0
		return 1, nil
	}
	for i, c := range chunks[:r.n] {
		c.Len = max(int(r.msgs[i].n), 1) // an empty datagram is as good as a byte
		c.Size = c.Len
		c.From.Remote = from(&r.names[i])
		c.From.Local = netip.Addr{}
		eachControl(r.controls[i][:r.msgs[i].Controllen], func(level, kind int32, b []byte) {
			switch {
			case level == unix.SOL_UDP && kind == unix.UDP_GRO && len(b) >= 4:
				if n := int(binary.NativeEndian.Uint32(b)); n > 0 {
					c.Size = n
				}
			case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(b) >= unix.SizeofInet4Pktinfo:
				c.From.Local = netip.AddrFrom4([4]byte(b[4:]))
			case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(b) >= unix.SizeofInet6Pktinfo:
				c.From.Local = netip.AddrFrom16([16]byte(b)).Unmap()
			}
		})
	}
	return r.n, nil
}

// receive is called by the runtime until there is something.
func (r *receiver) receive(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs[0])), uintptr(r.n), 0, 0, 0)
		switch errno {
		case 0:
			r.n, r.err = int(n), nil
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			r.n, r.err = 0, nil
			r.refused = r.errors && r.wasRefused(int(fd))
			return r.refused
		default:
			r.n, r.err = 0, errno
			if passing(errno) {
				r.err = nil
				r.refused = r.errors && r.wasRefused(int(fd))
			}
			return true
		}
	}
}

// askErrors makes ICMP errors come, although the socket is not connected.
func (s *socket) askErrors(fd int) {
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if s.v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	s.in.errors = unix.SetsockoptInt(fd, level, option, 1) == nil
}

// wasRefused takes the errors that have come off the socket, where they take the room of datagrams, and tells whether one says that
// nobody is there (recv(2), MSG_ERRQUEUE).
func (r *receiver) wasRefused(fd int) (yes bool) {
	for range maxMessages {
		_, n, _, _, err := unix.Recvmsg(fd, nil, r.control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return yes
		}
		eachControl(r.control[:n], func(level, kind int32, b []byte) {
			isError := level == unix.IPPROTO_IP && kind == unix.IP_RECVERR || level == unix.IPPROTO_IPV6 && kind == unix.IPV6_RECVERR
			if isError && len(b) >= 4 { // struct sock_extended_err begins with the number
				switch unix.Errno(binary.NativeEndian.Uint32(b)) {
				case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH:
					yes = true
				}
			}
		})
	}
	return yes
}

// passing tells errors that say something of the network, and not of the socket.
func passing(err unix.Errno) bool {
	switch err {
	case unix.ECONNREFUSED, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EHOSTDOWN, unix.EPERM, unix.EACCES,
		unix.EMSGSIZE, unix.ENOBUFS, unix.ENOMEM, unix.EADDRNOTAVAIL, unix.EINVAL, unix.EIO, unix.EPROTO, unix.ENOPROTOOPT:
		return true
	}
	return false
}

// from reads an address that the kernel has written.
func from(a *unix.RawSockaddrInet6) netip.AddrPort {
	port := (*[2]byte)(unsafe.Pointer(&a.Port))
	n := uint16(port[0])<<8 | uint16(port[1])
	if a.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(a)).Addr), n)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), n)
}

// eachControl calls f for each control message in b.
func eachControl(b []byte, f func(level, kind int32, b []byte)) {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		n := int(h.Len)
		if n < unix.CmsgLen(0) || n > len(b) {
			return
		}
		f(h.Level, h.Type, b[unix.CmsgLen(0):n])
		b = b[min(len(b), unix.CmsgSpace(n-unix.CmsgLen(0))):]
	}
}
