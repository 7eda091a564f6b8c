package forward

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

var goodSpecs = [][2]string{
	{"tcp://:8080", "10.0.3.4:80"},
	{"tcp://127.0.0.1:8080", "10.0.3.4:80"},
	{"tcp://[::1]:8080", "cam1:80"},
	{"tcp://:0", "10.0.3.4:80"},
	{"tcp://:8080+", "10.0.3.4:80"},
	{"tcp://:8080+1000?from=192.168.0.0/16,10.0.0.5&proxy=2&source=10.0.0.1", "10.0.3.4:80"},
	{"udp://:53", "10.0.3.4:53"},
	{"unix:///run/x.sock?proxy=1", "10.0.3.4:80"},
}

// What is written comes back as it was.
func TestParse(t *testing.T) {
	for _, s := range goodSpecs {
		spec, err := Parse(s[0], s[1])
		if err != nil || spec.From.String() != s[0] || spec.To.String() != s[1] {
			t.Errorf("%s: got %s and %s, %v", s, spec.From, spec.To, err)
		}
	}
}

func TestParseFaults(t *testing.T) {
	for _, tt := range []struct{ from, to, want string }{
		{"8080", "10.0.3.4:80", "no URL"},
		{"http://:80", "10.0.3.4:80", "unknown scheme"},
		{"tcp://8080", "10.0.3.4:80", "name a port"},
		{"tcp://:80800", "10.0.3.4:80", "not a port"},
		{"tcp://:+5", "10.0.3.4:80", "not a port"},
		{"tcp://:0+", "10.0.3.4:80", "next free port"},
		{"tcp://:80+x", "10.0.3.4:80", "next free port"},
		{"tcp://host:80", "10.0.3.4:80", "no address of this host"},
		{"tcp://:80?from=10.0.0.1/8", "10.0.3.4:80", "write 10.0.0.0/8"},
		{"tcp://:80?from=", "10.0.3.4:80", "no network"},
		{"tcp://:80?proxy=3", "10.0.3.4:80", "versions 1 and 2"},
		{"tcp://:80?porxy=1", "10.0.3.4:80", "unknown option"},
		{"tcp://:80?proxy=1&proxy=2", "10.0.3.4:80", "more than once"},
		{"udp://:80?proxy=1", "10.0.3.4:80", "leave out proxy"},
		{"unix://x.sock", "10.0.3.4:80", "whole path"},
		{"unix:///run/../x", "10.0.3.4:80", "whole path"},
		{"unix:///" + strings.Repeat("x", 107), "10.0.3.4:80", "longer than 107"},
		{"unix:///x?from=10.0.0.1", "10.0.3.4:80", "leave out from"},
		{"tcp://:80", "10.0.3.4", "10.0.3.4:80"},
		{"tcp://:80", ":80", "no port of a client"},
		{"tcp://:80", "10.0.3.4:0", "port 0"},
		{"tcp://:80", "0.0.0.0:80", "no address of a client"},
		{"tcp://:80?source=::1", "10.0.3.4:80", "one family"},
	} {
		if _, err := Parse(tt.from, tt.to); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s to %s: got %v, want %q", tt.from, tt.to, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range goodSpecs {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, from, to string) {
		spec, err := Parse(from, to)
		if err != nil {
			return
		}
		again, err := Parse(spec.From.String(), spec.To.String())
		if err != nil || again.From.String() != spec.From.String() || again.To != spec.To {
			t.Errorf("%q and %q became %s and %s, which are read as %s and %s, %v", from, to, spec.From, spec.To, again.From, again.To, err)
		}
	})
}

// vtunnel goes on with the next port, Penguin in strides of 1000 (facts 3.4: 80 busy: 1080, 2080).
func TestCandidates(t *testing.T) {
	take := func(port uint16, step, n int) (all []uint16) {
		for p := range candidates(port, step) {
			if all = append(all, p); len(all) == n {
				break
			}
		}
		return all
	}
	for _, tt := range []struct {
		port uint16
		step int
		want []uint16
	}{
		{8080, 0, []uint16{8080}},
		{8080, 1, []uint16{8080, 8081, 8082}},
		{65534, 1, []uint16{65534, 65535}},
		{80, 1000, []uint16{80, 1080, 2080}},
		{64080, 1000, []uint16{64080, 65080, 64081, 65081}},
	} {
		if got := take(tt.port, tt.step, len(tt.want)); !slices.Equal(got, tt.want) {
			t.Errorf("%d+%d: got %v, want %v", tt.port, tt.step, got, tt.want)
		}
	}
	if all := take(65535, 1, 100); len(all) != 1 {
		t.Errorf("%v after 65535", all)
	}
	if n := len(take(1, 1, 1<<20)); n != maxTries {
		t.Errorf("%d tries, want %d", n, maxTries)
	}
}

// vtunnel bug 1.4-4: a port that can not be bound is tried for ever. Here the next that is free is found, and said; and nothing is tried that can
// not help.
func TestVtunnelNextFreePort(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := addrPort(l.Addr()).Port()
	if taken == 65535 {
		taken--
	}
	f := open(t, fmt.Sprintf("tcp://127.0.0.1:%d+", taken), "10.0.3.4:80", Config{})
	if got := f.Bound().Port; got <= taken || f.Bound().Step != 0 {
		t.Errorf("bound %s, want a port behind %d", f.Bound(), taken)
	}
	c := Config{}
	c.setDefaults()
	for from, want := range map[string]struct {
		err  error
		text string
	}{
		fmt.Sprintf("tcp://127.0.0.1:%d", taken): {syscall.EADDRINUSE, "ss -tlnp sport = :" + strconv.Itoa(int(taken))},
		"tcp://192.0.2.1:0":                      {syscall.EADDRNOTAVAIL, "no address of this host"},
		"tcp://192.0.2.1:80+":                    {syscall.EADDRNOTAVAIL, "no address of this host"},
	} {
		spec, err := Parse(from, "10.0.3.4:80")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), &c, spec, 0); !errors.Is(err, want.err) || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: got %v, want %q", from, err, want.text)
		}
	}
}

// penguin bug 3.7-2 (issue 513): tcp and udp on one port.
func TestPenguinTCPAndUDPOnOnePort(t *testing.T) {
	f := open(t, "tcp://127.0.0.1:0", "10.0.3.4:80", Config{})
	g := open(t, fmt.Sprintf("udp://127.0.0.1:%d+", f.Bound().Port), "10.0.3.4:80", Config{})
	if f.Bound().Port != g.Bound().Port {
		t.Errorf("%s and %s", f.Bound(), g.Bound())
	}
}
