package router

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"ferry/internal/buffer"
	"ferry/internal/packet"
	"ferry/internal/proto"
)

// A trickle is a Bounded with so much room.
type trickle struct {
	mu    sync.Mutex
	room  int // negative: any
	later int
	sent  []string // flow and count of each item
}

func (t *trickle) Room() (now, later int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.room < 0 {
		return math.MaxInt, t.later
	}
	return t.room, t.later
}

func (t *trickle) Send(run []byte) (int, Reason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.room >= 0 {
		t.room = max(0, t.room-len(run))
	}
	for len(run) > 0 {
		n := proto.ItemLen(run)
		t.sent = append(t.sent, nameOf(run[:n]))
		run = run[n:]
	}
	return 0, None
}

func (t *trickle) allow(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.room += n
}

func (t *trickle) all() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.sent)
}

// flowItem returns a data frame of so many bytes, of a flow, with a count in it.
func flowItem(flow byte, count, size int) []byte {
	ip := udp(size-proto.DataHeaderLen, addrA, addrB, false)
	binary.BigEndian.PutUint16(ip[20:], uint16(flow))
	binary.BigEndian.PutUint32(ip[28:], uint32(count))
	return frame(packet.Offload{}, ip)
}

func nameOf(item []byte) string {
	ip := item[proto.DataHeaderLen:]
	return fmt.Sprintf("%c%d", ip[21], binary.BigEndian.Uint32(ip[28:]))
}

func newFair(t *testing.T, to Bounded) *Fair {
	budget := new(buffer.Budget)
	f := NewFair(to, budget, new(Counters))
	t.Cleanup(func() {
		f.Close()
		if n := budget.Used(); n != 0 || f.Queued() != 0 || f.flows != nil {
			t.Errorf("%d bytes of the budget are lost, %d are queued", n, f.Queued())
		}
	})
	return f
}

func wantSent(t *testing.T, to *trickle, want ...string) {
	t.Helper()
	if got := to.all(); !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
}

// Short packets of a flow of which little waits overtake others, and the others are not forgotten over that.
func TestFairOvertakes(t *testing.T) {
	to := &trickle{later: 1 << 20}
	f := newFair(t, to)
	for i := range 4 {
		f.Send(flowItem('a', i, 1400)) // the first one goes ahead of nobody
	}
	f.Send(flowItem('p', 0, 60))
	f.Send(flowItem('p', 1, flowAhead-59)) // behind all: too much of its flow is ahead
	f.Send(flowItem('p', 2, 60))           // behind it
	f.Send(flowItem('q', 0, 60))
	f.Send(flowItem('q', 1, 60))   // though q0 waits
	f.Send(flowItem('l', 0, 5000)) // long: behind all
	wantSent(t, to)
	to.allow(1)
	f.Refill() // one piece: what waits ahead
	wantSent(t, to, "a0")
	to.allow(1500)
	f.Refill()
	wantSent(t, to, "a0", "p0", "q0", "q1", "a1")
	to.allow(1 << 20)
	f.Refill()
	wantSent(t, to, "a0", "p0", "q0", "q1", "a1", "a2", "a3", "p1", "p2", "l0")
	if f.flows != nil {
		t.Error("the table is not given back")
	}
}

// While there is room, runs pass as they are.
func TestFairInAHurry(t *testing.T) {
	to := &trickle{room: -1}
	f := newFair(t, to)
	run := slices.Concat(flowItem('a', 0, 60000), flowItem('b', 0, 60))
	if allocs := testing.AllocsPerRun(100, func() { f.to = nobody{}; f.Send(run) }); allocs != 0 {
		t.Errorf("%v allocations for a run", allocs)
	}
	f.to = to
	f.Send(run)
	wantSent(t, to, "a0", "b0")
	if f.Queued() != 0 {
		t.Error("something waits")
	}
}

type nobody struct{}

func (nobody) Room() (int, int)          { return math.MaxInt, 0 }
func (nobody) Send([]byte) (int, Reason) { return 0, None }

// What can not wait is a drop with a reason; what may go ahead finds room nevertheless.
func TestFairIsBounded(t *testing.T) {
	to := &trickle{later: 10_000}
	f := newFair(t, to)
	dropped := 0
	for i := range 100 {
		n, why := f.Send(flowItem('a', i, 1400))
		if dropped += n; n > 0 && why != DropQueueFull {
			t.Fatalf("dropped for %v", why)
		}
	}
	if dropped != 92 || f.Queued() != 8*1400 { // one of them is ahead
		t.Errorf("%d were dropped, %d bytes wait", dropped, f.Queued())
	}
	if n, _ := f.Send(flowItem('p', 0, 60)); n != 0 {
		t.Error("a ping was dropped because of others")
	}
	ahead := func() (n int) {
		for i := range 250 {
			if dropped, _ := f.Send(flowItem(byte(i), 1, 2000)); dropped == 0 {
				n += 2000
			}
		}
		return n
	}
	if n := ahead(); n == 0 || n > aheadBytes {
		t.Errorf("%d bytes went ahead, at most %d may", n, aheadBytes)
	}
	if n := ahead(); n != 0 {
		t.Errorf("%d more went ahead, and the others never come", n)
	}
	f.budget.SetLimit(1000)
	if n, why := f.Send(flowItem('z', 0, 60)); n != 1 || why != DropMemory {
		t.Errorf("without memory: %d dropped, %v", n, why)
	}
}

func TestFairClosed(t *testing.T) {
	to := &trickle{later: 1 << 20}
	f := newFair(t, to)
	f.Send(flowItem('a', 0, 1400))
	f.Send(flowItem('a', 1, 1400))
	f.Close()
	to.allow(1 << 20)
	f.Refill()
	wantSent(t, to)
	to.room = 0
	if n, why := f.Send(flowItem('a', 2, 1400)); n != 1 || why != DropClosed {
		t.Errorf("%d dropped, %v", n, why)
	}
}

// Whatever comes in whatever order: each flow stays in order, nothing is lost but what was said to be, and nothing comes twice.
func TestFairModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		to := &trickle{later: rapid.IntRange(0, 20_000).Draw(r, "later")}
		budget := new(buffer.Budget)
		f := NewFair(to, budget, new(Counters))
		counts := map[byte]int{}
		taken := 0
		r.Repeat(map[string]func(*rapid.T){
			"send": func(r *rapid.T) {
				var run []byte
				items := rapid.IntRange(1, 5).Draw(r, "items")
				for range items {
					flow := rapid.SampledFrom([]byte("abcdef")).Draw(r, "flow")
					run = append(run, flowItem(flow, counts[flow], rapid.IntRange(60, 9000).Draw(r, "size"))...)
					counts[flow]++
				}
				dropped, _ := f.Send(run)
				taken += items - dropped
			},
			"room": func(r *rapid.T) {
				to.allow(rapid.IntRange(0, 9000).Draw(r, "room"))
				f.Refill()
			},
			"": func(r *rapid.T) {
				if now, _ := to.Room(); now > 0 && f.Queued() > 0 {
					r.Fatalf("%d bytes wait beside room for %d", f.Queued(), now)
				}
			},
		})
		to.allow(1 << 30)
		f.Refill()
		last := map[byte]int{}
		for _, s := range to.all() {
			var n int
			fmt.Sscanf(s[1:], "%d", &n)
			if before, ok := last[s[0]]; ok && n <= before {
				r.Fatalf("%s comes behind %d", s, before)
			}
			last[s[0]] = n
		}
		if got := len(to.all()); got != taken || f.Queued() != 0 || budget.Used() != 0 {
			r.Fatalf("%d of %d came, %d bytes wait, %d of the budget", got, taken, f.Queued(), budget.Used())
		}
	})
}

// Senders and the one who makes room at the same time.
func TestFairTogether(t *testing.T) {
	to := &trickle{later: 1 << 30}
	f := newFair(t, to)
	var all sync.WaitGroup
	const each = 500
	for flow := range byte(4) {
		all.Go(func() {
			for i := range each {
				f.Send(flowItem('a'+flow, i, 100))
			}
		})
	}
	all.Go(func() {
		for range 1000 {
			to.allow(150)
			f.Refill()
		}
	})
	all.Wait()
	to.allow(1 << 30)
	f.Refill()
	next := map[byte]int{}
	for _, s := range to.all() {
		if want := fmt.Sprintf("%c%d", s[0], next[s[0]]); s != want {
			t.Fatalf("%s came, want %s", s, want)
		}
		next[s[0]]++
	}
	if len(to.all()) != 4*each {
		t.Errorf("%d came of %d", len(to.all()), 4*each)
	}
}

// A slow stream is handed a grain at a time, and what waits for it waits before its queue.
func TestFairBeforeAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(0)
		p.grain = 2 << 10
		q := startQueue(t, p, QueueConfig{Limit: 1 << 20})
		f := newFair(t, q)
		q.OnRoom(f.Next)
		if now, _ := q.Room(); now != math.MaxInt {
			t.Errorf("room for %d bytes before anybody knows that the stream is slow", now)
		}
		for i := range 20 {
			f.Send(flowItem('a', i, 1400))
			synctest.Wait()
		}
		if n := q.Queued(); n > 2<<10+1400+1400 {
			t.Errorf("%d bytes wait behind the ping", n)
		}
		f.Send(flowItem('p', 0, 60))
		p.allow(4 << 10)
		synctest.Wait()
		p.allow(1 << 20)
		synctest.Wait()
		var got []string
		for b := p.bytes(); len(b) > 0; b = b[proto.ItemLen(b):] {
			got = append(got, nameOf(b[:proto.ItemLen(b)]))
		}
		if at := slices.Index(got, "p0"); at < 0 || at > 5 {
			t.Errorf("the ping came as number %d of %v", at, got)
		}
		if most := slices.Max(p.writes); most > 2<<10 {
			t.Errorf("%d bytes in one write", most)
		}
		if len(got) != 21 {
			t.Errorf("%d of 21 came", len(got))
		}
	})
}

// Who makes room hands on what waits, and goes back to work, however much comes meanwhile; a goodbye comes behind all.
func TestFairNextAndFlush(t *testing.T) {
	to := &trickle{later: 1 << 20}
	f := newFair(t, to)
	for i := range 10 {
		f.Send(flowItem('a', i, 1400))
	}
	to.room = -1
	more := &pushing{trickle: to, f: f}
	f.to = more
	f.Next()
	if n := len(to.all()); n < 10 || n > 12 || f.Queued() == 0 {
		t.Errorf("%d were handed on, %d bytes wait", n, f.Queued())
	}
	more.f = nil
	to.room = 0
	f.Flush()
	if n := f.Queued(); n != 0 {
		t.Errorf("%d bytes wait behind a goodbye", n)
	}
}

// A pushing gets one item more for each one that it takes.
type pushing struct {
	*trickle
	f *Fair
	n int
}

func (p *pushing) Send(run []byte) (int, Reason) {
	for range proto.CountItems(run) {
		if p.f != nil {
			p.n++
			p.f.Send(flowItem('b', p.n, 1400))
		}
	}
	return p.trickle.Send(run)
}
