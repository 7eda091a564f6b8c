package ether

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"ferry/internal/packet"
	"ferry/internal/proto"
)

// Whatever frames come, in whatever order: nothing but IPv4 packets goes to the router, no word of Ferry's protocol among them; nobody
// answers for the machine's own address; no address but its lease is ever offered; and each frame is one of packet, answer, question, drop.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPort()
		lease := netip.Addr{}
		frames := 0
		addr := rapid.SampledFrom([]netip.Addr{gateway, leased, peer, none, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("255.255.255.255")})
		mac := rapid.SampledFrom([]MAC{guest, other, Gateway, broadcast, {}})
		for range rapid.IntRange(1, 30).Draw(t, "frames") {
			var f []byte
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				f = whoHas(mac.Draw(t, "from"), addr.Draw(t, "sender"), addr.Draw(t, "target"))
			case 1:
				f = datagram(mac.Draw(t, "from"), addr.Draw(t, "src"), addr.Draw(t, "dst"), rapid.IntRange(0, 50).Draw(t, "n"))
			case 2:
				f = question(mac.Draw(t, "from"), rapid.Byte().Draw(t, "message"), func(m *message) {
					m.requested, m.server, m.ciaddr = addr.Draw(t, "requested"), gateway, addr.Draw(t, "ciaddr")
				})
			case 3:
				f = rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "bytes")
			}
			for range rapid.IntRange(0, 2).Draw(t, "damages") {
				if len(f) > 0 {
					f[rapid.IntRange(0, len(f)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
				}
			}
			frames++
			before := dropped(p)
			v, b := p.In(f)
			if (v == Dropped) != (dropped(p) == before+1) {
				t.Fatalf("verdict %d, and %d drops", v, dropped(p)-before)
			}
			if v == Ask {
				if lease.IsValid() {
					t.Fatal("a second lease was asked for")
				}
				if rapid.Bool().Draw(t, "granted") {
					lease = leased
					v, b = Reply, p.Assign(leased)
				}
			}
			check(t, lease, v, b)
		}
	})
}

func dropped(p *Port) (n uint64) {
	for _, k := range p.drops {
		n += k
	}
	return n
}

type failer interface {
	Helper()
	Fatalf(string, ...any)
}

// check checks what came of a frame.
func check(t failer, lease netip.Addr, v Verdict, b []byte) {
	t.Helper()
	switch v {
	case Packet:
		if k, n, err := (proto.Framer{}).Next(b); err != nil || k != proto.KindIPv4 || n != len(b) {
			t.Fatalf("to the router: %x", b)
		}
	case Reply:
		if len(b) < HeaderLen || MAC(b[6:]) != Gateway {
			t.Fatalf("answered by another: %x", b)
		}
		if b[12] == 0x08 && b[13] == 0x06 {
			if a := netip.AddrFrom4([4]byte(b[HeaderLen+14:])); a == lease || a == netip.AddrFrom4([4]byte(b[HeaderLen+24:])) {
				t.Fatalf("%s, which is the machine's own, is at the gateway", a)
			}
			return
		}
		ip := packet.IPv4(b[HeaderLen:])
		if packet.Checksum(ip[:minIPv4], 0) != 0 || ip.TotalLen() != len(ip) {
			t.Fatalf("broken: %x", b)
		}
		if your := netip.AddrFrom4([4]byte(ip[minIPv4+udpLen+16:])); your != none && your != lease {
			t.Fatalf("offered %s, leased is %s", your, lease)
		}
	}
}

func FuzzIn(f *testing.F) {
	f.Add(whoHas(guest, leased, gateway), true)
	f.Add(datagram(guest, leased, peer, 20), true)
	f.Add(question(guest, discover, nil), false)
	f.Add(question(guest, request, func(m *message) { m.requested, m.server = leased, gateway }), true)
	f.Add(cutOption(), false)
	f.Fuzz(func(t *testing.T, frame []byte, has bool) {
		p, lease := newPort(), netip.Addr{}
		if has {
			p, lease = leasedPort(t), leased
		}
		v, b := p.In(frame)
		check(t, lease, v, b)
		if v == Ask {
			check(t, leased, Reply, p.Assign(leased))
		}
	})
}
