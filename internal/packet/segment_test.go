package packet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

func TestAppendSegments(t *testing.T) {
	const all = tcpFIN | tcpPSH | tcpCWR | 0x10
	tests := []struct {
		name  string
		s     spec
		size  int
		count int
	}{
		{"TCP", tcp, 1448, 3},
		{"TCP, last segment full", tcp, 1000, 4},
		{"TCP, last segment of one byte", tcp, 3999, 2},
		{"TCP, flags", spec{proto: protoTCP, tcpFlags: all, payload: numbers(300)}, 100, 3},
		{"TCP, numbers wrap", spec{proto: protoTCP, id: 0xfffe, seq: 0xffffff00, payload: numbers(1000)}, 100, 10},
		{"TCP, options of IP", spec{proto: protoTCP, options: numbers(40), tcpOpts: make([]byte, 40), payload: numbers(1000)}, 300, 4},
		{"TCP, as much as possible", spec{proto: protoTCP, payload: numbers(65495)}, 1460, 45},
		{"TCP over IPv6", tcp6, 1440, 3},
		{"UDP", udp, 1400, 3},
		{"UDP, odd sizes", spec{proto: protoUDP, payload: numbers(2001)}, 333, 7},
		{"UDP over IPv6", udp6, 1400, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ip := tt.s.ip()
			if got := checkSegments(t, mustCheck(t, tt.s.offload(tt.size), ip), ip); got != tt.count {
				t.Errorf("%d segments, want %d", got, tt.count)
			}
		})
	}
}

// The vectors were recorded from a kernel, so that our reading of it and its own can be compared.
func TestAsLinux(t *testing.T) {
	file, err := os.ReadFile("testdata/vectors/linux.txt")
	if err != nil {
		t.Fatal(err)
	}
	var name string
	var got, want []byte
	supers := 0
	compare := func() {
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %x\nwant %x", name, got, want)
		}
	}
	for line := range strings.Lines(string(file)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(strings.TrimSpace(value))
		switch {
		case key == "#":
			compare()
			name, got, want = value, nil, nil
		case key == "super" && err == nil:
			o, _ := ConsumeOffload(b)
			ip := b[OffloadLen:]
			got = AppendSegments(nil, mustCheck(t, o, ip), ip)
			supers++
		case key == "segment" && err == nil:
			want = append(want, b...)
		case line != "\n":
			t.Fatalf("line %q: %v", line, err)
		}
	}
	if compare(); supers < 7 {
		t.Errorf("%d vectors", supers)
	}
}

// checkSegments cuts ip, and compares the result with what RFC 9293 and RFC 768 say. It returns the
// number of segments.
func checkSegments(t testing.TB, o Offload, ip []byte) int {
	t.Helper()
	before := bytes.Clone(ip)
	out := AppendSegments([]byte("abc"), o, ip)
	if !bytes.Equal(ip, before) {
		t.Fatal("the super-packet changed")
	}
	if string(out[:3]) != "abc" {
		t.Fatalf("dst begins with %q", out[:3])
	}
	segments := split(t, out[3:])
	var payload []byte
	for i, seg := range segments {
		if most := MaxSegment(o, ip); len(seg) > most || i < len(segments)-1 && len(seg) != most {
			t.Errorf("segment %d of %d has %d bytes, MaxSegment %d", i, len(segments), len(seg), most)
		}
		first, last := i == 0, i == len(segments)-1
		checkSegment(t, o, ip, seg, len(payload), i, first, last)
		payload = append(payload, seg[o.HdrLen:]...)
	}
	if !bytes.Equal(payload, ip[o.HdrLen:]) {
		t.Error("the payload is not the same")
	}
	return len(segments)
}

func checkSegment(t testing.TB, o Offload, ip, seg []byte, at, i int, first, last bool) {
	t.Helper()
	verifyHeader(t, seg)
	start := int(o.CsumStart)
	proto := uint8(protoTCP)
	if o.GSOType == GSOUDPL4 {
		proto = protoUDP
	}
	verifyTransport(t, seg, start, proto)

	// What is left of the headers without the fields that differ must be as before.
	want, got := bytes.Clone(ip[:o.HdrLen]), bytes.Clone(seg[:o.HdrLen])
	var differ [][2]int
	if ip[0]>>4 == 4 {
		differ = [][2]int{{2, 6}, {10, 12}}
		if g, w := binary.BigEndian.Uint16(got[4:]), binary.BigEndian.Uint16(want[4:])+uint16(i); g != w {
			t.Errorf("segment %d: id %d, want %d", i, g, w)
		}
	} else {
		differ = [][2]int{{4, 6}}
	}
	if proto == protoTCP {
		if g, w := binary.BigEndian.Uint32(got[start+4:]), binary.BigEndian.Uint32(want[start+4:])+uint32(at); g != w {
			t.Errorf("segment %d: seq %d, want %d", i, g, w)
		}
		if !first {
			want[start+13] &= 0x7f // CWR
		}
		if !last {
			want[start+13] &= 0xf6 // PSH, FIN
		}
		differ = append(differ, [2]int{start + 4, start + 8}, [2]int{start + 16, start + 18})
	} else {
		if g := int(binary.BigEndian.Uint16(got[start+4:])); g != len(seg)-start {
			t.Errorf("segment %d: UDP length %d, want %d", i, g, len(seg)-start)
		}
		differ = append(differ, [2]int{start + 4, start + 8})
	}
	for _, d := range differ {
		clear(want[d[0]:d[1]])
		clear(got[d[0]:d[1]])
	}
	if !bytes.Equal(got, want) {
		t.Errorf("segment %d: headers % x, want % x", i, got, want)
	}
}

func TestAppendSegmentsCompletes(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    spec
	}{{"TCP", tcp}, {"UDP", udp}, {"TCP over IPv6", tcp6}, {"UDP over IPv6", udp6}} {
		ip := tt.s.ip()
		o := mustCheck(t, tt.s.offload(0), ip)
		out := AppendSegments([]byte("abc"), o, ip)
		if len(out) != 3+len(ip) || string(out[:3]) != "abc" {
			t.Fatalf("%s: %d bytes after %q", tt.name, len(out), out[:3])
		}
		verifyTransport(t, out[3:], int(o.CsumStart), tt.s.proto)
		complete := AppendSegments(nil, Offload{}, out[3:])
		if !bytes.Equal(complete, out[3:]) {
			t.Errorf("%s: a complete packet changed", tt.name)
		}
	}
}

// The two bytes of payload are chosen so that everything sums up to 0xffff, whose complement is 0.
func TestUDPChecksumIsNeverZero(t *testing.T) {
	for _, segment := range []bool{false, true} {
		s := spec{proto: protoUDP, payload: make([]byte, 16)}
		o := s.offload(0)
		if segment {
			o = s.offload(8)
		}
		one := spec{proto: protoUDP, payload: make([]byte, 16)}
		if segment {
			one.payload = one.payload[:8]
		}
		sum := slowSum(one.ip()[20:])
		binary.BigEndian.PutUint16(s.payload, ^sum)
		ip := s.ip()
		out := AppendSegments(nil, mustCheck(t, o, ip), ip)
		if check := binary.BigEndian.Uint16(out[26:]); check != 0xffff {
			t.Errorf("segment %v: got %#x, want 0xffff", segment, check)
		}
	}
}

// FuzzSegments: what comes out is the payload again, in segments with right headers.
func FuzzSegments(f *testing.F) {
	for kind := range uint8(4) {
		f.Add(kind, uint16(100), uint8(0), uint8(0), uint8(0x99), uint16(0xffff), uint32(0xfffffff0), numbers(1001))
		f.Add(kind, uint16(8), uint8(10), uint8(3), uint8(0x10), uint16(0), uint32(0), numbers(64))
	}
	f.Fuzz(func(t *testing.T, kind uint8, size uint16, options, tcpOpts, flags uint8, id uint16, seq uint32, payload []byte) {
		s := spec{v6: kind&1 != 0, proto: protoTCP, tcpFlags: flags, id: id, seq: seq, payload: payload}
		if kind&2 != 0 {
			s.proto = protoUDP
		}
		s.options = make([]byte, options%11*4)
		s.tcpOpts = make([]byte, tcpOpts%11*4)
		if len(payload) > 65535-120 || size < MinGSOSize || len(payload) > int(size)*MaxSegments {
			return
		}
		ip := s.ip()
		o := mustCheck(t, s.offload(int(size)), ip)
		if want := s.offload(int(size)); len(payload) > int(size) && o != want {
			t.Fatalf("got %+v, want %+v", o, want)
		}
		if o.GSOType != GSONone {
			checkSegments(t, o, ip)
			return
		}
		verifyTransport(t, AppendSegments(nil, o, ip), int(o.CsumStart), s.proto)
	})
}

func TestAppendSegmentsAllocates(t *testing.T) {
	dst := make([]byte, 0, 8000)
	for _, s := range []spec{tcp, udp6} {
		ip := s.ip()
		o := mustCheck(t, s.offload(1000), ip)
		n := testing.AllocsPerRun(100, func() { AppendSegments(dst, o, ip) })
		if n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

func BenchmarkAppendSegments(b *testing.B) {
	s := spec{proto: protoTCP, tcpOpts: make([]byte, 12), payload: numbers(65160)}
	for _, bb := range []struct {
		name string
		size int
	}{{"64KiB/1448", 1448}, {"64KiB/100", 100}, {"checksum", 0}} {
		b.Run(bb.name, func(b *testing.B) {
			ip := s.ip()
			o := mustCheck(b, s.offload(bb.size), ip)
			dst := make([]byte, 0, 192<<10)
			b.SetBytes(int64(len(ip)))
			b.ReportAllocs()
			for b.Loop() {
				AppendSegments(dst, o, ip)
			}
		})
	}
}
