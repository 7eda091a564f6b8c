package icmp

import (
	"encoding/binary"
	"time"

	"ferry/internal/packet"
)

// An echo is a question or an answer.
type echo struct {
	identifier uint16
	number     uint32
	held       time.Duration // of an answer
	data       []byte        // the datagram; empty: none
}

// appendHeader appends all of an echo but its data. Its checksum is right.
func appendHeader(b []byte, kind byte, e echo) []byte {
	marker := uint32(Question)
	if kind == echoReply {
		marker = Answer
	}
	from := len(b)
	b = append(b, kind, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, e.identifier)
	b = binary.BigEndian.AppendUint16(b, uint16(e.number))
	b = binary.BigEndian.AppendUint32(b, marker)
	b = binary.BigEndian.AppendUint16(b, uint16(e.number>>16))
	b = binary.BigEndian.AppendUint16(b, uint16(min(max(e.held.Milliseconds(), 0), 0xffff)))
	h := b[from:]
	sum := packet.Checksum(h, uint32(^packet.Checksum(e.data, 0))) // headerLen is even
	binary.BigEndian.PutUint16(h[2:], sum)
	return b
}

// parse reads an echo of a kind. Its data is part of b. Nobody looks at the checksum, for a raw socket brings what has a wrong one,
// too: package datagram finds what is not genuine.
func parse(b []byte, kind byte) (e echo, ok bool) {
	marker := uint32(Question)
	if kind == echoReply {
		marker = Answer
	}
	if len(b) < headerLen || b[0] != kind || b[1] != 0 || binary.BigEndian.Uint32(b[echoLen:]) != marker {
		return e, false
	}
	e.identifier = binary.BigEndian.Uint16(b[4:])
	e.number = uint32(binary.BigEndian.Uint16(b[echoLen+4:]))<<16 | uint32(binary.BigEndian.Uint16(b[6:]))
	e.held = time.Duration(binary.BigEndian.Uint16(b[echoLen+6:])) * time.Millisecond
	e.data = b[headerLen:]
	return e, true
}

// payloadOf returns what an IPv4 packet carries, as a raw socket gets it; nil: it is no whole one.
func payloadOf(ip []byte) []byte {
	if len(ip) < 20 || ip[0]>>4 != 4 {
		return nil
	}
	n := int(ip[0]&15) * 4
	if n < 20 || n > len(ip) {
		return nil
	}
	return ip[n:]
}
