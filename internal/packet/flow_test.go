package packet

import "testing"

func TestFlowHash(t *testing.T) {
	of := func(s spec, ports byte) []byte {
		ip := s.ip()
		ip[minIPv4Header+1] = ports
		return ip
	}
	tcp := spec{proto: protoTCP, payload: numbers(40)}
	longer := spec{proto: protoTCP, payload: numbers(400)}
	if FlowHash(of(tcp, 1)) != FlowHash(of(longer, 1)) {
		t.Error("two packets of a flow are of two")
	}
	seen := map[uint32]string{}
	for _, tt := range []struct {
		name string
		ip   []byte
	}{
		{"TCP", of(tcp, 1)},
		{"another port", of(tcp, 2)},
		{"UDP", of(spec{proto: protoUDP, payload: numbers(40)}, 1)},
		{"ICMP", spec{proto: 1, payload: numbers(40)}.ip()},
		{"another destination", but(of(tcp, 1), ipv4Dst+3, 99)},
		{"another source", but(of(tcp, 1), ipv4Src+3, 99)},
	} {
		h := FlowHash(tt.ip)
		if other, ok := seen[h]; ok {
			t.Errorf("%s has the hash of %s", tt.name, other)
		}
		seen[h] = tt.name
	}
}

// What stands where a port would be is no port in any fragment but the first: all of a packet have one hash.
func TestFlowHashOfFragments(t *testing.T) {
	ip := spec{proto: protoUDP, payload: numbers(4000)}.ip()
	hashes := map[uint32]bool{}
	for rest := AppendFragments(nil, ip, 1400); len(rest) > 0; {
		n := IPv4(rest).TotalLen()
		hashes[FlowHash(rest[:n])] = true
		rest = rest[n:]
	}
	if len(hashes) != 1 {
		t.Errorf("the fragments of a packet have %d hashes", len(hashes))
	}
	FlowHash(spec{proto: 59}.as(protoTCP)) // without ports
}
