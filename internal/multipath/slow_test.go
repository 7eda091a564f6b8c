package multipath

import (
	"math"
	"slices"
	"testing"
	"time"
)

// slow makes a path one that takes 40 KB/s, and is known to be slow.
func (e *end) slow(epoch uint64) {
	out := e.links[epoch].out
	out.mu.Lock()
	defer out.mu.Unlock()
	out.room, out.grain = 800, 2<<10 // 800 bytes in 20 ms
}

// burst sends items of one flow, all at once, as many as a slow path does not take for long.
func (e *end) burst(first, n int) {
	for i := range n {
		if dropped, why := e.f.Send(super(first+i, 1000)); dropped > 0 {
			e.t.Errorf("frame %d: dropped, %s", first+i, why)
		}
	}
}

// What waits before a slow path has no number yet: it goes by the path that is used next, and nothing has to be sent again for its sake.
func TestWaitingBeforeASlowPath(t *testing.T) {
	for _, again := range []bool{false, true} {
		inBubble(t, func(t *testing.T, a, b *end) {
			connect(a, b, 1, 2*time.Millisecond, 0, 0)
			a.slow(0)
			a.stream(0, 3) // from here on it is known to be slow
			time.Sleep(time.Second)
			a.burst(3, 30)
			if n := a.f.Queued(); n < 20_000 {
				t.Errorf("%d bytes wait before the path", n)
			}
			time.Sleep(100 * time.Millisecond)
			a.s.Use(a.links[1].path, nil, again)
			time.Sleep(time.Second)
			got := b.received()
			slices.Sort(got) // what the slow path has comes behind
			inOrder(t, got, 33)
			if n, _ := a.s.Replayed(); !again && n > 0 {
				t.Errorf("%d frames were sent again", n)
			}
			if n := a.f.Queued(); n != 0 {
				t.Errorf("%d bytes wait still", n)
			}
		})
	}
}

// The same where the path ends: what waits is kept for the next one, as what was sent.
func TestLosingASlowPath(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *end) {
		a.slow(0)
		a.stream(0, 3)
		time.Sleep(time.Second)
		a.burst(3, 30)
		a.links[0].out.kill()
		time.Sleep(100 * time.Millisecond)
		if n := a.f.Queued(); n != 0 {
			t.Errorf("%d bytes wait for a path that is lost", n)
		}
		connect(a, b, 1, 2*time.Millisecond, 0, 0)
		a.s.Use(a.links[1].path, nil, true)
		time.Sleep(time.Second)
		inOrder(t, b.received(), 33)
	})
}

// The same where the path goes silent, and nobody knows whether it is lost.
func TestSilentSlowPath(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *end) {
		connect(a, b, 1, 2*time.Millisecond, 0, 0)
		a.slow(0)
		a.stream(0, 3)
		time.Sleep(time.Second)
		a.links[0].out.setHole(true)
		a.burst(3, 30)
		time.Sleep(100 * time.Millisecond)
		a.s.Use(a.links[1].path, a.links[0].path, true)
		time.Sleep(time.Second)
		inOrder(t, b.received(), 33)
	})
}

// A slow path has little room, and as little again when all was sent once more.
func TestRoom(t *testing.T) {
	inBubble(t, func(t *testing.T, a, b *end) {
		room := func(want int) {
			t.Helper()
			if now, _ := a.s.Room(); now != want {
				t.Errorf("room for %d bytes, want %d", now, want)
			}
		}
		a.slow(0)
		room(math.MaxInt)
		a.stream(0, 3)
		time.Sleep(time.Second)
		room(2 << 10)
		a.burst(3, 30)
		room(0)
		a.s.Use(a.links[0].path, nil, true)
		time.Sleep(10 * time.Second)
		room(2 << 10)
		got := b.received()
		slices.Sort(got)
		inOrder(t, got, 33)
	})
}

// What is sent again by a carrier that does not look at what its way carries goes over two round trips, and not at once.
func TestReplayIsPaced(t *testing.T) {
	for _, tt := range []struct {
		name    string
		carrier Carrier
		early   [2]int // frames that have come after an eighth of them: at least, at most
	}{
		{"one that looks itself", upTo(1400), [2]int{200, 200}},
		{"hasty", hasty{1400}, [2]int{20, 50}},
	} {
		inBubble(t, func(t *testing.T, a, b *end) {
			connect(a, b, 1, time.Millisecond, 0, 1400)
			a.links[1].path.hasty, _ = tt.carrier.(Hasty)
			a.links[1].out.room = 1 << 20
			a.links[0].out.setHole(true)
			a.burst(0, 200)
			a.s.Use(a.links[1].path, nil, true)
			time.Sleep(10 * time.Millisecond)
			if n := len(b.received()); n < tt.early[0] || n > tt.early[1] {
				t.Errorf("%s: %d frames came within 10 ms", tt.name, n)
			}
			time.Sleep(80 * time.Millisecond)
			inOrder(t, b.received(), 200)
			if n, _ := a.s.Replayed(); n == 0 {
				t.Error("nothing was sent again")
			}
			time.Sleep(time.Second)
		})
	}
}
