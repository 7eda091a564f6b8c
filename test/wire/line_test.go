package wire

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

// newTestLine makes a line with commands in force.
func newTestLine(t *testing.T, commands ...string) *line {
	t.Helper()
	l := newLine(1)
	for _, command := range commands {
		if err := l.faults.Set(command); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// put sends a frame of IPv4 and UDP with a number.
func put(l *line, now time.Duration, number uint32, size int) {
	b := l.room()[:size]
	clear(b)
	binary.BigEndian.PutUint16(b[12:], typeIPv4)
	b[ethernet] = 0x45
	b[ethernet+9] = protoUDP
	binary.BigEndian.PutUint32(b[ethernet+20:], number)
	l.take(now, size)
}

// An arrived frame.
type arrived struct {
	number uint32
	at     time.Duration
}

// drain lets the time pass until nothing is under way.
func drain(l *line) (all []arrived) {
	for {
		now, ok := l.next()
		if !ok {
			return all
		}
		frame := l.due(now)
		all = append(all, arrived{binary.BigEndian.Uint32(frame[ethernet+20:]), now})
		l.delivered()
	}
}

func numbers(all []arrived) (n []uint32) {
	for _, a := range all {
		n = append(n, a.number)
	}
	return n
}

func TestDelay(t *testing.T) {
	l := newTestLine(t, "delay 25ms")
	put(l, 3*ms, 1, 100)
	if l.due(28*ms-1) != nil {
		t.Error("the frame came early")
	}
	if l.due(28*ms) == nil {
		t.Error("the frame is late")
	}
	if next, ok := l.next(); next != 28*ms || !ok {
		t.Errorf("next is %s, %t", next, ok)
	}
}

// TestOrder: neither jitter nor a delay that becomes shorter lets a frame overtake another.
func TestOrder(t *testing.T) {
	l := newTestLine(t, "delay 20ms", "jitter 20ms")
	for i := range uint32(1000) {
		if i == 500 {
			l.faults.Delay = 0
		}
		put(l, time.Duration(i)*ms/10, i, 100)
	}
	all := drain(l)
	if len(all) != 1000 || !slices.IsSorted(numbers(all)) {
		t.Errorf("%d frames came, in order: %t", len(all), slices.IsSorted(numbers(all)))
	}
	late := all[400].at - 40*ms
	if late < 0 || late > 40*ms {
		t.Errorf("a delay of %s, want 0 to 40ms", late)
	}
}

func TestReorder(t *testing.T) {
	l := newTestLine(t, "delay 1ms", "reorder 10%")
	for i := range uint32(1000) {
		put(l, time.Duration(i)*ms, i, 100)
	}
	got := numbers(drain(l))
	overtakes := 0
	for i := 1; i < len(got); i++ {
		if got[i] < got[i-1] {
			overtakes++
		}
	}
	if len(got) != 1000 || overtakes < 50 || overtakes > 150 || l.stats.Reordered < 60 {
		t.Errorf("%d frames, %d overtaken, %+v", len(got), overtakes, l.stats)
	}
}

// TestShares: of 10,000 frames as many meet their fate as the percentage says, within four deviations.
func TestShares(t *testing.T) {
	for _, tt := range []struct {
		command string
		count   func(Stats) uint64
		came    int // less than sent
	}{
		{"loss 5%", func(s Stats) uint64 { return s.Lost }, -1},
		{"duplicate 5%", func(s Stats) uint64 { return s.Doubled }, 1},
		{"corrupt 5%", func(s Stats) uint64 { return s.Damaged }, 0},
		{"reorder 5%", func(s Stats) uint64 { return s.Reordered }, 0},
	} {
		l := newTestLine(t, tt.command)
		came := 0
		for i := range uint32(10_000) {
			put(l, time.Duration(i)*10*ms, i, 100)
			came += len(drain(l))
		}
		n := int(tt.count(l.stats))
		if n < 400 || n > 600 || came != 10_000+tt.came*n || int(l.stats.Delivered) != came {
			t.Errorf("%s: %d of 10000, %d came, %+v", tt.command, n, came, l.stats)
		}
	}
}

// TestDuplicate: both are the same frame.
func TestDuplicate(t *testing.T) {
	l := newTestLine(t, "duplicate 100%")
	put(l, 0, 7, 100)
	put(l, ms, 8, 100)
	want := []arrived{{7, 0}, {7, 0}, {8, ms}, {8, ms}}
	if got := drain(l); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestCorrupt: one bit is wrong, and it is not one of the Ethernet header.
func TestCorrupt(t *testing.T) {
	l := newTestLine(t, "corrupt 100%")
	for range 1000 {
		put(l, 0, 0, 60)
		want := [60]byte{12: 8, ethernet: 0x45, ethernet + 9: protoUDP}
		wrong := 0
		for i, b := range l.due(0) {
			for d := b ^ want[i]; d != 0; d &= d - 1 {
				wrong++
				if i < ethernet {
					t.Fatalf("byte %d is wrong", i)
				}
			}
		}
		if l.delivered(); wrong != 1 {
			t.Fatalf("%d bits are wrong", wrong)
		}
	}
}

// TestRate: 8 Mbit/s is one byte in a microsecond; what finds the queue full is gone, and the queue empties with the time.
func TestRate(t *testing.T) {
	l := newTestLine(t, "rate 8mbit", "queue 5000", "delay 10ms")
	for i := range uint32(10) {
		put(l, 0, i, 1000)
	}
	put(l, 2*ms, 10, 1000)
	want := []arrived{{0, 11 * ms}, {1, 12 * ms}, {2, 13 * ms}, {3, 14 * ms}, {4, 15 * ms}, {10, 16 * ms}}
	if got := drain(l); !slices.Equal(got, want) || l.stats.Queue != 5 {
		t.Errorf("%v, want %v; %+v", got, want, l.stats)
	}
}

// TestRateOverTime: 10 Mbit/s of frames of any size for a second are 1.25 MB.
func TestRateOverTime(t *testing.T) {
	l := newTestLine(t, "rate 10mbit")
	came := 0
	for now := time.Duration(0); now < time.Second; now += ms / 10 {
		put(l, now, 0, 400+int(now/ms*37)%1000)
		for frame := l.due(now); frame != nil; frame = l.due(now) {
			came += len(frame)
			l.delivered()
		}
	}
	if came < 1_240_000 || came > 1_251_500 {
		t.Errorf("%d bytes in a second, want 1250000", came)
	}
}

func TestMTU(t *testing.T) {
	l := newTestLine(t, "mtu 600")
	put(l, 0, 1, ethernet+600)
	put(l, 0, 2, ethernet+601)
	if got := numbers(drain(l)); !slices.Equal(got, []uint32{1}) || l.stats.Large != 1 {
		t.Errorf("%v came, %+v", got, l.stats)
	}
}

func TestDrop(t *testing.T) {
	frame := func(kind uint16, at int, protocol byte) []byte {
		b := make([]byte, 60)
		binary.BigEndian.PutUint16(b[12:], kind)
		b[at] = protocol
		return b
	}
	for _, tt := range []struct {
		name  string
		frame []byte
		want  Kind
	}{
		{"TCP", frame(typeIPv4, ethernet+9, 6), TCP},
		{"UDP over IPv6", frame(typeIPv6, ethernet+6, 17), UDP},
		{"ping", frame(typeIPv4, ethernet+9, 1), ICMP},
		{"ping over IPv6", frame(typeIPv6, ethernet+6, 58), ICMP},
		{"GRE", frame(typeIPv4, ethernet+9, 47), OtherIP},
		{"ARP", frame(typeARP, 20, 0), ARP},
		{"LLDP", frame(0x88cc, 20, 0), Other},
		{"short", make([]byte, 20), Other},
	} {
		for _, k := range []Kind{TCP, UDP, ICMP, OtherIP, ARP, Other, IP, All} {
			l := newLine(1)
			l.faults.Drop = k
			copy(l.room(), tt.frame)
			l.take(0, len(tt.frame))
			if got, want := l.stats.Dropped == 1, k&tt.want != 0; got != want {
				t.Errorf("%s meets 'drop %s': dropped %t, want %t", tt.name, k, got, want)
			}
		}
	}
}

func TestCut(t *testing.T) {
	l := newTestLine(t, "delay 1s", "rate 1mbit")
	put(l, 0, 1, 1000)
	l.cut()
	l.plugged = false
	put(l, 0, 2, 1000)
	l.plugged = true
	put(l, 0, 3, 1000)
	want := []arrived{{3, time.Second + 8*ms}}
	if got := drain(l); !slices.Equal(got, want) || l.stats.Cut != 2 {
		t.Errorf("%v, want %v; %+v", got, want, l.stats)
	}
}

// TestFull: what does not fit is dropped, and no room is lost.
func TestFull(t *testing.T) {
	l := newTestLine(t, "delay 1s", "duplicate 50%")
	for range 3 {
		for i := range uint32(2 * frames) {
			put(l, 0, i, 100)
		}
		if n := len(drain(l)); n != frames-1 {
			t.Fatalf("%d were under way, want %d", n, frames-1)
		}
	}
	if l.stats.Queue == 0 || len(l.free) != frames-1 {
		t.Errorf("%d free, %+v", len(l.free), l.stats)
	}
}

// TestSeed: the same seed is the same fate.
func TestSeed(t *testing.T) {
	fate := func(seed uint64) []arrived {
		l := newTestLine(t, "delay 5ms", "jitter 3ms", "loss 10%", "duplicate 10%", "reorder 10%")
		l.random = newLine(seed).random
		for i := range uint32(1000) {
			put(l, time.Duration(i)*ms, i, 100)
		}
		return drain(l)
	}
	if !slices.Equal(fate(1), fate(1)) {
		t.Error("the same seed has two fates")
	}
	if slices.Equal(fate(1), fate(2)) {
		t.Error("two seeds have the same fate")
	}
}

func TestLineAllocatesNothing(t *testing.T) {
	l := newTestLine(t, "delay 5ms", "jitter 3ms", "loss 1%", "duplicate 1%", "reorder 1%", "rate 1gbit")
	now := time.Duration(0)
	if n := testing.AllocsPerRun(1000, func() {
		now += ms
		put(l, now, 0, 1000)
		for l.due(now) != nil {
			l.delivered()
		}
	}); n != 0 {
		t.Errorf("%v allocations for a frame", n)
	}
}
