package filter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"ferry/internal/capture/pcap"
	"ferry/internal/packet"
)

// packetOf makes a packet with a transport header of zeros, but for the ports.
func packetOf(protocol uint8, src, dst uint32, srcPort, dstPort uint16, fragment uint16, length int) packet.IPv4 {
	b := make([]byte, max(length, 40))
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[6:], fragment)
	binary.BigEndian.PutUint32(b[12:], src)
	binary.BigEndian.PutUint32(b[16:], dst)
	binary.BigEndian.PutUint16(b[20:], srcPort)
	binary.BigEndian.PutUint16(b[22:], dstPort)
	return b
}

// zoo has packets that differ in all that expressions ask.
func zoo() (all []packet.IPv4) {
	addrs := []uint32{0x0a000001, 0x0a000304, 0x0a010305, 0xc0a80001}
	ports := []uint16{53, 80, 443, 8000, 8040, 8081}
	for i, proto := range []uint8{tcp, udp, sctp, 1, 2, 47, 50, 51} {
		for j, src := range addrs {
			for k, dst := range addrs {
				for n, port := range ports {
					fragment := uint16(0)
					if (i+j+k+n)%7 == 0 {
						fragment = 185
					}
					all = append(all, packetOf(proto, src, dst, port, ports[(n+j+k)%len(ports)], fragment, 40+(i+j)*100))
				}
			}
		}
	}
	return all
}

func TestMatch(t *testing.T) {
	web := packetOf(tcp, 0x0a000304, 0xc0a80001, 40000, 80, 0, 100)
	for text, want := range map[string]bool{
		"":                              true,
		"ip":                            true,
		"tcp":                           true,
		"udp":                           false,
		"tcp port 80":                   true,
		"udp port 80":                   false,
		"src port 80":                   false,
		"dst port 80":                   true,
		"port 53 or 80":                 true,
		"port (53 or 80)":               true,
		"port 53 or (80)":               true,
		"not port 53 or 80":             true, // (not 53) or 80
		"udp or tcp and port 53":        false,
		"udp and port 53 or tcp":        true,
		"tcp or udp and port 53":        false, // from left to right
		"10.0.3.4":                      true,
		"10.0/16":                       true,
		"src net 10":                    true,
		"dst net 10":                    false,
		"src and dst net 10.0.0.0/8":    false,
		"net 10.0.0.0 mask 255.255.0.0": true,
		"portrange 90-70":               true,
		"ip proto 6":                    true,
		`proto \tcp or udp`:             true,
		"!(tcp&&dst host 192.168.0.1)":  false,
		"less 99":                       false,
		"less 100 and greater 100":      true,
	} {
		f, err := Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := f.Match(web); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]struct {
		at   int
		near string
	}{
		"prot 80":                   {0, "prot"},
		"tcp and":                   {7, ""},
		"port http":                 {5, "http"},
		"port 65536":                {5, "65536"},
		"host cam1":                 {5, "cam1"},
		"host fe80::1":              {5, "fe80::1"},
		"host 10.0.0.0/8":           {5, "10.0.0.0/8"},
		"net 10.0.0.1/8":            {4, "10.0.0.1/8"},
		"net 10.0.0.0 mask 1.0.0.1": {18, "1.0.0.1"},
		"tcp host 10.0.0.1":         {0, "tcp"},
		"ip port 80":                {0, "ip"},
		"(tcp":                      {4, ""},
		"tcp)":                      {3, ")"},
		"tcp udp":                   {4, "udp"},
		"tcp[13] & 2 != 0":          {3, "["},
		"portrange 80":              {10, "80"},
		"src proto 6":               {10, "6"},
		"port (80 and":              {12, ""},
		strings.Repeat("(", 100):    {64, "("},
		strings.Repeat("not ", 100): {256, "not"},
	} {
		_, err := Parse(text)
		var e *Error
		if !errors.As(err, &e) || e.At != want.at || e.Near != want.near {
			t.Errorf("%.40q: got %v; want it at %d, %q", text, err, want.at, want.near)
		}
	}
	if _, err := Parse(strings.Repeat("x", MaxLen+1)); err == nil {
		t.Error("a long one was taken")
	}
}

func TestMatchAllocates(t *testing.T) {
	f, err := Parse("tcp and (src net 10.0.0.0/8 or not port 80 or 443) and greater 60")
	if err != nil {
		t.Fatal(err)
	}
	ip := packetOf(tcp, 0x0a000304, 0xc0a80001, 40000, 80, 0, 100)
	if n := testing.AllocsPerRun(100, func() { f.Match(ip) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// random writes an expression that tcpdump takes, too.
func random(r *rand.Rand, depth int) string {
	pick := func(all ...string) string { return all[r.IntN(len(all))] }
	dir := func() string { return pick("", "", "src ", "dst ", "src or dst ", "src and dst ") }
	port := func() string { return pick("53", "80", "443", "8040", "9") }
	addr := func() string { return pick("10.0.0.1", "10.0.3.4", "10.1.3.5", "192.168.0.1", "1.2.3.4") }
	if depth > 0 && r.IntN(4) > 0 {
		a, b := random(r, depth-1), random(r, depth-1)
		switch r.IntN(5) {
		case 0:
			return "not " + a
		case 1:
			return "(" + a + ") " + pick("and ", "or ") + b
		}
		return a + pick(" and ", " or ", " && ", " || ") + b
	}
	switch r.IntN(9) {
	case 0:
		return pick("ip", "tcp", "udp", "icmp", "igmp", "sctp", "ah", "esp")
	case 1:
		return dir() + "host " + addr() + pick("", " or "+addr(), " and not "+addr())
	case 2:
		return dir() + "net " + pick("10", "10.0", "10.1.3", "10.0.0.0/8", "192.168.0.0/24", "10.0.0.0 mask 255.255.0.0", "0.0.0.0/0")
	case 3:
		return pick("", "tcp ", "udp ", "sctp ") + dir() + "port " + pick(port(), port()+" or "+port(), "("+port()+" or "+port()+")", "not "+port())
	case 4:
		return pick("", "tcp ", "udp ") + dir() + "portrange " + pick("80-443", "8000-8080", "8080-8000")
	case 5:
		return "ip proto " + pick("6", "17", "47", "6 or 17", "(6 or 17)", `\udp`)
	case 6:
		return pick("less ", "greater ") + pick("40", "140", "340", "1000")
	case 7:
		return pick("src ", "dst ") + addr()
	}
	return dir() + "host (" + addr() + " or " + addr() + ")"
}

// What tcpdump takes of a file, by the code that libpcap compiles, is what matches here.
func TestAsTcpdump(t *testing.T) {
	tool, err := exec.LookPath("tcpdump")
	if err != nil {
		t.Skip("tcpdump is not installed")
	}
	all := zoo()
	file := pcap.IP.AppendHeader(nil, pcap.MaxSnaplen)
	for i, ip := range all {
		file = pcap.IP.AppendRecord(file, time.Unix(int64(i), 0), ip, len(ip))
	}
	r := rand.New(rand.NewPCG(1, 2))
	matched := 0
	for i := range 300 {
		text := random(r, i%4)
		f, err := Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		var got []int64
		for i, ip := range all {
			if f.Match(ip) {
				got = append(got, int64(i))
			}
		}
		cmd := exec.Command(tool, "-r", "-", "-w", "-", text)
		cmd.Stdin = bytes.NewReader(file)
		var out, problem bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &problem
		err = cmd.Run()
		if err != nil && strings.Contains(problem.String(), "expression rejects all packets") {
			err = nil
			out.Write(pcap.IP.AppendHeader(nil, pcap.MaxSnaplen))
		}
		if err != nil {
			t.Errorf("%q: tcpdump: %v, %s", text, err, &problem)
			continue
		}
		want := times(t, out.Bytes())
		if !slices.Equal(got, want) {
			t.Errorf("%q: %d packets match, by tcpdump %d: %s", text, len(got), len(want), differ(all, got, want))
		}
		if n := len(got); n > 0 && n < len(all) {
			matched++
		}
	}
	if matched < 100 {
		t.Errorf("only %d expressions told packets apart", matched)
	}
}

// times returns the seconds of all records of a file.
func times(t *testing.T, file []byte) (all []int64) {
	t.Helper()
	r, err := pcap.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, err := r.Next()
		if err != nil {
			return all
		}
		all = append(all, p.Time.Unix())
	}
}

// differ shows the first packet about which two disagree.
func differ(all []packet.IPv4, got, want []int64) string {
	for i, ip := range all {
		if a, b := slices.Contains(got, int64(i)), slices.Contains(want, int64(i)); a != b {
			return fmt.Sprintf("here %v, there %v: % x", a, b, ip[:24])
		}
	}
	return ""
}

// FuzzParse: no text makes a parser that ends in anything but a filter or an error that says where.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"tcp port 80 or 443", "not (src net 10.0/16 and udp)", "src or dst host (10.0.3.4 or 10.0.3.5)", "portrange 1-2", "!ip proto \\tcp && less 9",
		"net 10.0.0.0 mask 255.0.0.0", "((((", "host", "10.0.0.1/33", "not not not tcp",
	} {
		f.Add(text)
	}
	all := zoo()
	f.Fuzz(func(t *testing.T, text string) {
		compiled, err := Parse(text)
		if err != nil {
			var e *Error
			if errors.As(err, &e) && (e.At < 0 || e.At > len(text) || e.Near != "" && !strings.HasPrefix(text[e.At:], e.Near)) {
				t.Errorf("%q: at %d is no %q", text, e.At, e.Near)
			}
			return
		}
		negated, err := Parse("not (" + text + ")")
		if err != nil {
			return // too long or too deep, or empty
		}
		for _, ip := range all[:32] {
			if compiled.Match(ip) == negated.Match(ip) {
				t.Fatalf("%q: it and its negation agree on % x", text, ip[:24])
			}
		}
	})
}
