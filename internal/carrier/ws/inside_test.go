package ws

import (
	"bytes"
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"ferry/internal/carrier"
	"ferry/internal/carrier/tls"
	"ferry/internal/identity"
)

// Ferry's own handshake, and its records, pass through: that is what a WebSocket is for.
func TestSecureInside(t *testing.T) {
	pairs(t, func(t *testing.T, a, b net.Conn) {
		gateway, device := identity.NewKey(), identity.NewKey()
		c := gateway.Server(func(_ identity.Protocol, p identity.Public) error {
			if p != device.Public() {
				return errors.New("another key")
			}
			return nil
		})
		var sending sync.WaitGroup
		defer sending.Wait()
		data := bytes.Repeat([]byte("0123456789abcdef"), 50_000)
		sending.Go(func() {
			records, err := tls.Client(t.Context(), a, device.Client(identity.Tunnel, gateway.Public().Pin()))
			if err == nil {
				err = carrier.NewSecureStream(a, records).Write(data, nil)
			}
			if err != nil {
				t.Error(err)
			}
		})
		first, b, err := carrier.FirstByte(t.Context(), b)
		if err != nil || first != carrier.TLSByte {
			t.Fatal(first, err)
		}
		records, _, key, err := tls.Server(t.Context(), b, c)
		if err != nil || key != device.Public() {
			t.Fatal(key, err)
		}
		s := carrier.NewSecureStream(b, records)
		defer s.Release()
		for left := data; len(left) > 0; {
			buf, start, end, err := s.Fill()
			if err != nil || !bytes.HasPrefix(left, buf[start:end]) {
				t.Fatalf("with %d bytes left: %v, or they differ", len(left), err)
			}
			s.Consume(end - start)
			left = left[end-start:]
		}
	})
}

// A handshake inside ends with its context, and a gateway with another key is refused.
func TestHandshakeInsideFails(t *testing.T) {
	pairs(t, func(t *testing.T, a, b net.Conn) {
		gateway, device := identity.NewKey(), identity.NewKey()
		var serving sync.WaitGroup
		defer serving.Wait()
		serving.Go(func() {
			_, _, _, _ = tls.Server(t.Context(), b, identity.NewKey().Server(func(identity.Protocol, identity.Public) error { return nil }))
		})
		if _, err := tls.Client(t.Context(), a, device.Client(identity.Tunnel, gateway.Public().Pin())); !errors.Is(err, tls.ErrHandshake) {
			t.Errorf("another gateway: %v", err)
		}
	})
	pairs(t, func(t *testing.T, a, _ net.Conn) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := tls.Client(ctx, a, identity.NewKey().Client(identity.Tunnel, identity.NewKey().Public().Pin())); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a silent gateway: %v", err)
		}
	})
}

// What both ends of an idle WebSocket hold, with a Stream that waits at each: not the 256 KiB of a read buffer.
// exam: M5
func TestIdleMemory(t *testing.T) {
	for _, scheme := range []string{"ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			const connections = 50
			var waiting sync.WaitGroup
			var streams []*carrier.Stream
			before := inUse()
			for range connections {
				a, b := pair(t, scheme)
				for _, conn := range []net.Conn{a, b} {
					s := carrier.NewStream(conn)
					streams = append(streams, s)
					if _, err := conn.Write(make([]byte, 100_000)); err != nil {
						t.Fatal(err)
					}
				}
			}
			idle := make(chan struct{}, 2*connections)
			for _, s := range streams {
				waiting.Go(func() {
					for n, err := 0, error(nil); err == nil; {
						var start, end int
						_, start, end, err = s.Fill()
						s.Consume(end - start)
						if n += end - start; n == 100_000 {
							idle <- struct{}{}
						}
					}
				})
			}
			for range streams {
				<-idle
			}
			each := (inUse() - before) / connections
			for end := time.Now().Add(patience); each > 160<<10 && time.Now().Before(end); runtime.Gosched() { // from the last byte to waiting again
				each = (inUse() - before) / connections
			}
			t.Logf("%d bytes for both ends", each)
			if each > 160<<10 {
				t.Errorf("%d bytes are held for both ends", each)
			}
			for _, s := range streams {
				_ = s.Close()
			}
			waiting.Wait()
		})
	}
}

// inUse returns how much memory is in use, with the stacks, when what is in pools has been thrown away.
func inUse() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// Who waits is told before, and is not told when bytes are there already.
func TestWait(t *testing.T) {
	pairs(t, func(t *testing.T, a, b net.Conn) {
		if _, err := a.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		_ = a.Close()
		w, waits := b.(carrier.Waiter), 0
		idle := func() { waits++ }
		for i, want := range []int{1, 1, 2, 2} { // for "h", for the rest, for the end, and then no more
			if err := w.Wait(idle); waits != want || (err != nil) != (i >= 2) {
				t.Fatalf("step %d: waited %d times, want %d; %v", i, waits, want, err)
			}
			if i < 2 {
				if n, err := b.Read(make([]byte, 1+9*i)); n != 1+3*i || err != nil {
					t.Fatalf("step %d: read %d, %v", i, n, err)
				}
			}
		}
	})
}
