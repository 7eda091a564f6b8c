package rawvpn

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// A Kind says what an Item is.
type Kind string

// What comes from a server.
const (
	KindReply     Kind = "reply"
	KindKeepalive Kind = "keepalive"
	KindPacket    Kind = "packet" // bare, or in a data frame
	KindConfig    Kind = "config"
	KindPong      Kind = "pong"
	KindGoodbye   Kind = "goodbye"
	KindJoined    Kind = "joined"
	KindOther     Kind = "other"
)

// An Item is one packet or frame of the stream.
type Item struct {
	Kind   Kind
	Raw    []byte // as it came
	Packet []byte // the IP packet of a KindPacket
}

// Lengths in bytes (docs/protocol.md).
const (
	controlLen = 20
	frameLen   = 4       // header of a frame
	offloadLen = 10      // virtio-net header of a data frame
	maxFrame   = 1 << 17 // nothing that a server sends is longer
)

var frameKinds = map[byte]Kind{0x81: KindPacket, 0x82: KindConfig, 0x85: KindPong, 0x86: KindGoodbye, 0x88: KindJoined,
	0x8a: "attached", 0x8b: "ack", 0x8c: "switch", 0x8d: "number", 0x8e: "fragment", 0x8f: "limit"}

// readItem reads the next item of a server. Nothing was taken off r when waiting for its first byte
// has failed; an error after that leaves r inside an item.
func readItem(r *bufio.Reader) (Item, error) {
	first, err := r.Peek(1)
	if err != nil {
		return Item{}, err
	}
	if first[0]>>4 == 8 {
		return readFrame(r)
	}
	b, err := readMore(r, nil, controlLen)
	if err != nil {
		return Item{}, err
	}
	src, dst := binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[16:])
	switch total := int(binary.BigEndian.Uint16(b[2:])); {
	case src == 0xffffffff && dst == src:
		return Item{Kind: KindKeepalive, Raw: b}, nil
	case src == 0:
		return Item{Kind: KindReply, Raw: b}, nil
	case b[0]>>4 != 4 || total < controlLen:
		return Item{}, fmt.Errorf("neither a packet nor a control packet: % x", b)
	default:
		b, err = readMore(r, b, total-controlLen)
		return Item{Kind: KindPacket, Raw: b, Packet: b}, err
	}
}

func readFrame(r *bufio.Reader) (Item, error) {
	b, err := readMore(r, nil, frameLen)
	if err != nil {
		return Item{}, err
	}
	n := int(binary.BigEndian.Uint32(b) & 0xffffff)
	if n > maxFrame {
		return Item{}, fmt.Errorf("frame of %d bytes", n)
	}
	if b, err = readMore(r, b, n); err != nil {
		return Item{}, err
	}
	kind, known := frameKinds[b[0]]
	switch {
	case !known:
		kind = KindOther
	case kind == KindPacket && n < offloadLen+headerLen:
		return Item{}, fmt.Errorf("data frame of %d bytes", n)
	case kind == KindPacket:
		return Item{Kind: kind, Raw: b, Packet: b[frameLen+offloadLen:]}, nil
	}
	return Item{Kind: kind, Raw: b}, nil
}

// readMore reads n bytes behind b.
func readMore(r io.Reader, b []byte, n int) ([]byte, error) {
	b = append(b, make([]byte, n)...)
	_, err := io.ReadFull(r, b[len(b)-n:])
	return b, err
}
