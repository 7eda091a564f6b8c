package dns

import (
	"encoding/binary"
	"errors"
)

// Messages as RFC 1035, section 4, and RFC 6891 have them. They are read and written here rather than by a library, for a
// question goes back byte for byte, and neither direction allocates; tests compare with dnsmessage.

const (
	messageHeader = 12
	questionTail  = 4 // type, class
	recordTail    = 10
	optLen        = 1 + recordTail

	// bufferSize is what both ends say that they take by UDP: what passes without fragments wherever IPv6 does (dnsflagday.net/2020).
	bufferSize = 1232
	// leastBuffer is what everybody takes.
	leastBuffer = 512
	// maxMessage bounds a message by TCP. Of an honest client none is longer than bufferSize.
	maxMessage = 4 << 10

	// heldLen is what an answer has before its datagram: for how many milliseconds the gateway has held the question.
	heldLen = 2
	// maxDown is the length of the longest datagram in an answer: to the question with the longest name, and with 32 bytes to spare for
	// options that a resolver adds.
	maxDown = 900
)

// Bits of the second 16 bits of a header.
const (
	flagResponse      = 1 << 15
	maskOpcode        = 15 << 11
	flagAuthoritative = 1 << 10
	flagTruncated     = 1 << 9
	flagDesired       = 1 << 8
	maskCode          = 15
)

// Codes of answers (RFC 1035, section 4.1.1; RFC 6891, section 9).
const (
	codeSuccess  = 0
	codeFormat   = 1
	codeServer   = 2
	codeName     = 3
	codeUnknown  = 4
	codeRefused  = 5
	codeVersions = 16
)

// Types and classes.
const (
	typeA    = 1
	typeNS   = 2
	typeSOA  = 6
	typeTXT  = 16
	typeAAAA = 28
	typeOPT  = 41

	classIN = 1
)

var errMessage = errors.New("malformed message")

// A question is a message that asks for something.
type question struct {
	id      uint16
	flags   uint16
	kind    uint16
	class   uint16
	name    []byte // as it is in the message
	raw     []byte // name, kind and class
	size    int    // of the whole message
	edns    bool
	buffer  int  // bytes that who asks takes by UDP
	version byte // of EDNS
}

func (q *question) opcode() uint16 { return q.flags & maskOpcode }

// parseQuestion reads a message of a stranger. When it is malformed, but there is somebody to be told so, q has the header and malformed is
// set; not ok: it is no question at all, and gets no answer.
func parseQuestion(m []byte) (q question, malformed, ok bool) {
	if len(m) < messageHeader {
		return q, false, false
	}
	q = question{id: binary.BigEndian.Uint16(m), flags: binary.BigEndian.Uint16(m[2:]), size: len(m), buffer: leastBuffer}
	if q.flags&flagResponse != 0 {
		return q, false, false
	}
	counts := [4]int{}
	for i := range counts {
		counts[i] = int(binary.BigEndian.Uint16(m[4+2*i:]))
	}
	if q.opcode() != 0 {
		return q, false, true
	}
	n := nameLen(m[messageHeader:])
	end := messageHeader + n + questionTail
	if counts[0] != 1 || counts[1] != 0 || counts[2] != 0 || counts[3] > 4 || n == 0 || end > len(m) {
		return q, true, true
	}
	q.name, q.raw = m[messageHeader:messageHeader+n], m[messageHeader:end]
	q.kind, q.class = binary.BigEndian.Uint16(m[end-4:]), binary.BigEndian.Uint16(m[end-2:])
	for range counts[3] {
		r, k, err := consumeRecord(m, end)
		if err != nil || r.kind == typeOPT && (q.edns || m[end] != 0) {
			return q, true, true
		}
		end = k
		if r.kind == typeOPT {
			q.edns, q.buffer, q.version = true, max(int(r.class), leastBuffer), byte(r.ttl>>16)
		}
	}
	return q, false, true
}

// nameLen returns the length of the name at the start of b, which is not compressed; 0: there is none.
func nameLen(b []byte) int {
	for i := 0; i < len(b) && i < maxName; {
		n := int(b[i])
		switch {
		case n > maxLabel:
			return 0
		case n == 0:
			return i + 1
		}
		i += 1 + n
	}
	return 0
}

// A record is one of those behind the question. Its data is part of the message.
type record struct {
	kind, class uint16
	ttl         uint32
	data        []byte
}

// consumeRecord returns the record at byte i, and where it ends. Whose it is, is not looked at.
func consumeRecord(m []byte, i int) (r record, end int, err error) {
	for {
		if i >= len(m) {
			return r, 0, errMessage
		}
		n := int(m[i])
		i++
		if n >= 0xc0 { // the rest is elsewhere
			i++
			break
		}
		if n == 0 {
			break
		}
		if n > maxLabel {
			return r, 0, errMessage
		}
		i += n
	}
	if i+recordTail > len(m) {
		return r, 0, errMessage
	}
	r.kind, r.class = binary.BigEndian.Uint16(m[i:]), binary.BigEndian.Uint16(m[i+2:])
	r.ttl = binary.BigEndian.Uint32(m[i+4:])
	end = i + recordTail + int(binary.BigEndian.Uint16(m[i+8:]))
	if end > len(m) {
		return r, 0, errMessage
	}
	r.data = m[i+recordTail : end]
	return r, end, nil
}

// appendHeader begins an answer: the question, and how many records follow.
func appendHeader(b []byte, q *question, flags uint16, answers, authorities, additional uint16) []byte {
	flags |= flagResponse | q.flags&(maskOpcode|flagDesired)
	questions := uint16(0)
	if q.raw != nil {
		questions = 1
	}
	b = binary.BigEndian.AppendUint16(b, q.id)
	b = binary.BigEndian.AppendUint16(b, flags)
	for _, n := range [...]uint16{questions, answers, authorities, additional} {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	return append(b, q.raw...)
}

// appendOPT ends an answer to a question that has one. code has what the header has no room for.
func appendOPT(b []byte, q *question, code int) []byte {
	if !q.edns {
		return b
	}
	b = append(b, 0)
	b = binary.BigEndian.AppendUint16(b, typeOPT)
	b = binary.BigEndian.AppendUint16(b, bufferSize)
	return append(b, byte(code>>4), 0, 0, 0, 0, 0)
}

// appendRecord appends a record of the name at a byte of the message; its data follows.
func appendRecord(b []byte, at int, kind uint16, ttl uint32, size int) []byte {
	b = binary.BigEndian.AppendUint16(b, 0xc000|uint16(at))
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint16(b, classIN)
	b = binary.BigEndian.AppendUint32(b, ttl)
	return binary.BigEndian.AppendUint16(b, uint16(size))
}

// opts is how many OPT records the answer to a question has.
func opts(q *question) uint16 {
	if q.edns {
		return 1
	}
	return 0
}

// appendCode answers with a code and nothing else.
func appendCode(b []byte, q *question, flags uint16, code int) []byte {
	return appendOPT(appendHeader(b, q, flags|uint16(code)&maskCode, 0, 0, opts(q)), q, code)
}

// textLen is the length of the answer to q with n bytes of text.
func textLen(q *question, n int) int {
	size := messageHeader + len(q.raw) + 2 + recordTail + n + strings255(n)
	if q.edns {
		size += optLen
	}
	return size
}

// strings255 is how many strings of text n bytes are.
func strings255(n int) int { return max((n+254)/255, 1) }

// appendText answers with a TXT record: a byte that says what it is, and bytes. Nobody keeps it, for its time to live is 0.
func appendText(b []byte, q *question, kind byte, data []byte) []byte {
	b = appendHeader(b, q, flagAuthoritative, 1, 0, opts(q))
	n := 1 + len(data)
	b = appendRecord(b, messageHeader, typeTXT, 0, n+strings255(n))
	k := min(n, 255)
	b = append(append(b, byte(k), kind), data[:k-1]...)
	for data = data[k-1:]; len(data) > 0; data = data[k:] {
		k = min(len(data), 255)
		b = append(append(b, byte(k)), data[:k]...)
	}
	return appendOPT(b, q, 0)
}

// appendQuestion asks for the text of a name.
func appendQuestion(b []byte, id uint16, z *zone, query query) []byte {
	b = binary.BigEndian.AppendUint16(b, id)
	b = append(b, flagDesired>>8, 0, 0, 1, 0, 0, 0, 0, 0, 1)
	b = z.appendName(b, query)
	b = binary.BigEndian.AppendUint16(b, typeTXT)
	b = binary.BigEndian.AppendUint16(b, classIN)
	return appendOPT(b, &question{edns: true}, 0)
}

// A reply is an answer to what we have asked.
type reply struct {
	id        uint16
	code      int
	truncated bool
	found     bool // there is a text
	kind      byte
	text      []byte // in scratch
}

// parseReply reads the answer to a question: raw is its name, type and class. The text is in scratch, which has room for it.
func parseReply(scratch, m, raw []byte) (r reply, err error) {
	if len(m) < messageHeader {
		return r, errMessage
	}
	flags := binary.BigEndian.Uint16(m[2:])
	r = reply{id: binary.BigEndian.Uint16(m), code: int(flags & maskCode), truncated: flags&flagTruncated != 0}
	questions, answers := binary.BigEndian.Uint16(m[4:]), binary.BigEndian.Uint16(m[6:])
	if flags&flagResponse == 0 {
		return r, errMessage
	}
	i := messageHeader + len(raw)
	if questions == 0 && r.code != codeSuccess && answers == 0 { // FORMERR may come so
		return r, nil
	}
	if questions != 1 || i > len(m) || !sameName(m[messageHeader:i], raw) {
		return r, errMessage
	}
	for range answers {
		var a record
		if a, i, err = consumeRecord(m, i); err != nil {
			return r, err
		}
		if a.kind == typeTXT && a.class == classIN && !r.found {
			if r.text, err = joinText(scratch[:0], a.data); err != nil {
				return r, err
			}
			if r.found = len(r.text) > 0; r.found {
				r.kind, r.text = r.text[0], r.text[1:]
			}
		}
	}
	return r, nil
}

// joinText appends the strings of a text.
func joinText(to, b []byte) ([]byte, error) {
	for len(b) > 0 {
		n := 1 + int(b[0])
		if n > len(b) || len(to)+n-1 > cap(to) {
			return nil, errMessage
		}
		to = append(to, b[1:n]...)
		b = b[n:]
	}
	return to, nil
}
