package multipath

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"ferry/internal/proto"
)

// cut returns the fragments of a frame of n bytes, and the frame.
func cut(number uint64, n, size int) (all []proto.FragmentMessage, frame []byte) {
	frame = make([]byte, n)
	for i := range frame {
		frame[i] = byte(number)*31 + byte(i)*7 + byte(i>>8)
	}
	for at := 0; at < n; at += size {
		all = append(all, proto.FragmentMessage{Number: number, Offset: at, Len: n, Part: frame[at:min(at+size, n)]})
	}
	return all, frame
}

// Parts overtake each other, within a frame and those of several frames, and come twice: each frame comes, as it was.
func TestFragmentsOvertake(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var f fragments
		var all []proto.FragmentMessage
		frames := map[uint64][]byte{}
		for number := range uint64(1 + r.IntN(maxPartial)) {
			some, frame := cut(number, 1+r.IntN(3000), 1+r.IntN(100))
			if len(some) > maxHoles {
				some, frame = cut(number, 1500, 75)
			}
			all, frames[number] = append(all, some...), frame
		}
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		seen := map[uint64]bool{}
		for i, m := range all {
			if r.IntN(10) == 0 && i > 0 && !seen[all[i-1].Number] && f.add(all[i-1]) != nil {
				t.Fatal("a part that came twice completes a frame")
			}
			if whole := f.add(m); whole != nil {
				if !bytes.Equal(whole[Headroom:], frames[m.Number]) {
					t.Fatalf("frame %d of %d bytes is not as it was", m.Number, len(frames[m.Number]))
				}
				seen[m.Number] = true
			}
		}
		if len(seen) != len(frames) || len(f.all) > 0 {
			t.Fatalf("%d of %d frames came, %d are left", len(seen), len(frames), len(f.all))
		}
	}
}

// What is lost is forgotten for what comes later, and takes a bounded amount of memory.
func TestFragmentsLost(t *testing.T) {
	var f fragments
	for number := range uint64(1000) {
		all, frame := cut(number, 1500, 75)
		for i, m := range all {
			if whole := f.add(m); i == 3 && number%2 == 0 { // and once more, as if a later part never came
				break
			} else if i == len(all)-1 && !bytes.Equal(whole[Headroom:], frame) {
				t.Fatalf("frame %d did not come", number)
			}
		}
		if len(f.all) > maxPartial {
			t.Fatalf("%d frames are kept", len(f.all))
		}
	}
	f = fragments{}
	for number := range uint64(1000) {
		f.add(proto.FragmentMessage{Number: number, Offset: proto.MaxData - 1, Len: proto.MaxData, Part: []byte{1}})
		bytes := 0
		for _, p := range f.all {
			bytes += cap(p.buf)
		}
		if bytes > partialBytes+3*proto.MaxData {
			t.Fatalf("%d bytes are kept of parts of one byte", bytes)
		}
	}
	for at := range 1000 {
		f.add(proto.FragmentMessage{Number: 5000, Offset: 2 * at, Len: proto.MaxData, Part: []byte{1}})
		if p := f.all[len(f.all)-1]; len(p.have) > maxHoles {
			t.Fatalf("%d pieces of a frame are kept", len(p.have))
		}
	}
}

// Frames in parts need no new memory.
func TestFragmentsAllocate(t *testing.T) {
	var f fragments
	number := uint64(0)
	n := testing.AllocsPerRun(100, func() {
		for at := 0; at < 1500; at += 75 {
			f.add(proto.FragmentMessage{Number: number, Offset: at, Len: 1500, Part: zeros[:75]})
		}
		number++
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}

var zeros [75]byte
