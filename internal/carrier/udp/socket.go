package udp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier/datagram"
	"ferry/internal/carrier/netsock"
)

const (
	// What one message can be: UDP_MAX_SEGMENTS of old kernels, and what fits into an IP packet.
	maxSegments = 64
	maxMessage  = 65000
	// maxMessages is how many messages one call of the kernel takes.
	maxMessages = 64
	// readMessages is how many chunks are read at once.
	readMessages = 8

	// MaxIPv4 and MaxIPv6 are the lengths of the longest datagrams on a path of 1500 bytes.
	MaxIPv4 = 1500 - 20 - 8
	MaxIPv6 = 1500 - 40 - 8
)

// A socket is a datagram.Transport.
type socket struct {
	*netsock.Socket
	local net.Addr
	mtu   int // of the route; 0: not known

	segments atomic.Bool // the kernel cuts what we send (UDP_SEGMENT)

	in   *netsock.Reader // of the one goroutine that reads
	outs sync.Pool       // of *sender
}

var _ datagram.Transport = (*socket)(nil)

// newSocket takes a descriptor that belongs to it from now on.
func newSocket(fd int, v6 bool) (*socket, error) {
	n, err := netsock.New(fd, v6, "udp")
	if err != nil {
		return nil, err
	}
	s := &socket{Socket: n, in: netsock.NewReader(n, readMessages), local: net.UDPAddrFromAddrPort(netsock.Local(fd))}
	s.outs.New = func() any { return newSender(s) }
	_, err = unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT)
	s.segments.Store(err == nil)
	_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	return s, nil
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

// Receive implements datagram.Transport.
func (s *socket) Receive(chunks []*datagram.Chunk) (int, error) {
	most := min(len(chunks), readMessages)
	for i, c := range chunks[:most] {
		s.in.Buffer(i, c.Data)
	}
	n, refused, err := s.in.Read(most)
	if err != nil {
		return 0, err
	}
	if refused {
		chunks[0].Len = 0
		return 1, nil
	}
	for i, c := range chunks[:n] {
		c.Len = max(s.in.Len(i), 1) // an empty datagram is as good as a byte
		c.Size = c.Len
		c.From.Remote, c.From.Local = s.in.From(i), netip.Addr{}
		s.in.Controls(i, func(level, kind int32, b []byte) {
			if level == unix.SOL_UDP && kind == unix.UDP_GRO && len(b) >= 4 {
				if n := int(binary.NativeEndian.Uint32(b)); n > 0 {
					c.Size = n
				}
			} else if to := netsock.To(level, kind, b); to.IsValid() {
				c.From.Local = to
			}
		})
	}
	return n, nil
}
