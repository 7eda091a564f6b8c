package nameserver

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

const (
	headerLen = 12
	maxQuery  = 4096 // bytes of a question that is read
	udpMin    = 512  // bytes that everybody takes by UDP (RFC 1035 section 4.2.1)
	udpMax    = 1232 // that are sent by UDP: what IPv6 passes everywhere
	tcpMax    = 65535
)

// Bits of the third byte of a message.
const (
	bitQR = 0x80
	bitTC = 0x02
)

// skipName returns where a name that begins at i ends. With plain it must be written out.
func skipName(b []byte, i int, plain bool) (int, bool) {
	for i < len(b) {
		switch n := int(b[i]); {
		case n == 0:
			return i + 1, true
		case n < 64:
			i += 1 + n
		case n >= 0xc0 && !plain:
			return i + 2, i+2 <= len(b)
		default:
			return 0, false
		}
	}
	return 0, false
}

// question returns the first question of a message, as it is written; nil: there is not exactly one.
func question(b []byte) []byte {
	if len(b) < headerLen || binary.BigEndian.Uint16(b[4:]) != 1 {
		return nil
	}
	end, ok := skipName(b, headerLen, true)
	if !ok || end+4 > len(b) {
		return nil
	}
	return b[headerLen : end+4]
}

// optSize returns the bytes of a message that say how much its sender takes by UDP (RFC 6891 section 6.2.3); nil: they are not there.
func optSize(b []byte) []byte {
	q := question(b)
	if q == nil {
		return nil
	}
	i, ok := headerLen+len(q), true
	for n := records(b); n > 0; n-- {
		if i, ok = skipName(b, i, false); !ok || i+10 > len(b) {
			return nil
		}
		if binary.BigEndian.Uint16(b[i:]) == dns.TypeOPT {
			return b[i+2 : i+4]
		}
		i += 10 + int(binary.BigEndian.Uint16(b[i+8:]))
	}
	return nil
}

// records returns how many records a message says that it has.
func records(b []byte) (n int) {
	for i := 6; i < headerLen; i += 2 {
		n += int(binary.BigEndian.Uint16(b[i:]))
	}
	return n
}

// clampSize bounds what the sender of a question is told to take by UDP, and returns that.
func clampSize(b []byte) int {
	size := optSize(b)
	if size == nil {
		return udpMin
	}
	n := min(max(int(binary.BigEndian.Uint16(size)), udpMin), udpMax)
	binary.BigEndian.PutUint16(size, uint16(n))
	return n
}

// answers tells whether b is an answer to a question of that ID.
func answers(b, q []byte, id uint16) bool {
	if len(b) < headerLen || binary.BigEndian.Uint16(b) != id || b[2]&bitQR == 0 {
		return false
	}
	return equalFold(question(b), q)
}

// equalFold tells whether a and b are the same but for the case of letters.
func equalFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && (lower(a[i]) != lower(b[i])) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// cut leaves the header and the question of an answer, which says that there is more by TCP.
func cut(b []byte) []byte {
	b = b[:headerLen+len(question(b))]
	b[2] |= bitTC
	clear(b[6:headerLen])
	return b
}
