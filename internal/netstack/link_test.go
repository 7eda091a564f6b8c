package netstack

import (
	"bytes"
	"context"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"ferry/internal/proto"
)

// sent returns what a stack sends: headers, and a payload of two parts.
func sent(t *testing.T, head string, payload ...string) *stack.PacketBuffer {
	var b buffer.Buffer
	for _, part := range payload {
		_ = b.Append(buffer.NewViewWithData([]byte(part)))
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 60, Payload: b})
	copy(pkt.NetworkHeader().Push(len(head)), head)
	t.Cleanup(pkt.DecRef)
	return pkt
}

// A segment goes out as it is, without the room before its headers, and nothing is allocated for that.
func TestSegmentIsCopiedOnce(t *testing.T) {
	pkt := sent(t, "twenty bytes of head", "one ", "two")
	b := make([]byte, 0, proto.MaxData)
	b = appendFrame(b, pkt)
	if got := string(b[proto.DataHeaderLen:]); got != "twenty bytes of headone two" {
		t.Errorf("%q", got)
	}
	if n := testing.AllocsPerRun(100, func() { _ = appendFrame(b[:0], pkt) }); n > 0 {
		t.Errorf("%v allocations for a packet", n)
	}
}

// What waits for a router that does not come is bounded by the memory that it holds: of an ACK, that is much more than its length.
func TestOutboxCountsMemory(t *testing.T) {
	l := newLink()
	pkt := sent(t, string(bytes.Repeat([]byte{0x45}, 40)))
	n := 0
	for l.out.segment(pkt) {
		n++
	}
	l.out.end()
	if most := outboxBytes / stack.PacketBufferStructSize; n == 0 || n > most {
		t.Errorf("%d ACKs wait, want 1 to %d", n, most)
	}
}

// What is left in an outbox at the end is given back, and what comes then is not kept for nobody.
func TestOutboxEnds(t *testing.T) {
	l := newLink()
	pkt := sent(t, "twenty bytes of head")
	l.out.segment(pkt)
	l.out.end()
	if refs := pkt.ReadRefs(); refs != 1 {
		t.Errorf("%d references after the end", refs)
	}
	l = newLink()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.run(ctx, nil)
	if l.out.segment(pkt) || l.out.packet([]byte("head"), nil) {
		t.Error("a packet waits that nobody will take")
	}
}
