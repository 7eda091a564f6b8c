package icmp

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"ferry/internal/carrier/netsock"
	"ferry/internal/carrier/polling"
)

// A sender has what one call of Ask or Answer needs.
type sender struct {
	s       *socket
	w       *netsock.Writer
	headers [batch][headerLen]byte
	ends    [batch]int                               // of what was to be sent, how many are done behind each message
	next    func(errno unix.Errno, sent int) (n int) // bound once

	// Of a call:
	b     []byte
	lens  []int
	done  int // of lens
	err   error
	to    netip.AddrPort        // of questions
	first uint32                // number of the first one
	reply []polling.Reply[back] // of answers; nil: these are questions
}

func newSender(s *socket) *sender {
	w := &sender{s: s, w: netsock.NewWriter(s.Socket, batch)}
	w.next = w.step
	return w
}

// ask sends questions.
func (s *socket) ask(to netip.AddrPort, first uint32, b []byte, lens []int, wait bool) (int, error) {
	w := s.outs.Get().(*sender)
	w.to, w.first = to, first
	return w.send(b, lens, wait)
}

// answer sends answers, but no empty ones.
func (s *socket) answer(to []polling.Reply[back], b []byte, lens []int, wait bool) (int, error) {
	w := s.outs.Get().(*sender)
	w.reply = to
	return w.send(b, lens, wait)
}

func (w *sender) send(b []byte, lens []int, wait bool) (int, error) {
	defer w.s.outs.Put(w)
	w.b, w.lens, w.done, w.err = b, lens, 0, nil
	err := w.w.Write(w.messages(), wait, w.next)
	w.b, w.lens, w.reply = nil, nil, nil
	if err == nil {
		err = w.err
	}
	return w.done, err
}

// step goes on behind what was sent, or what never will be.
func (w *sender) step(errno unix.Errno, sent int) int {
	switch {
	case errno == 0:
		w.took(w.ends[sent-1])
	case netsock.Passing(errno):
		w.took(w.ends[0]) // and lost
	default:
		w.err = netsock.SendError(errno)
		return 0
	}
	return w.messages()
}

// took moves on.
func (w *sender) took(n int) {
	for _, l := range w.lens[:n] {
		w.b = w.b[l:]
	}
	w.lens = w.lens[n:]
	w.done += n
	if w.reply != nil {
		w.reply = w.reply[n:]
	} else {
		w.first += uint32(n)
	}
}

// messages puts what is left into messages, as many as there are, and returns how many that is. Empty answers at the end, with no message behind
// them, are done.
func (w *sender) messages() (n int) {
	b := w.b
	for i, l := range w.lens {
		if n == batch {
			break
		}
		data := b[:l]
		b = b[l:]
		if w.reply == nil {
			w.message(n, w.to, netip.Addr{}, echoRequest, echo{identifier: w.s.identifier, number: w.first + uint32(i), data: data})
		} else if r := &w.reply[i]; l > 0 {
			w.message(n, netip.AddrPortFrom(netip.AddrFrom4(r.Back.to), 0), netip.AddrFrom4(r.Back.local), echoReply,
				echo{identifier: r.Back.identifier, number: r.Number, held: r.Held, data: data})
		} else {
			continue
		}
		w.ends[n] = i + 1
		n++
	}
	if n == 0 {
		w.done += len(w.lens)
	} else if n < batch {
		w.ends[n-1] = len(w.lens)
	}
	return n
}

func (w *sender) message(n int, to netip.AddrPort, local netip.Addr, kind byte, e echo) {
	h := appendHeader(w.headers[n][:0], kind, e)
	w.w.Message(n, to, local, 0, h, e.data)
}
