package dns

import (
	"errors"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier/netsock"
)

// errRoom is returned for a message that the socket has no room for.
var errRoom = errors.New("the socket has no room")

// A post sends messages by a socket, whose connection belongs to somebody else.
type post struct{ senders sync.Pool } // of *sender

func newPost(conn syscall.Conn, v6 bool) (*post, error) {
	s, err := netsock.Of(conn, v6)
	if err != nil {
		return nil, err
	}
	p := &post{}
	p.senders.New = func() any { return newSender(s) }
	return p, nil
}

// send sends a message to an address, the zero one where the socket is connected, from one of ours, if that is valid. It returns errRoom where it may not
// wait for room, or net.ErrClosed. A message that can not be sent for another reason is lost, as on the way.
func (p *post) send(m []byte, to netip.AddrPort, local netip.Addr, wait bool) error {
	s := p.senders.Get().(*sender)
	defer p.senders.Put(s)
	s.w.Message(0, to, local, 0, m, nil)
	s.done = false
	switch err := s.w.Write(1, wait, s.next); {
	case err != nil:
		return err
	case !s.done:
		return errRoom
	}
	return nil
}

// A sender has what one call of send needs.
type sender struct {
	w    *netsock.Writer
	next func(errno unix.Errno, sent int) (n int) // bound once
	done bool
}

func newSender(s *netsock.Socket) *sender {
	x := &sender{w: netsock.NewWriter(s, 1)}
	x.next = func(unix.Errno, int) int {
		x.done = true
		return 0
	}
	return x
}
