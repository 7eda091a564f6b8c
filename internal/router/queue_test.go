package router

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/buffer"
	"ferry/internal/proto"
)

// pipe is a stream that takes as much as it is allowed to.
type pipe struct {
	mu     sync.Mutex
	room   int // what TryWrite may take; Write waits for more
	more   chan struct{}
	taken  bytes.Buffer
	writes []int
	closed bool

	grain int
	seals bool   // TryWrite takes all, and holds what there is no room for
	held  []byte // of what was taken
}

func newPipe(room int) *pipe { return &pipe{room: room, more: make(chan struct{}, 1)} }

func (p *pipe) TryWrite(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, errors.New("closed")
	}
	if p.seals && len(p.held) == 0 {
		n := p.take(b)
		p.held = bytes.Clone(b[n:])
		return len(b), nil
	}
	return p.take(b), nil
}

func (p *pipe) take(b []byte) int {
	n := min(p.room, len(b))
	p.room -= n
	p.taken.Write(b[:n])
	p.writes = append(p.writes, n)
	return n
}

func (p *pipe) Held() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return cap(p.held)
}

func (p *pipe) Grain() int { return p.grain }

func (p *pipe) Write(b []byte, progress func()) error {
	p.mu.Lock()
	b = append(p.held, b...)
	p.held, p.seals = nil, false // from here on it is written as it comes
	p.mu.Unlock()
	for len(b) > 0 {
		n, err := p.TryWrite(b)
		if err != nil {
			return err
		}
		b = b[n:]
		if n > 0 {
			progress()
		} else {
			<-p.more
		}
	}
	return nil
}

func (p *pipe) allow(n int) {
	p.mu.Lock()
	p.room += n
	p.mu.Unlock()
	notify(p.more)
}

func (p *pipe) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	notify(p.more)
}

func (p *pipe) bytes() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.taken.Bytes())
}

// item returns a ping frame of n bytes with a payload of fill.
func item(n int, fill byte) []byte {
	return proto.AppendPing(nil, bytes.Repeat([]byte{fill}, n-proto.FrameHeaderLen))
}

// startQueue runs a queue until the test ends.
func startQueue(t *testing.T, p *pipe, c QueueConfig) *Queue {
	t.Helper()
	shared := c.Budget != nil
	if !shared {
		c.Budget = new(buffer.Budget)
	}
	q := NewQueue(p, c)
	done := make(chan error, 1)
	go func() { done <- q.Run() }()
	t.Cleanup(func() {
		q.Close()
		p.close()
		<-done
		if n := c.Budget.Used(); n != 0 && !shared {
			t.Errorf("%d bytes of the budget are lost", n)
		}
	})
	return q
}

func TestQueueWritesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(1 << 20)
		q := startQueue(t, p, QueueConfig{Limit: 1000})
		run := append(item(50, 1), item(50, 2)...)
		if n, why := q.Send(run); n != 0 || why != None {
			t.Fatalf("dropped %d: %s", n, why)
		}
		if got := p.bytes(); !bytes.Equal(got, run) {
			t.Errorf("got %x before any goroutine could run", got)
		}
	})
}

// What a stream takes in parts arrives whole and in order, whoever sends.
func TestQueueKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(0)
		q := startQueue(t, p, QueueConfig{Limit: 1 << 20})
		random := rand.New(rand.NewPCG(1, 2))
		var want []byte
		for i := range 500 {
			run := item(4+random.IntN(60), byte(i))
			want = append(want, run...)
			if i%10 == 0 {
				q.SendControl(run)
			} else if n, why := q.Send(run); n != 0 {
				t.Fatalf("dropped %d: %s", n, why)
			}
			p.allow(random.IntN(70))
			if i%7 == 0 {
				synctest.Wait()
			}
		}
		p.allow(1 << 20)
		synctest.Wait()
		if got := p.bytes(); !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, want %d; or their order differs", len(got), len(want))
		}
		if n := q.Queued(); n != 0 {
			t.Errorf("%d bytes still count as waiting", n)
		}
	})
}

// What a stream took and could not send, as one that seals does, goes out before what comes later, and
// counts in the budget meanwhile; closing gives it back.
func TestHeld(t *testing.T) {
	for _, closes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newPipe(10)
			p.seals = true
			budget := new(buffer.Budget)
			q := startQueue(t, p, QueueConfig{Limit: 1000, Budget: budget})
			if n, why := q.Send(item(60, 1)); n != 0 {
				t.Fatal(n, why)
			}
			if budget.Used() < 50 || q.Queued() != 0 {
				t.Errorf("%d bytes of the budget are in use, want at least 50; %d wait, want 0", budget.Used(), q.Queued())
			}
			q.Send(item(60, 2))
			synctest.Wait()
			if q.Blocked().IsZero() {
				t.Error("not blocked, though nothing goes out")
			}
			if closes {
				q.Close()
				p.close()
			} else {
				q.Finish(item(60, 3))
				p.allow(1000)
			}
			synctest.Wait()
			want := bytes.Join([][]byte{item(60, 1), item(60, 2), item(60, 3)}, nil)
			if got := p.bytes(); !closes && !bytes.Equal(got, want) {
				t.Errorf("got %x, want %x", got, want)
			}
			if n := budget.Used(); n != 0 {
				t.Errorf("%d bytes of the budget are still in use", n)
			}
		})
	}
}

// What does not fit is dropped as whole items, and what has begun is completed.
// exam: R3
func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(10)
		q := startQueue(t, p, QueueConfig{Limit: 200})
		q.Send(item(60, 1)) // 10 bytes are taken, 50 wait
		dropped := 0
		for range 10 {
			n, why := q.Send(append(item(40, 2), item(40, 3)...))
			dropped += n
			if n > 0 && why != DropQueueFull {
				t.Errorf("reason %s", why)
			}
		}
		if dropped != 17 || q.Queued() > 200 {
			t.Errorf("dropped %d of 20, %d bytes wait; want 17, at most 200", dropped, q.Queued())
		}
		p.allow(1000)
		synctest.Wait()
		want := bytes.Join([][]byte{item(60, 1), item(40, 2), item(40, 3), item(40, 2)}, nil)
		if got := p.bytes(); !bytes.Equal(got, want) {
			t.Errorf("got %x, want %x", got, want)
		}
	})
}

// What a run could not bring to the stream is bounded as well, but for the item that was cut.
func TestRestIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(70)
		q := startQueue(t, p, QueueConfig{Limit: 100})
		run := bytes.Join([][]byte{item(60, 1), item(60, 2), item(40, 3), item(40, 4)}, nil)
		if n, why := q.Send(run); n != 1 || why != DropQueueFull {
			t.Errorf("got %d, %s; want the last item dropped", n, why)
		}
		if n := q.Queued(); n != 90 {
			t.Errorf("%d bytes wait, want 90", n)
		}
		p.allow(1000)
		synctest.Wait()
		if got := p.bytes(); !bytes.Equal(got, run[:160]) {
			t.Errorf("got %x", got)
		}
	})
}

// Of a stream that is fast, as much may wait as it took lately; when it stalls, no more than of others.
func TestFastQueue(t *testing.T) {
	for _, x := range []struct {
		name       string
		took, want int
		after      time.Duration
	}{
		{"slow", 120, 200, 0},
		{"fast", 1000, 1000, 0},
		{"fast, a moment ago", 1000, 1000, latelyTime},
		{"stalled", 1000, 200, 2 * latelyTime},
		{"very fast", 4000, maxLately * 200, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipe(x.took)
				q := startQueue(t, p, QueueConfig{Limit: 200})
				q.Send(bytes.Repeat(item(40, 1), x.took/40))
				time.Sleep(x.after)
				for range 100 {
					if n, why := q.Send(item(40, 2)); n > 0 && why != DropQueueFull {
						t.Errorf("reason %s", why)
					}
				}
				if n := q.Queued(); n != x.want {
					t.Errorf("%d bytes wait, want %d", n, x.want)
				}
				p.allow(1 << 20)
			})
		})
	}
}

// Where a fast stream may have less than it took because memory is shared, it is its queue that is full: memory is short only for who has less than Limit.
func TestFastQueueOfSharedMemory(t *testing.T) {
	for _, x := range []struct {
		name string
		used int
		want Reason
	}{{"enough", 0, DropQueueFull}, {"short", 7 << 20, DropMemory}} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const took, limit = 512 << 10, 64 << 10
				budget := new(buffer.Budget)
				budget.SetLimit(8 << 20) // of which one queue may have 128 KiB
				p := newPipe(took)
				q := startQueue(t, p, QueueConfig{Limit: limit, Budget: budget})
				q.Send(bytes.Repeat(item(64, 1), took/64))
				budget.Add(x.used)
				dropped, why := q.Send(bytes.Repeat(item(64, 2), took/64))
				if n := q.Queued(); dropped == 0 || why != x.want || (n > limit) != (why == DropQueueFull) {
					t.Errorf("%d bytes wait, %d packets dropped by %s, want %s", n, dropped, why, x.want)
				}
				p.allow(1 << 20)
			})
		})
	}
}

// Answers wait for room instead of being dropped.
// exam: P6
func TestSendControlWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(0)
		q := startQueue(t, p, QueueConfig{Limit: 100})
		sent := make(chan int, 10)
		go func() {
			for i := range 10 {
				q.SendControl(item(60, byte(i)))
				sent <- i
			}
			close(sent)
		}()
		synctest.Wait()
		if len(sent) != 1 {
			t.Fatalf("%d answers went in, want 1", len(sent))
		}
		p.allow(10 * 60)
		synctest.Wait()
		if len(sent) != 10 || len(p.bytes()) != 600 {
			t.Errorf("%d answers, %d bytes arrived; want 10, 600", len(sent), len(p.bytes()))
		}
	})
}

// Of two items in one call the first may find room and the second not: each is sent once.
func TestSendControlSendsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(0)
		q := startQueue(t, p, QueueConfig{Limit: 30})
		want := append(item(20, 1), item(20, 2)...)
		go q.SendControl(want)
		synctest.Wait()
		p.allow(1000)
		synctest.Wait()
		if got := p.bytes(); !bytes.Equal(got, want) {
			t.Errorf("got %x, want %x", got, want)
		}
	})
}

// Whoever learns of the peer by an answer to it sends behind that answer, whether or not it was taken at once.
func TestSendFirst(t *testing.T) {
	for _, room := range []int{0, 10, 1000} {
		for _, before := range []int{0, 1} {
			synctest.Test(t, func(t *testing.T) {
				p := newPipe(room)
				q := startQueue(t, p, QueueConfig{Limit: 1000})
				for range before {
					q.SendControl(item(20, 9))
				}
				synctest.Wait()
				q.SendFirst(item(20, 1), func() { q.Send(item(20, 2)) })
				p.allow(1000)
				synctest.Wait()
				want := append(bytes.Repeat(item(20, 9), before), append(item(20, 1), item(20, 2)...)...)
				if got := p.bytes(); !bytes.Equal(got, want) {
					t.Errorf("room %d, %d before: got %x, want %x", room, before, got, want)
				}
			})
		}
	}
}

func TestSendControlEndsWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(0)
		q := startQueue(t, p, QueueConfig{Limit: 10})
		q.SendControl(item(60, 1))
		done := make(chan bool, 1)
		go func() { done <- q.SendControl(item(60, 2)) }()
		synctest.Wait()
		q.Close()
		if <-done {
			t.Error("SendControl says that it sent on a closed queue")
		}
		if n, why := q.Send(item(60, 3)); n != 1 || why != DropClosed {
			t.Errorf("got %d, %s; want 1, closed", n, why)
		}
	})
}

func TestFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(30)
		q := NewQueue(p, QueueConfig{Limit: 100, Budget: new(buffer.Budget)})
		done := make(chan error, 1)
		go func() { done <- q.Run() }()
		q.Send(item(60, 1))
		q.Finish(item(60, 2))
		if n, why := q.Send(item(60, 3)); n != 1 || why != DropClosed {
			t.Errorf("after Finish: got %d, %s; want 1, closed", n, why)
		}
		synctest.Wait()
		select {
		case err := <-done:
			t.Errorf("Run has returned %v before all was written", err)
		default:
		}
		p.allow(1000)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := p.bytes(); !bytes.Equal(got, append(item(60, 1), item(60, 2)...)) {
			t.Errorf("got %x", got)
		}
	})
}

func TestBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(0)
		q := startQueue(t, p, QueueConfig{Limit: 1000})
		if !q.Blocked().IsZero() {
			t.Error("blocked before anything was sent")
		}
		q.Send(item(60, 1))
		synctest.Wait()
		start := q.Blocked()
		time.Sleep(5 * time.Second)
		if got := time.Since(start); start.IsZero() || got != 5*time.Second {
			t.Errorf("blocked for %s, want 5s", got)
		}
		p.allow(10) // a part is progress
		synctest.Wait()
		if got := time.Since(q.Blocked()); got != 0 {
			t.Errorf("blocked for %s after progress", got)
		}
		p.allow(100)
		synctest.Wait()
		if !q.Blocked().IsZero() {
			t.Error("blocked after everything was taken")
		}
	})
}

// A 2013 client takes one read for one packet, however long the queue is and wherever one was cut.
func TestOnePerWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(1000)
		q := startQueue(t, p, QueueConfig{Limit: 100_000})
		q.SendControl(proto.AppendKeepalive(nil)) // may come before it is known who this is
		q.OnePerWrite(true)
		packets := [][]byte{udp(60, addrA, addrL, true), udp(100, addrA, addrL, true), proto.AppendKeepalive(nil)}
		want := []int{20, 60, 100, 20}
		q.Send(bytes.Join(packets, nil))
		p.allow(40 - p.room) // what follows the first part goes by the blocks
		q.Send(packets[1])
		want = append(want, 40, 60)
		for range 10 {
			for _, n := range []int{1500, 60, 1100, 1500} {
				q.Send(udp(n, addrA, addrL, true))
				want = append(want, n)
			}
		}
		p.allow(1 << 20)
		synctest.Wait()
		sizes := slices.DeleteFunc(p.writes, func(n int) bool { return n == 0 })
		if !slices.Equal(sizes, want) {
			t.Errorf("wrote %v, want %v", sizes, want)
		}
	})
}

func TestQueueSendAllocatesNothing(t *testing.T) {
	p := newPipe(1 << 40)
	q := NewQueue(discardStream{}, QueueConfig{Limit: 1000, Budget: new(buffer.Budget)})
	run := item(60, 1)
	if n := testing.AllocsPerRun(100, func() { q.Send(run) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
	p.close()
}

type discardStream struct{}

func (discardStream) TryWrite(b []byte) (int, error) { return len(b), nil }
func (discardStream) Write(b []byte, _ func()) error { return nil }
func (discardStream) Held() int                      { return 0 }

func (discardStream) Grain() int { return 0 }
