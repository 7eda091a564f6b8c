package proto

import (
	"encoding/binary"

	"ferry/internal/packet"
)

// Lengths in bytes.
const (
	FrameHeaderLen = 4
	// DataHeaderLen is what stands before the IP packet in a data frame.
	DataHeaderLen = FrameHeaderLen + packet.OffloadLen
	// MaxPacket is the longest IPv4 packet (RFC 791, section 3.1: 16 bits of total length).
	MaxPacket = 65535
	// MaxData is the longest data frame.
	MaxData = DataHeaderLen + MaxPacket
	// MaxControl is the longest payload of any other frame.
	MaxControl = 4096
	// MaxPing is the longest payload of a ping: enough for what fills an Ethernet frame.
	MaxPing = 2048
)

// typeMore is that of frames whose type proper is the first byte of their payload: one nibble of types is used up.
const typeMore = 0x80

const morePublish = 1

const (
	typeData = 0x81 + iota
	typeConfig
	typeHello
	typePing
	typePong
	typeGoodbye
	typeJoin
	typeJoined
	typeAttach
	typeAttached
	typeAck
	typeSwitch
	typeNumber
	typeFragment
	typeLimit
)

func nextFrame(b []byte) (Kind, int, error) {
	if len(b) < FrameHeaderLen {
		return 0, 0, nil
	}
	n := int(binary.BigEndian.Uint32(b) & 0xffffff)
	if b[0] == typeData {
		if n <= packet.OffloadLen || n > packet.OffloadLen+MaxPacket {
			return 0, 0, ErrFrame
		}
		return whole(KindData, FrameHeaderLen+n, b)
	}
	limit := MaxControl
	if b[0] == typePing || b[0] == typePong {
		limit = MaxPing
	}
	if n > limit {
		return 0, 0, ErrFrame
	}
	return whole(frameKind(b), FrameHeaderLen+n, b)
}

// frameKind is right as soon as all of the frame is in b.
func frameKind(b []byte) Kind {
	switch t := b[0]; {
	case t >= typeConfig && t <= typeLimit:
		return KindConfig + Kind(t-typeConfig)
	case t == typeMore && len(b) > FrameHeaderLen && DataLen(b) > FrameHeaderLen && b[FrameHeaderLen] == morePublish:
		return KindPublish
	}
	return KindUnknown
}

// PutDataHeader writes the header of a data frame whose IP packet is n bytes long into the first
// four bytes of b; the virtio-net header and the packet follow it.
func PutDataHeader(b []byte, n int) {
	binary.BigEndian.PutUint32(b, typeData<<24|uint32(packet.OffloadLen+n))
}

// PutBareHeader writes all of a data frame's header before an IP packet of n bytes that is complete
// as it is: a virtio-net header of zeros.
func PutBareHeader(b []byte, n int) {
	PutDataHeader(b, n)
	clear(b[FrameHeaderLen:DataHeaderLen])
}

// DataLen returns the length of the data frame at the start of b, which must be one.
func DataLen(b []byte) int {
	return FrameHeaderLen + int(binary.BigEndian.Uint32(b)&0xffffff)
}

// AppendPing appends a ping whose payload the other side sends back in a pong.
// The payload is at most MaxPing bytes long.
func AppendPing(b, payload []byte) []byte { return appendFrame(b, typePing, payload) }

// AppendPong appends the answer to ping, a whole ping frame.
func AppendPong(b, ping []byte) []byte { return appendFrame(b, typePong, Payload(ping)) }

// Payload returns what follows the header of a whole frame.
func Payload(frame []byte) []byte { return frame[FrameHeaderLen:] }

func appendFrame(b []byte, t byte, payload []byte) []byte {
	return append(appendFrameHeader(b, t, len(payload)), payload...)
}

func appendFrameHeader(b []byte, t byte, length int) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(t)<<24|uint32(length))
}
