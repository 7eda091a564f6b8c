package quic

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"
)

// One way at full rate over loopback: what arrives, and what is lost where the reader is too slow.
func BenchmarkLink(b *testing.B) {
	for _, way := range []string{"up", "down"} {
		for _, size := range []int{0, 1000, 100} { // 0: Max
			b.Run(fmt.Sprintf("%s/%d", way, size), func(b *testing.B) {
				from, to := pair(b)
				if way == "down" {
					from, to = to, from
				}
				bench(b, from, to, size)
			})
		}
	}
}

func bench(b *testing.B, from, to *Link, size int) {
	warm(b, from, to)
	if size == 0 {
		size = from.Max()
	}
	run := bytes.Repeat(frame(size, 1), 16)
	var got atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, start, end, err := to.Fill()
			if err != nil {
				return
			}
			got.Add(int64(end - start))
			to.Consume(end - start)
		}
	}()
	b.SetBytes(int64(len(run)))
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		if err := from.Write(run, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(100*float64(got.Load())/float64(from.Sent()), "%arrived")
	stats := from.conn.q.ConnectionStats()
	b.ReportMetric(100*float64(stats.PacketsLost)/float64(stats.PacketsSent), "%lost-on-the-way")
	b.ReportMetric(float64(size), "B/item")
	from.Close()
	<-done
}

// warm lets the path MTU discovery come to its end.
func warm(b *testing.B, from, to *Link) {
	for before := 0; before != from.Max(); {
		before = from.Max()
		for range 50 {
			write(b, from, request())
			read(b, to, len(request()))
		}
	}
}
