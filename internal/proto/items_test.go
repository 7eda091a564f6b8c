package proto

import (
	"bytes"
	"net/netip"
	"testing"
)

func bare(src, dst [4]byte, n int) []byte {
	b := make([]byte, n)
	h := header(src, dst)
	copy(b, h[:])
	b[2], b[3] = byte(n>>8), byte(n)
	return b
}

func TestTravel(t *testing.T) {
	one, two := [4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}
	request := AppendRequest(nil, Request{Extended: true})
	tests := []struct {
		name string
		item []byte
		want Travel
	}{
		{"data frame", append(dataHeader(30), bare(one, two, 30)...), TravelCounted},
		{"packet", bare(one, two, 100), TravelCounted},
		{"ping", AppendPing(nil, []byte("x")), TravelLoosely},
		{"pong", AppendPong(nil, AppendPing(nil, []byte("x"))), TravelLoosely},
		{"ack", AppendAck(nil, 5), TravelLoosely},
		{"fragment", AppendFragment(nil, FragmentMessage{Number: 1, Len: 2, Part: []byte("x")}), TravelLoosely},
		{"number", AppendNumber(nil, 7), TravelNumber},
		{"request", request, TravelSurely},
		{"static request", AppendRequest(nil, Request{Static: netip.AddrFrom4(one)}), TravelSurely},
		{"reply", AppendReply(nil, request, Reply{Addr: netip.AddrFrom4(two), Extended: true}), TravelSurely},
		{"keepalive", AppendKeepalive(nil), TravelSurely},
		{"switch", AppendSwitch(nil, SwitchMessage{Epoch: 1}), TravelSurely},
		{"attach", AppendAttach(nil, AttachMessage{}), TravelSurely},
		{"attached", AppendAttached(nil, AttachedMessage{}), TravelSurely},
		{"a type of later", []byte{0x80, 0, 0, 0}, TravelSurely},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := TravelOf(tt.item); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
			for cut := range tt.item {
				if n, err := NextItem(tt.item[:cut]); n != 0 || err != nil {
					t.Fatalf("%d of %d bytes: got %d, %v", cut, len(tt.item), n, err)
				}
			}
			if n, err := NextItem(append(bytes.Clone(tt.item), 0x45)); n != len(tt.item) || err != nil {
				t.Errorf("got %d, %v, want %d", n, err, len(tt.item))
			}
			if n := ItemLen(tt.item); n != len(tt.item) {
				t.Errorf("ItemLen: got %d, want %d", n, len(tt.item))
			}
		})
	}
}

// dataHeader is the header of a data frame with a packet of n bytes.
func dataHeader(n int) []byte {
	b := make([]byte, DataHeaderLen)
	PutBareHeader(b, n)
	return b
}

func TestNextItemRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":        {0x00, 1, 2, 3},
		"IPv6":           bytes.Repeat([]byte{0x60}, 60),
		"too long":       {0x85, 0xff, 0xff, 0xff},
		"too short data": {0x81, 0, 0, 1},
	} {
		if n, err := NextItem(b); err == nil {
			t.Errorf("%s: got %d", name, n)
		}
	}
}
