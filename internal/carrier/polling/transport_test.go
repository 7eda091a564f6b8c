package polling

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/carrier/datagram"
)

// drained counts what a transport receives, until it is closed.
type drained struct {
	bytes, datagrams, chunks atomic.Int64
	err                      chan error
}

func drain(t datagram.Transport) *drained {
	d := &drained{err: make(chan error, 1)}
	go func() { // ends with the transport
		chunks := make([]*datagram.Chunk, 8)
		for i := range chunks {
			chunks[i] = &datagram.Chunk{Data: make([]byte, datagram.LargeChunk)}
		}
		for {
			n, err := t.Receive(chunks)
			if err != nil {
				d.err <- err
				return
			}
			for _, c := range chunks[:n] {
				d.bytes.Add(int64(c.Len))
				d.datagrams.Add(int64((c.Len + c.Size - 1) / c.Size))
				d.chunks.Add(1)
			}
		}
	}()
	return d
}

// counts returns how many questions were sent so far, and how many of them are polls.
func (m *medium) counts() (asked, polls, empty int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked, m.polls, m.empty
}

var clientAt = datagram.Addr{Remote: netip.MustParseAddrPort("198.51.100.7:1024")}

// say sends a datagram of n bytes without waiting.
func say(t *testing.T, from datagram.Transport, to datagram.Addr, n int) int {
	t.Helper()
	taken, err := from.Send(make([]byte, n), []int{n}, to, false)
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

// Polls of a client for which nothing happens: every 500 ms, doubling to 10 s.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(1000, 1000, 10*time.Millisecond, 0)
		k, s := transports(t, m, Config{})
		drain(k)
		drain(s)
		var got []int
		for range 12 {
			time.Sleep(5 * time.Second)
			_, polls, _ := m.counts()
			got = append(got, polls)
		}
		if want := []int{3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9}; !slices.Equal(got, want) {
			t.Errorf("polls after 5 s each: %v, want %v", got, want)
		}
	})
}

// A gateway that has something to say after a pause has a question to answer, and no more than a handful of polls is under way.
func TestAfterPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(1000, 1000, 10*time.Millisecond, 0)
		k, s := transports(t, m, Config{Polls: 256, Hold: 12 * time.Second})
		down := drain(k)
		drain(s)
		time.Sleep(time.Second)
		prove(s, clientAt)
		time.Sleep(94 * time.Second)
		if n := say(t, s, clientAt, 900); n != 1 {
			t.Fatal("no question waits")
		}
		time.Sleep(11 * time.Millisecond)
		if n := down.datagrams.Load(); n != 1 {
			t.Errorf("%d datagrams have come after half a round trip", n)
		}
		before, _, _ := m.counts()
		time.Sleep(500 * time.Millisecond)
		if after, _, _ := m.counts(); after-before > 6 {
			t.Errorf("one datagram has brought about %d questions", after-before)
		}
	})
}

// What waits for a question goes out with the next one.
func TestAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(1000, 1000, 10*time.Millisecond, 0)
		k, s := transports(t, m, Config{})
		down := drain(k)
		drain(s)
		if n := say(t, s, clientAt, 900); n != 1 {
			t.Error("what is for nobody is not lost")
		}
		say(t, k, gatewayAt, 1) // one question
		time.Sleep(10*time.Millisecond + 10*time.Nanosecond)
		synctest.Wait()
		for i := range 10 { // as a stranger it has 4 KiB
			if got, want := say(t, s, clientAt, 900), 1; got != want && i < 5 {
				t.Errorf("datagram %d is not taken", i)
			} else if got != 0 && i > 8 {
				t.Errorf("datagram %d is taken", i)
			}
		}
		time.Sleep(time.Second)
		if n := down.datagrams.Load(); n < 5 || n > 9 {
			t.Errorf("%d datagrams have come", n)
		}
	})
}

// A question that waits for too long is answered without a datagram, before its time.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for hold, want := range map[time.Duration][2]int{time.Second: {0, 1}, 300 * time.Millisecond: {1, 1}, -1: {1, 1}} {
			m := newMedium(1000, 1000, 10*time.Millisecond, 0)
			s := NewServer(answererEnd{m}, Config{Hold: hold})
			drain(s)
			m.questions <- Question[uint32]{From: clientAt.Remote, Number: 5, Back: 5}
			time.Sleep(310 * time.Millisecond)
			_, _, early := m.counts()
			time.Sleep(700 * time.Millisecond)
			if _, _, late := m.counts(); early != want[0] || late != want[1] {
				t.Errorf("hold for %v: %d answers after 310 ms, %d after a second, want %v", hold, early, late, want)
			}
			_ = s.Close()
		}
	})
}

// The gateway holds no more than it may of strangers, and of anybody.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(1000, 1000, 0, 0)
		s := NewServer(answererEnd{m}, Config{Strangers: 50, Polls: 16, Hold: time.Minute})
		defer s.Close()
		drain(s)
		at := func(i int) netip.AddrPort { return netip.AddrPortFrom(clientAt.Remote.Addr(), uint16(i)) }
		for i := range 1000 {
			m.questions <- Question[uint32]{From: at(i), Number: 1, Back: 1}
		}
		var one netip.AddrPort
		// known returns how many clients there are, how many of them are strangers, and how many questions of one of them wait.
		known := func() (all, strangers, held int) {
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			if held = -1; s.clients[one] != nil {
				held = s.clients[one].holding.n
			}
			return len(s.clients), s.strangers, held
		}
		want := func(when string, all, strangers, held int) {
			t.Helper()
			if a, b, c := known(); a != all || b != strangers || c != held {
				t.Errorf("%s: %d clients, %d strangers, %d questions; want %d, %d, %d", when, a, b, c, all, strangers, held)
			}
		}
		one = at(49)
		want("a crowd, of whom the first stay", 50, 50, 1)
		for i := range uint32(30) {
			m.questions <- Question[uint32]{From: one, Number: 2 + i, Back: 2 + i}
		}
		want("a stranger who asks much", 50, 50, strangerHeld)
		prove(s, datagram.Addr{Remote: one})
		for i := range uint32(30) {
			m.questions <- Question[uint32]{From: one, Number: 32 + i, Back: 32 + i}
		}
		want("a client who does", 50, 49, 16)
		for i := range 1000 {
			m.questions <- Question[uint32]{From: at(2000 + i), Number: 1, Back: 1}
		}
		want("a crowd beside him", 51, 50, 16)
		guest := datagram.Addr{Remote: at(60000)}
		if !s.Crowded(guest) || s.Crowded(datagram.Addr{Remote: one}) {
			t.Error("who has a place is one too many, or who has none is not")
		}
		s.Come(guest)
		if s.Crowded(guest) {
			t.Error("who has come is one too many")
		}
		first := one
		one = guest.Remote
		want("one who has come", 52, 50, 0)
		for i := range 1000 {
			m.questions <- Question[uint32]{From: at(4000 + i), Number: 1, Back: 1}
		}
		m.questions <- Question[uint32]{From: one, Number: 1, Back: 1}
		want("it asks", 52, 50, 1)
		time.Sleep(forgotten + 2*time.Second)
		want("the crowd has gone", 2, 0, 0)
		one = first
		want("the crowd has gone", 2, 0, 16)
		s.Left(datagram.Addr{Remote: one})
		want("he has gone", 1, 0, -1)
		s.Left(guest)
		want("they have gone", 0, 0, -1)
		time.Sleep(time.Second)
		_, _, before := m.counts()
		m.questions <- Question[uint32]{From: one, Number: 2, Back: 2} // and is one that has come
		time.Sleep(3 * time.Second)
		if _, _, empty := m.counts(); empty != before+1 {
			t.Error("nothing is answered after a time without clients")
		}
	})
}

// Who comes to an address that another one leaves stays known there.
func TestLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(1000, 1000, 0, 0)
		s := NewServer(answererEnd{m}, Config{})
		defer s.Close()
		drain(s)
		m.questions <- Question[uint32]{From: clientAt.Remote, Number: 1, Back: 1}
		s.Left(clientAt) // nobody was
		s.Come(clientAt)
		prove(s, clientAt)
		s.Left(clientAt)
		synctest.Wait()
		if n := s.holdingOf(clientAt); n != 1 {
			t.Errorf("%d questions wait", n)
		}
		s.Left(clientAt)
		s.Left(clientAt)
		s.Proven(clientAt) // too late
		if len(s.clients) != 0 || s.strangers != 0 {
			t.Errorf("%d clients, %d strangers", len(s.clients), s.strangers)
		}
	})
}

// prove makes one come who shows its key.
func prove(s *Server[uint32], a datagram.Addr) {
	s.Come(a)
	s.Proven(a)
}

// Questions of one that has left are answered without a datagram, and soon.
func TestOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(1000, 1000, 0, 0)
		r := &recorder{medium: m}
		s := NewServer(r, Config{Hold: 300 * time.Millisecond})
		defer s.Close()
		drain(s)
		prove(s, clientAt)
		for i := range uint32(3) {
			m.questions <- Question[uint32]{From: clientAt.Remote, Number: i, Back: i}
		}
		synctest.Wait()
		s.Left(clientAt)
		time.Sleep(2 * pace)
		synctest.Wait()
		if want := []string{"to 0: 0", "to 1: 0", "to 2: 0"}; !slices.Equal(r.said, want) {
			t.Errorf("answers %v, want %v", r.said, want)
		}
		if len(s.over) != 0 || len(s.clients) != 0 {
			t.Errorf("%d clients, and the questions of %d that have left", len(s.clients), len(s.over))
		}
	})
}

// A guest can be answered while what has come with its question is looked at, and no later; what is left over is answered without a datagram.
func TestGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(1000, 1000, 0, 0)
		r := &recorder{medium: m}
		s := NewServer(r, Config{Strangers: 1})
		defer s.Close()
		other := datagram.Addr{Remote: netip.MustParseAddrPort("198.51.100.8:1")}
		chunks := []*datagram.Chunk{{Data: make([]byte, datagram.LargeChunk)}, {Data: make([]byte, datagram.LargeChunk)}}
		ask := func(a datagram.Addr, number uint32, data string) {
			m.questions <- Question[uint32]{From: a.Remote, Seen: a.Remote, Number: number, Back: number, Data: []byte(data)}
		}
		receive := func() {
			t.Helper()
			if _, err := s.Receive(chunks); err != nil {
				t.Fatal(err)
			}
		}
		ask(clientAt, 1, "")
		ask(other, 2, "x")
		ask(other, 3, "")
		receive()
		if n, err := s.Send(make([]byte, 300), []int{100, 100, 100}, other, false); n != 3 || err != nil { // the third one is lost
			t.Error(n, err)
		}
		ask(other, 4, "x")
		ask(other, 5, "")
		receive()
		ask(other, 6, "x")
		receive()
		s.Come(other)
		say(t, s, other, 200)
		want := []string{"to 2: 100", "to 3: 100", "to 4: 0", "to 5: 0", "to 6: 200"}
		if !slices.Equal(r.said, want) {
			t.Errorf("answers %v, want %v", r.said, want)
		}
	})
}

// What a connection has said last, as it ends, goes out with the next question.
func TestLastWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(1000, 1000, 0, 0)
		r := &recorder{medium: m}
		s := NewServer(r, Config{})
		defer s.Close()
		drain(s)
		prove(s, clientAt)
		say(t, s, clientAt, 50)
		s.Left(clientAt)
		m.questions <- Question[uint32]{From: clientAt.Remote, Number: 1, Back: 1}
		synctest.Wait()
		if want := []string{"to 1: 50"}; !slices.Equal(r.said, want) {
			t.Errorf("answers %v, want %v", r.said, want)
		}
		time.Sleep(forgotten + time.Second)
		synctest.Wait()
		if len(s.clients) != 0 || s.strangers != 0 {
			t.Errorf("%d clients, %d strangers", len(s.clients), s.strangers)
		}
	})
}

// A question that comes again is answered where it came from last, and never with a second datagram.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(1000, 1000, 0, 0)
		a := &recorder{medium: m}
		s := NewServer(a, Config{})
		defer s.Close()
		up := drain(s)
		ask := func(back uint32) {
			m.questions <- Question[uint32]{From: clientAt.Remote, Number: 9, Back: back, Data: []byte("x")}
			synctest.Wait()
		}
		ask(1)
		ask(2)
		say(t, s, clientAt, 100)
		ask(3)
		if want := []string{"to 2: 100", "to 3: 0"}; !slices.Equal(a.said, want) {
			t.Errorf("answers %v, want %v", a.said, want)
		}
		if n := up.datagrams.Load(); n != 3 {
			t.Errorf("%d datagrams, want 3: whether one comes twice is for others to see", n)
		}
	})
}

// A recorder is a gateway's end that keeps what it is told.
type recorder struct {
	*medium
	said []string
}

func (r *recorder) Answer(to []Reply[uint32], _ []byte, lens []int, _ bool) (int, error) {
	for i := range to {
		r.said = append(r.said, fmt.Sprintf("to %d: %d", to[i].Back, lens[i]))
	}
	return len(to), nil
}

func (r *recorder) Receive(q []Question[uint32]) (int, error) {
	return answererEnd{r.medium}.Receive(q)
}
func (r *recorder) Max() int                       { return r.down }
func (r *recorder) Takes() int                     { return r.up }
func (r *recorder) Name(a netip.AddrPort) net.Addr { return net.UDPAddrFromAddrPort(a) }
func (r *recorder) Local() net.Addr                { return &net.UDPAddr{} }
func (r *recorder) Close() error                   { return answererEnd{r.medium}.Close() }

// Throughput is questions under way times the size of answers by the round trip, and is there soon; polls end when there is nothing more.
func TestDown(t *testing.T) {
	for _, tt := range []struct {
		name  string
		c     Config
		up    int
		loss  float64
		least float64 // MB/s, from the second second on
	}{
		{"icmp", Config{Polls: 1024, Hold: 12 * time.Second}, 1400, 0, 70},
		{"icmp, 1 % is lost", Config{Polls: 1024, Hold: 12 * time.Second}, 1400, 0.01, 55},
		{"dns", Config{Bound: true}, 120, 0, 0.8},
		{"dns, 5 % are lost", Config{Bound: true}, 120, 0.05, 0.3},
		{"dns, at once", Config{Bound: true, Hold: -1}, 120, 0, 0.5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMedium(tt.up, 1400, 10*time.Millisecond, tt.loss)
				k, s := transports(t, m, tt.c)
				down := drain(k)
				drain(s)
				say(t, k, gatewayAt, 100)
				time.Sleep(20 * time.Millisecond)
				prove(s, clientAt)
				stop := make(chan struct{})
				done := make(chan struct{})
				go func() { // ends with stop
					defer close(done)
					b := make([]byte, 8*1400)
					for {
						select {
						case <-stop:
							return
						default:
							_, _ = s.Send(b, slices.Repeat([]int{1400}, 8), clientAt, true)
						}
					}
				}()
				time.Sleep(time.Second)
				before := down.bytes.Load()
				time.Sleep(time.Second)
				rate := float64(down.bytes.Load()-before) / 1e6
				close(stop)
				<-done
				m.mu.Lock()
				most := m.most
				m.mu.Unlock()
				t.Logf("%.2f MB/s, most %d under way", rate, most)
				if rate < tt.least {
					t.Errorf("%.2f MB/s, want %.2f", rate, tt.least)
				}
				if tt.loss == 0 && tt.c.Bound && most > 16 {
					t.Errorf("%d questions were under way", most)
				}
				time.Sleep(3 * time.Second)
				before2, _, _ := m.counts()
				time.Sleep(20 * time.Second)
				after, _, _ := m.counts()
				if after-before2 > 6 {
					t.Errorf("%d polls in 20 s though nothing happens", after-before2)
				}
				say(t, k, gatewayAt, 100)
				time.Sleep(time.Second)
				if again, _, _ := m.counts(); again-after > 8 && tt.c.Hold >= 0 {
					t.Errorf("%d questions though hardly anything happens", again-after)
				}
			})
		})
	}
}

// Where each answer comes at once, an empty one does not bring about the next poll at once.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(1000, 1000, time.Millisecond, 0)
		k, s := transports(t, m, Config{Hold: -1})
		drain(k)
		drain(s)
		say(t, k, gatewayAt, 100)
		time.Sleep(20 * time.Second)
		if asked, _, _ := m.counts(); asked < 2*20*2 || asked > 2*20*4+20 {
			t.Errorf("%d questions, want 4 each 50 ms, for 2 s", asked)
		}
	})
}

// Where questions are bound, datagrams go up no faster than answers come, and yet as fast as that.
func TestUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(120, 900, 10*time.Millisecond, 0)
		k, s := transports(t, m, Config{Bound: true})
		drain(k)
		up := drain(s)
		say(t, k, gatewayAt, 100)
		time.Sleep(20 * time.Millisecond)
		prove(s, clientAt)
		b, lens := make([]byte, 4*120), []int{120, 120, 120, 120}
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
			n, err := k.Send(b, lens, gatewayAt, true)
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
		}
		rate := float64(up.bytes.Load()) / 1e3
		t.Logf("%.1f KB/s", rate)
		if m.most > 16 || rate < 8*120/0.02/1e3*0.9 { // half of those under way are on their way
			t.Errorf("%.1f KB/s, %d under way", rate, m.most)
		}
		before, _, _ := m.counts()
		time.Sleep(20 * time.Second)
		if after, _, _ := m.counts(); after-before > 16 {
			t.Errorf("%d questions in 20 s though nothing happens", after-before)
		}
	})
}

// Who waits is woken by what he waits for, or may think again; closing ends it.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMedium(120, 900, 10*time.Millisecond, 0)
		k, s := transports(t, m, Config{Bound: true})
		drain(k)
		up := drain(s)
		say(t, k, gatewayAt, 100)
		time.Sleep(15 * time.Millisecond)
		one := make([]byte, 100)
		for s.holdingOf(clientAt) > 0 {
			say(t, s, clientAt, 100)
		}
		start := time.Now()
		n, err := s.Send(one, []int{100}, clientAt, true)
		if n != 1 || err != nil || time.Since(start) > 100*time.Millisecond {
			t.Errorf("took %d after %v, %v", n, time.Since(start), err)
		}
		_ = k.Close()
		time.Sleep(2 * time.Second)
		start = time.Now()
		if n, err := s.Send(one, []int{100}, clientAt, true); n != 0 || err != nil || time.Since(start) != maxWait {
			t.Errorf("nobody asks: took %d after %v, %v", n, time.Since(start), err)
		}
		time.AfterFunc(50*time.Millisecond, func() { _ = s.Close() })
		start = time.Now()
		if n, _ := s.Send(one, []int{100}, clientAt, true); n != 0 || time.Since(start) > 60*time.Millisecond {
			t.Errorf("closed: took %d after %v", n, time.Since(start))
		}
		if err := <-up.err; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

// holdingOf returns how many questions of a client wait.
func (s *Server[B]) holdingOf(a datagram.Addr) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients[a.Remote].holding.n
}

// Datagrams of one length come together, in order.
func TestChunks(t *testing.T) {
	var c chunks
	c.all = []*datagram.Chunk{{Data: make([]byte, 1000)}, {Data: make([]byte, 1000)}, {Data: make([]byte, 1000)}}
	other := datagram.Addr{Remote: netip.MustParseAddrPort("192.0.2.9:1")}
	for i, p := range []struct {
		from datagram.Addr
		size int
		ok   bool
	}{{clientAt, 300, true}, {clientAt, 300, true}, {clientAt, 200, true}, {clientAt, 200, true}, {clientAt, 300, true}, {other, 300, false}} {
		if ok := c.add(p.from, make([]byte, p.size)); ok != p.ok {
			t.Errorf("datagram %d: %v", i, ok)
		}
	}
	for i, want := range [][2]int{{800, 300}, {200, 200}, {300, 300}} {
		if got := [2]int{c.all[i].Len, c.all[i].Size}; got != want {
			t.Errorf("chunk %d is of %v, want %v", i, got, want)
		}
	}
	if c.nobody() {
		t.Error("there is room where is none")
	}
}
