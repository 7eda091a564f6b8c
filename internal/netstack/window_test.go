package netstack

import (
	"bytes"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"ferry/internal/packet"
	"ferry/internal/proto"
)

// What the first packet of the exit announces is not taken back when the connection has come to be, however little memory there is: whether a client connects
// or is dialled.
func TestAnnouncedWindow(t *testing.T) {
	const limit = 32 << 20
	for name, left := range map[string]int{"all is free": limit, "little is free": limit / 5, "next to nothing is free": limit / 24} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, Config{Memory: limit})
			c.exit.conns.memory.budget.Add(limit - left)
			defer c.exit.conns.memory.budget.Add(left - limit)
			var announced atomic.Int64
			c.through.Store(new(func(run []byte) []byte {
				for b := run; len(b) > 0; b = b[proto.DataLen(b):] {
					ip := packet.IPv4(b[proto.DataHeaderLen:proto.DataLen(b)])
					if h := header.TCP(ip[ip.HeaderLen():]); h.Flags().Contains(header.TCPFlagSyn) {
						announced.Store(int64(h.WindowSize())) // without the scale (RFC 7323, section 2.2)
					}
				}
				return run
			}))
			want := func(w *windows) {
				t.Helper()
				w.mu.Lock()
				defer w.mu.Unlock()
				size := int(w.in.SocketOptions().GetReceiveBufferSize())
				if n := announced.Load(); n == 0 || n > int64(size/2) || size != w.receive {
					t.Errorf("%d bytes were announced; the window is of %d, of which half is for data, and %d are counted", n, size, w.receive)
				}
				if n := announced.Load(); left == limit && n < 28_000 {
					t.Errorf("%d bytes were announced, and not 20 segments", n)
				}
			}
			port := listen(t, echo)
			x := c.mustDial(port)
			if _, err := x.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(x, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			want(c.windows())

			l, err := c.Listen(80)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			announced.Store(0)
			y, err := c.exit.Dial(t.Context(), "tcp", netip.AddrPortFrom(here, 80))
			if err != nil {
				t.Fatal(err)
			}
			defer y.Close()
			want(&y.(*Conn).windows)
		})
	}
}

// What a client sends as soon as it may comes without a pause while there is little memory: a little more than with which who waits is reset.
func TestBeginsWithoutPause(t *testing.T) {
	const limit, left, conns = 8 << 20, 8 << 20 / 17, 10
	port := listen(t, echo)
	sent := random(64 << 10)
	var slow int
	for range conns {
		c := newClient(t, Config{Memory: limit})
		c.exit.conns.memory.budget.Add(limit - left)
		x := c.mustDial(port)
		began := time.Now()
		var writing sync.WaitGroup
		writing.Go(func() { _, _ = x.Write(sent) })
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(x, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatal("it did not come back", err)
		}
		if time.Since(began) > 190*time.Millisecond { // the least time after which something is sent again is 200 ms
			slow++
		}
		writing.Wait()
	}
	if slow > conns/3 {
		t.Errorf("%d of %d connections have paused", slow, conns)
	}
}
