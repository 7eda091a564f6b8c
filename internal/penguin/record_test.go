package penguin

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ferry/internal/capture/pcap"
	"ferry/internal/packet"
	"ferry/internal/penguin/wire"
)

func TestLogs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	stop := b.host(t, HostConfig{Dir: dir})
	six := service(t, "[::1]:0", answerer(4, []byte("six")))
	four := service(t, "127.0.0.1:0", answerer(4, []byte("four!")))
	for _, to := range []string{six, four} {
		for range 2 {
			if _, err := ask(t, b.published(t, "tcp", to, ""), []byte("what")); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := dial(t, "tcp", b.published(t, "tcp", four, "")) // is there still at the end
	if _, err := c.Write([]byte("wh")); err != nil {
		t.Fatal(err)
	}
	data := func(name string) string {
		text, _ := os.ReadFile(filepath.Join(dir, name))
		return string(text)
	}
	name := "127.0.0.1_" + strings.Split(four, ":")[1]
	eventually(t, "all is written", func() bool { return strings.HasSuffix(data("vpn_data_"+name), ">>>wh") })
	stop()
	for file, want := range map[string]string{
		"vpn_data_" + name:     ">>>what<<<four!>>>what<<<four!>>>wh",
		"vpn_response_" + name: "four!four!",
		"vpn_" + name:          "4,5\n4,5\n2,0\n", // bug 2.5.9: what is interrupted is lost
		"vpn_data_" + strings.ReplaceAll(six, ":", "_"): ">>>what<<<six>>>what<<<six",
	} {
		if got := data(file); got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
	if !strings.HasPrefix("vpn_data_"+strings.ReplaceAll(six, ":", "_"), "vpn_data_[__1]_") {
		t.Errorf("%s", six)
	}
}

// A captured packet.
type captured struct {
	src, dst netip.AddrPort
	flags    uint8
	seq, ack uint32
	payload  string
	fromHost bool
}

func (c captured) String() string {
	return fmt.Sprintf("%s > %s %v flags %d seq %d ack %d %q", c.src, c.dst, c.fromHost, c.flags, c.seq, c.ack, c.payload)
}

// readCapture reads a capture, and checks all lengths and sums.
func readCapture(t *testing.T, path string) (all []captured) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < 24 || fmt.Sprintf("%x", b[:24]) != "a1b2c3d4"+"00020004"+"0000000000000000"+"0000ffff"+"00000001" {
		t.Fatalf("header %x", b[:min(24, len(b))])
	}
	b = b[24:]
	for len(b) > 0 {
		n := int(binary.BigEndian.Uint32(b[8:]))
		if n > pcap.MaxSnaplen || n != int(binary.BigEndian.Uint32(b[12:])) || binary.BigEndian.Uint32(b[4:]) >= 1e6 {
			t.Fatalf("record %x", b[:16])
		}
		all = append(all, parseFrame(t, b[16:16+n]))
		b = b[16+n:]
	}
	return all
}

func parseFrame(t *testing.T, f []byte) (c captured) {
	t.Helper()
	c.fromHost = bytes.Equal(f[6:12], hostMAC[:])
	ip := f[14:]
	header, protocol := 20, ip[9]
	src, dst := netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	if binary.BigEndian.Uint16(f[12:]) == 0x86dd {
		header, protocol = 40, ip[6]
		src, dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
	} else if packet.Checksum(ip[:20], 0) != 0 || int(binary.BigEndian.Uint16(ip[2:])) != len(ip) {
		t.Errorf("header %x", ip[:20])
	}
	body := ip[header:]
	if packet.Checksum(body, packet.PseudoSum(ip, protocol, len(body))) != 0 {
		t.Errorf("sum of %x", body)
	}
	c.src, c.dst = netip.AddrPortFrom(src, binary.BigEndian.Uint16(body)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(body[2:]))
	if protocol == protoUDP {
		c.payload = string(body[8:])
		return c
	}
	c.seq, c.ack, c.flags, c.payload = binary.BigEndian.Uint32(body[4:]), binary.BigEndian.Uint32(body[8:]), body[13], string(body[20:])
	return c
}

func TestCapture(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vpn.pcap")
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	stop := b.host(t, HostConfig{Capture: path})
	to := service(t, "127.0.0.1:0", answerer(4, []byte("answer")))
	at := b.published(t, "tcp", to, ",127.0.0.7:0,")
	c := dial(t, "tcp", at).(*net.TCPConn)
	if got := exchange(t, c, []byte("what")); string(got) != "answer" {
		t.Fatalf("got %q", got)
	}
	_ = c.Close()
	u := dial(t, "udp", b.published(t, "udp", packets(t, echoes), ",127.0.0.8:0"))
	exchange(t, u, []byte("datagram"))
	// Whatever the guest says after it has read the end of the stream is a packet of the flow.
	eventually(t, "the end is recorded", func() bool {
		f, _ := os.ReadFile(path)
		return len(f) >= 24+8*(16+54)+10+2*(16+42+8)
	})
	stop()
	got := readCapture(t, path)
	client := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.7"), c.LocalAddr().(*net.TCPAddr).AddrPort().Port())
	guest := netip.MustParseAddrPort(to)
	udpClient := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.8"), u.LocalAddr().(*net.UDPAddr).AddrPort().Port()) // bug: it is 0
	up := func(flags uint8, seq, ack uint32, payload string) captured {
		return captured{client, guest, flags, seq, ack, payload, true}
	}
	down := func(flags uint8, seq, ack uint32, payload string) captured {
		return captured{guest, client, flags, seq, ack, payload, false}
	}
	var tcp, udp []captured
	for _, c := range got {
		if c.dst == guest || c.src == guest {
			tcp = append(tcp, c)
		} else {
			udp = append(udp, c)
		}
	}
	want := []captured{
		up(flagSYN, 0, 0, ""), down(flagSYN|flagACK, 0, 1, ""), up(flagACK, 1, 1, ""),
		up(0, 1, 0, "what"), down(0, 1, 0, "answer"),
		up(flagFIN, 5, 0, ""), down(flagFIN|flagACK, 7, 6, ""), up(flagACK, 6, 8, ""),
	}
	if fmt.Sprint(tcp) != fmt.Sprint(want) {
		t.Errorf("got\n%v\nwant\n%v", tcp, want)
	}
	if len(udp) != 2 || udp[0].src != udpClient || udp[1].dst != udpClient || udp[0].payload != "datagram" || udp[1].payload != "datagram" || !udp[0].fromHost || udp[1].fromHost {
		t.Errorf("got %v", udp)
	}
}

// A chunk that no packet can hold is several, also with the headers of IPv6.
func TestCaptureSplits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pcap")
	b := newLab(t, dialects[0])
	w, err := openRecorder("", path, b.logger())
	if err != nil {
		t.Fatal(err)
	}
	p := wire.Publication{Guest: netip.MustParseAddrPort("[::1]:80"), Src: netip.MustParseAddrPort("[::1]:0")}
	r := w.begin(p, netip.MustParseAddrPort("[::1]:999"))
	all := random(100_000)
	r.toGuest(all)
	r.end()
	r.end()
	w.close()
	var got []byte
	for _, c := range readCapture(t, path) {
		if int(c.seq) != len(got) {
			t.Errorf("seq %d behind %d bytes", c.seq, len(got))
			break
		}
		if got = append(got, c.payload...); c.flags != 0 {
			break
		}
	}
	if !bytes.Equal(got, all) {
		t.Errorf("got %d bytes", len(got))
	}
}

// Where nothing can be written what passes goes on, and it is told.
func TestRecordFails(t *testing.T) {
	dir := t.TempDir()
	b := newLab(t, dialects[0])
	b.guest(t, GuestConfig{})
	b.host(t, HostConfig{Dir: dir})
	to := service(t, "127.0.0.1:0", answerer(4, []byte("answer")))
	name := strings.ReplaceAll(to, ":", "_")
	if err := os.Mkdir(filepath.Join(dir, "vpn_data_"+name), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, b.published(t, "tcp", to, ""), []byte("what")); string(got) != "answer" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	b.await(t, "written down no more")
	eventually(t, "the other files are written", func() bool {
		got, _ := os.ReadFile(filepath.Join(dir, "vpn_response_"+name))
		return string(got) == "answer"
	})
	full := newLab(t, dialects[0])
	err := RunHost(t.Context(), HostConfig{Events: full.events, Capture: "/dev/full"}, func() { t.Error("it is ready") })
	if err == nil {
		t.Error("a full disk is no error")
	}
}

// A guest may say more in one frame than any datagram holds. Nobody is sent that, and it does not make a packet of the capture that no program can read.
func TestCaptureOfLongReplies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vpn.pcap")
	b := newLab(t, dialects[0])
	l, err := net.Listen("unix", b.path+"_1234")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	longest := random(maxReply)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 1<<16)
		for n := 0; !bytes.HasSuffix(b[:n], []byte("what")); { // what is not asked before the answer may be dropped at the end
			m, err := c.Read(b[n:])
			if n += m; err != nil {
				return
			}
		}
		_, _ = c.Write(wire.AppendFrame(nil, random(maxReply+1)))
		_, _ = c.Write(wire.AppendFrame(nil, random(65535)))
		_, _ = c.Write(wire.AppendFrame(nil, longest))
		_, _ = c.Read(b) // until the flow ends
	}()
	stop := b.host(t, HostConfig{Capture: path})
	u := dial(t, "udp", b.published(t, "udp", "127.0.0.1:9", ""))
	if got := exchange(t, u, []byte("what")); !bytes.Equal(got, longest) {
		t.Errorf("got %d bytes", len(got))
	}
	stop()
	b.await(t, "datagrams_dropped=2")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lengths []int
	for raw = raw[24:]; len(raw) > 0; {
		n := int(binary.BigEndian.Uint32(raw[8:]))
		if n > pcap.MaxSnaplen || int(binary.BigEndian.Uint16(raw[16+14+2:]))+14 != int(binary.BigEndian.Uint32(raw[12:])) {
			t.Fatalf("record %x", raw[:16+20])
		}
		lengths = append(lengths, n)
		raw = raw[16+n:]
	}
	if fmt.Sprint(lengths) != fmt.Sprint([]int{14 + 28 + 4, pcap.MaxSnaplen}) {
		t.Errorf("packets of %v bytes", lengths)
	}
}

// A connection that is reset while something passes has ended once, in all files: what comes later was told nobody.
func TestRecordEndsOnce(t *testing.T) {
	dir := t.TempDir()
	b := newLab(t, dialects[0])
	w, err := openRecorder(dir, filepath.Join(dir, "pcap"), b.logger())
	if err != nil {
		t.Fatal(err)
	}
	p := wire.Publication{Guest: netip.MustParseAddrPort("127.0.0.1:80")}
	const connections = 300
	for range connections {
		r := w.begin(p, netip.MustParseAddrPort("127.0.0.1:999"))
		var copying sync.WaitGroup
		for range 4 {
			copying.Go(func() {
				for range 20 {
					r.fromGuest([]byte("x"))
				}
			})
		}
		for range 20 { // as fast as they are
			r.fromGuest([]byte("x"))
		}
		r.end()
		copying.Wait()
	}
	w.close()
	response, _ := os.ReadFile(filepath.Join(dir, "vpn_response_127.0.0.1_80"))
	summary, _ := os.ReadFile(filepath.Join(dir, "vpn_127.0.0.1_80"))
	total := 0
	for line := range strings.Lines(string(summary)) {
		var up, down int
		if _, err := fmt.Sscanf(line, "%d,%d\n", &up, &down); err != nil {
			t.Fatal(err)
		}
		total += down
	}
	ends := 0
	for _, c := range readCapture(t, filepath.Join(dir, "pcap")) {
		if c.flags == flagFIN {
			ends++
		}
		total -= len(c.payload)
	}
	if ends != connections || total != 0 || len(response) == 0 {
		t.Errorf("%d ends; the summary has %d bytes more than the capture, of %d", ends, total, len(response))
	}
}

// The bytes of records: whoever reads the files of the original reads these.
func TestCaptureBytes(t *testing.T) {
	four, six := netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("[2001:db8::1]:53")
	at := time.Unix(0x01020304, 5_000_999)
	tests := map[string]struct {
		s    segment
		want string
	}{
		"tcp": {segment{src: four, dst: netip.MustParseAddrPort("127.0.0.1:4000"), srcMAC: guestMAC, dstMAC: hostMAC, transport: wire.TCP, seq: 7, ack: 1, flags: flagSYN | flagACK},
			"01020304000013880000003600000036" + "484f535400004755455354000800" +
				"45000028000040004006f9cdc00002017f00000100500fa00000000700000001501200005ed80000"},
		"udp": {segment{src: netip.MustParseAddrPort("[::1]:4000"), dst: six, srcMAC: hostMAC, dstMAC: guestMAC, transport: wire.UDP, payload: []byte("what")},
			"01020304000013880000004200000042" + "475545535400484f5354000086dd" +
				"60000000000c11400000000000000000000000000000000120010db80000000000000000000000010fa00035000ce96977686174"},
	}
	for name, tt := range tests {
		if got := hex.EncodeToString(tt.s.appendRecord(nil, at)); got != tt.want {
			t.Errorf("%s: got  %s\nwant %s", name, got, tt.want)
		}
	}
	long := segment{src: four, dst: four, transport: wire.UDP, payload: make([]byte, 65535-28)}
	if b := long.appendRecord([]byte("x"), at); len(b) != 1+16+65535 || hex.EncodeToString(b[9:17]) != "0000ffff0001000d" {
		t.Errorf("a datagram that is too long: %d bytes, %x", len(b), b[9:17])
	}
}
