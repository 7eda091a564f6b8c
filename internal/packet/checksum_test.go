package packet

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestChecksum(t *testing.T) {
	tests := []struct {
		name    string
		b       []byte
		initial uint32
		want    uint16
	}{
		{"nothing", nil, 0, 0xffff},
		{"initial alone", nil, 0x1fffe, 0},
		{"RFC 1071, section 3", []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, 0, ^uint16(0xddf2)},
		{"odd length counts as if followed by 0", []byte{0x12, 0x34, 0x56}, 0, ^uint16(0x6834)},
		{"RFC 1624, section 4, as a sum", []byte{0xcd, 0x7a, 0x55, 0x55, 0xdd, 0x2f}, 0, 0},
		{"each fold has a carry", []byte{0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff}, 0, ^uint16(0x0100)},
		{"all ones", bytes.Repeat([]byte{0xff}, 65535), 0xffffffff, ^uint16(0xff00)},
	}
	for _, tt := range tests {
		if got := Checksum(tt.b, tt.initial); got != tt.want {
			t.Errorf("%s: got %#04x, want %#04x", tt.name, got, tt.want)
		}
	}
}

// Bytes are mostly ones, so that nearly every addition has a carry.
func TestChecksumAsSlow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 600 {
		b := make([]byte, n)
		for i := range b {
			if b[i] = 0xff; r.IntN(n+1) < 8 {
				b[i] = byte(r.Uint32())
			}
		}
		initial := r.Uint32()
		s := int(slowSum(b)) + int(initial>>16) + int(initial&0xffff)
		want := ^slowSum([]byte{byte(s >> 24), byte(s >> 16), byte(s >> 8), byte(s)})
		if got := Checksum(b, initial); got != want {
			t.Fatalf("%d bytes % x, initial %#x: got %#04x, want %#04x", n, b, initial, got, want)
		}
	}
}

func TestPseudoSum(t *testing.T) {
	for _, s := range []spec{{proto: protoUDP}, {proto: protoTCP, options: make([]byte, 8)}, {v6: true, proto: protoTCP}} {
		ip := s.ip()
		got, want := fold(uint64(PseudoSum(ip, s.proto, 65515))), slowPseudo(ip, s.proto, 65515)
		if got != want {
			t.Errorf("%+v: got %#04x, want %#04x", s, got, want)
		}
	}
}

func BenchmarkChecksum(b *testing.B) {
	for name, n := range map[string]int{"20": 20, "1480": 1480, "65515": 65515} {
		b.Run(name, func(b *testing.B) {
			data := numbers(n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				Checksum(data, 0)
			}
		})
	}
}
