package datagram

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ferry/internal/proto"
)

// anItem draws an item of any kind but a number frame.
func anItem(t *rapid.T, max int) []byte {
	n := rapid.IntRange(21, max).Draw(t, "length")
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		b := make([]byte, proto.DataHeaderLen)
		proto.PutBareHeader(b, n)
		return append(b, packetOf(n)...)
	case 1:
		return proto.AppendPing(nil, bytes.Repeat([]byte{7}, n-20))
	case 2:
		return proto.AppendSwitch(nil, proto.SwitchMessage{Epoch: uint64(n)})
	}
	return packetOf(n)
}

// What is packed comes out again: in order, with the numbers that it had, each datagram by itself.
func TestPack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		max := rapid.IntRange(smallestMax, 1472).Draw(t, "max")
		p := packer{max: max, number: 5}
		o := &batch{buf: make([]byte, 0, batchSize), lens: make([]int, 0, maxBatch)}
		type sent struct {
			number uint64
			item   []byte
		}
		var want, got []sent
		var wantLoose, gotLoose, wantKept, gotKept []byte
		room := 0
		keep := func(b []byte) bool {
			if room == 0 {
				return false
			}
			room--
			gotKept = append(gotKept, b...)
			return true
		}
		number := uint64(5)
		var run []byte
		tooLong := 0
		for range rapid.IntRange(1, 200).Draw(t, "items") {
			if rapid.IntRange(0, 9).Draw(t, "jump") == 0 {
				number += uint64(rapid.IntRange(0, 3).Draw(t, "by"))
				run = proto.AppendNumber(run, number)
			}
			item := anItem(t, max)
			run = append(run, item...)
			long := len(item) > max-Overhead
			switch proto.TravelOf(item) {
			case proto.TravelCounted:
				if long = len(item) > max-Overhead-proto.NumberLen; !long {
					want = append(want, sent{number, item})
				}
				number++
			case proto.TravelLoosely:
				if !long {
					wantLoose = append(wantLoose, item...)
				}
			default:
				long = false
				wantKept = append(wantKept, item...)
			}
			if long {
				tooLong++
			}
		}
		for len(run) > 0 {
			o.reset()
			n, dropped := p.pack(o, run, keep)
			o.finish()
			tooLong -= dropped
			run = run[n:]
			b, lens := o.left()
			if n == 0 {
				room++
			}
			for _, l := range lens {
				if l > max || l <= Overhead {
					t.Fatalf("a datagram of %d bytes, at most %d", l, max)
				}
				next, known := uint64(0), false
				for rest := b[shortLen : l-tagLen]; len(rest) > 0; {
					k, err := proto.NextItem(rest)
					if err != nil || k == 0 {
						t.Fatalf("no item: %x", rest)
					}
					item := bytes.Clone(rest[:k])
					rest = rest[k:]
					switch proto.TravelOf(item) {
					case proto.TravelNumber:
						next, _ = proto.ParseNumber(item)
						known = true
					case proto.TravelCounted:
						if !known {
							t.Fatal("a data item without a number")
						}
						got = append(got, sent{next, item})
						next++
					default:
						gotLoose = append(gotLoose, item...)
					}
				}
				b = b[l:]
			}
		}
		if tooLong != 0 {
			t.Errorf("%d more were too long than said", tooLong)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %d items, want %d", len(got), len(want))
		}
		if !bytes.Equal(gotLoose, wantLoose) || !bytes.Equal(gotKept, wantKept) {
			t.Error("others are not as they were")
		}
	})
}

// Small ones share a datagram.
func TestPackSmall(t *testing.T) {
	p := packer{max: 1472}
	o := &batch{buf: make([]byte, 0, batchSize)}
	o.reset()
	run := bytes.Repeat(packetOf(52), 27)
	if n, _ := p.pack(o, run, nil); n != len(run) {
		t.Fatalf("took %d bytes of %d", n, len(run))
	}
	o.finish()
	if len(o.lens) != 1 || o.lens[0] != Overhead+proto.NumberLen+len(run) {
		t.Errorf("datagrams of %d bytes, want one", o.lens)
	}
}

// A stream brings everything in order, whatever comes of what was sent, and then forgets it.
func TestStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s sending
		var r receiving
		now := time.Unix(0, 0)
		var want, got []byte
		number := uint64(0)
		for step := 0; step < 3000; step++ {
			adding := step < 100
			if adding && rapid.Bool().Draw(t, "add") {
				b := bytes.Repeat([]byte{byte(step)}, rapid.IntRange(1, 50).Draw(t, "n"))
				want = append(want, b...)
				s.add(b, 20, now)
			}
			if !adding && len(s.segments) == 0 {
				break
			}
			if g := s.due(now, time.Second); g != nil {
				number++
				g.times, g.sent, g.number, g.lost = g.times+1, now, number, false
				if rapid.IntRange(0, 2).Draw(t, "lost") > 0 {
					r.take(g.offset, g.data, 500)
					if rapid.Bool().Draw(t, "ack") {
						s.acked(r.ack(number), now)
					}
				}
			}
			got = append(got, r.ready...)
			r.ready = nil
			now = now.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "ms")) * time.Millisecond)
		}
		if !bytes.Equal(got, want) || len(s.segments) != 0 || s.bytes != 0 || len(r.pieces) != 0 {
			t.Fatalf("got %d bytes, want %d; %d segments and %d pieces are left", len(got), len(want), len(s.segments), len(r.pieces))
		}
	})
}

// An ack of what was never sent changes nothing.
func TestAckOfNothing(t *testing.T) {
	var s sending
	s.add(make([]byte, 100), 50, time.Unix(0, 0))
	if s.acked(ack{before: 50}, time.Unix(1, 0)); len(s.segments) != 2 {
		t.Error("a segment that was never sent is acknowledged")
	}
	for i := range s.segments {
		s.segments[i].times = 1
	}
	for _, a := range []ack{{before: 101}, {n: 1, spans: [maxSpans]span{{50, 101}}}, {before: 1 << 60}} {
		if s.acked(a, time.Unix(1, 0)); len(s.segments) != 2 {
			t.Errorf("%+v: %d segments are left, want 2", a, len(s.segments))
		}
	}
}

// What a stranger can make a stream keep is bounded.
func TestStreamIsBounded(t *testing.T) {
	var r receiving
	for i := range uint64(1000) {
		r.take(1+2*i, []byte{1}, shakeWindow)
	}
	r.take(shakeWindow-1, []byte{1, 2}, shakeWindow)
	r.take(1<<61, []byte{1}, shakeWindow)
	if len(r.pieces) != maxPieces || r.pieces[maxPieces-1].offset >= shakeWindow {
		t.Errorf("%d pieces are kept", len(r.pieces))
	}
	if a := r.ack(0); a.n != maxSpans {
		t.Errorf("an ack of %d spans", a.n)
	}
}

// FuzzStream: whatever pieces a stranger sends, in whatever order, they are kept in order, each once, and no more of them than
// have come. Each piece is a place, a length and the byte that it is full of.
// exam: M14
func FuzzStream(f *testing.F) {
	f.Add([]byte{0, 3, 'a', 3, 2, 'b'})
	f.Add([]byte{3, 2, 'b', 0, 3, 'a'})
	f.Add([]byte{254, 9, 'a', 255, 9, 'a', 255, 20, 'b', 0, 1, 'c'})
	f.Add([]byte{48, 0, 'a', 48, 1, 'a'})
	f.Add([]byte{2, 9, 'b', 5, 1, 'c', 0, 3, 'a', 0, 255, 'd', 11, 2, 'e'})
	f.Fuzz(func(t *testing.T, script []byte) {
		var r receiving
		came := 0
		for ; len(script) >= 3; script = script[3:] {
			offset := uint64(script[0])
			switch offset {
			case 254:
				offset = 1 << 63 // of what no stream has
			case 255:
				offset = 1<<64 - 10 // it ends where one begins
			}
			piece := bytes.Repeat(script[2:3], int(script[1]))
			r.take(offset, piece, 400)
			came += len(piece)
			kept := len(r.ready)
			for i, p := range r.pieces {
				if kept += len(p.data); p.offset <= r.next || p.offset >= r.next+400 || i > 0 && p.offset <= r.pieces[i-1].offset {
					t.Fatalf("piece %d of %d is kept at %d, behind %d", i, len(r.pieces), p.offset, r.next)
				}
			}
			if kept > came || len(r.pieces) > maxPieces || uint64(len(r.ready)) != r.next {
				t.Fatalf("%d bytes and %d pieces are kept of %d bytes, %d up to %d", kept, len(r.pieces), came, len(r.ready), r.next)
			}
		}
		a := r.ack(1)
		for i, s := range a.spans[:a.n] {
			if s.from >= s.to || s.from <= a.before || i > 0 && s.from <= a.spans[i-1].to {
				t.Fatalf("span %d of %v", i, a.spans[:a.n])
			}
		}
	})
}

// What three later packets have overtaken is lost, and goes again at once.
func TestOvertaken(t *testing.T) {
	var s sending
	now := time.Unix(0, 0)
	s.add(make([]byte, 50), 10, now)
	for i := range s.segments {
		g := &s.segments[i]
		g.times, g.sent, g.number = 1, now, uint64(i)
	}
	var r receiving
	for i := 1; i < 5; i++ {
		r.take(s.segments[1].offset, s.segments[1].data, window)
		s.acked(r.ack(uint64(i)), now)
		if g := s.due(now, time.Second); (g != nil) != (i >= 3) {
			t.Errorf("after packet %d: %v is due", i, g)
		}
	}
}
