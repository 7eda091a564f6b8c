package carrier

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPaceOfTCP(t *testing.T) {
	type look struct {
		after  time.Duration
		acked  uint64 // since the look before
		unsent uint32
		idle   time.Duration // since the look before: there was nothing to send
		rate   float64       // from then on, bytes a second
	}
	const ms = time.Millisecond
	for _, tt := range []struct {
		name  string
		looks []look
	}{
		{"nothing ever waited", []look{{0, 0, 0, 0, 0}, {20 * ms, 1000, 0, 0, 0}, {time.Hour, 0, 0, 0, 0}}},
		{"it waited all the time", []look{{0, 0, 9, 0, 0}, {20 * ms, 2000, 9, 0, 100_000}}},
		{"slower", []look{{0, 0, 9, 0, 0}, {20 * ms, 2000, 9, 0, 100_000}, {20 * ms, 1600, 9, 0, 95_000}}},
		{"a stall", []look{{0, 0, 9, 0, 0}, {20 * ms, 2000, 9, 0, 100_000}, {20 * ms, 0, 9, 0, 75_000}}},
		{"faster at once", []look{{0, 0, 9, 0, 0}, {20 * ms, 2000, 9, 0, 100_000}, {20 * ms, 8000, 9, 0, 400_000}}},
		{"faster, and nothing waits", []look{{0, 0, 9, 0, 0}, {20 * ms, 2000, 9, 0, 100_000}, {20 * ms, 8000, 0, 0, 400_000}}},
		{"bursts", []look{{0, 0, 9, 0, 0}, {time.Second, 200_000, 9, 900 * ms, 0}, {200 * ms, 200_000, 9, 50 * ms, 0}}},
		{"little to do", []look{{0, 0, 9, 0, 0}, {20 * ms, 2000, 9, 0, 100_000}, {time.Second, 10, 0, 0, 100_000}, {time.Second, 10, 9, 0, 100_000}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p Pace
			now, acked, busy := time.Now(), uint64(0), time.Duration(0)
			for i, l := range tt.looks {
				now, acked, busy = now.Add(l.after), acked+l.acked, busy+l.after-l.idle
				p.see(now, &unix.TCPInfo{Bytes_acked: acked, Notsent_bytes: l.unsent, Rtt: 50_000, Busy_time: uint64(busy.Microseconds())})
				if diff := p.rate - l.rate; diff < -1 || diff > 1 {
					t.Errorf("look %d: %.0f bytes a second, want %.0f", i, p.rate, l.rate)
				}
				p.passed = acked
				if p.due(acked+1<<20, now.Add(49*ms)) || p.due(acked, now.Add(time.Hour)) || !p.due(acked+1<<20, now.Add(50*ms)) {
					t.Error("the next look does not wait for a round trip, or for some bytes")
				}
			}
		})
	}
}

func TestGrain(t *testing.T) {
	for _, tt := range []struct {
		bytes int
		took  time.Duration
		want  int
	}{
		{10, time.Millisecond, 0}, // too early to tell
		{1000, time.Second, 2 << 10},
		{300_000, time.Second, 2 << 10},
		{1_000_000, time.Second, 4 << 10},
		{12_000_000, time.Second, 32 << 10},
		{14_000_000, time.Second, 0},
		{1 << 20, 0, 0},
	} {
		var p Pace
		if p.Took(tt.bytes, tt.took); p.Grain() != tt.want {
			t.Errorf("%d bytes in %v: %d at once, want %d", tt.bytes, tt.took, p.Grain(), tt.want)
		}
	}
	var p Pace
	p.Took(1<<30, time.Second)
	p.Took(30_000, 100*time.Millisecond)
	if p.Grain() != minGrain {
		t.Errorf("a fast link that became slow is handed %d at once", p.Grain())
	}
	p.Took(1<<20, 20*time.Millisecond)
	if p.Grain() == 0 {
		t.Error("a moment made a slow link a fast one")
	}
}

// slowPair returns the ends of a connection by TCP; what is written to one is read from the other at 2 MB/s at most, and sent to all as one number
// when it has ended.
func slowPair(t *testing.T) (near net.Conn, all <-chan int) {
	t.Helper()
	l, err := TCPListenConfig().Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err = TCPDialer(nil).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	if err := far.(*net.TCPConn).SetReadBuffer(8 << 10); err != nil {
		t.Fatal(err)
	}
	sum := make(chan int, 1)
	go func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		received, part := 0, make([]byte, 4<<10)
		for {
			<-tick.C
			n, err := far.Read(part)
			if received += n; err != nil {
				sum <- received
				return
			}
		}
	}()
	return near, sum
}

// Little waits in the kernel of a slow connection, and all of it arrives: of a stream, and of what is written from under a protocol.
func TestSlowConnection(t *testing.T) {
	for _, tt := range []struct {
		name string
		out  func(net.Conn) (s *Stream, write func([]byte) error)
	}{
		{"stream", func(conn net.Conn) (*Stream, func([]byte) error) {
			s := NewStream(conn)
			return s, func(b []byte) error { return s.Write(b, nil) }
		}},
		{"paced", func(conn net.Conn) (*Stream, func([]byte) error) {
			p := Paced(conn).(*paced)
			return p.out, func(b []byte) error { _, err := p.Write(b); return err }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			near, all := slowPair(t)
			s, write := tt.out(near)
			sent, slow, most := 0, 0, 0.0
			for i := 0; i < 2000 && slow < 60; i++ {
				part := make([]byte, 2<<10)
				if err := write(part); err != nil {
					t.Fatal(err)
				}
				sent += len(part)
				if n := s.Grain(); n > 0 {
					if slow++; slow > 20 {
						most = max(most, float64(unsent(t, near))/float64(n))
					}
				}
			}
			if err := near.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if slow == 0 || most > 3 {
				t.Errorf("%d parts went to a connection that is slow; %.1f times what it is handed at once waited in the kernel", slow, most)
			}
			if n := <-all; n != sent {
				t.Errorf("%d bytes of %d arrived", n, sent)
			}
		})
	}
}

// unsent returns how many bytes the kernel has not sent yet: SIOCOUTQNSD, linux/sockios.h.
func unsent(t *testing.T, conn net.Conn) (n int) {
	raw := rawConn(conn)
	if err := raw.Control(func(fd uintptr) {
		var err error
		if n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Error(err)
	}
	return n
}

// A connection with little to send is not asked about: that would take memory for each packet.
func TestLittleIsNotLookedAt(t *testing.T) {
	near, _ := slowPair(t)
	s := NewStream(near)
	part := make([]byte, 20)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := s.TryWrite(part); err != nil {
			t.Fatal(err)
		}
		s.Grain()
	}); n != 0 {
		t.Errorf("%v allocations for a packet", n)
	}
	if !s.wr.pace.looked.IsZero() {
		t.Error("the kernel was asked")
	}
}
