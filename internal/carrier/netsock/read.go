package netsock

import (
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlLen has room for the address of ours and the length of segments.
const controlLen = 96

// maxErrors is how many errors are taken off a socket at once.
const maxErrors = 64

// message is struct mmsghdr of recvmmsg(2).
type message struct {
	unix.Msghdr
	n uint32
}

// A Reader has what recvmmsg needs.
type Reader struct {
	s        *Socket
	msgs     []message
	iovs     []unix.Iovec
	names    []unix.RawSockaddrInet6
	controls [][controlLen]byte

	n       int // messages wanted, then had
	err     error
	control [controlLen + 64]byte
	errors  bool                  // ICMP errors are asked for: a client's
	refused bool                  // one has come
	try     func(fd uintptr) bool // receive, bound once
}

// NewReader returns one for so many messages at once.
func NewReader(s *Socket, most int) *Reader {
	r := &Reader{
		s: s, msgs: make([]message, most), iovs: make([]unix.Iovec, most), names: make([]unix.RawSockaddrInet6, most),
		controls: make([][controlLen]byte, most),
	}
	r.try = r.receive
	return r
}

// AskErrors makes ICMP errors come, although the socket is not connected.
func (r *Reader) AskErrors(fd int) {
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if r.s.v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	r.errors = unix.SetsockoptInt(fd, level, option, 1) == nil
}

// Buffer says where the i-th message is to be put by the next Read.
func (r *Reader) Buffer(i int, b []byte) {
	r.iovs[i].Base = &b[0]
	r.iovs[i].SetLen(len(b))
	h := &r.msgs[i].Msghdr
	h.Iov = &r.iovs[i]
	h.SetIovlen(1)
	h.Name, h.Namelen = (*byte)(unsafe.Pointer(&r.names[i])), unix.SizeofSockaddrInet6
	h.Control = &r.controls[i][0]
	h.SetControllen(controlLen)
}

// Read waits for messages, at most n, for which there are buffers. It returns how many have come; refused: none, but the word that
// nobody is where packets were sent. The error is final.
func (r *Reader) Read(n int) (count int, refused bool, err error) {
	r.n = n
	switch {
	case r.s.raw.Read(r.try) != nil: // which package os has no name for
		return 0, false, net.ErrClosed
	case r.err != nil:
		return 0, false, os.NewSyscallError("recvmmsg", r.err)
	}
	refused, r.refused = r.refused, false
	return r.n, refused, nil
}

// receive is called by the runtime until there is something.
func (r *Reader) receive(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs[0])), uintptr(r.n), 0, 0, 0)
		switch errno {
		case 0:
			r.n, r.err = int(n), nil
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			wanted := r.n
			r.n, r.err = 0, nil
			if r.refused = r.errors && r.wasRefused(int(fd)); !r.refused {
				r.n = wanted
			}
			return r.refused
		default:
			r.n, r.err = 0, errno
			if Passing(errno) {
				r.err = nil
				r.refused = r.errors && r.wasRefused(int(fd))
			}
			return true
		}
	}
}

// wasRefused takes the errors that have come off the socket, where they take the room of datagrams, and tells whether one says that
// nobody is there (recv(2), MSG_ERRQUEUE).
func (r *Reader) wasRefused(fd int) (yes bool) {
	for range maxErrors {
		_, n, _, _, err := unix.Recvmsg(fd, nil, r.control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return yes
		}
		eachControl(r.control[:n], func(level, kind int32, b []byte) { yes = yes || isUnreachable(level, kind, b) })
	}
	return yes
}

// Len returns the length of the i-th message.
func (r *Reader) Len(i int) int { return int(r.msgs[i].n) }

// From returns who has sent the i-th message.
func (r *Reader) From(i int) netip.AddrPort {
	a := &r.names[i]
	port := (*[2]byte)(unsafe.Pointer(&a.Port))
	n := uint16(port[0])<<8 | uint16(port[1])
	if a.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(a)).Addr), n)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), n)
}

// Controls calls f for each control message of the i-th message.
func (r *Reader) Controls(i int, f func(level, kind int32, b []byte)) {
	eachControl(r.controls[i][:r.msgs[i].Controllen], f)
}

// To returns the address of ours that a control message says was spoken to; the zero Addr: it says none.
func To(level, kind int32, b []byte) netip.Addr {
	switch {
	case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(b) >= unix.SizeofInet4Pktinfo:
		return netip.AddrFrom4([4]byte(b[4:]))
	case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(b) >= unix.SizeofInet6Pktinfo:
		return netip.AddrFrom16([16]byte(b)).Unmap()
	}
	return netip.Addr{}
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
