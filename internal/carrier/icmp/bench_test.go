package icmp

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/proto"
)

// packetOf returns a bare IPv4 packet of n bytes.
func packetOf(n int) []byte {
	b := make([]byte, n)
	b[0], b[8] = 0x45, 64
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	copy(b[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	return b
}

// benchmark sends runs of segments, as a super-packet makes them, with no more under way than sockets take.
func benchmark(b *testing.B, from, to carrier.Link) {
	const segments = 44
	var run []byte
	for range segments {
		run = append(run, packetOf(from.Max())...)
	}
	var received atomic.Int64
	go func() { // ends with the link
		for {
			_, start, end, err := to.Fill()
			if err != nil {
				return
			}
			received.Add(int64(end - start))
			to.Consume(end - start)
		}
	}()
	each := int64(len(run) + segments*proto.NumberLen)
	b.SetBytes(int64(len(run)))
	b.ReportAllocs()
	sent, lost := int64(0), int64(0)
	for b.Loop() {
		if err := from.Write(run, nil); err != nil {
			b.Fatal(err)
		}
		sent += each
		for since := time.Now(); sent-received.Load()-lost > 512<<10; {
			if time.Since(since) > 50*time.Millisecond {
				lost = sent - received.Load()
			}
			time.Sleep(20 * time.Microsecond)
		}
	}
	b.ReportMetric(float64(lost)/float64(sent), "lost/B")
}

func BenchmarkUp(b *testing.B) {
	client, gateway := pair(b)
	benchmark(b, client, gateway)
}

func BenchmarkDown(b *testing.B) {
	client, gateway := pair(b)
	benchmark(b, gateway, client)
}
