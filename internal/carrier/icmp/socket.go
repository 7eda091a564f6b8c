package icmp

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"ferry/internal/carrier/netsock"
)

const (
	// batch is how many packets one call of the kernel takes or gives.
	batch = 64
	// packetLen is the length of the longest packet that is looked at; a longer one is none of ours.
	packetLen = 2 << 10
)

// An Addr is where an end is: an address, and the identifier by which it is known there; 0: none.
type Addr struct{ at netip.AddrPort }

// Network implements net.Addr.
func (Addr) Network() string { return "icmp" }

// String implements net.Addr.
func (a Addr) String() string {
	if a.at.Port() == 0 {
		return a.at.Addr().String()
	}
	return a.at.String()
}

// AddrPort returns both.
func (a Addr) AddrPort() netip.AddrPort { return a.at }

// A socket sends and receives echos.
type socket struct {
	*netsock.Socket
	raw        bool   // what comes has an IP header
	identifier uint16 // of a client's raw socket; 0: the kernel chooses one
	in         *netsock.Reader
	bufs       [][packetLen]byte
	outs       sync.Pool // of *sender
}

func newSocket(fd int, raw bool) (*socket, error) {
	n, err := netsock.New(fd, false, "icmp")
	if err != nil {
		return nil, err
	}
	s := &socket{Socket: n, raw: raw, in: netsock.NewReader(n, batch), bufs: make([][packetLen]byte, batch)}
	s.outs.New = func() any { return newSender(s) }
	return s, nil
}

// isRaw tells which kind of socket it is.
func isRaw(fd int) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil && kind == unix.SOCK_RAW
}

// newIdentifier returns one that is hardly anybody's.
func newIdentifier() uint16 { return uint16(1 + rand.IntN(1<<16-1)) }

// read waits for packets, and returns how many have come.
func (s *socket) read(most int) (n int, refused bool, err error) {
	most = min(most, batch)
	for i := range most {
		s.in.Buffer(i, s.bufs[i][:])
	}
	return s.in.Read(most)
}

// echo returns the i-th packet, if it is an echo of a kind.
func (s *socket) echo(i int, kind byte) (echo, bool) {
	b := s.bufs[i][:min(s.in.Len(i), packetLen)]
	if s.raw {
		b = payloadOf(b)
	}
	return parse(b, kind)
}

// filter has the kernel drop what is no echo of a kind with our marker; for a raw socket, of an identifier, if that is not 0.
func (s *socket) filter(kind byte) error {
	marker, base := uint32(Question), uint32(0)
	if kind == echoReply {
		marker = Answer
	}
	load := func(off uint32, size int) bpf.Instruction {
		if s.raw {
			return bpf.LoadIndirect{Off: off, Size: size}
		}
		return bpf.LoadAbsolute{Off: base + off, Size: size}
	}
	const drop, pass = 0, 0xffff
	var p []bpf.Instruction
	if s.raw {
		p = append(p, bpf.LoadMemShift{Off: 0}) // the length of the IP header
	}
	test := func(off uint32, size int, want uint32) {
		p = append(p, load(off, size), bpf.JumpIf{Cond: bpf.JumpEqual, Val: want, SkipTrue: 1}, bpf.RetConstant{Val: drop})
	}
	test(0, 1, uint32(kind))
	if s.identifier != 0 {
		test(4, 2, uint32(s.identifier))
	}
	test(echoLen, 4, marker)
	assembled, err := bpf.Assemble(append(p, bpf.RetConstant{Val: pass}))
	if err != nil {
		return fmt.Errorf("assemble the filter: %w", err)
	}
	code := make([]unix.SockFilter, len(assembled))
	for i, in := range assembled {
		code[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	err = s.set(func(fd int) error {
		if s.raw { // types of which the bit is set are dropped before they are copied (raw(7)); without that the filter does it
			mask := ^(1 << kind)
			_ = unix.SetsockoptInt(fd, unix.SOL_RAW, 1, mask)
		}
		return os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog))
	})
	runtime.KeepAlive(code)
	return err
}

// set does something with the descriptor.
func (s *socket) set(f func(fd int) error) (err error) {
	if controlErr := s.Control(func(fd uintptr) { err = f(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}

var _ net.Addr = Addr{}
