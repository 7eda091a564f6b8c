package dns

import (
	"encoding/binary"
	"strings"
)

// Full is the length of the longest item that a question of any zone carries.
const Full = 48

// Port is where resolvers look for the gateway.
const Port = 53

const (
	maxName  = 255 // bytes of a name on the wire (RFC 1035, section 2.3.4)
	maxLabel = 63

	// headerLen is what a question has before its datagram: [length 1][client 5][number 4].
	headerLen = 1 + 5 + 4
	// testBit of a client's number says that it is a test, and no datagram follows.
	testBit    = 1 << 39
	clientMask = testBit - 1
)

// letters are those of RFC 4648, section 6, in lower case: resolvers may change the case on the way.
const letters = "abcdefghijklmnopqrstuvwxyz234567"

// values has what letters stand for, of either case; 0xff: nothing.
var values = func() (v [256]byte) {
	for i := range v {
		if v[i] = byte(strings.IndexByte(letters, lower(byte(i)))); v[i] >= 0x80 {
			v[i] = 0xff
		}
	}
	return v
}()

// A zone is a name below which all questions are.
type zone struct {
	name string // in lower case, without the last dot
	wire []byte // the same as it is in a message
	most int    // bytes that a question can have
}

// newZone returns a zone whose name package carrier has checked.
func newZone(name string) *zone {
	z := &zone{name: name}
	for label := range strings.SplitSeq(name, ".") {
		z.wire = append(append(z.wire, byte(len(label))), label...)
	}
	z.wire = append(z.wire, 0)
	room := maxName - len(z.wire)
	z.most = (room - (room+maxLabel)/(maxLabel+1)) * 5 / 8 // each label has a byte that says how long it is
	return z
}

// maxUp is the length of the longest datagram in a question.
func (z *zone) maxUp() int { return z.most - headerLen }

// A query is what the name of a question says: a datagram of a client, or nothing, for the gateway to answer; or a test.
type query struct {
	client uint64 // 39 bits
	number uint32
	test   bool
	data   []byte // of a test, two bytes: how long the answer is to be
}

// appendName appends the name of a query as it is in a message. Its data is no longer than maxUp.
func (z *zone) appendName(b []byte, q query) []byte {
	var raw [maxName]byte
	n := headerLen + len(q.data)
	client := q.client & clientMask
	if q.test {
		client |= testBit
	}
	binary.BigEndian.PutUint64(raw[:], client<<16|uint64(n)<<56)
	binary.BigEndian.PutUint32(raw[6:], q.number)
	copy(raw[headerLen:], q.data)
	for chars, i := charsOf(n), 0; i < chars; i++ {
		if i%maxLabel == 0 {
			b = append(b, byte(min(chars-i, maxLabel)))
		}
		bit := i * 5
		b = append(b, letters[(uint(raw[bit/8])<<8|uint(raw[bit/8+1]))>>(11-bit%8)&31])
	}
	return append(b, z.wire...)
}

// charsOf is how many letters n bytes are.
func charsOf(n int) int { return (n*8 + 4) / 5 }

// parseName reads a name of the zone as it is in a message, of any case. What the query has is in scratch, which has room for a
// name. A part of a name, as resolvers ask for who tell no more than they have to (RFC 9156), is none: its length is another one.
func (z *zone) parseName(scratch, name []byte) (q query, ok bool) {
	raw, bits, have, chars := scratch[:0], uint(0), uint(0), 0
	for labels := name[:len(name)-len(z.wire)]; len(labels) > 0; {
		n := 1 + int(labels[0])
		for _, c := range labels[1:n] {
			if values[c] == 0xff {
				return q, false
			}
			bits = bits<<5 | uint(values[c])
			if have += 5; have >= 8 {
				have -= 8
				raw = append(raw, byte(bits>>have))
			}
			chars++
		}
		labels = labels[n:]
	}
	if len(raw) < headerLen || int(raw[0]) != len(raw) || chars != charsOf(len(raw)) || bits&(1<<have-1) != 0 {
		return q, false
	}
	first := binary.BigEndian.Uint64(raw) >> 16
	q = query{client: first & clientMask, number: binary.BigEndian.Uint32(raw[6:]), test: first&testBit != 0, data: raw[headerLen:]}
	return q, !q.test || len(q.data) == 2
}

// has tells whether a name is in the zone.
func (z *zone) has(name []byte) bool {
	rest := len(name) - len(z.wire)
	if rest < 0 || !sameName(name[rest:], z.wire) {
		return false
	}
	for i := 0; i < rest; {
		i += 1 + int(name[i])
		if i > rest {
			return false // the bytes of the zone are within a label
		}
	}
	return true
}

// sameName compares names, whose letters may be of any case. A byte of length is never a letter.
func sameName(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
