package router

import (
	"bytes"
	"testing"

	"ferry/internal/packet"
	"ferry/internal/proto"
)

// Segments that come one by one leave as the super-packet that they were, and stay in order with all else. Who takes no
// super-packets gets the same segments.
func TestSegmentsAreJoined(t *testing.T) {
	for _, to := range []string{addrB, addrL} {
		t.Run(to, func(t *testing.T) {
			w := newWorld(t, false)
			out, super := w.out[w.b], true
			if to == addrL {
				out, super = w.out[w.l], false
			}
			o, ip := tcpSuper(20_000, 1400, addrA, to)
			ip[33] = 0x10 // ACK
			segments := packet.AppendSegments(nil, o, ip)
			ip[36], ip[37] = 0, 0
			pseudo := ^packet.Checksum(nil, packet.PseudoSum(ip, 6, len(ip)-20))
			ip[36], ip[37] = byte(pseudo>>8), byte(pseudo)
			before, after := udp(60, addrA, to, true), udp(70, addrA, to, true)

			buf := make([]byte, 16)
			f := w.forwarder(w.a)
			give := func(p []byte) {
				i := len(buf)
				buf = append(buf, p...)
				f.Packet(buf, i, len(buf))
			}
			give(before)
			for rest := segments; len(rest) > 0; {
				n := packet.IPv4(rest).TotalLen()
				give(rest[:n])
				rest = rest[n:]
			}
			give(after)
			f.Flush()

			want := bytes.Join([][]byte{before, segments, after}, nil)
			if super {
				want = bytes.Join([][]byte{frame(packet.Offload{}, before), frame(o, ip), frame(packet.Offload{}, after)}, nil)
			}
			if got := out.all(); !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, want %d", len(got), len(want))
			}
			if f.join != nil {
				t.Error("an idle forwarder holds memory")
			}

			out.runs = nil // a frame behind segments
			i := len(buf)
			buf = append(buf, segments[:1440]...)
			f.Packet(buf, i, len(buf))
			b := frame(packet.Offload{}, before)
			f.Frame(b, 0, len(b))
			f.Flush()
			want = append(frame(packet.Offload{}, segments[:1440]), b...)
			if !super {
				want = append(bytes.Clone(segments[:1440]), before...)
			}
			if got := out.all(); !bytes.Equal(got, want) {
				t.Error("a frame has overtaken a segment")
			}
		})
	}
}

// BenchmarkPackets is what segments of a flow cost that come one by one.
func BenchmarkPackets(b *testing.B) {
	w := newWorld(new(testing.T), false)
	w.b.out = discard{}
	o, ip := tcpSuper(60_000, 1400, addrA, addrB)
	ip[33] = 0x10
	segments := packet.AppendSegments(make([]byte, proto.DataHeaderLen), o, ip)
	f := w.forwarder(w.a)
	b.SetBytes(int64(len(segments)))
	b.ReportAllocs()
	for b.Loop() {
		for i := proto.DataHeaderLen; i < len(segments); {
			n := packet.IPv4(segments[i:]).TotalLen()
			f.Packet(segments, i, i+n)
			i += n
		}
		f.Flush()
	}
}
