package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
)

// A vector is a request and what it is on the wire.
type vector struct {
	name string
	r    Request
	b    []byte
}

func vectors(t testing.TB) (all []vector) {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		var r Request
		n := 3
		switch words[0] {
		case "forward":
			r = Request{Dst: netip.MustParseAddrPort(words[2]), Src: netip.MustParseAddrPort(words[3]), Routed: words[4] != "-"}
			if words[1] == "udp" {
				r.Transport = UDP
			}
			if r.Routed {
				r.Iface = words[4]
			}
			n = 5
		case "rawl3":
			protocol, err := strconv.Atoi(words[1])
			if err != nil {
				t.Fatal(err)
			}
			r = Request{Kind: RawL3, Protocol: uint8(protocol), Iface: words[2]}
		case "rawl2":
			r, n = Request{Kind: RawL2, Iface: words[1]}, 2
		}
		b, err := hex.DecodeString(strings.Join(words[n:], ""))
		if err != nil {
			t.Fatal(line, err)
		}
		all = append(all, vector{strings.Join(words[:n], " "), r, b})
	}
	if len(all) != 7 {
		t.Fatalf("got %d vectors", len(all))
	}
	return all
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		if got := AppendRequest(nil, v.r); !bytes.Equal(got, v.b) {
			t.Errorf("%s: got\n%x, want\n%x", v.name, got, v.b)
		}
		for _, more := range []string{"", "what a later one may add"} {
			if got, err := ParseRequest(append(v.b[LengthSize:len(v.b):len(v.b)], more...)); err != nil || got != v.r {
				t.Errorf("%s + %q: got %+v, %v", v.name, more, got, err)
			}
		}
		if got, n := ConsumeFrame(v.b); n != len(v.b) || !bytes.Equal(got, v.b[LengthSize:]) {
			t.Errorf("%s: the length says %d", v.name, n)
		}
	}
}

// A host of before 2026-06 sends no interface, which the original's guests take for an error; one of before 2025-02 no source either.
func TestBugVersionSkew(t *testing.T) {
	dst, src := netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("10.10.10.1:0")
	body := AppendRequest(nil, Request{Dst: dst, Src: src})[LengthSize:]
	for n, want := range map[int]Request{28: {Dst: dst, Src: src}, 18: {Dst: dst}} {
		if got, err := ParseRequest(body[:n]); err != nil || got != want {
			t.Errorf("%d bytes: got %+v, %v", n, got, err)
		}
	}
}

func TestBadRequests(t *testing.T) {
	good := AppendRequest(nil, Request{Dst: netip.MustParseAddrPort("192.0.2.1:80"), Routed: true, Iface: "wan0"})[LengthSize:]
	for n := range good {
		if n == 18 || n == 28 {
			continue // version skew
		}
		if r, err := ParseRequest(good[:n]); !errors.Is(err, ErrRequest) {
			t.Errorf("%d bytes: got %+v, %v", n, r, err)
		}
	}
	for name, change := range map[string]struct {
		at int
		to byte
	}{"kind": {0, 3}, "family": {4, 2}, "transport": {14, 2}, "option": {28, 2}, "length of a name": {29, 5}, "length beyond memory": {36, 0xff}} {
		b := bytes.Clone(good)
		b[change.at] = change.to
		if r, err := ParseRequest(b); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.b[LengthSize:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := ParseRequest(body)
		if err != nil {
			return
		}
		again, err := ParseRequest(AppendRequest(nil, r)[LengthSize:])
		if r.Kind == Forward && !r.Src.IsValid() {
			r.Src = netip.AddrPortFrom(Unspecified(r.Dst.Addr()), 0)
		}
		if len(body) <= MaxRequest && (err != nil || again != r) {
			t.Errorf("%x: got %+v, then %+v, %v", body, r, again, err)
		}
	})
}

func TestPublications(t *testing.T) {
	a := netip.MustParseAddrPort
	web := Publication{Guest: a("192.0.2.1:80"), Host: a("0.0.0.0:8080")}
	from := web
	from.Src = a("10.10.10.1:0")
	routed := from
	routed.Iface = "wan0"
	for line, want := range map[string]Publication{
		"tcp,192.0.2.1:80,0.0.0.0:8080":                         web,
		"tcp,192.0.2.1:80,0.0.0.0:8080,10.10.10.1:0":            from,
		"tcp,192.0.2.1:80,0.0.0.0:8080,10.10.10.1:0,":           from,
		"tcp,192.0.2.1:80,0.0.0.0:8080,10.10.10.1:0,wan0":       routed,
		"tcp,192.0.2.1:80,0.0.0.0:8080,10.10.10.1:0,wan0,later": routed,
		"udp,[::]:53,[::1]:53,[::]:0,":                          {Transport: UDP, Guest: a("[::]:53"), Host: a("[::1]:53"), Src: a("[::]:0")},
	} {
		if got, err := ParsePublication(line); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", line, got, err)
		}
	}
	if !routed.Request().Routed || from.Request().Routed {
		t.Error("the interface is not where it belongs")
	}
	routed.Transport = UDP
	if routed.Request().Routed {
		t.Error("no interface carries UDP")
	}
}

func TestBadPublications(t *testing.T) {
	for _, line := range []string{
		"", "tcp", "tcp,192.0.2.1:80", "TCP,192.0.2.1:80,0.0.0.0:8080", "sctp,192.0.2.1:80,0.0.0.0:8080", "tcp,192.0.2.1,0.0.0.0:8080", "tcp,::1:444,0.0.0.0:8080",
		"tcp,router:80,0.0.0.0:8080", "tcp,192.0.2.1:80,0.0.0.0:80800", "tcp,192.0.2.1:80,0.0.0.0:8080,nowhere", "tcp,192.0.2.1:80,0.0.0.0:8080,[::1]:0", "tcp, 192.0.2.1:80,0.0.0.0:8080",
		"tcp,[fe80::1%eth0]:80,0.0.0.0:8080",
	} {
		if got, err := ParsePublication(line); err == nil {
			t.Errorf("%q: got %+v", line, got)
		}
	}
}

func FuzzParsePublication(f *testing.F) {
	f.Add("tcp,192.0.2.1:80,0.0.0.0:8080,10.10.10.1:0,wan0")
	f.Add("udp,[::]:53,[::1]:53")
	f.Fuzz(func(t *testing.T, line string) {
		if p, err := ParsePublication(line); err == nil {
			if _, err := ParseRequest(AppendRequest(nil, p.Request())[LengthSize:]); err != nil && len(line) < MaxRequest {
				t.Errorf("%q: its request is none: %v", line, err)
			}
		}
	})
}
