package router

import (
	"errors"
	"net/netip"
	"testing"

	"ferry/internal/buffer"
	"ferry/internal/packet"
)

// brokenStream takes n bytes and fails; lastWords runs before.
type brokenStream struct {
	n         int
	err       error
	lastWords func()
}

func (s *brokenStream) TryWrite([]byte) (int, error) {
	if s.lastWords != nil {
		s.lastWords()
	}
	return s.n, s.err
}
func (s *brokenStream) Write([]byte, func()) error { return s.err }
func (s *brokenStream) Held() int                  { return 0 }

func (s *brokenStream) Grain() int { return 0 }

// What a connection loses counts as dropped, whatever it ended by: the packet that was cut, too, and
// never what its bytes happen to look like.
func TestLossIsCounted(t *testing.T) {
	reset := &brokenStream{n: 102, err: errors.New("connection reset")}
	closed := new(brokenStream)
	full := new(brokenStream)
	tests := []struct {
		name   string
		stream *brokenStream
		limit  int
		why    string
	}{
		{"reset within the packet", reset, 1 << 20, "closed"},
		{"closed while it was written", closed, 1 << 20, "closed"},
		{"queue full", full, 10, "queue_full"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, false)
			q := NewQueue(tt.stream, QueueConfig{Limit: tt.limit, Budget: new(buffer.Budget)})
			if tt.stream == closed {
				tt.stream.lastWords = q.Close
			}
			to := NewPort(7, Caps{Super: true, MTU: 1500}, q)
			w.table.Bind(to, netip.MustParseAddr(addrB))
			ip := udp(1400, addrA, addrB, false)
			for i := 28; i < len(ip); i += 4 {
				copy(ip[i:], []byte{0x81, 0, 0, 0}) // an empty ping
			}
			f := w.forwarder(w.a)
			b := frame(packet.Offload{}, ip)
			f.Frame(b, 0, len(b))
			f.Flush()
			if s := w.a.Stats(); s.Packets != 0 || s.Bytes != 0 || s.Drops[tt.why] != 1 || len(s.Drops) != 1 {
				t.Errorf("got %+v, want the one packet dropped: %s", s, tt.why)
			}
		})
	}
}

// A forwarder lives as long as its peer; the buffers that it is given are shared by all peers.
func TestIdleForwarderHoldsNoBuffer(t *testing.T) {
	w := newWorld(t, false)
	f := w.forwarder(w.a)
	b := frame(packet.Offload{}, udp(100, addrA, addrB, false))
	f.Frame(b, 0, len(b))
	f.Flush()
	if f.buf != nil {
		t.Error("the buffer is held after Flush")
	}
}
