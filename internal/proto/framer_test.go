package proto

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// ipv4 returns a packet of n bytes; its payload begins with fill.
func ipv4(n int, src, dst string, fill ...byte) []byte {
	h := header(netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4())
	b := append(h[:], make([]byte, n-len(h))...)
	b[2], b[3] = byte(n>>8), byte(n)
	copy(b[len(h):], fill)
	return b
}

func ipv6(payload int, src string) []byte {
	b := make([]byte, 40+payload)
	b[0], b[4], b[5] = 0x60, byte(payload>>8), byte(payload)
	a := netip.MustParseAddr(src).As16()
	copy(b[8:], a[:])
	return b
}

// garbled returns a control packet whose other fields are what a stranger likes.
func garbled(b []byte, change func(b []byte)) []byte {
	b = bytes.Clone(b)
	change(b)
	return b
}

func dataFrame(ip []byte) []byte {
	b := make([]byte, DataHeaderLen, DataHeaderLen+len(ip))
	PutBareHeader(b, len(ip))
	return append(b, ip...)
}

var (
	dynamicRequest = AppendRequest(nil, Request{})
	staticRequest  = AppendRequest(nil, Request{Static: netip.MustParseAddr("10.0.3.4")})
	keepalive      = AppendKeepalive(nil)
	reply          = AppendReply(nil, dynamicRequest, Reply{Addr: netip.MustParseAddr("10.0.254.254")})
	both           = []Framer{{}, {FromServer: true}, {Extended: true}, {FromServer: true, Extended: true}}
)

// exam: M3, M8
func TestNext(t *testing.T) {
	client, server := Framer{}, Framer{FromServer: true}
	extended := Framer{Extended: true}
	pair := [2]string{"10.0.254.254", "10.0.254.253"}
	tests := []struct {
		name   string
		framer Framer
		b      []byte
		kind   Kind
		n      int // 0: more bytes are needed
		err    error
	}{
		{"nothing", client, nil, 0, 0, nil},
		{"dynamic request", client, dynamicRequest, KindRequest, 20, nil},
		{"static request", client, staticRequest, KindRequest, 20, nil},
		{"request with total length 65535", client, garbled(dynamicRequest, func(b []byte) { b[2], b[3] = 255, 255 }), KindRequest, 20, nil},
		{"request with header length 6 (M8)", client, garbled(dynamicRequest, func(b []byte) { b[0] = 0x46 }), KindRequest, 20, nil},
		{"request with header length 0", client, garbled(dynamicRequest, func(b []byte) { b[0] = 0x40 }), KindRequest, 20, nil},
		{"request with garbage in every free field", client, garbled(staticRequest, func(b []byte) { copy(b[1:12], "garbage....") }), KindRequest, 20, nil},
		{"reply", server, reply, KindReply, 20, nil},
		{"request reflected by a server", server, dynamicRequest, KindReply, 20, nil},
		{"keepalive", client, keepalive, KindKeepalive, 20, nil},
		{"keepalive from a server", server, keepalive, KindKeepalive, 20, nil},
		{"keepalive of version 15", client, garbled(keepalive, func(b []byte) { b[0] = 0xff }), KindKeepalive, 20, nil},
		{"keepalive of version 0", client, garbled(keepalive, func(b []byte) { b[0] = 0 }), KindKeepalive, 20, nil},
		{"19 bytes of a keepalive", client, keepalive[:19], 0, 0, nil},
		{"packet", client, ipv4(84, pair[0], pair[1]), KindIPv4, 84, nil},
		{"packet and a byte", client, append(ipv4(84, pair[0], pair[1]), 1), KindIPv4, 84, nil},
		{"packet without its last byte", client, ipv4(84, pair[0], pair[1])[:83], 0, 0, nil},
		{"largest packet", client, ipv4(65535, pair[0], pair[1]), KindIPv4, 65535, nil},
		{"source 0 from a client is no control packet", client, ipv4(20, "0.0.0.0", pair[1]), KindIPv4, 20, nil},
		{"destination 0 from a server is no control packet", server, ipv4(20, pair[0], "0.0.0.0"), KindIPv4, 20, nil},
		{"header length 4", client, garbled(ipv4(84, pair[0], pair[1]), func(b []byte) { b[0] = 0x44 }), 0, 0, ErrHeader},
		{"total length 19", client, garbled(ipv4(84, pair[0], pair[1]), func(b []byte) { b[3] = 19 }), 0, 0, ErrHeader},
		{"total length below header length", client, garbled(ipv4(84, pair[0], pair[1]), func(b []byte) { b[0], b[3] = 0x4f, 59 }), 0, 0, ErrHeader},
		{"router solicitation", client, ipv6(8, "fe80::1"), KindIPv6, 48, nil},
		{"IPv6 source that looks like a request", client, ipv6(8, "fe80::"), KindIPv6, 48, nil},
		{"IPv6 without payload", client, ipv6(0, "2001:db8::1"), KindIPv6, 40, nil},
		{"39 bytes of IPv6", client, ipv6(0, "2001:db8::1")[:39], 0, 0, nil},
		{"TLS", client, append([]byte{0x16, 3, 1}, make([]byte, 40)...), 0, 0, ErrNotIP},
		{"data frame nobody agreed upon", client, dataFrame(ipv4(84, pair[0], pair[1])), 0, 0, ErrNotIP},
		{"data frame", extended, dataFrame(ipv4(84, pair[0], pair[1])), KindData, 98, nil},
		{"data frame without a packet", extended, []byte{0x81, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0, 0, ErrFrame},
		{"largest data frame", extended, dataFrame(make([]byte, 65535)), KindData, MaxData, nil},
		{"data frame too long", extended, []byte{0x81, 1, 0, 10}, 0, 0, ErrFrame},
		{"ping", extended, AppendPing(nil, []byte("12345678")), KindPing, 12, nil},
		{"ping too long", extended, AppendPing(nil, make([]byte, MaxPing+1)), 0, 0, ErrFrame},
		{"pong", extended, AppendPong(nil, AppendPing(nil, []byte("1"))), KindPong, 5, nil},
		{"goodbye", extended, AppendGoodbye(nil, GoodbyeMessage{Reason: ReasonFull}), KindGoodbye, 7, nil},
		{"unknown frame", extended, []byte{0x80, 0, 0, 1, 9}, KindUnknown, 5, nil},
		{"unknown frame too long", extended, []byte{0x80, 0, 16, 1}, 0, 0, ErrFrame},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kind, n, err := tt.framer.Next(tt.b)
			if kind != tt.kind || n != tt.n || !errors.Is(err, tt.err) {
				t.Errorf("got kind %d, length %d, error %v; want %d, %d, %v", kind, n, err, tt.kind, tt.n, tt.err)
			}
		})
	}
}

// split runs the framer over b as if it came in chunks, the way a reading goroutine does.
func split(f Framer, b []byte, chunk func() int) (items [][]byte, kinds []Kind, err error) {
	var have []byte
	for {
		for {
			kind, n, err := f.Next(have)
			if err != nil {
				return items, kinds, err
			}
			if n == 0 {
				break
			}
			items, kinds = append(items, have[:n:n]), append(kinds, kind)
			have = have[n:]
		}
		if len(b) == 0 {
			return append(items, have), kinds, nil
		}
		n := min(max(chunk(), 1), len(b))
		have = append(have, b[:n]...)
		b = b[n:]
	}
}

// FuzzFramer: no panic, and the same items wherever the reads fall.
// exam: M1, M14
func FuzzFramer(f *testing.F) {
	var stream []byte
	for _, item := range [][]byte{
		dynamicRequest, staticRequest, keepalive, reply, ipv4(84, "10.0.0.1", "10.0.3.4"), ipv6(8, "fe80::1"),
		dataFrame(ipv4(1500, "10.0.0.1", "10.0.3.4")), AppendPing(nil, []byte("12345678")),
		AppendConfig(nil, PushedConfig{MTU: 1400, Idle: time.Minute}), AppendHello(nil, HelloMessage{Name: "x"}),
		AppendGoodbye(nil, GoodbyeMessage{Reason: ReasonHeld, RetryAfter: time.Second}),
	} {
		stream = append(stream, item...)
		f.Add(item, uint64(1))
	}
	f.Add(stream, uint64(2))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		for _, framer := range both {
			whole, kinds, err := split(framer, b, func() int { return len(b) })
			random := rand.New(rand.NewPCG(seed, 0))
			for _, chunk := range []func() int{
				func() int { return 1 },
				func() int { return random.IntN(100) },
			} {
				gotItems, gotKinds, gotErr := split(framer, b, chunk)
				if !equal(gotItems, whole) || !bytes.Equal(asBytes(gotKinds), asBytes(kinds)) || !errors.Is(gotErr, err) {
					t.Fatalf("%+v: result depends on chunks: %d items, error %v; whole: %d items, error %v", framer, len(gotItems), gotErr, len(whole), err)
				}
			}
			if err == nil && !bytes.Equal(bytes.Join(whole, nil), b) {
				t.Fatalf("%+v: bytes lost", framer)
			}
		}
	})
}

func equal(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func asBytes(kinds []Kind) (b []byte) {
	for _, k := range kinds {
		b = append(b, byte(k))
	}
	return b
}

func TestNextAllocatesNothing(t *testing.T) {
	b := dataFrame(ipv4(1500, "10.0.0.1", "10.0.3.4"))
	if n := testing.AllocsPerRun(100, func() { _, _, _ = Framer{Extended: true}.Next(b) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}
