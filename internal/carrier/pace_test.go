package carrier

import (
	"io"
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
		rate   float64 // from then on, bytes a second
	}
	const ms = time.Millisecond
	for _, tt := range []struct {
		name  string
		looks []look
	}{
		{"nothing ever waited", []look{{0, 0, 0, 0}, {20 * ms, 1000, 0, 0}, {time.Hour, 0, 0, 0}}},
		{"it waited all the time", []look{{0, 0, 9, 0}, {20 * ms, 2000, 9, 100_000}}},
		{"slower", []look{{0, 0, 9, 0}, {20 * ms, 2000, 9, 100_000}, {20 * ms, 1600, 9, 95_000}}},
		{"a stall", []look{{0, 0, 9, 0}, {20 * ms, 2000, 9, 100_000}, {20 * ms, 0, 9, 75_000}}},
		{"faster at once", []look{{0, 0, 9, 0}, {20 * ms, 2000, 9, 100_000}, {20 * ms, 8000, 9, 400_000}}},
		{"faster, and nothing waits", []look{{0, 0, 9, 0}, {20 * ms, 2000, 9, 100_000}, {20 * ms, 8000, 0, 400_000}}},
		{"little to do", []look{{0, 0, 9, 0}, {20 * ms, 2000, 9, 100_000}, {time.Second, 10, 0, 100_000}, {time.Second, 10, 9, 100_000}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p Pace
			now, acked := time.Now(), uint64(0)
			for i, l := range tt.looks {
				now, acked = now.Add(l.after), acked+l.acked
				p.see(now, &unix.TCPInfo{Bytes_acked: acked, Notsent_bytes: l.unsent, Rtt: 50_000})
				if diff := p.rate - l.rate; diff < -1 || diff > 1 {
					t.Errorf("look %d: %.0f bytes a second, want %.0f", i, p.rate, l.rate)
				}
				if p.due(now.Add(49*ms)) || !p.due(now.Add(50*ms)) {
					t.Error("the next look does not wait for a round trip")
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

// Little waits in the kernel of a slow connection, and all of it arrives; on a fast one nothing changes.
func TestSlowConnection(t *testing.T) {
	l, err := TCPListenConfig().Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := TCPDialer(nil).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if err := far.(*net.TCPConn).SetReadBuffer(8 << 10); err != nil {
		t.Fatal(err)
	}
	s := NewStream(near)
	sent, slow := 0, 0
	written := make(chan error, 1)
	go func() {
		block := make([]byte, 32<<10)
		for range 200 {
			part := block
			if n := s.Grain(); n > 0 {
				part = block[:n]
				if slow++; slow > 60 {
					break
				}
			}
			if err := s.Write(part, nil); err != nil {
				written <- err
				return
			}
			sent += len(part)
			if n := unsent(t, near); slow > 20 && n > 2*len(part)+len(part) {
				t.Errorf("%d bytes wait in the kernel of a connection that is handed %d at once", n, len(part))
			}
		}
		written <- near.(*net.TCPConn).CloseWrite()
	}()
	received, part := 0, make([]byte, 4<<10)
	tick := time.NewTicker(2 * time.Millisecond) // 2 MB/s at most
	defer tick.Stop()
	for err == nil {
		<-tick.C
		var n int
		n, err = far.Read(part)
		received += n
	}
	if err != io.EOF {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if slow == 0 || received != sent {
		t.Errorf("%d parts of a slow connection, %d bytes of %d arrived", slow, received, sent)
	}
}

// unsent returns how many bytes the kernel has not sent yet: SIOCOUTQNSD, linux/sockios.h.
func unsent(t *testing.T, conn net.Conn) (n int) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD) })
	}
	if err != nil {
		t.Error(err)
	}
	return n
}
