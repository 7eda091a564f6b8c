package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ferry/internal/capture/filter"
	"ferry/internal/capture/pcap"
	"ferry/internal/packet"
	"ferry/internal/proto"
	"ferry/internal/router"
)

type sink struct{}

func (sink) Send([]byte) (int, router.Reason) { return 0, router.None }

var (
	addrA = netip.MustParseAddr("10.0.3.1")
	addrB = netip.MustParseAddr("10.0.3.2")
)

// A world is a router with two clients, and an exit.
type world struct {
	set           *Set
	a, b, exit    *router.Port
	fromA, fromEx *router.Forwarder
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		a: router.NewPort(1, router.Caps{Super: true}, sink{}), b: router.NewPort(2, router.Caps{Super: true}, sink{}),
		exit: router.NewPort(0, router.Caps{Super: true, Exit: true}, sink{}),
	}
	gateway := netip.MustParseAddr("10.0.0.1")
	table, err := router.NewSwitch(router.SwitchConfig{Pool: netip.MustParsePrefix("10.0.0.0/16"), Gateway: gateway, Exit: w.exit})
	if err != nil {
		t.Fatal(err)
	}
	table.Bind(w.a, addrA)
	table.Bind(w.b, addrB)
	var taps router.Taps
	all := new(router.Counters)
	w.set = NewSet(&taps)
	w.fromA = router.NewForwarder(table, w.a, all, gateway).Tapped(&taps)
	w.fromEx = router.NewForwarder(table, w.exit, all, gateway).Tapped(&taps)
	return w
}

// segment returns a data frame with a packet of TCP whose checksum is left to the hardware; with gso, a super-packet.
func segment(src, dst netip.Addr, port uint16, payload int, gso bool) []byte {
	const headers = 40
	ip := make([]byte, headers+payload)
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], packet.Checksum(ip[:20], 0))
	tcp := ip[20:]
	binary.BigEndian.PutUint16(tcp, 40000)
	binary.BigEndian.PutUint16(tcp[2:], port)
	tcp[12], tcp[13] = 5<<4, 0x10
	for i := range tcp[20:] {
		tcp[20+i] = byte(i * 7)
	}
	sum := packet.PseudoSum(ip, 6, len(tcp)) // what the kernel leaves in the field
	for sum>>16 > 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(tcp[16:], uint16(sum))
	o := packet.Offload{Flags: packet.NeedsCsum, CsumStart: 20, CsumOffset: 16}
	if gso {
		o.GSOType, o.HdrLen, o.GSOSize = packet.GSOTCPv4, headers, 1400
	}
	b := make([]byte, proto.DataHeaderLen)
	proto.PutDataHeader(b, len(ip))
	o.Put(b[proto.FrameHeaderLen:])
	return append(b, ip...)
}

func (w *world) send(f *router.Forwarder, frame []byte) {
	f.Frame(frame, 0, len(frame))
	f.Flush()
}

// A file is what a capture has written, when it has ended.
type file struct {
	c    *Capture
	b    bytes.Buffer
	done chan error
}

func (w *world) start(t testing.TB, o Options) *file {
	t.Helper()
	c, err := w.set.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	f := &file{c: c, done: make(chan error, 1)}
	go func() {
		f.done <- c.Run(context.Background(), func(b []byte) error { _, err := f.b.Write(b); return err })
	}()
	return f
}

func (f *file) packets(t *testing.T) (all []pcap.Packet) {
	t.Helper()
	if err := <-f.done; err != nil {
		t.Fatal(err)
	}
	r, err := pcap.NewReader(&f.b)
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		p.Data = bytes.Clone(p.Data)
		all = append(all, p)
	}
}

func mustParse(t testing.TB, text string) filter.Filter {
	t.Helper()
	f, err := filter.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// From client to client and from the exit: each capture has what it asked for, once.
func TestCapture(t *testing.T) {
	w := newWorld(t)
	all, toB, web, cut := w.start(t, Options{}), w.start(t, Options{Peers: []netip.Addr{addrB}}), w.start(t, Options{Filter: mustParse(t, "dst port 80")}),
		w.start(t, Options{Snaplen: 24})
	outside := netip.MustParseAddr("192.0.2.1")
	w.send(w.fromA, segment(addrA, addrB, 80, 10, false))
	w.send(w.fromA, segment(addrA, outside, 80, 10, false))
	w.send(w.fromEx, segment(outside, addrB, 22, 10, false))
	w.send(w.fromA, segment(addrB, addrA, 80, 10, false)) // a lie: refused, and not seen
	for _, tt := range []struct {
		name string
		file *file
		want string
	}{
		{"all", all, "10.0.3.1>10.0.3.2 10.0.3.1>192.0.2.1 192.0.2.1>10.0.3.2"},
		{"one peer", toB, "10.0.3.1>10.0.3.2 192.0.2.1>10.0.3.2"},
		{"a filter", web, "10.0.3.1>10.0.3.2 10.0.3.1>192.0.2.1"},
		{"cut", cut, "10.0.3.1>10.0.3.2 10.0.3.1>192.0.2.1 192.0.2.1>10.0.3.2"},
	} {
		tt.file.c.End()
		var got []string
		for _, p := range tt.file.packets(t) {
			got = append(got, packet.IPv4(p.Data).Src().String()+">"+packet.IPv4(p.Data).Dst().String())
			if n := len(p.Data); p.Length != 50 || tt.name == "cut" && n != 24 || tt.name != "cut" && n != 50 {
				t.Errorf("%s: %d bytes of %d", tt.name, n, p.Length)
			}
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, s, tt.want)
		}
	}
}

// tcpdump finds the checksums right that were left to the hardware, also those of super-packets, and the packets that travel have none yet.
func TestChecksums(t *testing.T) {
	tool, err := exec.LookPath("tcpdump")
	if err != nil {
		t.Skip("tcpdump is not installed")
	}
	w := newWorld(t)
	f := w.start(t, Options{})
	for _, frame := range [][]byte{segment(addrA, addrB, 80, 11, false), segment(addrA, addrB, 80, 60000, true)} {
		before := bytes.Clone(frame)
		w.send(w.fromA, frame)
		if !bytes.Equal(frame, before) {
			t.Error("a packet was changed on its way")
		}
	}
	f.c.End()
	if err := <-f.done; err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "-nvvr", "-")
	cmd.Stdin = &f.b
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if text := string(out); strings.Count(text, "(correct)") != 2 || strings.Contains(text, "bad cksum") {
		t.Errorf("%s", text)
	}
}

func TestLimits(t *testing.T) {
	w := newWorld(t)
	const record = pcap.RecordHeaderLen + 50
	for name, tt := range map[string]struct {
		o    Options
		want int
	}{
		"packets":      {Options{Packets: 3}, 3},
		"bytes":        {Options{Bytes: pcap.HeaderLen + 2*record}, 2},
		"nearly bytes": {Options{Bytes: pcap.HeaderLen + 2*record - 1}, 1},
	} {
		f := w.start(t, tt.o)
		for range 10 {
			w.send(w.fromA, segment(addrA, addrB, 80, 10, false))
		}
		if got := len(f.packets(t)); got != tt.want || f.c.Stats().Packets != uint64(tt.want) {
			t.Errorf("%s: %d packets, %v; want %d", name, got, f.c.Stats(), tt.want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if f := newWorld(t).start(t, Options{Time: time.Minute}); len(f.packets(t)) != 0 || time.Since(began) != time.Minute {
			t.Errorf("ended after %s", time.Since(began))
		}
	})
	var all []*file
	for range MaxCaptures {
		all = append(all, w.start(t, Options{}))
	}
	if _, err := w.set.Start(Options{}); !errors.Is(err, ErrFull) {
		t.Errorf("one too many: %v", err)
	}
	if err := w.set.End(all[0].c.Number()); err != nil {
		t.Error(err)
	}
	if <-all[0].done != nil || !errors.Is(w.set.End(all[0].c.Number()), ErrUnknown) {
		t.Error("it did not end")
	}
	w.set.Close()
	for _, f := range all[1:] {
		if err := <-f.done; err != nil {
			t.Error(err)
		}
	}
	if _, err := w.set.Start(Options{}); !errors.Is(err, ErrClosed) {
		t.Errorf("behind the end: %v", err)
	}
	if len(w.set.all) != 0 {
		t.Error("captures are left")
	}
}

// Who does not read loses packets of the capture alone, within bounds, and they are counted.
func TestFull(t *testing.T) {
	w := newWorld(t)
	c, err := w.set.Start(Options{})
	if err != nil {
		t.Fatal(err)
	}
	const size, n = 60040, 200
	frame := segment(addrA, addrB, 80, size-40, true)
	for range n {
		w.send(w.fromA, frame)
	}
	want := uint64(bufferSize / (size + pcap.RecordHeaderLen))
	if s := c.Stats(); s.Packets != want || s.Dropped != n-want {
		t.Errorf("got %v, want %d", s, want)
	}
	if got := w.a.Stats().Packets; got != n {
		t.Errorf("%d packets went their way", got)
	}
	broken := errors.New("broken")
	if err := c.Run(t.Context(), func([]byte) error { return broken }); err != broken {
		t.Error(err)
	}
	if len(w.set.all) != 0 {
		t.Error("the capture is left")
	}
}

// Nothing is allocated for a packet: without a capture, with one that has no room, and with one that takes no such packets.
func TestAllocations(t *testing.T) {
	w := newWorld(t)
	frame := segment(addrA, addrB, 80, 1000, false)
	check := func(what string) {
		t.Helper()
		if n := testing.AllocsPerRun(1000, func() { w.send(w.fromA, frame) }); n != 0 {
			t.Errorf("%s: %v allocations for each packet", what, n)
		}
	}
	check("off")
	f := w.start(t, Options{Filter: mustParse(t, "udp or port 443")})
	check("no match")
	f.c.End()
	<-f.done
	c, err := w.set.Start(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range bufferSize / 1000 {
		w.send(w.fromA, frame)
	}
	check("full")
	c.End()
	_ = c.Run(t.Context(), func([]byte) error { return nil })
}

// What a run costs while nobody looks, and while one capture takes it all.
func BenchmarkForward(b *testing.B) {
	for _, on := range []bool{false, true} {
		b.Run(map[bool]string{false: "off", true: "on"}[on], func(b *testing.B) {
			w := newWorld(b)
			if on {
				c, err := w.set.Start(Options{})
				if err != nil {
					b.Fatal(err)
				}
				done := make(chan error, 1)
				go func() { done <- c.Run(b.Context(), func([]byte) error { return nil }) }()
				defer func() { c.End(); <-done }()
			}
			frame := segment(addrA, addrB, 80, 60000, true)
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				w.send(w.fromA, frame)
			}
		})
	}
}
