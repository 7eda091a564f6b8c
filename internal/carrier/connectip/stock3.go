package connectip

import (
	"net/netip"
)

// A lane3 is that of a stock client by HTTP/3.
type lane3 struct {
	t       *tunnel3
	head    []byte // of each datagram, without the context
	scratch []byte
}

// newStock3 is a stock client by HTTP/3, which has packets in datagrams too.
func newStock3(t *tunnel3, routes []netip.Prefix) *Stock {
	head := t.prefix(nil, contextIP)
	s := newStock(&lane3{t: t, head: head[:len(head)-1]}, t, t.remote, routes)
	s.receiving.Go(func() {
		for {
			d, err := t.receive()
			if err != nil {
				s.in.Finish(err)
				return
			}
			s.datagram(d)
		}
	})
	return s
}

func (l *lane3) packet(b []byte) error {
	l.scratch = append(append(l.scratch[:0], l.head...), b...)
	_, err := l.t.send(l.scratch) // one that is too long is lost, as on the way: max was another a moment ago
	return err
}

func (l *lane3) capsules(b []byte) error {
	_, err := l.t.stream.Write(b)
	return l.t.meaning(err)
}

func (l *lane3) flush() error { return nil }

// leastPacket fits into the smallest packet of QUIC (RFC 9000, section 14), with all that is around it.
const leastPacket = 1150

// max is no less where the connection has ended: whoever asks once goes on with what he heard.
func (l *lane3) max() int { return max(l.t.limit()-len(l.head)-1, leastPacket) }

func (l *lane3) end() { l.t.close() }
