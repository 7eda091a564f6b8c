package quic

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"ferry/internal/carrier"
	"ferry/internal/proto"
)

var up = proto.Framer{Extended: true}

func ack(n uint64) []byte { return proto.AppendAck(nil, n) }

func number(n uint64) []byte { return proto.AppendNumber(nil, n) }

func ping(n int) []byte { return proto.AppendPing(nil, make([]byte, n)) }

// bare returns an IPv4 packet of n bytes.
func bare(n int) []byte {
	b := make([]byte, n)
	b[0], b[2], b[3], b[12], b[16] = 0x45, byte(n>>8), byte(n), 10, 10
	return b
}

func join(items ...[]byte) []byte { return bytes.Join(items, nil) }

// pack returns the datagrams of items, and how many bytes of those there was room for.
func pack(p *packer, items []byte) (datagrams [][]byte, done int) {
	for done < len(items) {
		k, n, err := up.Next(items[done:])
		if err != nil || n == 0 {
			panic("not an item")
		}
		if !p.put(k, items[done:done+n]) {
			break
		}
		done += n
	}
	if p.batch == nil {
		return nil, done
	}
	for i := range p.batch.n {
		datagrams = append(datagrams, bytes.Clone(p.batch.datagram(i)))
	}
	p.batch.free()
	p.batch = nil
	return datagrams, done
}

func TestPack(t *testing.T) {
	const limit = 1163
	fragment := func(n uint64, offset, length int, part []byte) []byte {
		return proto.AppendFragment(nil, proto.FragmentMessage{Number: n, Offset: offset, Len: length, Part: part})
	}
	long := frame(2000, 3)
	const part = limit - proto.FragmentOverhead
	for _, tt := range []struct {
		name    string
		items   []byte
		want    [][]byte
		dropped uint64
	}{
		{"nothing", nil, nil, 0},
		{"a number alone", number(5), nil, 0},
		{"an ack", ack(7), [][]byte{ack(7)}, 0},
		{"small ones together", join(frame(100, 1), frame(50, 2), bare(40)), [][]byte{join(number(0), frame(100, 1), frame(50, 2), bare(40))}, 0},
		{"the number goes on", join(number(9), frame(600, 1), frame(600, 2)), [][]byte{join(number(9), frame(600, 1)), join(number(10), frame(600, 2))}, 0},
		{"a gap", join(frame(50, 1), number(7), frame(50, 2)), [][]byte{join(number(0), frame(50, 1), number(7), frame(50, 2))}, 0},
		{"no gap", join(frame(50, 1), number(1), frame(50, 2)), [][]byte{join(number(0), frame(50, 1), frame(50, 2))}, 0},
		{"the number comes first", join(ack(1), frame(50, 1)), [][]byte{join(number(0), ack(1), frame(50, 1))}, 0},
		{"the longest", join(ack(1), frame(limit-proto.NumberLen, 1), ack(2)), [][]byte{ack(1), join(number(0), frame(limit-proto.NumberLen, 1)), ack(2)}, 0},
		{"one byte more", frame(limit-proto.NumberLen+1, 1), [][]byte{
			fragment(0, 0, limit-proto.NumberLen+1, frame(limit-proto.NumberLen+1, 1)[:part]), fragment(0, part, limit-proto.NumberLen+1, frame(limit-proto.NumberLen+1, 1)[part:])}, 0},
		{"a long one among others", join(number(4), frame(20, 1), long, frame(30, 2)), [][]byte{
			join(number(4), frame(20, 1)), fragment(5, 0, 2000, long[:part]), join(number(6), fragment(5, part, 2000, long[part:]), frame(30, 2))}, 0},
		{"a part that is too long", fragment(8, 100, 3000, long[:1500]), [][]byte{
			fragment(8, 100, 3000, long[:part]), fragment(8, 100+part, 3000, long[part:1500])}, 0},
		{"a ping that is too long", join(ping(2000), ack(1)), [][]byte{ack(1)}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &packer{framer: up, limit: limit}
			got, done := pack(p, tt.items)
			if done != len(tt.items) || p.dropped != tt.dropped || len(got) != len(tt.want) {
				t.Fatalf("took %d of %d bytes, dropped %d, made %d datagrams, want %d", done, len(tt.items), p.dropped, len(got), len(tt.want))
			}
			for i := range got {
				if !bytes.Equal(got[i], tt.want[i]) {
					t.Errorf("datagram %d:\n%x, want\n%x", i, got[i], tt.want[i])
				}
			}
		})
	}
}

// An empty batch takes any item, with the least limit too.
func TestPackLongest(t *testing.T) {
	p := &packer{framer: up, limit: leastLimit}
	if got, done := pack(p, frame(proto.MaxData, 1)); done != proto.MaxData {
		t.Errorf("no room in %d datagrams", len(got))
	}
}

// A receiver puts items together again, and counts.
type receiver struct {
	next uint64
	part []byte
	data map[uint64][]byte
	rest [][]byte // all others
}

func (r *receiver) datagram(t fataler, d []byte) {
	if n := wholeItems(up, d); n != len(d) {
		t.Fatalf("%d of %d bytes belong into a datagram: %x", n, len(d), d)
	}
	for len(d) > 0 {
		k, n, _ := up.Next(d)
		item := bytes.Clone(d[:n])
		d = d[n:]
		switch {
		case k.Travel() == proto.TravelCounted:
			r.data[r.next] = item
			r.next++
		case k == proto.KindNumber:
			r.next, _ = proto.ParseNumber(item)
		case k == proto.KindFragment:
			f, err := proto.ParseFragment(item)
			if err != nil {
				t.Fatalf("%v", err)
			}
			if f.Offset == 0 {
				r.part = nil
			}
			if r.part = append(r.part, f.Part...); len(r.part) == f.Len {
				r.data[f.Number] = r.part
			}
		default:
			r.rest = append(r.rest, item)
		}
	}
}

type fataler interface{ Fatalf(format string, a ...any) }

// Whatever is packed comes out with its number, within the limit; what is packed anew for a lower limit too.
func TestPackModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(leastLimit, 1415).Draw(t, "limit")
		p := &packer{framer: up, limit: limit}
		want := receiver{data: map[uint64][]byte{}}
		got := receiver{data: map[uint64][]byte{}}
		next := uint64(0)
		for range rapid.IntRange(1, 60).Draw(t, "items") {
			var item []byte
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				next += rapid.Uint64Range(0, 3).Draw(t, "gap")
				item = number(next)
			case 1:
				item = ack(rapid.Uint64Range(0, 1000).Draw(t, "ack"))
				want.rest = append(want.rest, item)
			case 2:
				item = bare(rapid.IntRange(20, 3000).Draw(t, "bare"))
			default:
				item = frame(rapid.IntRange(proto.DataHeaderLen+1, 5000).Draw(t, "length"), uint32(next))
			}
			if k, _, _ := up.Next(item); k.Travel() == proto.TravelCounted {
				want.data[next] = item
				next++
			}
			datagrams, done := pack(p, item)
			if done != len(item) {
				t.Fatalf("no room in an empty batch")
			}
			for _, d := range datagrams {
				if len(d) > limit {
					t.Fatalf("a datagram of %d bytes, limit %d", len(d), limit)
				}
				lower := &packer{framer: up, limit: leastLimit}
				smaller, done := pack(lower, d)
				if done != len(d) || lower.dropped > 0 {
					t.Fatalf("packed %d of %d bytes anew, dropped %d", done, len(d), lower.dropped)
				}
				for _, d := range smaller {
					got.datagram(t, d)
				}
			}
		}
		if len(got.data) != len(want.data) || len(got.rest) != len(want.rest) {
			t.Fatalf("%d data items and %d others came, want %d and %d", len(got.data), len(got.rest), len(want.data), len(want.rest))
		}
		for n, item := range want.data {
			if !bytes.Equal(got.data[n], item) {
				t.Fatalf("number %d is %x, want %x", n, got.data[n], item)
			}
		}
	})
}

// What does not fit is left to a later call, and nothing is cut.
func TestPackRoom(t *testing.T) {
	p := &packer{framer: up, limit: leastLimit}
	items := bytes.Repeat(frame(1000, 1), 200)
	got, done := pack(p, items)
	if done == len(items) || done%1000 != 0 || len(got) != done/1000 || p.next != uint64(done/1000) {
		t.Errorf("took %d bytes in %d datagrams, next is %d", done, len(got), p.next)
	}
	if _, more := pack(p, items[done:]); more == 0 {
		t.Error("the batch after it takes nothing")
	}
}

func TestPackDoesNotAllocate(t *testing.T) {
	p := &packer{framer: up, limit: 1400, batch: newBatch()}
	items := join(number(1), frame(1000, 1), ack(5), frame(3000, 2))
	if n := testing.AllocsPerRun(100, func() {
		p.batch.n, p.batch.numbered = 0, false
		for b := items; len(b) > 0; {
			k, n, _ := up.Next(b)
			p.put(k, b[:n])
			b = b[n:]
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// A datagram of a stranger: only whole items that belong there pass, and data only behind a number.
func TestWholeItems(t *testing.T) {
	for _, tt := range []struct {
		name string
		d    []byte
		want int
	}{
		{"data behind a number", join(number(1), frame(50, 1), ack(1)), 12 + 50 + 12},
		{"data without a number", frame(50, 1), 0},
		{"data before a number", join(ack(1), frame(50, 1), number(1)), 12},
		{"a word", join(ack(1), request()), 12},
		{"a goodbye", proto.AppendGoodbye(nil, proto.GoodbyeMessage{}), 0},
		{"an unknown frame", []byte{0x80, 0, 0, 0}, 0},
		{"a keepalive", proto.AppendKeepalive(nil), 0},
		{"cut", join(ack(1), number(1), frame(50, 1)[:49]), 24},
		{"no item", join(ack(1), []byte("????????????????????")), 12},
		{"empty", nil, 0},
	} {
		if got := wholeItems(up, tt.d); got != tt.want {
			t.Errorf("%s: %d bytes pass, want %d", tt.name, got, tt.want)
		}
	}
}

// What passes is whole items, and passes again; packed anew it is the same items.
// exam: M14
func FuzzDatagram(f *testing.F) {
	f.Add(join(number(1), frame(50, 1), ack(1)), true)
	f.Add(join(ack(1), request(), frame(20, 3)), false)
	f.Add(join(number(3), bare(40), number(9), frame(30, 3), ping(8)), true)
	f.Add(proto.AppendFragment(nil, proto.FragmentMessage{Number: 3, Len: 100, Part: make([]byte, 50)}), true)
	f.Fuzz(func(t *testing.T, d []byte, fromServer bool) {
		framer := proto.Framer{FromServer: fromServer, Extended: true}
		n := wholeItems(framer, d)
		if n > len(d) || wholeItems(framer, d[:n]) != n {
			t.Fatalf("%d of %d bytes pass", n, len(d))
		}
		if len(d) > leastLimit {
			return
		}
		p := &packer{framer: framer, limit: len(d) + leastLimit}
		before := items(framer, d[:n])
		for rest := d[:n]; len(rest) > 0; {
			k, size, _ := framer.Next(rest)
			if !p.put(k, rest[:size]) {
				t.Fatal("no room")
			}
			rest = rest[size:]
		}
		var after []byte
		if p.batch != nil {
			for i := range p.batch.n {
				after = append(after, items(framer, p.batch.datagram(i))...)
			}
			p.batch.free()
		}
		if !bytes.Equal(before, after) {
			t.Errorf("%x becomes %x", before, after)
		}
	})
}

// items returns what is in a datagram, but its numbers.
func items(f proto.Framer, d []byte) (all []byte) {
	for len(d) > 0 {
		k, n, err := f.Next(d)
		if err != nil || n == 0 {
			panic("not an item")
		}
		if k != proto.KindNumber {
			all = append(all, d[:n]...)
		}
		d = d[n:]
	}
	return all
}

// The stream has words only, however they fall.
// exam: M14
func FuzzWords(f *testing.F) {
	f.Add(join(request(), proto.AppendHello(nil, proto.HelloMessage{Name: "x"})), true)
	f.Add(join(proto.AppendSwitch(nil, proto.SwitchMessage{}), ack(1)), false)
	f.Add(frame(60000, 1)[:5000], false)
	f.Fuzz(func(t *testing.T, b []byte, fromServer bool) {
		framer := proto.Framer{FromServer: fromServer, Extended: true}
		n, err := words(framer, b)
		if again, againErr := words(framer, b[:n]); again != n || againErr != nil {
			t.Fatalf("%d, %v; then %d, %v", n, err, again, againErr)
		}
		first, firstErr := words(framer, b[:len(b)/2])
		if rest, restErr := words(framer, b[first:]); firstErr == nil && (first+rest != n || (restErr == nil) != (err == nil)) {
			t.Errorf("in two parts: %d and %d bytes, %v; else %d, %v", first, rest, restErr, n, err)
		}
	})
}

// The longest packet of the MTU that a gateway has by default goes in one datagram.
func TestDefaultMTU(t *testing.T) {
	const found = 1431 // what the library finds at least, where 1452 pass
	most := found - overhead - proto.NumberLen
	if n := carrier.MTU("quic"); n > most || n < most-2 {
		t.Errorf("packets of %d bytes by default, %d have room in a datagram", n, most)
	}
}
