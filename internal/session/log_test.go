package session

import (
	"bytes"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ferry/internal/buffer"
	"ferry/internal/proto"
)

// frame returns a data frame of n bytes that are all fill, but for its header.
func frame(n int, fill byte) []byte {
	b := bytes.Repeat([]byte{fill}, max(n, proto.DataHeaderLen+1))
	proto.PutDataHeader(b, len(b)-proto.DataHeaderLen)
	return b
}

func TestLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := new(buffer.Budget)
		limit := rapid.SampledFrom([]int{100 << 10, 1 << 20}).Draw(t, "limit")
		l := NewLog(limit, budget)
		var kept [][]byte // by number, from 0
		now := time.Unix(0, 0)
		times := []time.Time{}
		acked := uint64(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1:
				var run []byte
				for range rapid.IntRange(1, 5).Draw(t, "frames") {
					f := frame(rapid.SampledFrom([]int{15, 100, 1500, 40_000, proto.MaxData}).Draw(t, "len"), byte(len(kept)))
					run, kept, times = append(run, f...), append(kept, f), append(times, now)
				}
				before := l.Next()
				if first := l.Keep(run, now); first != before || l.Next() != uint64(len(kept)) {
					t.Fatalf("numbers %d to %d, want %d to %d", first, l.Next(), before, len(kept))
				}
				if l.Bytes() > limit {
					t.Fatalf("%d bytes are kept, want at most %d", l.Bytes(), limit)
				}
			case 2:
				acked = max(acked, rapid.Uint64Range(0, uint64(len(kept))).Draw(t, "acked"))
				l.Acked(acked)
			case 3:
				now = now.Add(time.Second)
			case 4:
				tail, before := rapid.SampledFrom([]int{0, 100_000}).Draw(t, "tail"), l.Bytes()
				l.Expire(now.Add(-time.Second), tail)
				if f := l.First(); f < l.Next() && l.segments[0].at.Before(now.Add(-time.Second)) && l.Bytes()-l.segments[0].block.Cap() >= tail {
					t.Fatalf("frame %d of %s is there at %s", f, times[f], now)
				}
				if l.Bytes() < min(tail, before) {
					t.Fatalf("%d of %d bytes are left, want %d", l.Bytes(), before, tail)
				}
			}
			if acked == l.Next() && l.First() != l.Next() {
				t.Fatal("what was acknowledged is kept")
			}
			for n := l.First(); n < l.Next(); {
				first, frames := l.Pin(n)
				if first != n || len(frames) == 0 {
					t.Fatalf("frames from %d on, want from %d", first, n)
				}
				for ; len(frames) > 0; n++ {
					if want := kept[n]; !bytes.Equal(frames[:len(want)], want) {
						t.Fatalf("frame %d is another one", n)
					}
					frames = frames[len(kept[n]):]
				}
				l.Unpin()
			}
		}
		l.Close()
		if l.Bytes() != 0 || budget.Used() != 0 {
			t.Fatalf("%d bytes are lost, %d of the budget", l.Bytes(), budget.Used())
		}
	})
}

// What is being read does not go away meanwhile.
func TestPinned(t *testing.T) {
	budget := new(buffer.Budget)
	l := NewLog(1<<20, budget)
	l.Keep(frame(1500, 1), time.Unix(0, 0))
	want := frame(1500, 1)
	_, frames := l.Pin(0)
	l.Acked(1)
	l.Expire(time.Unix(9, 0), 0)
	for range 100 {
		l.Keep(frame(60_000, 2), time.Unix(1, 0))
	}
	if !bytes.Equal(frames, want) {
		t.Error("a frame in use was overwritten")
	}
	l.Unpin()
	if l.Acked(1); l.First() == 0 {
		t.Error("a frame stays for good")
	}
}

// From a number in the middle of a segment, and behind what was given up.
func TestPinInside(t *testing.T) {
	l := NewLog(1<<20, new(buffer.Budget))
	l.Keep(append(append(frame(100, 0), frame(100, 1)...), frame(100, 2)...), time.Unix(0, 0))
	if first, frames := l.Pin(1); first != 1 || len(frames) != 200 || frames[50] != 1 {
		t.Errorf("got %d bytes from %d on", len(frames), first)
	}
	l.Unpin()
	l.Acked(3)
	l.Keep(frame(100, 3), time.Unix(0, 0))
	if first, frames := l.Pin(1); first != 3 || len(frames) != 100 {
		t.Errorf("got %d bytes from %d on, want 100 from 3 on", len(frames), first)
	}
	if first, frames := l.Pin(4); first != 4 || frames != nil {
		t.Errorf("got %d bytes from %d on, want none", len(frames), first)
	}
}
