package packet

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// coalesce returns what a Coalescer makes of packets that stand back to back: super-packets, and their offloads.
func coalesce(t testing.TB, c *Coalescer, segments []byte) (os []Offload, ips [][]byte) {
	t.Helper()
	take := func() {
		if o, b := c.Take(); b != nil {
			os, ips = append(os, o), append(ips, bytes.Clone(b[c.Headroom:]))
		}
	}
	for _, seg := range split(t, segments) {
		if c.Add(seg) {
			continue
		}
		take()
		if !c.Add(seg) {
			os, ips = append(os, Offload{}), append(ips, bytes.Clone(seg))
		}
	}
	take()
	return os, ips
}

// What was cut becomes whole again, byte for byte.
func TestCoalesceSegments(outer *testing.T) {
	for _, headroom := range []int{0, 14} {
		c := &Coalescer{Headroom: headroom}
		rapid.Check(outer, func(t *rapid.T) {
			s := spec{
				proto: protoTCP, payload: numbers(rapid.IntRange(9, 60000).Draw(t, "payload")), id: rapid.Uint16().Draw(t, "id"),
				seq: rapid.Uint32().Draw(t, "seq"), tcpOpts: make([]byte, 4*rapid.IntRange(0, 10).Draw(t, "options")),
				tcpFlags: tcpACK | rapid.SampledFrom([]byte{0, tcpPSH, tcpFIN, tcpECE, tcpPSH | tcpFIN | tcpECE}).Draw(t, "flags"),
				fragment: rapid.SampledFrom([]uint16{0, dontFragment}).Draw(t, "fragment"),
			}
			ip := s.ip()
			size := rapid.IntRange(max(MinGSOSize, len(s.payload)/1000), min(1500, len(s.payload)-1)).Draw(t, "size")
			o, err := Check(s.offload(size), ip)
			if err != nil {
				t.Fatal(err)
			}
			os, ips := coalesce(outer, c, AppendSegments(nil, o, ip))
			if len(ips) != 1 || os[0] != o || !bytes.Equal(ips[0], ip) {
				t.Fatalf("%d packets; got %+v, want %+v", len(ips), os, o)
			}
			if again, err := Check(os[0], ips[0]); err != nil || again != o {
				t.Errorf("Check: %+v, %v", again, err)
			}
		})
	}
}

// What is no continuation stays by itself, as it came.
func TestCoalesceApart(t *testing.T) {
	whole := spec{proto: protoTCP, tcpFlags: tcpACK, tcpOpts: make([]byte, 12), payload: numbers(3000), fragment: dontFragment}
	two := AppendSegments(nil, mustCheck(t, whole.offload(1000), whole.ip()), whole.ip())[:2*1052]
	tests := map[string]func(second []byte){
		"another sequence number":    func(b []byte) { b[20+tcpSeq+3]++ },
		"another port":               func(b []byte) { b[21]++ },
		"another source":             func(b []byte) { b[ipv4Src]++ },
		"another destination":        func(b []byte) { b[ipv4Dst+3]++ },
		"another TTL":                func(b []byte) { b[8]-- },
		"another TOS":                func(b []byte) { b[1]++ },
		"another identification":     func(b []byte) { b[ipv4ID+1]++ },
		"may be fragmented":          func(b []byte) { b[ipv4Fragment] = 0 },
		"a fragment":                 func(b []byte) { b[ipv4Fragment] = 0x20 },
		"another acknowledgement":    func(b []byte) { b[20+tcpAck]++ },
		"another window":             func(b []byte) { b[20+14]++ },
		"another option":             func(b []byte) { b[20+20]++ },
		"an urgent pointer":          func(b []byte) { b[20+18]++ },
		"ECE":                        func(b []byte) { b[20+tcpFlags] |= tcpECE },
		"CWR":                        func(b []byte) { b[20+tcpFlags] |= tcpCWR },
		"SYN":                        func(b []byte) { b[20+tcpFlags] |= 2 },
		"RST":                        func(b []byte) { b[20+tcpFlags] |= 4 },
		"no ACK":                     func(b []byte) { b[20+tcpFlags] &^= tcpACK },
		"UDP":                        func(b []byte) { b[9] = protoUDP },
		"a header of another length": func(b []byte) { b[20+tcpOffset] = 0x70 },
	}
	resum := func(b []byte) {
		IPv4(b).sum()
		b[20+tcpChecksum], b[20+tcpChecksum+1] = 0, 0
		sum := Checksum(b[20:], PseudoSum(b, protoTCP, len(b)-20))
		b[20+tcpChecksum], b[20+tcpChecksum+1] = byte(sum>>8), byte(sum)
	}
	apart := func(name string, packets []byte) {
		t.Helper()
		c := &Coalescer{Headroom: 4}
		os, ips := coalesce(t, c, packets)
		if len(ips) != 2 || os[0] != (Offload{}) || os[1] != (Offload{}) || !bytes.Equal(bytes.Join(ips, nil), packets) {
			t.Errorf("%s: %d packets, %+v", name, len(ips), os)
		}
	}
	for name, change := range tests {
		packets := bytes.Clone(two)
		change(packets[1052:])
		resum(packets[1052:])
		apart(name, packets)
	}
	for _, at := range []int{ipv4Checksum, 20 + tcpChecksum, 1051} {
		for _, which := range []int{0, 1052} {
			packets := bytes.Clone(two)
			packets[which+at]++
			apart("a wrong checksum", packets)
		}
	}
	if _, ips := coalesce(t, new(Coalescer), two); len(ips) != 1 {
		t.Error("unchanged they do not become one")
	}
	for name, first := range map[string]byte{"PSH": tcpPSH, "FIN": tcpFIN} {
		packets := bytes.Clone(two)
		packets[20+tcpFlags] |= first
		resum(packets[:1052])
		apart(name+" in the first", packets)
	}
	short := spec{proto: protoTCP, tcpFlags: tcpACK, payload: numbers(500)}
	long := spec{proto: protoTCP, tcpFlags: tcpACK, payload: numbers(600), id: 1, seq: 500}
	packets := append(short.ip(), long.ip()...)
	resum(packets[:540])
	resum(packets[540:])
	apart("a longer one", packets)
	short.payload, long.payload, long.seq = numbers(MinGSOSize-1), numbers(MinGSOSize-1), MinGSOSize-1
	packets = append(short.ip(), long.ip()...)
	resum(packets[:40+MinGSOSize-1])
	resum(packets[40+MinGSOSize-1:])
	apart("small ones", packets)
}

// However many follow each other, a packet is no longer than one can be.
func TestCoalesceLimit(t *testing.T) {
	c := new(Coalescer)
	var all []byte
	for at := 0; at < 200_000; at += 1400 {
		s := spec{proto: protoTCP, tcpFlags: tcpACK, payload: numbers(1400), id: uint16(at / 1400), seq: uint32(at)}
		all = AppendSegments(all, mustCheck(t, s.offload(0), s.ip()), s.ip())
	}
	os, ips := coalesce(t, c, all)
	var again []byte
	for i, ip := range ips {
		if len(ip) > 65535 {
			t.Errorf("a packet of %d bytes", len(ip))
		}
		again = AppendSegments(again, mustCheck(t, os[i], ip), ip)
	}
	if len(ips) != 4 || !bytes.Equal(again, all) {
		t.Errorf("%d packets, which make %d bytes of %d", len(ips), len(again), len(all))
	}
}

// FuzzCoalesce: whatever comes, cutting what was made of it gives the same packets again.
func FuzzCoalesce(f *testing.F) {
	for _, s := range []spec{tcp, tcp6, udp} {
		f.Add(AppendSegments(nil, mustCheck(f, s.offload(1000), s.ip()), s.ip()), uint8(0))
	}
	ack := spec{proto: protoTCP, tcpFlags: tcpACK, payload: numbers(300)}
	f.Add(AppendSegments(nil, mustCheck(f, ack.offload(100), ack.ip()), ack.ip()), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, fix uint8) {
		var all []byte
		c := new(Coalescer)
		var again []byte
		take := func() {
			o, ip := c.Take()
			if ip == nil {
				return
			}
			checked, err := Check(o, ip)
			if err != nil || checked != o {
				t.Fatalf("Check: %+v, %v; want %+v", checked, err, o)
			}
			again = AppendSegments(again, o, ip)
		}
		for len(b) >= minIPv4Header && b[0]>>4 == 4 && IPv4(b).TotalLen() >= minIPv4Header && IPv4(b).TotalLen() <= len(b) {
			ip := bytes.Clone(b[:IPv4(b).TotalLen()])
			b = b[len(ip):]
			if _, err := Check(Offload{}, ip); err != nil {
				continue
			}
			if fix > 0 && ip[0] == 0x45 && ip[9] == protoTCP && len(ip) >= 40 {
				IPv4(ip).sum()
				ip[36], ip[37] = 0, 0
				sum := Checksum(ip[20:], PseudoSum(ip, protoTCP, len(ip)-20))
				if sum == 0 {
					sum = 0xffff
				}
				ip[36], ip[37] = byte(sum>>8), byte(sum)
			}
			all = append(all, ip...)
			if c.Add(ip) {
				continue
			}
			if take(); !c.Add(ip) {
				again = append(again, ip...)
			}
		}
		take()
		if !bytes.Equal(again, all) {
			t.Errorf("%x became %x", all, again)
		}
	})
}

func TestCoalesceAllocations(t *testing.T) {
	s := spec{proto: protoTCP, tcpFlags: tcpACK, payload: numbers(60000)}
	segments := split(t, AppendSegments(nil, mustCheck(t, s.offload(1400), s.ip()), s.ip()))
	c := &Coalescer{Headroom: 14}
	if n := testing.AllocsPerRun(100, func() {
		for _, seg := range segments {
			c.Add(seg)
		}
		c.Take()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCoalesce(b *testing.B) {
	s := spec{proto: protoTCP, tcpFlags: tcpACK, payload: numbers(60000)}
	segments := split(b, AppendSegments(nil, mustCheck(b, s.offload(1400), s.ip()), s.ip()))
	c := &Coalescer{Headroom: 14}
	b.SetBytes(60000)
	b.ReportAllocs()
	for b.Loop() {
		for _, seg := range segments {
			c.Add(seg)
		}
		c.Take()
	}
}
