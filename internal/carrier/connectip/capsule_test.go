package connectip

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/quic-go/quic-go/quicvarint"

	"ferry/internal/packet"
)

// The examples are those of RFC 9000, appendix A.1.
func TestVarint(t *testing.T) {
	for _, tt := range []struct {
		wire []byte
		v    uint64
	}{
		{[]byte{0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c}, 151288809941952652},
		{[]byte{0x9d, 0x7f, 0x3e, 0x7d}, 494878333},
		{[]byte{0x7b, 0xbd}, 15293},
		{[]byte{0x25}, 37},
	} {
		if got := appendVarint(nil, tt.v); !bytes.Equal(got, tt.wire) {
			t.Errorf("%d: got % x, want % x", tt.v, got, tt.wire)
		}
		if v, n := consumeVarint(append(tt.wire, 9)); v != tt.v || n != len(tt.wire) {
			t.Errorf("% x: got %d of %d bytes, want %d", tt.wire, v, n, tt.v)
		}
	}
	if v, n := consumeVarint([]byte{0x40, 0x25}); v != 37 || n != 2 { // longer than it has to be
		t.Errorf("got %d of %d bytes", v, n)
	}
}

// FuzzVarint: the library reads the same.
// exam: M14
func FuzzVarint(f *testing.F) {
	for _, v := range []uint64{0, 63, 64, 16383, 16384, 1<<30 - 1, 1 << 30, maxVarint} {
		f.Add(appendVarint(nil, v))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, n := consumeVarint(b)
		want, wantN, err := quicvarint.Parse(b)
		if err != nil {
			wantN, want, v = 0, 0, 0
		}
		if v != want || n != wantN {
			t.Fatalf("% x: got %d of %d bytes, want %d of %d", b, v, n, want, wantN)
		}
	})
}

// read returns what a stream of capsules has, as text: types and values, of unknown ones the lengths, and the end.
func read(r io.Reader, size int) (all []string) {
	c := capsuleReader{br: bufio.NewReaderSize(r, size)}
	for {
		kind, n, err := c.next()
		var value []byte
		if err == nil && kind < 4 {
			value, err = c.value(nil, maxAddresses)
		}
		if err != nil {
			return append(all, err.Error())
		}
		all = append(all, fmt.Sprintf("%d %d %x", kind, n, value))
	}
}

// FuzzCapsules: how reads fall changes nothing, and no memory is taken for what did not come.
// exam: M14, R14
func FuzzCapsules(f *testing.F) {
	f.Add(appendCapsuleHeader(nil, capsuleDatagram, 0))
	f.Add(append(appendCapsuleHeader(nil, capsuleStream, 3), 1, 2, 3))
	f.Add(append(appendCapsuleHeader(nil, 37, 2), append([]byte{8, 9}, appendAssign(nil, []address{{1, netip.MustParsePrefix("10.0.0.7/32")}})...)...))
	f.Add(appendCapsuleHeader(nil, capsuleRequest, 1<<40))
	f.Add(appendCapsuleHeader(nil, 41, maxVarint))
	f.Fuzz(func(t *testing.T, b []byte) {
		want := read(bytes.NewReader(b), readPart)
		for name, got := range map[string][]string{
			"byte by byte":   read(iotest.OneByteReader(bytes.NewReader(b)), readPart),
			"small buffer":   read(bytes.NewReader(b), headPart),
			"half and error": read(iotest.DataErrReader(bytes.NewReader(b)), headPart),
		} {
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%s: got %q, want %q", name, got, want)
			}
		}
	})
}

// A capsule that claims more than it may ends all, before anything was read of it; an end within one is none in order.
// exam: M14, R14
func TestCapsuleBounds(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
		want error
	}{
		{"between two", nil, io.EOF},
		{"a type alone", []byte{2}, io.ErrUnexpectedEOF},
		{"a part of a length", []byte{2, 0x80, 0}, io.ErrUnexpectedEOF},
		{"a part of a value", append(appendCapsuleHeader(nil, capsuleRequest, 9), 1), io.ErrUnexpectedEOF},
		{"too long", appendCapsuleHeader(nil, capsuleRequest, maxAddresses+1), errCapsule},
		{"a part of what nobody needs", append(appendCapsuleHeader(nil, 99, 1<<40), 1), io.ErrUnexpectedEOF},
	} {
		s := &Stock{}
		s.in.Init()
		if err := s.readCapsules(bytes.NewReader(tt.b)); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}

// What a stranger claims to send costs nobody memory, whatever capsule it claims it for, and however far it claims to go.
// exam: M14, R14
func TestClaims(t *testing.T) {
	for _, kind := range []uint64{capsuleDatagram, capsuleAssign, capsuleRequest, capsuleRoutes, capsuleStream, 99, maxVarint} {
		for _, claim := range []uint64{maxPacket, 1 << 20, 1 << 32, 1 << 40, maxVarint} {
			b := append(appendVarint(appendVarint(nil, kind), claim), "a little of it"...)
			claims(t, fmt.Sprintf("type %d, %d bytes, of a stock client", kind, claim), func() error {
				s := &Stock{}
				s.in.Init()
				defer s.in.Close()
				return s.readCapsules(bytes.NewReader(b))
			})
			claims(t, fmt.Sprintf("type %d, %d bytes, of Ferry's own", kind, claim), func() error {
				_, err := io.Copy(io.Discard, newStream(&reading{Reader: bytes.NewReader(b)}))
				return err
			})
		}
	}
}

// claims wants that f ends with what an end in the middle is, or with a claim that was refused, and takes next to no memory.
func claims(t *testing.T, what string, f func() error) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := f()
	runtime.ReadMemStats(&after)
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errCapsule) {
		t.Errorf("%s: got %v", what, err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 512<<10 {
		t.Errorf("%s: %d bytes were allocated", what, grown)
	}
}

// FuzzStream: the bytes in capsules of ours come out, and those of others do not, however a client of HTTP/1.1 writes them.
// exam: M14
func FuzzStream(f *testing.F) {
	own := func(b []byte) []byte { return append(appendCapsuleHeader(nil, capsuleStream, len(b)), b...) }
	f.Add(slices.Concat(own([]byte("some")), own(nil), own([]byte("bytes"))))
	f.Add(slices.Concat(appendCapsuleHeader(nil, capsuleDatagram, 3), []byte("abc"), own(make([]byte, 300))))
	f.Add(append(appendCapsuleHeader(nil, capsuleStream, 1<<40), "a little of it"...))
	f.Add(appendVarint(appendVarint(nil, maxVarint), maxVarint))
	f.Fuzz(func(t *testing.T, b []byte) {
		var want []byte // by a twin that has all before it
		for rest := b; ; {
			kind, n := consumeVarint(rest)
			size, m := consumeVarint(rest[n:])
			if n == 0 || m == 0 {
				break
			}
			rest = rest[n+m:]
			value := rest[:min(size, uint64(len(rest)))]
			if kind == capsuleStream {
				want = append(want, value...)
			}
			rest = rest[len(value):]
		}
		for name, r := range map[string]io.Reader{"at once": bytes.NewReader(b), "byte by byte": iotest.OneByteReader(bytes.NewReader(b))} {
			got, err := io.ReadAll(newStream(&reading{Reader: r}))
			if !bytes.Equal(got, want) || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s: got % x, %v, want % x", name, got, err, want)
			}
		}
	})
}

// A reading connection only brings bytes.
type reading struct {
	io.Reader
	net.Conn // nil: nothing else is asked
}

func (r *reading) Read(b []byte) (int, error) { return r.Reader.Read(b) }

// A part of an address is none.
func TestAddressParts(t *testing.T) {
	for _, prefix := range []string{"10.0.0.7/32", "fd00::7/128"} {
		whole := appendAddress(nil, address{1 << 20, netip.MustParsePrefix(prefix)})
		for n := 1; n < len(whole); n++ {
			if all, err := parseAddresses(whole[:n]); !errors.Is(err, errCapsule) {
				t.Errorf("%s: %d of %d bytes: got %v, %v", prefix, n, len(whole), all, err)
			}
		}
	}
	if _, err := parseAddresses([]byte{1, 5, 10, 0, 0, 1, 32}); !errors.Is(err, errCapsule) {
		t.Errorf("IP of version 5: got %v", err)
	}
}

// FuzzAddresses: what parses is written as it was, if its integers are of the shortest form, and is what the RFC allows.
// exam: M14
func FuzzAddresses(f *testing.F) {
	f.Add(appendAddress(nil, address{1, netip.MustParsePrefix("10.0.0.7/32")}))
	f.Add(appendAddress(appendAddress(nil, address{0, netip.MustParsePrefix("::/0")}), address{1 << 20, netip.MustParsePrefix("fd00::/8")}))
	for whole, n := appendAddress(nil, address{1 << 20, netip.MustParsePrefix("10.0.0.7/32")}), 0; n < 10; n++ { // parts of one
		f.Add(whole[:n])
	}
	f.Add([]byte{1, 0, 10, 0, 0, 1, 32})
	f.Add([]byte{1, 4, 10, 0, 0, 1, 8}) // bits behind the prefix
	f.Add([]byte{1, 4, 10, 0, 0, 1, 33})
	f.Add([]byte{1, 5, 10, 0, 0, 1, 32})
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseAddresses(b)
		if err != nil {
			return
		}
		var again []byte
		for _, a := range all {
			if !a.prefix.IsValid() || a.prefix != a.prefix.Masked() {
				t.Fatalf("% x: %v", b, a)
			}
			again = appendAddress(again, a)
		}
		if more, err := parseAddresses(again); err != nil || !reflect.DeepEqual(more, all) || len(again) > len(b) {
			t.Fatalf("% x: again % x: %v, %v", b, again, more, err)
		}
	})
}

func TestRoutes(t *testing.T) {
	for _, tt := range []struct {
		routes []string
		want   string // behind the type
	}{
		{[]string{"10.0.0.0/16"}, "0a 04 0a000000 0a00ffff 00"},
		{[]string{"10.9.0.0/16", "10.0.0.0/8", "192.0.2.7/32"}, "14 04 0a000000 0affffff 00 04 c0000207 c0000207 00"}, // one within another
		{[]string{"10.1.2.3/16", "10.0.0.0/16"}, "14 04 0a000000 0a00ffff 00 04 0a010000 0a01ffff 00"},                // not masked, not in order
		{[]string{"0.0.0.0/0"}, "0a 04 00000000 ffffffff 00"},
		{[]string{"fd00::/127", "10.0.0.0/31"}, "2c 04 0a000000 0a000001 00 06 fd000000000000000000000000000000 fd000000000000000000000000000001 00"},
		{nil, "00"},
	} {
		var routes []netip.Prefix
		for _, r := range tt.routes {
			routes = append(routes, netip.MustParsePrefix(r))
		}
		want := "03" + string(bytes.ReplaceAll([]byte(tt.want), []byte(" "), nil))
		if got := fmt.Sprintf("%x", appendRoutes(nil, routes)); got != want {
			t.Errorf("%s: got %s, want %s", tt.routes, got, want)
		}
	}
}

// What was asked for and is not given is refused by its number, RFC 9484, section 4.7.2.
func TestGranted(t *testing.T) {
	prefix := netip.MustParsePrefix
	own := netip.MustParseAddr("10.0.3.7")
	for _, tt := range []struct {
		name      string
		ask, want []address
	}{
		{"nothing", nil, []address{{0, prefix("10.0.3.7/32")}}},
		{"any", []address{{5, prefix("0.0.0.0/32")}}, []address{{5, prefix("10.0.3.7/32")}}},
		{"that one", []address{{5, prefix("10.0.3.7/32")}}, []address{{5, prefix("10.0.3.7/32")}}},
		{"another one", []address{{5, prefix("10.0.3.8/32")}}, []address{{5, prefix("0.0.0.0/32")}, {0, prefix("10.0.3.7/32")}}},
		{"IPv6", []address{{5, prefix("::/128")}}, []address{{5, prefix("::/128")}, {0, prefix("10.0.3.7/32")}}},
		{"two", []address{{5, prefix("0.0.0.0/32")}, {6, prefix("0.0.0.0/32")}}, []address{{6, prefix("0.0.0.0/32")}, {5, prefix("10.0.3.7/32")}}},
	} {
		if got := granted(tt.ask, own); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A packet that made one hop has a checksum that is right, as before.
func TestHop(t *testing.T) {
	for ttl := 0; ttl < 256; ttl++ {
		for _, id := range []byte{0, 1, 0x7f, 0xff} {
			p := packetOf(28)
			p[8], p[4], p[10], p[11] = byte(ttl), id, 0, 0
			binary.BigEndian.PutUint16(p[10:], packet.Checksum(p[:20], 0))
			if lives := hop(p); lives != (ttl > 1) {
				t.Fatalf("TTL %d: %t", ttl, lives)
			} else if lives && (int(p[8]) != ttl-1 || packet.Checksum(p[:20], 0) != 0) {
				t.Fatalf("TTL %d: got %d, and a wrong sum", ttl, p[8])
			}
		}
	}
	six := make([]byte, 40)
	six[0], six[7] = 0x60, 2
	if !hop(six) || six[7] != 1 || hop(six) {
		t.Error("IPv6: wrong hop limit")
	}
}

// FuzzHalves: what was sent in two datagrams is what comes, nothing else does, and no datagram does harm.
// exam: M14
func FuzzHalves(f *testing.F) {
	f.Add([]byte("a packet"), byte(partFirst|1), []byte("x"), uint16(4))
	f.Add(bytes.Repeat([]byte{7}, longest), byte(partSecond|2), []byte("strange"), uint16(1415))
	f.Add([]byte{1, 2}, byte(partWhole), []byte{}, uint16(0))
	f.Add([]byte{1, 2, 3}, byte(0xc0), bytes.Repeat([]byte{1}, longest), uint16(1))
	f.Fuzz(func(t *testing.T, d []byte, kind byte, strange []byte, cut uint16) {
		if len(d) < 2 || len(d) > longest {
			return
		}
		var h halves
		b := make([]byte, 2<<10)
		if n := h.join(b, kind, strange); n > len(strange) {
			t.Fatalf("%d of %d bytes", n, len(strange))
		}
		half := 1 + int(cut)%(len(d)-1)
		if n := h.join(b, partFirst|9, d[:half]); n != 0 {
			t.Fatalf("a half alone has %d bytes", n)
		}
		if n := h.join(b, partSecond|10, d[half:]); n != 0 {
			t.Fatalf("a half of another one: %d bytes", n)
		}
		if n := h.join(b, partSecond|9, d[half:]); !bytes.Equal(b[:n], d) {
			t.Fatalf("got % x, want % x", b[:n], d)
		}
		if n := h.join(b, partSecond|9, d[half:]); n != 0 {
			t.Fatalf("twice: %d bytes", n)
		}
	})
}
