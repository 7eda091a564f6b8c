package rawvpn

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vectors reads the records of the protocol's test vectors; their README has the format.
func vectors(t *testing.T) (all []map[string]string) {
	t.Helper()
	files, err := filepath.Glob("../../internal/proto/testdata/vectors/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for record := range strings.SplitSeq(string(text), "\n\n") {
			v := map[string]string{}
			for line := range strings.Lines(record) {
				if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && key != "#" {
					v[key] = value
				}
			}
			all = append(all, v)
		}
	}
	return all
}

// bytesOf returns what a vector has as hex.
func bytesOf(t *testing.T, v map[string]string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(v["hex"], " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReadItem reads what a server sends in the vectors, off a connection.
func TestReadItem(t *testing.T) {
	kinds := map[string]Kind{"data": KindPacket, "ipv4": KindPacket, "unknown": KindOther}
	seen := 0
	for _, v := range vectors(t) {
		if v["from"] != "server" || v["kind"] == "close" {
			continue
		}
		seen++
		t.Run(v["name"], func(t *testing.T) {
			want, known := kinds[v["kind"]]
			if !known {
				want = Kind(v["kind"])
			}
			b := bytesOf(t, v)
			near, far := net.Pipe()
			defer near.Close()
			go func() { // ends with the pipe
				_, _ = far.Write(append(b, Keepalive(7)...))
			}()
			c := New(near)
			if item, err := c.ReadItem(); err != nil || item.Kind != want || !bytes.Equal(item.Raw, b) {
				t.Fatalf("got %s % x, %v, want %s", item.Kind, item.Raw, err, want)
			}
			if item, err := c.ReadItem(); err != nil || item.Kind != KindKeepalive {
				t.Errorf("behind it: got %s, %v, want a keepalive", item.Kind, err)
			}
		})
	}
	if seen < 5 {
		t.Errorf("%d vectors from a server", seen)
	}
}

// TestBytes compares what a client sends with the vectors.
func TestBytes(t *testing.T) {
	static, last := netip.MustParseAddr("10.0.3.4"), netip.MustParseAddr("10.0.254.254")
	tests := map[string][]byte{
		"dynamic request of the 2013 client":                         Ask{}.Bytes(),
		"static request for 10.0.3.4":                                Ask{Static: static}.Bytes(),
		"keepalive":                                                  Keepalive(0),
		"offer: super-packets, configuration, ping, goodbye":         Ask{Features: All}.Bytes(),
		"offer with the address held before as a hint: 10.0.254.254": Ask{Features: All | 1<<5, Hint: last}.Bytes(),
		"hello with a name":                                          Ask{Features: All, Name: "cam1"}.Bytes()[controlLen:],
	}
	for _, v := range vectors(t) {
		if v["name"] == "data frame with a bare header: the packet is complete" {
			b := bytesOf(t, v)
			if got := DataFrame(b[frameLen+offloadLen:]); !bytes.Equal(got, b) {
				t.Errorf("got % x, want % x", got, b)
			}
		}
		got, tested := tests[v["name"]]
		if !tested {
			continue
		}
		delete(tests, v["name"])
		if want := bytesOf(t, v); !bytes.Equal(got, want) {
			t.Errorf("%s: got % x, want % x", v["name"], got, want)
		}
	}
	for name := range tests {
		t.Errorf("no vector %q", name)
	}
}

func TestIntact(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2")
	for name, ip := range map[string][]byte{
		"UDP":       Datagram(a, b, []byte("odd")),
		"ICMP":      Echo(a.Addr(), b.Addr(), 1, 2, []byte("even")),
		"no layer4": IPv4(a.Addr(), b.Addr(), 99, nil),
	} {
		if err := Intact(ip); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for i := range ip {
			bad := bytes.Clone(ip)
			bad[i] ^= 0x04
			if err := Intact(bad); err == nil {
				t.Errorf("%s: byte %d was changed, and nobody saw it", name, i)
			}
		}
	}
}

// TestTimeout: no read waits for ever, and a read that found nothing can be tried again.
func TestTimeout(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	c := New(near)
	c.Timeout = 10 * time.Millisecond
	if _, err := c.ReadItem(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v, want a timeout", err)
	}
	go func() { _, _ = far.Write(Keepalive(1)) }()
	c.Timeout = DefaultTimeout
	if item, err := c.ReadItem(); err != nil || item.Kind != KindKeepalive {
		t.Errorf("got %v, %v", item, err)
	}
}
