package datagram

import (
	"encoding/binary"
	"errors"
)

// Kinds of frames: the first byte of each.
const (
	framePadding = iota
	framePing
	frameStream
	frameAck
	frameClose
	frameChallenge
	frameResponse
	frameKinds
)

const (
	streamHeader = 1 + 8 + 2
	ackHeader    = 1 + 8 + 8 + 1
	// maxSpans is how many spans an ack names at most.
	maxSpans = 4
)

var errFrame = errors.New("a frame is malformed")

// A span is a part of a stream.
type span struct{ from, to uint64 }

// An ack says what has come of a stream.
type ack struct {
	number uint64 // of the packet that brought it about
	before uint64 // all that is before this offset has come
	n      int
	spans  [maxSpans]span // what has come behind it
}

// A frame is one of those above; the fields of other kinds are zero.
type frame struct {
	kind   byte
	offset uint64 // stream
	data   []byte // stream, challenge and response
	ack    ack
	alert  byte // close
}

// consumeFrame returns the frame at the start of b, and its length. What data has is part of b.
func consumeFrame(b []byte) (f frame, n int, err error) {
	if len(b) == 0 || b[0] >= frameKinds {
		return f, 0, errFrame
	}
	f.kind = b[0]
	switch f.kind {
	case framePadding:
		return f, len(b), nil
	case framePing:
		return f, 1, nil
	case frameStream:
		if len(b) < streamHeader {
			return f, 0, errFrame
		}
		f.offset = binary.BigEndian.Uint64(b[1:])
		n = streamHeader + int(binary.BigEndian.Uint16(b[9:]))
		if n > len(b) || n == streamHeader || f.offset >= 1<<62 {
			return f, 0, errFrame
		}
		f.data = b[streamHeader:n]
		return f, n, nil
	case frameAck:
		return consumeAck(f, b)
	case frameClose:
		if len(b) < 2 {
			return f, 0, errFrame
		}
		f.alert = b[1]
		return f, 2, nil
	}
	if len(b) < 9 {
		return f, 0, errFrame
	}
	f.data = b[1:9]
	return f, 9, nil
}

func consumeAck(f frame, b []byte) (frame, int, error) {
	if len(b) < ackHeader {
		return f, 0, errFrame
	}
	a := ack{number: binary.BigEndian.Uint64(b[1:]), before: binary.BigEndian.Uint64(b[9:]), n: int(b[17])}
	n := ackHeader + 16*a.n
	if a.n > maxSpans || n > len(b) {
		return f, 0, errFrame
	}
	last := a.before
	for i := range a.n {
		s := b[ackHeader+16*i:]
		a.spans[i] = span{binary.BigEndian.Uint64(s), binary.BigEndian.Uint64(s[8:])}
		if a.spans[i].from <= last || a.spans[i].to <= a.spans[i].from {
			return f, 0, errFrame
		}
		last = a.spans[i].to
	}
	f.ack = a
	return f, n, nil
}

// appendFrame appends a frame other than padding.
func appendFrame(b []byte, f frame) []byte {
	b = append(b, f.kind)
	switch f.kind {
	case frameStream:
		b = binary.BigEndian.AppendUint64(b, f.offset)
		b = binary.BigEndian.AppendUint16(b, uint16(len(f.data)))
		b = append(b, f.data...)
	case frameAck:
		b = binary.BigEndian.AppendUint64(b, f.ack.number)
		b = binary.BigEndian.AppendUint64(b, f.ack.before)
		b = append(b, byte(f.ack.n))
		for _, s := range f.ack.spans[:f.ack.n] {
			b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, s.from), s.to)
		}
	case frameClose:
		b = append(b, f.alert)
	case frameChallenge, frameResponse:
		b = append(b, f.data...)
	}
	return b
}

// A long header is that of a packet of the handshake.
type longHeader struct {
	kind   byte
	id     uint64 // the client's
	number uint64
	cookie []byte // of typeCookie
	len    int
}

func isLong(b []byte) bool { return b[0]&0x80 != 0 }

func parseLong(b []byte) (h longHeader, ok bool) {
	if len(b) < longLen || b[1] != version {
		return h, false
	}
	h = longHeader{kind: b[0], id: binary.BigEndian.Uint64(b[2:]), number: binary.BigEndian.Uint64(b[10:]), len: longLen}
	switch h.kind {
	case typeInitial, typeHandshake:
	case typeCookie:
		if len(b) < longLen+cookieLen {
			return h, false
		}
		h.len += cookieLen
		h.cookie = b[longLen:h.len]
	default:
		return h, false
	}
	return h, h.id>>63 == 0 && len(b) >= h.len+tagLen
}

func appendLong(b []byte, h longHeader) []byte {
	b = append(b, h.kind, version)
	b = binary.BigEndian.AppendUint64(b, h.id)
	b = binary.BigEndian.AppendUint64(b, h.number)
	return append(b, h.cookie...)
}

// parseFixed reads the two packets that are not encrypted.
func parseFixed(b []byte, kind byte, length int) (id uint64, rest []byte, ok bool) {
	if len(b) != length || b[0] != kind || b[1] != version {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(b[2:]), b[2+idLen:], true
}

func appendFixed(b []byte, kind byte, id uint64, rest []byte) []byte {
	return append(binary.BigEndian.AppendUint64(append(b, kind, version), id), rest...)
}

// Parameters are what the ends tell each other inside of the handshake, as transport parameters.
type parameters struct {
	id    uint64 // by which this end knows the connection
	max   int    // length of the longest datagram that it sends
	token [tokenLen]byte
}

const parametersLen = idLen + 2 + tokenLen

func appendParameters(p parameters) []byte {
	b := binary.BigEndian.AppendUint64(nil, p.id)
	b = binary.BigEndian.AppendUint16(b, uint16(p.max))
	return append(b, p.token[:]...)
}

// parseParameters reads parameters; what follows them is for later versions.
func parseParameters(b []byte) (p parameters, ok bool) {
	if len(b) < parametersLen {
		return p, false
	}
	p.id = binary.BigEndian.Uint64(b)
	p.max = int(binary.BigEndian.Uint16(b[8:]))
	p.token = [tokenLen]byte(b[10:])
	return p, p.id>>63 == 0
}
