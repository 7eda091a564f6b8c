package datagram

import (
	"bytes"
	"reflect"
	"testing"
)

var frames = []frame{
	{kind: framePing},
	{kind: frameStream, offset: 1 << 40, data: []byte("bytes")},
	{kind: frameAck, ack: ack{number: 1, before: 2}},
	{kind: frameAck, ack: ack{number: 1 << 62, before: 2, n: 2, spans: [maxSpans]span{{3, 4}, {6, 1 << 50}}}},
	{kind: frameClose, alert: 42},
	{kind: frameChallenge, data: []byte("12345678")},
	{kind: frameResponse, data: []byte("abcdefgh")},
}

// A frame that is cut is refused; one that is whole is what it was.
func TestFrames(t *testing.T) {
	for _, f := range frames {
		b := appendFrame(nil, f)
		for cut := range b {
			if got, n, err := consumeFrame(b[:cut]); err == nil {
				t.Errorf("%+v: %d of %d bytes are %+v of %d", f, cut, len(b), got, n)
			}
		}
		got, n, err := consumeFrame(append(bytes.Clone(b), 0x45))
		if err != nil || n != len(b) || !reflect.DeepEqual(got, f) {
			t.Errorf("got %+v of %d bytes, %v; want %+v", got, n, err, f)
		}
	}
}

// FuzzFrame: what parses is written as it was.
// exam: M14
func FuzzFrame(f *testing.F) {
	for _, x := range frames {
		f.Add(appendFrame(nil, x))
	}
	f.Add([]byte{framePadding, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		x, n, err := consumeFrame(b)
		if err != nil {
			return
		}
		if n <= 0 || n > len(b) {
			t.Fatalf("%d of %d bytes", n, len(b))
		}
		if x.kind == framePadding {
			return
		}
		if again := appendFrame(nil, x); !bytes.Equal(again, b[:n]) {
			t.Errorf("%x became %x", b[:n], again)
		}
	})
}

// FuzzHeader: so are headers, and what is told in the handshake.
// exam: M14
func FuzzHeader(f *testing.F) {
	f.Add(append(appendLong(nil, longHeader{kind: typeInitial, id: 5, number: 7}), make([]byte, 20)...))
	f.Add(append(appendLong(nil, longHeader{kind: typeCookie, id: 5, number: 7, cookie: make([]byte, cookieLen)}), make([]byte, 20)...))
	f.Add(appendFixed(nil, typeRetry, 9, make([]byte, cookieLen)))
	f.Add(appendFixed(nil, typeUnknown, 9, make([]byte, tokenLen)))
	f.Add(appendParameters(parameters{id: 3, max: 1472}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, ok := parseLong(b); ok {
			if again := appendLong(nil, h); !bytes.Equal(again, b[:h.len]) || len(b) < h.len+tagLen {
				t.Errorf("%x became %x", b, again)
			}
		}
		for kind, n := range map[byte]int{typeRetry: retryLen, typeUnknown: lostLen} {
			if id, rest, ok := parseFixed(b, kind, n); ok {
				if again := appendFixed(nil, kind, id, rest); !bytes.Equal(again, b) {
					t.Errorf("%x became %x", b, again)
				}
			}
		}
		if p, ok := parseParameters(b); ok {
			if again := appendParameters(p); !bytes.Equal(again, b[:parametersLen]) {
				t.Errorf("%x became %x", b, again)
			}
		}
	})
}
