package netsock

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// parts is of how many parts a message may be.
const parts = 2

// A Writer has what sendmmsg needs.
type Writer struct {
	s        *Socket
	msgs     []message
	iovs     [][parts]unix.Iovec
	names    []unix.RawSockaddrInet6
	controls [][controlLen]byte

	step     func(errno unix.Errno, sent int) (n int) // of a call
	n        int
	tryOnce  func(fd uintptr) // bound once
	tryUntil func(fd uintptr) bool
}

// NewWriter returns one for so many messages at once.
func NewWriter(s *Socket, most int) *Writer {
	w := &Writer{
		s: s, msgs: make([]message, most), iovs: make([][parts]unix.Iovec, most), names: make([]unix.RawSockaddrInet6, most),
		controls: make([][controlLen]byte, most),
	}
	w.tryOnce = func(fd uintptr) { w.send(fd) }
	w.tryUntil = w.send
	return w
}

// Message sets the i-th message: to an address, or, if that is the zero AddrPort, where the socket is connected to; of one part or two, from an address of ours, if that is valid, in segments of a length, if that is not 0
// (UDP_SEGMENT).
func (w *Writer) Message(i int, to netip.AddrPort, local netip.Addr, segment int, one, two []byte) {
	h := &w.msgs[i].Msghdr
	v := &w.iovs[i]
	v[0].Base = &one[0]
	v[0].SetLen(len(one))
	h.Iov = &v[0]
	h.SetIovlen(1)
	if len(two) > 0 {
		v[1].Base = &two[0]
		v[1].SetLen(len(two))
		h.SetIovlen(2)
	}
	h.Name, h.Namelen = nil, 0
	if to.IsValid() {
		h.Name, h.Namelen = w.name(i, to)
	}
	c := w.controls[i][:0]
	if local.IsValid() {
		c = w.pktinfo(c, local)
	}
	if segment > 0 {
		var data []byte
		c, data = control(c, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(data, uint16(segment))
	}
	h.Control = nil
	if len(c) > 0 {
		h.Control = &c[0]
	}
	h.SetControllen(len(c))
}

// name sets where to.
func (w *Writer) name(i int, to netip.AddrPort) (*byte, uint32) {
	a, p := to.Addr(), to.Port()
	port := [2]byte{byte(p >> 8), byte(p)}
	n := &w.names[i]
	if !w.s.v6 {
		name := (*unix.RawSockaddrInet4)(unsafe.Pointer(n))
		*name = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.Unmap().As4()}
		*(*[2]byte)(unsafe.Pointer(&name.Port)) = port
		return (*byte)(unsafe.Pointer(n)), unix.SizeofSockaddrInet4
	}
	*n = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: a.As16(), Scope_id: scope(a.Zone())}
	*(*[2]byte)(unsafe.Pointer(&n.Port)) = port
	return (*byte)(unsafe.Pointer(n)), unix.SizeofSockaddrInet6
}

// scope returns the number of a zone, which link-local addresses have.
func scope(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	i, err := net.InterfaceByName(zone) // seldom
	if err != nil {
		return 0
	}
	return uint32(i.Index)
}

// Write sends the first n messages. step is told how many of them the kernel took, or why it took none, and returns how many messages there are to
// go on with, which it has set, the first again from 0 on; 0: that is all. An errno that is not for step is never told: EAGAIN, after which Write waits, if
// it may. The error is step's affair, or net.ErrClosed.
func (w *Writer) Write(n int, wait bool, step func(errno unix.Errno, sent int) int) error {
	w.n, w.step = n, step
	var err error
	if wait {
		err = w.s.raw.Write(w.tryUntil)
	} else {
		err = w.s.raw.Control(w.tryOnce)
	}
	w.step = nil
	if err != nil {
		return net.ErrClosed
	}
	return nil
}

// send returns true when there is nothing left to send.
func (w *Writer) send(fd uintptr) bool {
	for w.n > 0 {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&w.msgs[0])), uintptr(w.n), 0, 0, 0)
		switch errno {
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		case 0:
			w.n = w.step(0, int(sent))
		default:
			w.n = w.step(errno, 0)
		}
	}
	return true
}

// SendError is what an errno of Write means.
func SendError(errno unix.Errno) error { return os.NewSyscallError("sendmmsg", errno) }

// pktinfo says from which address of ours.
func (w *Writer) pktinfo(c []byte, local netip.Addr) []byte {
	if w.s.v6 {
		c, b := control(c, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		a := local.As16()
		copy(b, a[:])
		return c
	}
	c, b := control(c, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	a := local.Unmap().As4()
	copy(b[4:], a[:])
	return c
}

// control appends a control message and returns where its n bytes of data are, all zero.
func control(c []byte, level, kind int32, n int) (all, data []byte) {
	from := len(c)
	c = c[:from+unix.CmsgSpace(n)]
	clear(c[from:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c[from]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	return c, c[from+unix.CmsgLen(0) : from+unix.CmsgLen(n)]
}
