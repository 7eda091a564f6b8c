package udp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/proto"
)

// packetOf returns a bare IPv4 packet of n bytes whose payload says which one it is.
func packetOf(n int, nr uint32) []byte {
	b := make([]byte, n)
	b[0], b[8] = 0x45, 64
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	copy(b[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	if n >= 24 {
		binary.BigEndian.PutUint32(b[20:], nr)
	}
	return b
}

// frameOf returns the packet in a data frame.
func frameOf(n int, nr uint32) []byte {
	b := make([]byte, proto.DataHeaderLen)
	proto.PutBareHeader(b, n)
	return append(b, packetOf(n, nr)...)
}

// collect reads items until it has as many data items as wanted, and returns them by their numbers; others by -1 and below.
func collect(t testing.TB, l carrier.Link, count int, others int) (data map[uint64][]byte, rest [][]byte) {
	t.Helper()
	data = map[uint64][]byte{}
	next := uint64(0)
	for len(data) < count || len(rest) < others {
		buf, start, end, err := l.Fill()
		if err != nil {
			t.Fatalf("after %d items: %v", len(data), err)
		}
		if start < carrier.Headroom {
			t.Fatalf("only %d bytes of room", start)
		}
		for b := buf[start:end]; len(b) > 0; {
			n, err := proto.NextItem(b)
			if n == 0 || err != nil {
				t.Fatalf("no whole item: %x, %v", b, err)
			}
			item := bytes.Clone(b[:n])
			b = b[n:]
			switch proto.TravelOf(item) {
			case proto.TravelNumber:
				next, _ = proto.ParseNumber(item)
			case proto.TravelCounted:
				if data[next] != nil {
					t.Errorf("number %d came twice", next)
				}
				data[next] = item
				next++
			default:
				rest = append(rest, item)
			}
		}
		l.Consume(end - start)
	}
	return data, rest
}

func TestItems(t *testing.T) {
	client, gateway := pair(t, "127.0.0.1")
	for name, ends := range map[string][2]carrier.Link{"up": {client, gateway}, "down": {gateway, client}} {
		t.Run(name, func(t *testing.T) {
			from, to := ends[0], ends[1]
			run := proto.AppendNumber(nil, 1000)
			var want [][]byte
			for i := range 200 {
				item := packetOf(20+i*7, uint32(i))
				if i%3 == 0 {
					item = frameOf(20+i*7, uint32(i))
				}
				if len(item) > from.Max() {
					item = packetOf(from.Max(), uint32(i))
				}
				want = append(want, item)
				run = append(run, item...)
			}
			hello := proto.AppendHello(nil, proto.HelloMessage{Name: "one"})
			ping := proto.AppendPing(nil, bytes.Repeat([]byte("p"), 1000))
			run = append(append(append(run, hello...), ping...), proto.AppendKeepalive(nil)...)
			if err := from.Write(run, nil); err != nil {
				t.Fatal(err)
			}
			data, rest := collect(t, to, len(want), 3)
			for i, item := range want {
				if !bytes.Equal(data[1000+uint64(i)], item) {
					t.Errorf("item %d: got %d bytes, want %d", i, len(data[1000+uint64(i)]), len(item))
				}
			}
			for _, item := range [][]byte{hello, ping, proto.AppendKeepalive(nil)} {
				found := false
				for _, r := range rest {
					found = found || bytes.Equal(r, item)
				}
				if !found {
					t.Errorf("%x did not come", item[:8])
				}
			}
		})
	}
}

// What must not be lost comes in order, however much it is.
func TestSurely(t *testing.T) {
	client, gateway := pair(t, "127.0.0.1")
	const count = 2000
	done := make(chan error, 1)
	go func() {
		for i := range count {
			if err := client.Write(proto.AppendHello(nil, proto.HelloMessage{Name: fmt.Sprint(i)}), nil); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	go func() { // acks
		for {
			if _, s, e, err := client.Fill(); err != nil {
				return
			} else {
				client.Consume(e - s)
			}
		}
	}()
	_, rest := collect(t, gateway, 0, count)
	for i, r := range rest {
		if want := proto.AppendHello(nil, proto.HelloMessage{Name: fmt.Sprint(i)}); !bytes.Equal(r, want) {
			t.Fatalf("item %d: got %q", i, r)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The other end hears that a connection was closed.
func TestClose(t *testing.T) {
	client, gateway := pair(t, "127.0.0.1")
	go client.Close()
	if _, _, _, err := gateway.Fill(); err != io.EOF {
		t.Errorf("got %v, want %v", err, io.EOF)
	}
	if _, err := gateway.TryWrite(packetOf(20, 0)); err == nil {
		t.Error("a closed connection takes items")
	}
}

// benchmark sends runs of segments, as a super-packet makes them, with no more under way than a socket takes.
func benchmark(b *testing.B, from, to carrier.Link) {
	const segments = 44
	var run []byte
	for i := range segments {
		run = append(run, packetOf(from.Max(), uint32(i))...)
	}
	var received, lost atomic.Int64
	go func() {
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
	b.ResetTimer()
	sent := int64(0)
	for range b.N {
		if n, err := from.TryWrite(run); err != nil || n != len(run) {
			if err := from.Write(run[n:], nil); err != nil {
				b.Fatal(err)
			}
		}
		sent += each
		for since := time.Now(); sent-received.Load()-lost.Load() > 1<<20; {
			if time.Since(since) > 50*time.Millisecond { // lost
				lost.Store(sent - received.Load())
			}
			time.Sleep(20 * time.Microsecond)
		}
	}
	b.ReportMetric(float64(lost.Load())/float64(sent), "lost/B")
}

func BenchmarkUp(b *testing.B) {
	client, gateway := pair(b, "127.0.0.1")
	benchmark(b, client, gateway)
}

func BenchmarkDown(b *testing.B) {
	client, gateway := pair(b, "127.0.0.1")
	benchmark(b, gateway, client)
}
