package l2port

import (
	"encoding/binary"
	"errors"

	"ferry/internal/l2port/ether"
)

// MaxFrame is the length of the longest frame: the longest packet of IPv4, with a header before it.
const MaxFrame = ether.HeaderLen + 65535

// ErrFrame ends a connection: a frame can not be that long.
var ErrFrame = errors.New("an Ethernet frame longer than any: is another framing spoken here?")

// A Framing says how frames are told apart.
type Framing uint8

// The framings.
const (
	Lengths32 Framing = iota // 4 bytes length, big endian, before each frame
	Lengths16                // 2 bytes length, little endian
	Datagrams                // the socket keeps them apart
)

// head is the length of what stands before a frame that is read.
func (f Framing) head() int { return [...]int{4, 2, 0}[f] }

// next returns the length of the frame at the start of b with what stands before it; 0 when more bytes are needed.
func (f Framing) next(b []byte) (n int, err error) {
	h := f.head()
	if len(b) < h {
		return 0, nil
	}
	var claimed uint32
	switch f {
	case Lengths32:
		claimed = binary.BigEndian.Uint32(b)
	case Lengths16:
		claimed = uint32(binary.LittleEndian.Uint16(b))
	case Datagrams:
		return len(b), nil
	}
	switch n = int(claimed); {
	case claimed > MaxFrame: // n may be negative: an int has 32 bits on some machines
		return 0, ErrFrame
	case len(b) < h+n:
		return 0, nil
	}
	return h + n, nil
}

// begin appends room for the length of a frame that is appended behind it. Datagrams have one while they wait to be written.
func (f Framing) begin(b []byte) []byte {
	if f == Lengths16 {
		return append(b, 0, 0)
	}
	return append(b, 0, 0, 0, 0)
}

// finish writes the length of the frame that was begun at b, which is all of b.
func (f Framing) finish(b []byte) {
	if f == Lengths16 {
		binary.LittleEndian.PutUint16(b, uint16(len(b)-2))
		return
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
}
