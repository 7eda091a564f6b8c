package ws

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A sink remembers what was written at once.
type sink struct {
	net.Conn // nil: nothing else is asked
	writes   [][]byte
	err      error
}

func (s *sink) Write(b []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	s.writes = append(s.writes, bytes.Clone(b))
	return len(b), nil
}

// shortest is a frame with the shortest length that RFC 6455 allows, as the library writes it.
func shortest(n int, masked bool) []byte {
	b := frame(fin|binaryFrame, uint64(n), masked, string(make([]byte, n)))
	switch mask := b[1] & 0x80; {
	case n < 126:
		b = slices.Delete(b, 2, 10)
		b[1] = mask | byte(n)
	case n <= 0xffff:
		b = slices.Delete(b, 2, 8)
		b[1] = mask | 126
	}
	return b
}

// However the library cuts a frame, it leaves at once, unless it is longer than what is held.
func TestWireGathers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &sink{}
		w := &wire{Conn: s}
		var want [][]byte
		for range rapid.IntRange(1, 5).Draw(t, "frames") {
			n := rapid.OneOf(rapid.IntRange(0, 300), rapid.SampledFrom([]int{125, 126, 4096, 65535, 65536, maxPart, maxPart + 1, 200_000})).Draw(t, "length")
			f := shortest(n, rapid.Bool().Draw(t, "masked"))
			if got := frameLen(f[:min(len(f), maxFrameHeader)]); got != len(f) {
				t.Fatalf("frameLen is %d, want %d", got, len(f))
			}
			parts := rapid.IntRange(maxFrameHeader, 70_000).Draw(t, "part")
			whole := parts >= len(f)
			for rest := f; len(rest) > 0; {
				part := rest[:min(parts, len(rest))]
				if n, err := w.Write(part); n != len(part) || err != nil {
					t.Fatalf("%d of %d, %v", n, len(part), err)
				}
				rest = rest[len(part):]
			}
			if whole { // nothing is to be put together
				want = append(want, f)
			} else {
				want = slices.AppendSeq(want, slices.Chunk(f, holdSize))
			}
			if w.held != nil || w.left != 0 {
				t.Fatalf("a buffer is held: %t; %d bytes are missing", w.held != nil, w.left)
			}
		}
		if !slices.EqualFunc(s.writes, want, bytes.Equal) {
			t.Fatalf("%d writes, want %d", len(s.writes), len(want))
		}
	})
}

// A write that fails is told, and leaves no buffer behind.
func TestWireFails(t *testing.T) {
	w := &wire{Conn: &sink{err: net.ErrClosed}}
	f := shortest(5000, true)
	if n, err := w.Write(f[:4096]); n != 4096 || err != nil {
		t.Fatalf("the first part: %d, %v", n, err)
	}
	if _, err := w.Write(f[4096:]); !errors.Is(err, net.ErrClosed) || w.held != nil {
		t.Errorf("the last part: %v; a buffer is held: %t", err, w.held != nil)
	}
}

// What is no header that the library would write passes as it is.
func TestFrameLenOfLittle(t *testing.T) {
	for _, b := range [][]byte{{}, {0x82}, {0x82, 126}, {0x82, 126, 0}, {0x82, 127, 0, 0, 0, 0, 0, 0, 0}} {
		if got := frameLen(b); got != len(b) {
			t.Errorf("%x: got %d", b, got)
		}
	}
}

// What came behind the answer is read first.
func TestWireEarly(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	go func() { _, _ = b.Write([]byte("later")) }() // ends with the connection
	w := &wire{Conn: a, early: []byte("early")}
	got := make([]byte, 0, 10)
	for len(got) < 10 {
		n, err := w.Read(got[len(got):min(len(got)+3, 10)])
		if err != nil {
			t.Fatal(err)
		}
		got = got[:len(got)+n]
	}
	if string(got) != "earlylater" {
		t.Errorf("got %q", got)
	}
	_ = a.Close()
}
