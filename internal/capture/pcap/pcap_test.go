package pcap

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

const ping = "45000054abcd40004001750b0a0000020a0000030800f1f2123400070000"

func sample(t *testing.T) []byte {
	t.Helper()
	b, err := hex.DecodeString(ping)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes of the format.
func TestVector(t *testing.T) {
	b := IP.AppendRecord(IP.AppendHeader(nil, 128), time.Unix(0x01020304, 5_000_999), []byte{0x45, 0x00}, 84)
	want := "d4c3b2a1" + "0200" + "0400" + "00000000" + "00000000" + "80000000" + "65000000" +
		"04030201" + "88130000" + "02000000" + "54000000" + "4500"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	b = Ethernet.AppendRecord(Ethernet.AppendHeader(nil, 128), time.Unix(0x01020304, 5_000_999), []byte{0x48, 0x4f}, 84)
	want = "a1b2c3d4" + "0002" + "0004" + "00000000" + "00000000" + "00000080" + "00000001" +
		"01020304" + "00001388" + "00000002" + "00000054" + "484f"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("of frames: got  %s\nwant %s", got, want)
	}
	if _, err := NewReader(bytes.NewReader(b)); !errors.Is(err, ErrFormat) {
		t.Errorf("a file of frames is none of packets: %v", err)
	}
}

func TestRead(t *testing.T) {
	ip, at := sample(t), time.Unix(1000, 2000)
	file := IP.AppendRecord(IP.AppendRecord(IP.AppendHeader(nil, MaxSnaplen), at, ip, 84), at.Add(time.Second), ip[:20], 84)
	r, err := NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range []int{len(ip), 20} {
		p, err := r.Next()
		if err != nil || !p.Time.Equal(at.Add(time.Duration(i)*time.Second)) || p.Length != 84 || !bytes.Equal(p.Data, ip[:n]) {
			t.Errorf("packet %d: %v, %v", i, p, err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	cut, err := NewReader(bytes.NewReader(file[:len(file)-1]))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = cut.Next()
	if _, err := cut.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("within a packet: %v", err)
	}
	if _, err := NewReader(strings.NewReader(strings.Repeat("x", HeaderLen))); !errors.Is(err, ErrFormat) {
		t.Errorf("no capture: %v", err)
	}
	long := append(IP.AppendHeader(nil, MaxSnaplen), 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0)
	if r, err = NewReader(bytes.NewReader(long)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); !errors.Is(err, ErrFormat) {
		t.Errorf("4 GiB: %v", err)
	}
}

func TestLine(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.Local)
	tests := map[string]struct {
		ip     string
		length int
		want   string
	}{
		"echo":     {ping, 84, "IP 10.0.0.2 > 10.0.0.3: ICMP echo request, id 4660, seq 7, length 64"},
		"syn":      {"4500003c000040004006000001020304050607080050c0000000000a000000005002ffff00000000", 40, "IP 1.2.3.4.80 > 5.6.7.8.49152: Flags [S], seq 10, win 65535, length 0"},
		"data":     {"4500003c000040004006000001020304050607080050c0000000000a000000055018ffff00000000", 140, "IP 1.2.3.4.80 > 5.6.7.8.49152: Flags [P.], seq 10, ack 5, win 65535, length 100"},
		"udp":      {"4500001e0000400040110000010203040506070800351388000a0000", 30, "IP 1.2.3.4.53 > 5.6.7.8.5000: UDP, length 2"},
		"fragment": {"4500001e0000000a401100000102030405060708", 30, "IP 1.2.3.4 > 5.6.7.8: UDP, fragment at 80, length 10"},
		"gre":      {"4500001e00000000402f00000102030405060708", 30, "IP 1.2.3.4 > 5.6.7.8: protocol 47, length 10"},
		"cut":      {"4500", 30, "IP, length 30"},
		"options":  {"4f00003c0000400040060000010203040506070801", 84, "IP, length 84"},
	}
	for name, tt := range tests {
		b, err := hex.DecodeString(tt.ip)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := Line(Packet{Time: at, Data: b, Length: tt.length}), "03:04:05.000006 "+tt.want; got != want {
			t.Errorf("%s: got  %s\nwant %s", name, got, want)
		}
	}
}

// FuzzRead: a file of strangers is read to its end or an error, and each packet has a line.
func FuzzRead(f *testing.F) {
	b, err := hex.DecodeString(ping)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(IP.AppendRecord(IP.AppendHeader(nil, 100), time.Unix(1, 0), b, 84))
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := NewReader(bytes.NewReader(file))
		for err == nil {
			var p Packet
			if p, err = r.Next(); err == nil && Line(p) == "" {
				t.Error("no line")
			}
		}
	})
}
