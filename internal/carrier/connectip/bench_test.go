package connectip

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"testing"

	"ferry/internal/carrier"
	"ferry/internal/packet"
	"ferry/internal/proto"
)

// One way at full rate over loopback: what arrives, of packets that fit into one datagram, and of those of the gateway's usual MTU,
// which go in two.
func BenchmarkLink(b *testing.B) {
	for _, way := range []struct {
		name string
		size int
	}{{"1360", 1360}, {"1400", 1400}, {"100", 100}} {
		b.Run("h3/"+way.name, func(b *testing.B) {
			from, to := pair(b)
			bench(b, from, to, way.size)
		})
	}
	b.Run("h1/1400", func(b *testing.B) {
		x, y := streams(b)
		bench(b, carrier.NewStream(x), carrier.NewStream(y), 1400)
	})
}

// packetOf returns an IPv4 packet of n bytes.
func packetOf(n int) []byte {
	return packetBetween(n, netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1"))
}

func packetBetween(n int, src, dst netip.Addr) []byte {
	p := make([]byte, n)
	copy(p, []byte{0x45, 0, byte(n >> 8), byte(n), 0, 0, 0, 0, 64, 17})
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(p[10:], packet.Checksum(p[:20], 0))
	return p
}

func bench(b *testing.B, from, to carrier.Link, size int) {
	b.Helper()
	run := bytes.Repeat(packetOf(size), 16)
	var got atomic.Int64
	done := make(chan struct{})
	go func() { // ends with to
		defer close(done)
		for {
			buf, start, end, err := to.Fill()
			if err != nil {
				return
			}
			i := start
			for i < end {
				k, n, err := (proto.Framer{Extended: true}).Next(buf[i:end])
				if err != nil || n == 0 {
					break
				}
				if i += n; k == proto.KindIPv4 {
					got.Add(int64(n))
				}
			}
			to.Consume(i - start)
		}
	}()
	b.SetBytes(int64(len(run)))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if err := from.Write(run, nil); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.StopTimer()
	b.ReportMetric(100*float64(got.Load())/float64(n*len(run)), "%arrived")
	_, _ = from.Close(), to.Close()
	<-done
}
