package multipath

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"ferry/internal/buffer"
	"ferry/internal/proto"
	"ferry/internal/router"
)

func TestOnePath(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *end) {
		go b.stream(0, 500)
		a.stream(0, 500)
		time.Sleep(time.Second)
		inOrder(t, b.received(), 500)
		inOrder(t, a.received(), 500)
		for _, e := range []*end{a, b} {
			if since, n := e.s.Due(); n != 0 || e.s.Kept() != 0 || !since.IsZero() {
				t.Errorf("%d frames in %d bytes are kept, and all was received", n, e.s.Kept())
			}
		}
	})
}

// A planned change loses nothing and keeps the order, also from a slow path to a fast one.
func TestPlannedChange(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *end) {
		connect(a, b, 1, 2*time.Millisecond, 0, 0)
		go func() {
			time.Sleep(250 * time.Millisecond)
			a.s.Use(a.links[1].path, nil, false)
			time.Sleep(250 * time.Millisecond)
			a.s.Use(a.links[0].path, nil, false)
			time.Sleep(150 * time.Millisecond)
			a.s.Use(a.links[1].path, nil, false) // faster, and not for the first time
		}()
		a.stream(0, 750)
		time.Sleep(time.Second)
		inOrder(t, b.received(), 750)
		if again, lost := a.s.Replayed(); again+lost > 0 {
			t.Errorf("%d frames were sent again, %d given up", again, lost)
		}
	})
}

// What a dead carrier has lost comes by the next one.
func TestDeadPath(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *end) {
		go func() {
			time.Sleep(250 * time.Millisecond)
			a.links[0].close()
			b.links[0].close()
			time.Sleep(500 * time.Millisecond)
			connect(a, b, 1, 20*time.Millisecond, 0, 0)
			a.s.Acked(b.r.Received())
			a.s.Use(a.links[1].path, nil, true)
		}()
		a.stream(0, 1000)
		time.Sleep(time.Second)
		inOrder(t, b.received(), 1000)
		if again, lost := a.s.Replayed(); again == 0 || lost > 0 {
			t.Errorf("%d frames were sent again, %d given up", again, lost)
		}
	})
}

// A path that seems dead goes on being used beside the other one, and nothing comes twice when it was not.
func TestSuspectedPath(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *end) {
		connect(a, b, 1, 40*time.Millisecond, 0, 0)
		go func() {
			time.Sleep(250 * time.Millisecond)
			a.links[0].out.setHole(true)
			time.Sleep(250 * time.Millisecond)
			a.s.Use(a.links[1].path, a.links[0].path, true)
			time.Sleep(100 * time.Millisecond)
			a.links[1].close() // only the copy is left
			b.links[1].close()
		}()
		go func() {
			time.Sleep(550 * time.Millisecond)
			a.links[0].out.setHole(false)
		}()
		a.stream(0, 1000)
		time.Sleep(time.Second)
		got := b.received()
		sorted := slices.Clone(got)
		slices.Sort(sorted)
		if len(slices.Compact(sorted)) != len(got) {
			t.Error("frames came twice")
		}
		if len(got) < 900 || got[len(got)-1] != 999 {
			t.Errorf("%d frames came, the last one %d", len(got), got[len(got)-1])
		}
	})
}

// Without a path for long, what is old is given up, and what is new goes out in order.
func TestNoPathForLong(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *end) {
		a.stream(0, 100)
		time.Sleep(time.Second)
		a.links[0].close()
		b.links[0].close()
		synctest.Wait()
		a.stream(100, 3000)
		connect(a, b, 1, 20*time.Millisecond, 0, 0)
		a.s.Use(a.links[1].path, nil, true)
		a.stream(3100, 100)
		time.Sleep(time.Second)
		got := b.received()
		if !slices.IsSorted(got) || got[len(got)-1] != 3199 || len(got) > 1400 || len(got) < 1150 {
			t.Errorf("%d frames came, the last one %d, in order %v", len(got), got[len(got)-1], slices.IsSorted(got))
		}
	})
}

// Of a connection that has sent nothing but what TCP repeats now and then, the last of it goes out though it is old: else TCP
// waits for the next time. What is much older does not.
func TestTail(t *testing.T) {
	for _, tt := range []struct {
		age  time.Duration
		want int
	}{{1900 * time.Millisecond, 1}, {5 * time.Second, 1}, {11 * time.Second, 0}} {
		inBubble(t, func(t *testing.T, a, b *end) {
			a.links[0].close()
			b.links[0].close()
			synctest.Wait()
			a.s.Send(item(7))
			time.Sleep(tt.age)
			a.s.Expire(time.Now())
			connect(a, b, 1, 20*time.Millisecond, 0, 0)
			a.s.Use(a.links[1].path, nil, true)
			time.Sleep(time.Second)
			if got := b.received(); len(got) != tt.want {
				t.Errorf("%d frames came of %d that was %s old", len(got), tt.want, tt.age)
			}
		})
	}
}

// A super-packet that a stream has lost comes in fragments by a carrier of datagrams, however small those are: 76 bytes is what is left of a
// question of DNS.
func TestFragments(t *testing.T) {
	for _, max := range []int{200, 76} {
		inBubble(t, func(t *testing.T, a, b *end) {
			a.links[0].close()
			b.links[0].close()
			synctest.Wait()
			sizes := []int{100, 5000, 60, proto.MaxData, 201}
			for n, size := range sizes {
				a.s.Send(super(n, size))
			}
			connect(a, b, 1, 20*time.Millisecond, 0, max)
			a.s.Use(a.links[1].path, nil, true)
			time.Sleep(time.Second)
			inOrder(t, b.received(), len(sizes))
			b.mu.Lock()
			defer b.mu.Unlock()
			if !slices.Equal(b.sizes, sizes) {
				t.Errorf("at most %d bytes: frames of %v bytes came, want %v", max, b.sizes, sizes)
			}
		})
	}
}

// A carrier that loses and overtakes: each frame comes at most once, most come, and what is lost is not kept for long.
func TestLossyPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t), newEnd(t)
		connect(a, b, 1, 20*time.Millisecond, 0.1, 1500)
		a.s.Start(a.links[1].path)
		b.s.Start(b.links[1].path)
		for i := range 2000 {
			a.s.Send(item(i))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		got := b.received()
		sorted := slices.Clone(got)
		slices.Sort(sorted)
		if len(slices.Compact(sorted)) != len(got) || len(got) < 1600 {
			t.Errorf("%d frames came, %d different ones", len(got), len(slices.Compact(sorted)))
		}
		if _, n := a.s.Due(); n > 400 {
			t.Errorf("%d frames are kept", n)
		}
	})
}

// A session can be closed while a path of it takes nothing and has not ended yet.
func TestCloseWhilePathIsBlocked(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *end) {
		a.links[0].out.room = 0
		for range 3 {
			a.s.Send(super(0, 1<<16)) // more than fits into the queue in the end
		}
		a.s.Use(a.links[0].path, nil, true)
		for i := range 20 {
			a.s.Send(super(i, 1<<16))
		}
		synctest.Wait()
		began := time.Now()
		time.AfterFunc(time.Minute, a.links[0].close)
		a.s.Close()
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %s", took)
		}
	})
}

// A change that comes to nothing, for the new path is lost at once, leaves the path in use as it was, also while that has no room.
func TestChangeThatComesToNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *end) {
		a.links[0].out.room = 0
		for range 3 {
			a.s.Send(super(0, 1<<16))
		}
		a.s.Use(a.links[0].path, nil, true)
		for i := range 20 {
			a.s.Send(super(i, 1<<16))
		}
		synctest.Wait()
		a.s.mu.Lock() // as Use and Lost for the other path, before the pump has looked up
		close(a.s.stop)
		a.s.stop = make(chan struct{})
		a.s.mu.Unlock()
		synctest.Wait()
		if a.s.Using() != a.links[0].path {
			t.Error("the path in use was given up")
		}
	})
}

// The last frame was lost, and nothing followed: at some time nobody waits for it any more, and the next one waits anew.
func TestLastFrameIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waiting := 0
		s := NewSender(Config{Budget: new(buffer.Budget), Waiting: func() { waiting++ }})
		defer s.Close()
		q := router.NewQueue(newWire(0, 0), router.QueueConfig{Limit: 1 << 20, Budget: new(buffer.Budget)})
		defer q.Close()
		s.Start(NewPath(0, q, upTo(0)))
		for _, expire := range []bool{true, false} {
			began := time.Now()
			s.Send(item(0))
			if since, n := s.Due(); n != 1 || !since.Equal(began) {
				t.Errorf("%d frames wait since %s", n, time.Since(since))
			}
			time.Sleep(time.Minute)
			if expire {
				s.Expire(time.Now())
				if since, n := s.Due(); n != 0 || !since.IsZero() {
					t.Errorf("%d frames wait since %s, a minute later", n, time.Since(since))
				}
			}
		}
		s.Send(item(2))
		if waiting != 3 {
			t.Errorf("told %d times that a frame waits, want 3", waiting)
		}
	})
}

// The other end hears of a change also if the queue of the new path was full at that moment, and nothing is sent then.
func TestChangeToFullQueue(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *end) {
		connect(a, b, 1, 20*time.Millisecond, 0, 0)
		l := a.links[1]
		l.out.room = 0
		for dropped := 0; dropped == 0; {
			dropped, _ = l.queue.Send(proto.AppendPing(nil, make([]byte, 10)))
		}
		a.s.Use(l.path, nil, true)
		time.Sleep(time.Second)
		l.out.mu.Lock()
		l.out.room = 64 << 10
		l.out.mu.Unlock()
		notify(l.out.less)
		time.Sleep(10 * time.Second)
		if b.switches() != 1 {
			t.Errorf("%d switch frames came, want 1", b.switches())
		}
	})
}

// Many senders at a time: each one's frames stay in order, and all have numbers of their own.
func TestManySenders(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *end) {
		const senders, each = 8, 200
		var all sync.WaitGroup
		for s := range senders {
			all.Go(func() {
				for i := range each {
					a.s.Send(item(s*each + i))
					if i%10 == 0 {
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		all.Wait()
		time.Sleep(time.Second)
		last := map[int]int{}
		for _, n := range b.received() {
			if n%each != last[n/each] {
				t.Fatalf("sender %d: frame %d comes where %d should", n/each, n%each, last[n/each])
			}
			last[n/each]++
		}
		if len(b.received()) != senders*each {
			t.Errorf("%d frames came, want %d", len(b.received()), senders*each)
		}
	})
}

// Whatever happens to carriers, as long as there is always one again within 500 ms: all frames come, once.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type step struct {
			What  string
			After time.Duration
			Delay time.Duration
		}
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{
				rapid.SampledFrom([]string{"kill", "hole", "planned", "planned"}).Draw(t, "what"),
				time.Duration(rapid.IntRange(0, 300).Draw(t, "after")) * time.Millisecond,
				time.Duration(rapid.IntRange(0, 40).Draw(t, "delay")) * time.Millisecond,
			}
		}), 1, 6).Draw(rt, "steps")
		var failure string
		synctest.Test(t, func(t *testing.T) {
			a, b := newEnd(t), newEnd(t)
			connect(a, b, 0, 5*time.Millisecond, 0, 0)
			a.s.Start(a.links[0].path)
			b.s.Start(b.links[0].path)
			var sending sync.WaitGroup
			sending.Go(func() { a.stream(0, 1500) })
			sending.Go(func() { b.stream(0, 1500) })
			for i, s := range steps {
				time.Sleep(s.After)
				old, epoch := uint64(i), uint64(i+1)
				switch s.What {
				case "kill":
					a.links[old].close()
					b.links[old].close()
					time.Sleep(s.After)
				case "hole":
					a.links[old].out.setHole(true)
					b.links[old].out.setHole(true)
					time.Sleep(s.After)
				}
				connect(a, b, epoch, s.Delay, 0, 0)
				if s.What == "planned" {
					a.s.Use(a.links[epoch].path, nil, false)
					b.s.Use(b.links[epoch].path, nil, false)
					time.Sleep(100 * time.Millisecond) // the old one is in use until it is empty
				} else {
					a.s.Use(a.links[epoch].path, nil, true)
					b.s.Use(b.links[epoch].path, nil, true)
				}
				a.links[old].close()
				b.links[old].close()
			}
			sending.Wait()
			time.Sleep(2 * time.Second)
			for name, e := range map[string]*end{"there": b, "back": a} {
				got := e.received()
				slices.Sort(got)
				if len(got) != 1500 || len(slices.Compact(got)) != 1500 {
					failure = fmt.Sprintf("%s: %d frames came, %d different ones, want 1500", name, len(got), len(slices.Compact(got)))
				}
			}
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

// Ack frames and frames that come allocate nothing as long as they come in order.
func TestReceivingAllocatesNothing(t *testing.T) {
	r := NewReceiver(func(uint64) {})
	reader := r.NewReader(0, nil)
	if n := testing.AllocsPerRun(1000, func() {
		for range ackFrames {
			reader.Take(1500)
		}
		reader.Flush()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	r.Close()
}
