package udp

import (
	"golang.org/x/sys/unix"

	"ferry/internal/carrier/datagram"
	"ferry/internal/carrier/netsock"
)

// A sender has what one call of Send needs.
type sender struct {
	s      *socket
	w      *netsock.Writer
	counts [maxMessages]int                         // datagrams in each message
	next   func(errno unix.Errno, sent int) (n int) // bound once

	// Of a call:
	b      []byte
	lens   []int
	to     datagram.Addr
	single bool // no segments
	done   int  // datagrams that were taken
	err    error
}

func newSender(s *socket) *sender {
	w := &sender{s: s, w: netsock.NewWriter(s.Socket, maxMessages)}
	w.next = w.step
	return w
}

// Send implements datagram.Transport. Who does not wait is not held up by those who do.
func (s *socket) Send(b []byte, lens []int, to datagram.Addr, wait bool) (int, error) {
	w := s.outs.Get().(*sender)
	defer s.outs.Put(w)
	w.b, w.lens, w.to, w.single, w.done, w.err = b, lens, to, false, 0, nil
	err := w.w.Write(w.messages(), wait, w.next)
	w.b, w.lens = nil, nil
	if err == nil {
		err = w.err
	}
	return w.done, err
}

// step goes on behind what was sent, or what never will be.
func (w *sender) step(errno unix.Errno, sent int) int {
	switch {
	case errno == 0:
		w.took(sent)
	case errno == unix.EIO && w.counts[0] > 1:
		w.s.segments.Store(false) // the device sums nothing up, as it would have to (net/ipv4/udp.c, udp_send_skb)
	case errno == unix.EINVAL && w.counts[0] > 1:
		w.single = true // one of them may be too long for the way, and the others not
	case netsock.Passing(errno):
		w.took(1) // and lost
	default:
		w.err = netsock.SendError(errno)
		return 0
	}
	return w.messages()
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
func (w *sender) messages() (n int) {
	b, lens := w.b, w.lens
	segments := !w.single && w.s.segments.Load()
	for n < maxMessages && len(lens) > 0 {
		count, size, segment := 1, lens[0], 0
		if segments {
			count, size = run(lens)
		}
		if count > 1 {
			segment = lens[0]
		}
		w.w.Message(n, w.to.Remote, w.to.Local, segment, b[:size], nil)
		w.counts[n] = count
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
