package hostnet

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"ferry/internal/flowlist"
)

// attr appends an attribute, as the kernel does.
func attr(b []byte, kind uint16, value ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

const nested = 0x8000

func tupleOf(kind uint16, protocol byte, src, dst netip.AddrPort) []byte {
	a, b := src.Addr().As4(), dst.Addr().As4()
	ip := attr(attr(nil, ctaIPSrc, a[:]...), ctaIPDst, b[:]...)
	proto := attr(attr(attr(nil, ctaProtoNum, protocol), ctaProtoSrc, byte(src.Port()>>8), byte(src.Port())), ctaProtoDst, byte(dst.Port()>>8), byte(dst.Port()))
	return attr(nil, kind|nested, attr(attr(nil, ctaTupleIP|nested, ip...), ctaTupleProto|nested, proto...)...)
}

// connection is one as it comes, from src to dst, whose answers come from seen and go to the address of the host.
func connection(src, dst, seen netip.AddrPort) []byte {
	b := tupleOf(ctaTupleOrig, 6, src, dst)
	b = append(b, tupleOf(ctaTupleReply, 6, seen, netip.MustParseAddrPort("198.51.100.1:4000"))...)
	b = attr(b, ctaProtoInfo|nested, attr(nil, ctaProtoTCP|nested, attr(nil, ctaTCPState, 3)...)...)
	b = attr(b, ctaTimeout, 0, 6, 0x97, 0x7f)
	b = attr(b, ctaCountersOrig|nested, attr(nil, ctaCountersBytes, 0, 0, 0, 0, 0, 0, 1, 0)...)
	b = attr(b, ctaCountersReply|nested, attr(nil, ctaCountersBytes, 0, 0, 0, 1, 0, 0, 0, 0)...)
	return attr(b, ctaTimestamp|nested, attr(nil, ctaTimeStart, 0x0d, 0xe0, 0xb6, 0xb3, 0xa7, 0x64, 0, 0)...)
}

func inPool(a netip.Addr) bool { return netip.MustParsePrefix("10.0.0.0/16").Contains(a) }

func TestParseTracked(t *testing.T) {
	client, web, host := netip.MustParseAddrPort("10.0.3.4:5000"), netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("198.51.100.1:8080")
	want := flowlist.Flow{
		By: "kernel", Protocol: "tcp", Client: client, Remote: web, State: "established", Expires: 431999, Counted: true, Sent: 256, Received: 1 << 32,
		Since: time.Unix(1e9, 0).UTC(),
	}
	if got, ok := parseTracked(connection(client, web, web), inPool); !ok || got != want {
		t.Errorf("from a client: got %+v, %v", got, ok)
	}
	want.Sent, want.Received = want.Received, want.Sent
	if got, ok := parseTracked(connection(web, host, client), inPool); !ok || got != want {
		t.Errorf("to a client, by a port of the host: got %+v, %v", got, ok)
	}
	if got, ok := parseTracked(connection(web, host, host), inPool); ok {
		t.Errorf("of the host: got %+v", got)
	}
	if got, ok := parseTracked(tupleOf(ctaTupleOrig, 17, client, web), inPool); !ok || got.Protocol != "udp" || got.Counted || !got.Since.IsZero() {
		t.Errorf("of which little is known: got %+v, %v", got, ok)
	}
}

// FuzzParseTracked: whatever comes is read to its end.
func FuzzParseTracked(f *testing.F) {
	a := netip.MustParseAddrPort("10.0.3.4:5000")
	f.Add(connection(a, a, a))
	f.Add([]byte{4, 0, 0, 0, 3, 0, 1, 0, 0})
	f.Fuzz(func(_ *testing.T, b []byte) { parseTracked(b, inPool) })
}
