package cli

import (
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	var b strings.Builder
	err := Table(&b, []string{"NAME", "N", "SIZE", "STATE"}, [][]any{
		{"cam1", 7, Bytes(512), Good("connected")},
		{"längere", 1234, Bytes(1 << 20), Bad("\x1b]0;evil\a")},
		{"", 0, Bytes(0), ""},
	})
	const want = "" +
		"NAME        N      SIZE  STATE\n" +
		"cam1        7     512 B  connected\n" +
		"längere  1234  1.00 MiB  \ufffd]0;evil\ufffd\n" +
		"-           0       0 B  -\n"
	if got := b.String(); got != want || err != nil {
		t.Errorf("%v, got\n%s\nwant\n%s", err, got, want)
	}
	b.Reset()
	var f Fields
	f.Add("state", "up")
	f.Add("nothing", "")
	f.Add("fingerprint", "SHA256:x")
	if err := f.Write(&b); err != nil || b.String() != "state        up\nfingerprint  SHA256:x\n" {
		t.Errorf("%v, got\n%s", err, b.String())
	}
}

func TestUnits(t *testing.T) {
	for n, want := range map[Bytes]string{
		0: "0 B", 999: "999 B", 1000: "0.98 KiB", 1024: "1.00 KiB", 10240: "10.0 KiB", 1023 << 10: "1.00 MiB", 100 << 20: "100 MiB", 5 << 40: "5.00 TiB", 1<<64 - 1: "16384 PiB",
	} {
		if got := n.String(); got != want {
			t.Errorf("%d: got %s, want %s", uint64(n), got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m 01s", 3*time.Hour + 4*time.Minute: "3h 04m", 49 * time.Hour: "2d 01h",
	} {
		if got := Age(time.Now().Add(-d)); got != want {
			t.Errorf("%s: got %s, want %s", d, got, want)
		}
	}
	if got := Counts(map[string]uint64{"b": 1, "c": 9, "a": 1}); got != "c 9, a 1, b 1" {
		t.Errorf("got %s", got)
	}
}
