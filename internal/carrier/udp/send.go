package udp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier/datagram"
)

// A sender has what one call of Send needs.
type sender struct {
	s        *socket
	msgs     [maxMessages]mmsghdr
	iovs     [maxMessages]unix.Iovec
	controls [maxMessages][controlLen]byte
	counts   [maxMessages]int // datagrams in each message
	name     unix.RawSockaddrInet6
	nameLen  uint32
	local    netip.Addr

	// Of a call:
	b    []byte
	lens []int
	done int // datagrams that were taken
	err  error

	tryOnce  func(fd uintptr) // bound once
	tryUntil func(fd uintptr) bool
}

func newSender(s *socket) *sender {
	w := &sender{s: s}
	w.tryOnce = func(fd uintptr) { w.send(fd) }
	w.tryUntil = w.send
	return w
}

// Send implements datagram.Transport. Who does not wait is not held up by those who do.
func (s *socket) Send(b []byte, lens []int, to datagram.Addr, wait bool) (int, error) {
	w := s.outs.Get().(*sender)
	defer s.outs.Put(w)
	w.b, w.lens, w.done, w.err = b, lens, 0, nil
	w.address(to)
	var err error
	if wait {
		err = s.raw.Write(w.tryUntil)
	} else {
		err = s.raw.Control(w.tryOnce)
	}
	w.b, w.lens = nil, nil
	switch {
	case err != nil:
		err = net.ErrClosed
	case w.err != nil:
		err = os.NewSyscallError("sendmmsg", w.err)
	}
	return w.done, err
}

// address sets where to.
func (w *sender) address(to datagram.Addr) {
	w.local = to.Local
	a, p := to.Remote.Addr(), to.Remote.Port()
	if !w.s.v6 {
		name := (*unix.RawSockaddrInet4)(unsafe.Pointer(&w.name))
		*name = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.Unmap().As4()}
		*(*[2]byte)(unsafe.Pointer(&name.Port)) = [2]byte{byte(p >> 8), byte(p)}
		w.nameLen = unix.SizeofSockaddrInet4
		return
	}
	w.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: a.As16()}
	*(*[2]byte)(unsafe.Pointer(&w.name.Port)) = [2]byte{byte(p >> 8), byte(p)}
	w.nameLen = unix.SizeofSockaddrInet6
}

// send returns true when all was taken, or what is left never will.
func (w *sender) send(fd uintptr) bool {
	single := false
	for len(w.lens) > 0 {
		segments := !single && w.s.segments.Load()
		n := w.messages(segments)
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&w.msgs[0])), uintptr(n), 0, 0, 0)
		switch {
		case errno == 0:
			w.took(int(sent))
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return false
		case errno == unix.EIO && w.counts[0] > 1:
			w.s.segments.Store(false) // the device sums nothing up, as it would have to (net/ipv4/udp.c, udp_send_skb)
		case errno == unix.EINVAL && w.counts[0] > 1:
			single = true // one of them may be too long for the way, and the others not
		case passing(errno):
			w.took(1) // and lost
		default:
			w.err = errno
			return true
		}
	}
	return true
}

// took moves on behind n messages.
func (w *sender) took(n int) {
	for _, count := range w.counts[:n] {
		for _, l := range w.lens[:count] {
			w.b = w.b[l:]
		}
		w.lens = w.lens[count:]
		w.done += count
	}
}

// messages puts the datagrams that are left into messages, as many as there are, and returns how many that is.
func (w *sender) messages(segments bool) (n int) {
	b, lens := w.b, w.lens
	for n < maxMessages && len(lens) > 0 {
		count, size := 1, lens[0]
		if segments {
			count, size = run(lens)
		}
		w.message(n, b[:size], lens[0], count)
		b, lens = b[size:], lens[count:]
		n++
	}
	return n
}

// run returns how many datagrams go into one message, and their length: all have the same but the last, which may be shorter.
func run(lens []int) (count, size int) {
	for _, l := range lens {
		if count > 0 && (count == maxSegments || l > lens[0] || size+l > maxMessage) {
			break
		}
		count++
		size += l
		if l < lens[0] {
			break
		}
	}
	return count, size
}

func (w *sender) message(i int, b []byte, size, count int) {
	w.counts[i] = count
	w.iovs[i].Base = &b[0]
	w.iovs[i].SetLen(len(b))
	h := &w.msgs[i].Msghdr
	h.Name, h.Namelen = (*byte)(unsafe.Pointer(&w.name)), w.nameLen
	h.Iov = &w.iovs[i]
	h.SetIovlen(1)
	c := w.controls[i][:0]
	if w.local.IsValid() {
		c = w.pktinfo(c)
	}
	if count > 1 {
		var data []byte
		c, data = control(c, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(data, uint16(size))
	}
	h.Control = nil
	if len(c) > 0 {
		h.Control = &c[0]
	}
	h.SetControllen(len(c))
}

// pktinfo says from which address of ours.
func (w *sender) pktinfo(c []byte) []byte {
	if w.s.v6 {
		c, b := control(c, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		a := w.local.As16()
		copy(b, a[:])
		return c
	}
	c, b := control(c, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	a := w.local.Unmap().As4()
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
