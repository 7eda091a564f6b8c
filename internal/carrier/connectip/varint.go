package connectip

import "encoding/binary"

// maxVarint is the largest integer of RFC 9000, section 16: its first two bits say how long it is.
const maxVarint = 1<<62 - 1

// appendVarint appends the shortest form of v.
func appendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return binary.BigEndian.AppendUint16(b, uint16(v)|1<<14)
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(b, uint32(v)|2<<30)
	case v <= maxVarint:
		return binary.BigEndian.AppendUint64(b, v|3<<62)
	}
	panic("connectip: an integer of more than 62 bits")
}

// consumeVarint returns the integer at the start of b, and its length: 0 where it is not whole.
func consumeVarint(b []byte) (v uint64, n int) {
	if len(b) == 0 {
		return 0, 0
	}
	n = 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, 0
	}
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, n
}
