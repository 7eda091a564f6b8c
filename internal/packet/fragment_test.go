package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

// Options: record route (not copied), no-operation, loose source route (copied, type 131).
var mixedOptions = []byte{7, 7, 4, 0, 0, 0, 0, 1, 131, 7, 4, 192, 0, 2, 9, 0}

func TestAppendFragments(t *testing.T) {
	tests := []struct {
		name  string
		s     spec
		mtu   int
		sizes []int // of the fragments
	}{
		{"fits", spec{payload: numbers(80)}, 100, []int{100}},
		{"one byte too much", spec{payload: numbers(81)}, 100, []int{100, 21}},
		{"parts of 8 bytes", spec{payload: numbers(200)}, 103, []int{100, 100, 60}},
		{"last part needs all of the mtu", spec{payload: numbers(163)}, 103, []int{100, 103}},
		{"longest through the smallest link", spec{payload: numbers(65515)}, 68, nil},
		{"first fragment again", spec{fragment: moreFragments, payload: numbers(160)}, 100, []int{100, 100}},
		{"middle fragment again", spec{fragment: moreFragments | 100, payload: numbers(160)}, 100, []int{100, 100}},
		{"last fragment again", spec{fragment: 100, payload: numbers(101)}, 100, []int{100, 41}},
		{"options", spec{options: mixedOptions, payload: numbers(160)}, 100, []int{100, 100, 52}},
		{"no room", spec{options: make([]byte, 40), payload: numbers(160)}, 67, []int{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.s.proto = protoICMP
			sizes := checkFragments(t, tt.s.ip(), tt.mtu)
			if tt.sizes != nil && !slices.Equal(sizes, tt.sizes) {
				t.Errorf("got %v, want %v", sizes, tt.sizes)
			}
		})
	}
}

// checkFragments fragments ip, puts it together again and returns the lengths of the fragments.
func checkFragments(t *testing.T, ip []byte, mtu int) []int {
	t.Helper()
	out := AppendFragments([]byte("abc"), ip, mtu)
	if string(out[:3]) != "abc" {
		t.Fatalf("dst begins with %q", out[:3])
	}
	var sizes []int
	var payload []byte
	whole := IPv4(ip)
	fragments := split(t, out[3:])
	for i, b := range fragments {
		p := IPv4(b)
		sizes = append(sizes, len(b))
		mustCheck(t, Offload{}, b)
		if len(b) > mtu {
			t.Errorf("fragment %d has %d bytes, mtu %d", i, len(b), mtu)
		}
		if len(ip) > mtu {
			verifyHeader(t, b)
		}
		if got, want := p.FragmentOffset(), whole.FragmentOffset()+len(payload); got != want {
			t.Errorf("fragment %d begins at %d, want %d", i, got, want)
		}
		if got, want := p.MoreFragments(), whole.MoreFragments() || i < len(fragments)-1; got != want {
			t.Errorf("fragment %d: more fragments %v, want %v", i, got, want)
		}
		if !bytes.Equal(b[4:6], ip[4:6]) || !bytes.Equal(b[8:10], ip[8:10]) || !bytes.Equal(b[12:20], ip[12:20]) || b[1] != ip[1] {
			t.Errorf("fragment %d: header % x, want % x", i, b[:20], ip[:20])
		}
		if i == 0 && !bytes.Equal(b[20:p.HeaderLen()], ip[20:whole.HeaderLen()]) {
			t.Errorf("options % x, want % x", b[20:p.HeaderLen()], ip[20:whole.HeaderLen()])
		}
		payload = append(payload, b[p.HeaderLen():]...)
	}
	if len(fragments) > 0 && !bytes.Equal(payload, ip[whole.HeaderLen():]) {
		t.Error("the payload is not the same")
	}
	return sizes
}

// Found by FuzzFragments: no checksum is made right that was wrong, unless it has to be made anew.
func TestWhatFitsIsLeftAlone(t *testing.T) {
	ip := but(spec{payload: numbers(80)}.ip(), 10, 0)
	if out := AppendFragments(nil, ip, 100); !bytes.Equal(out, ip) {
		t.Errorf("got % x, want % x", out, ip)
	}
}

func TestFragmentOptions(t *testing.T) {
	tests := []struct {
		name string
		opts []byte
		want []byte
	}{
		{"none", nil, nil},
		{"mixed", mixedOptions, []byte{131, 7, 4, 192, 0, 2, 9, 0}},
		{"none copied", []byte{7, 7, 4, 0, 0, 0, 0, 1}, nil},
		{"behind the end", []byte{0, 148, 4, 0}, nil},
		{"router alert", []byte{148, 4, 0, 0}, []byte{148, 4, 0, 0}},
		{"without a length", []byte{148, 4, 0, 0, 1, 1, 1, 131}, []byte{148, 4, 0, 0}},
		{"length 0", []byte{131, 0, 148, 4}, nil},
		{"length too long", []byte{131, 5, 0, 0}, nil},
	}
	for _, tt := range tests {
		ip := spec{options: tt.opts, payload: numbers(100)}.ip()
		fragments := split(t, AppendFragments(nil, ip, 92))
		second := IPv4(fragments[1])
		if got := second[20:second.HeaderLen()]; !bytes.Equal(got, tt.want) {
			t.Errorf("%s: got % x, want % x", tt.name, got, tt.want)
		}
	}
}

// FuzzFragments: fragments of what passes Check are packets, and give the payload again.
func FuzzFragments(f *testing.F) {
	f.Add(spec{options: mixedOptions, payload: numbers(300)}.ip(), uint16(100))
	f.Add(spec{fragment: moreFragments | 5, payload: numbers(304)}.ip(), uint16(0))
	f.Add(spec{fragment: 8100, payload: numbers(700)}.ip(), uint16(33))
	f.Fuzz(func(t *testing.T, ip []byte, mtu uint16) {
		if _, err := Check(Offload{}, ip); err != nil || ip[0]>>4 != 4 {
			return
		}
		checkFragments(t, ip, 68+int(mtu))
	})
}

func TestAppendFragNeeded(t *testing.T) {
	from := netip.MustParseAddr("10.0.254.253")
	ip := spec{proto: protoUDP, fragment: dontFragment, payload: numbers(1400)}.ip()
	out := AppendFragNeeded([]byte("abc"), ip, 1280, from)[3:]
	mustCheck(t, Offload{}, out)
	verifyHeader(t, out)
	if p := IPv4(out); p.Src() != from || p.Dst() != IPv4(ip).Src() || p.Protocol() != protoICMP || len(p) != 576 {
		t.Errorf("%v -> %v, protocol %d, %d bytes", p.Src(), p.Dst(), p.Protocol(), len(p))
	}
	icmp := out[20:]
	if icmp[0] != 3 || icmp[1] != 4 || binary.BigEndian.Uint32(icmp[4:]) != 1280 || slowSum(icmp) != 0xffff {
		t.Errorf("ICMP % x, sum %#x", icmp[:8], slowSum(icmp))
	}
	if !bytes.Equal(icmp[8:], ip[:548]) {
		t.Error("the quote is not the beginning of the packet")
	}
	short := spec{proto: protoUDP, payload: numbers(81)}.ip()
	if out := AppendFragNeeded(nil, short, 100000, from); len(out) != 28+len(short) || slowSum(out[20:]) != 0xffff || out[26] != 0xff {
		t.Errorf("short packet: % x", out)
	}
}

func TestAppendTimeExceeded(t *testing.T) {
	from := netip.MustParseAddr("10.0.254.253")
	ip := spec{proto: protoUDP, payload: numbers(100)}.ip()
	out := AppendTimeExceeded([]byte("abc"), ip, from)[3:]
	mustCheck(t, Offload{}, out)
	verifyHeader(t, out)
	icmp := out[20:]
	if p := IPv4(out); p.Src() != from || p.Dst() != IPv4(ip).Src() || icmp[0] != 11 || icmp[1] != 0 || binary.BigEndian.Uint32(icmp[4:]) != 0 || slowSum(icmp) != 0xffff || !bytes.Equal(icmp[8:], ip) {
		t.Errorf("%v -> %v, ICMP % x, sum %#x", p.Src(), p.Dst(), icmp[:8], slowSum(icmp))
	}
	if again := AppendTimeExceeded(nil, out, from); again != nil {
		t.Error("an error is answered by an error")
	}
}

func TestAppendFragNeededIsSilent(t *testing.T) {
	from := netip.MustParseAddr("10.0.254.253")
	addr := func(at int, a, b, c, d byte) []byte {
		ip := udp.ip()
		copy(ip[at:], []byte{a, b, c, d})
		return ip
	}
	message := func(t byte) []byte { return spec{proto: protoICMP, payload: []byte{t, 0}}.ip() }
	tests := []struct {
		name   string
		ip     []byte
		from   netip.Addr
		silent bool
	}{
		{"UDP", udp.ip(), from, false},
		{"first fragment", spec{proto: protoUDP, fragment: moreFragments, payload: numbers(8)}.ip(), from, false},
		{"later fragment", spec{proto: protoUDP, fragment: moreFragments | 1, payload: numbers(8)}.ip(), from, true},
		{"last fragment", spec{proto: protoUDP, fragment: 1, payload: numbers(8)}.ip(), from, true},
		{"echo", message(8), from, false},
		{"echo reply", message(0), from, false},
		{"unreachable", message(3), from, true},
		{"source quench", message(4), from, true},
		{"redirect", message(5), from, true},
		{"time exceeded", message(11), from, true},
		{"parameter problem", message(12), from, true},
		{"timestamp", message(13), from, false},
		{"ICMP without a type", spec{proto: protoICMP}.ip(), from, true},
		{"to multicast", addr(16, 224, 0, 0, 1), from, true},
		{"to the last multicast address", addr(16, 239, 255, 255, 255), from, true},
		{"to class E", addr(16, 240, 0, 0, 1), from, false},
		{"to broadcast", addr(16, 255, 255, 255, 255), from, true},
		{"from nobody", addr(12, 0, 0, 0, 0), from, true},
		{"from this network", addr(12, 0, 0, 0, 7), from, true},
		{"from loopback", addr(12, 127, 0, 0, 1), from, true},
		{"from multicast", addr(12, 224, 0, 0, 1), from, true},
		{"from broadcast", addr(12, 255, 255, 255, 255), from, true},
		{"by an IPv6 address", udp.ip(), netip.IPv6Loopback(), true},
		{"by nobody", udp.ip(), netip.Addr{}, true},
	}
	for _, tt := range tests {
		out := AppendFragNeeded([]byte("abc"), tt.ip, 1280, tt.from)
		if got := len(out) == 3; got != tt.silent || string(out[:3]) != "abc" {
			t.Errorf("%s: silent %v, want %v", tt.name, got, tt.silent)
		}
	}
}

func TestFragmentsAllocate(t *testing.T) {
	dst := make([]byte, 0, 8000)
	ip := spec{proto: protoUDP, options: mixedOptions, payload: numbers(4000)}.ip()
	from := netip.MustParseAddr("10.0.254.253")
	n := testing.AllocsPerRun(100, func() {
		AppendFragments(dst, ip, 1280)
		AppendFragNeeded(dst, ip, 1280, from)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAppendFragments(b *testing.B) {
	ip := spec{proto: protoUDP, payload: numbers(65000)}.ip()
	dst := make([]byte, 0, 192<<10)
	b.SetBytes(int64(len(ip)))
	b.ReportAllocs()
	for b.Loop() {
		AppendFragments(dst, ip, 1500)
	}
}
