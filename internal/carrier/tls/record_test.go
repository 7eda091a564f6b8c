package tls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"testing"

	"ferry/internal/carrier"
)

// pair returns the two ends of a connection.
func pair(t testing.TB, id uint16) (a, b *Records) {
	t.Helper()
	n := carrier.SuiteOf(id).Hash().Size()
	one, two := bytes.Repeat([]byte{1}, n), bytes.Repeat([]byte{2}, n)
	a, errA := newRecords(id, one, two)
	b, errB := newRecords(id, two, one)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	return a, b
}

func eachSuite(t *testing.T, f func(t *testing.T, id uint16)) {
	for _, id := range carrier.Suites() {
		t.Run(tls.CipherSuiteName(id), func(t *testing.T) { f(t, id) })
	}
}

// openAll opens all whole records of sealed.
func openAll(r *Records, sealed []byte) (plain, rest []byte, err error) {
	for {
		var n int
		if plain, n, err = r.Open(plain, sealed); err != nil || n == 0 {
			return plain, sealed, err
		}
		sealed = sealed[n:]
	}
}

func TestRecords(t *testing.T) {
	eachSuite(t, func(t *testing.T, id uint16) {
		a, b := pair(t, id)
		for _, n := range []int{1, 20, 1500, maxPlain - 1, maxPlain, maxPlain + 1, 65545, 200_000} {
			want := bytes.Repeat([]byte{byte(n)}, n)
			before := bytes.Clone(want)
			sealed, err := a.Seal([]byte("before"), want)
			if err != nil || string(sealed[:6]) != "before" {
				t.Fatal(err)
			}
			sealed = sealed[6:]
			// As a stream brings it: with the last byte missing nothing is lost.
			got, rest, err := openAll(b, sealed[:len(sealed)-1])
			if err != nil || len(rest) > len(sealed) {
				t.Fatal(n, err)
			}
			more, rest, err := openAll(b, append(rest, sealed[len(sealed)-1]))
			if got = append(got, more...); err != nil || len(rest) != 0 || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes: got %d, %v, %d are left", n, len(got), err, len(rest))
			}
			if !bytes.Equal(want, before) {
				t.Error("Seal changed what it was given")
			}
		}
	})
}

// Whatever is changed, repeated, left out or turned around is refused.
func TestNotGenuine(t *testing.T) {
	eachSuite(t, func(t *testing.T, id uint16) {
		a, _ := pair(t, id)
		first, _ := a.Seal(nil, []byte("hello"))
		second, _ := a.Seal(nil, []byte("world"))
		refused := func(what string, records ...[]byte) {
			t.Helper()
			_, b := pair(t, id)
			if _, _, err := openAll(b, bytes.Join(records, nil)); !errors.Is(err, ErrRecord) {
				t.Errorf("%s: got %v, want %v", what, err, ErrRecord)
			}
		}
		for i := range first {
			changed := bytes.Clone(first)
			changed[i] ^= 1
			if i == 3 || i == 4 { // longer: with what follows there are enough bytes
				changed = append(append(changed, second...), make([]byte, 300)...)
			}
			refused(fmt.Sprintf("byte %d changed", i), changed)
		}
		refused("twice", first, first)
		refused("left out", second)
		_, b := pair(t, id)
		own, _ := b.Seal(nil, []byte("hello"))
		refused("sent back", own)
		refused("too short", []byte{typeData, 3, 3, 0, tagLen}, make([]byte, tagLen))
		refused("too long", []byte{typeData, 3, 3, 0x41, 0x01}, make([]byte, 0x4101))
		refused("not sealed", []byte{typeAlert, 3, 3, 0, 2, 2, 40})
	})
}

// What a record may hold besides data. sealed makes one as another implementation might.
func TestControl(t *testing.T) {
	tests := []struct {
		name string
		kind byte
		b    string
		want error
	}{
		{"no data", typeData, "", nil},
		{"data", typeData, "x", nil},
		{"data with padding", typeData, "x", nil},
		{"close_notify", typeAlert, "\x01\x00", io.EOF},
		{"alert", typeAlert, "\x02\x2a", tls.AlertError(42)},
		{"half an alert", typeAlert, "\x02", ErrRecord},
		{"a handshake", typeHandshake, "\x04\x00\x00\x00", ErrRecord},
		{"nothing but padding", 0, "", ErrRecord},
		{"another type", 99, "x", ErrRecord},
		{"too early a change of the key", typeHandshake, keyUpdate, ErrRecord},
		{"more than is allowed", typeData, string(make([]byte, maxPlain+1)), ErrRecord},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t, tls.TLS_AES_128_GCM_SHA256)
			sealed := a.out.seal(nil, []byte(tt.b), tt.kind)
			if tt.name == "data with padding" {
				a, b = pair(t, tls.TLS_AES_128_GCM_SHA256)
				sealed = a.out.seal(nil, []byte("x\x17\x00\x00"), 0)
			}
			dst := make([]byte, 0, carrierMax)
			got, n, err := b.Open(dst, sealed)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if tt.want == nil && (string(got) != tt.b || n != len(sealed)) {
				t.Errorf("got %q, %d of %d bytes", got, n, len(sealed))
			}
		})
	}
}

// Sealed by who has the key, but not as a record is: the header counts, too.
func TestHeader(t *testing.T) {
	sealAs := func(d *direction, kind byte, n int) []byte {
		plain := append([]byte("x"), typeData)
		plain = append(plain, make([]byte, n-len(plain)-tagLen)...) // padding
		header := []byte{kind, 3, 3, byte(n >> 8), byte(n)}
		return d.aead.Seal(header, d.step(), plain, header)
	}
	for name, tt := range map[string]struct {
		kind byte
		n    int
		want error
	}{
		"a record":       {typeData, 100, nil},
		"the longest":    {typeData, maxBody, nil}, // most of it padding
		"another kind":   {typeAlert, 100, ErrRecord},
		"longer":         {typeData, maxBody + 1, ErrRecord},
		"another, short": {typeHandshake, 2 + tagLen, ErrRecord},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, tls.TLS_AES_128_GCM_SHA256)
			sealed := sealAs(&a.out, tt.kind, tt.n)
			if _, _, err := b.Open(make([]byte, 0, carrierMax), sealed); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestNewRecords(t *testing.T) {
	good := make([]byte, 32)
	for name, tt := range map[string]struct {
		id      uint16
		in, out []byte
	}{
		"unknown suite": {0x1305, good, good},
		"short in":      {tls.TLS_AES_128_GCM_SHA256, good[:31], good},
		"short out":     {tls.TLS_AES_128_GCM_SHA256, good, good[:31]},
		"no secrets":    {tls.TLS_AES_128_GCM_SHA256, nil, nil},
	} {
		if _, err := newRecords(tt.id, tt.in, tt.out); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Late in the life of a key nothing else but a change of it is taken for one.
// exam: A3
func TestNotKeyUpdate(t *testing.T) {
	for name, tt := range map[string]struct {
		kind byte
		b    string
	}{
		"an alert of the same bytes": {typeAlert, keyUpdate},
		"another message":            {typeHandshake, "\x04\x00\x00\x01\x00"},
		"a request to renegotiate":   {typeHandshake, "\x00\x00\x00\x00"},
		"another hello":              {typeHandshake, "\x01\x00\x00\x01\x00"},
		"a third way to ask":         {typeHandshake, "\x18\x00\x00\x01\x02"},
	} {
		a, b := pair(t, tls.TLS_AES_128_GCM_SHA256)
		a.out.seq, b.in.seq = keyLifeMin, keyLifeMin
		if _, _, err := b.Open(nil, a.out.seal(nil, []byte(tt.b), tt.kind)); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: got %v, want %v", name, err, ErrRecord)
		}
	}
	a, b := pair(t, tls.TLS_AES_128_GCM_SHA256)
	a.out.seq, b.in.seq = keyLifeMin, keyLifeMin
	if _, _, err := b.Open(nil, a.out.seal(nil, []byte(keyUpdate), typeHandshake)); err != nil || b.asked.Load() {
		t.Errorf("%v, or a change that asks for nothing is answered", err)
	}
	a, b = pair(t, tls.TLS_AES_128_GCM_SHA256)
	a.out.seq, b.in.seq = keyLifeMin-1, keyLifeMin-1
	if _, _, err := b.Open(nil, a.out.seal(nil, []byte(keyUpdate), typeHandshake)); !errors.Is(err, ErrRecord) {
		t.Errorf("one record too early: got %v", err)
	}
}

// A key is changed before it is worn out, or when the other end wants it; both ends go on.
func TestKeyUpdate(t *testing.T) {
	eachSuite(t, func(t *testing.T, id uint16) {
		a, b := pair(t, id)
		a.out.seq, b.in.seq = keyLife-1, keyLife-1
		key := string(a.out.secret)
		for i := range 4 {
			want := fmt.Sprint("record ", i)
			sealed, err := a.Seal(nil, []byte(want))
			if err != nil {
				t.Fatal(err)
			}
			if got, rest, err := openAll(b, sealed); string(got) != want || len(rest) != 0 || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		if string(a.out.secret) == key || a.out.seq != 3 {
			t.Errorf("the key is the old one after %d records", a.out.seq)
		}

		a.out.seq, b.in.seq = keyLifeMin, keyLifeMin
		sealed := a.out.seal(nil, []byte(keyUpdateAsked), typeHandshake)
		if err := a.out.next(); err != nil {
			t.Fatal(err)
		}
		key = string(b.out.secret)
		if _, _, err := openAll(b, sealed); err != nil {
			t.Fatal(err)
		}
		a.in.seq, b.out.seq = keyLifeMin, keyLifeMin
		for range 2 {
			sealed, err := b.Seal(nil, []byte("answer"))
			if err != nil {
				t.Fatal(err)
			}
			if got, rest, err := openAll(a, sealed); string(got) != "answer" || len(rest) != 0 || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		if string(b.out.secret) == key || b.out.seq != 2 {
			t.Errorf("asked for another key, the other end has the old one, or changed it twice: %d", b.out.seq)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	eachSuite(t, func(t *testing.T, id uint16) {
		a, b := pair(t, id)
		plain := make([]byte, 64<<10)
		sealed, opened := make([]byte, 0, 80<<10), make([]byte, 0, 80<<10)
		if n := testing.AllocsPerRun(100, func() {
			s, err := a.Seal(sealed, plain)
			if err != nil {
				t.Fatal(err)
			}
			for dst := opened; len(s) > 0; {
				var n int
				if dst, n, err = b.Open(dst, s); err != nil {
					t.Fatal(err)
				}
				s = s[n:]
			}
		}); n != 0 {
			t.Errorf("got %v allocations, want 0", n)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	r, _ := pair(b, tls.TLS_AES_128_GCM_SHA256)
	plain, sealed := make([]byte, 64<<10), make([]byte, 0, 80<<10)
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Seal(sealed, plain); err != nil {
			b.Fatal(err)
		}
	}
}

// No bytes make Open panic, claim more than there is, or let anything through.
// exam: M14
func FuzzOpen(f *testing.F) {
	a, _ := pair(f, tls.TLS_AES_128_GCM_SHA256)
	good, _ := a.Seal(nil, []byte("hello"))
	f.Add(good)
	f.Add(good[:10])
	f.Add([]byte{typeAlert, 3, 3, 0, 2, 1, 0})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		_, r := pair(t, tls.TLS_AES_128_GCM_SHA256)
		dst := make([]byte, 3, 3+carrierMax)
		got, n, err := r.Open(dst, bytes.Clone(sealed))
		if n > len(sealed) || n < 0 || &got[0] != &dst[0] {
			t.Fatalf("%d of %d bytes, %v", n, len(sealed), err)
		}
		if len(got) > 3 && !bytes.HasPrefix(sealed, good) {
			t.Fatalf("%x was taken for genuine", sealed)
		}
	})
}
