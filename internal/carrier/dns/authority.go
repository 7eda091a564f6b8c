package dns

import (
	"encoding/binary"
	"net/netip"
)

// What the gateway says as the authority of its zone, besides tunnels: enough for resolvers to find nothing wrong.
//
//	zone                SOA, NS ns.zone
//	ns.zone             A or AAAA: where it was asked
//	any other name      nothing, but it is there: it may be what others are below
//
// The rules are:
//
//   - What is not of this zone, or no question of the Internet, is refused.
//   - By UDP, where anybody can say that he is somebody else, no answer is longer than its question: what does not fit is left to TCP.

// steadyTTL is for what does not change, seconds.
const steadyTTL = 3600

// A verdict is what a question is.
type verdict uint8

const (
	silent   verdict = iota // nobody is told anything
	answered                // the answer is there
	asked                   // it is for the tunnel
)

// An authority answers questions.
type authority struct{ *zone }

// judge answers a message, appending to b, unless it is for the tunnel: then query is what it says, in scratch. local is where it was
// asked, stream that this was by TCP.
func (z authority) judge(b, scratch, m []byte, from, local netip.Addr, stream bool) (out []byte, q question, data query, v verdict) {
	q, malformed, ok := parseQuestion(m)
	switch {
	case !ok:
		return b, q, data, silent
	case q.opcode() != 0:
		q = question{id: q.id, flags: q.flags, size: q.size}
		return appendCode(b, &q, 0, codeUnknown), q, data, answered
	case malformed:
		q = question{id: q.id, flags: q.flags, size: q.size}
		return appendCode(b, &q, 0, codeFormat), q, data, answered
	case q.version > 0:
		return appendCode(b, &q, 0, codeVersions), q, data, answered
	case q.class != classIN || q.kind >= 250 && q.kind <= 254 || !z.has(q.name): // 250 to 254: transactions and transfers
		return appendCode(b, &q, 0, codeRefused), q, data, answered
	}
	if q.kind == typeTXT {
		if data, ok := z.parseName(scratch, q.name); ok {
			return b, q, data, asked
		}
	}
	start := len(b)
	b = z.record(b, &q, from, local, stream)
	if !stream && len(b)-start > q.size {
		b = appendTruncated(b[:start], &q)
	}
	return b, q, data, answered
}

// appendTruncated says that the answer is to be had by TCP. It is as long as the question.
func appendTruncated(b []byte, q *question) []byte {
	return appendCode(b, q, flagAuthoritative|flagTruncated, codeSuccess)
}

// record appends the answer to a question for anything but a tunnel.
func (z authority) record(b []byte, q *question, from, local netip.Addr, stream bool) []byte {
	at := messageHeader + len(q.name) - len(z.wire) // of the zone
	header := func(answers, authorities uint16) []byte {
		return appendHeader(b, q, flagAuthoritative, answers, authorities, opts(q))
	}
	apex := len(q.name) == len(z.wire)
	switch addr := nameServer(q.kind, from, local); {
	case apex && q.kind == typeSOA:
		b = appendSOA(header(1, 0), at, steadyTTL)
	case apex && q.kind == typeNS:
		b = append(appendRecord(header(1, 0), at, typeNS, steadyTTL, 5), 2, 'n', 's', 0xc0|byte(at>>8), byte(at))
	case len(q.name) == len(z.wire)+3 && sameName(q.name[:3], []byte{2, 'n', 's'}) && addr.IsValid():
		bytes := addr.AsSlice()
		b = append(appendRecord(header(1, 0), messageHeader, q.kind, steadyTTL, len(bytes)), bytes...)
	case stream:
		b = appendSOA(header(0, 1), at, 0)
	default: // an SOA would be more than was asked by
		b = header(0, 0)
	}
	return appendOPT(b, q, 0)
}

// nameServer returns the address of this name server, of the kind that is asked for; invalid: it has none that is of use for who asks.
func nameServer(kind uint16, from, local netip.Addr) netip.Addr {
	switch {
	case local.IsPrivate() && !from.IsPrivate() && !from.IsLoopback(): // behind a router, which forwards a port
	case kind == typeA && local.Is4(), kind == typeAAAA && local.Is6():
		return local
	}
	return netip.Addr{}
}

// appendSOA appends the start of authority of the zone, whose name is at a byte of the message.
func appendSOA(b []byte, at int, ttl uint32) []byte {
	const hostmaster = "\x0ahostmaster"
	b = appendRecord(b, at, typeSOA, ttl, 5+len(hostmaster)+2+5*4)
	b = append(b, 2, 'n', 's', 0xc0|byte(at>>8), byte(at))
	b = append(append(b, hostmaster...), 0xc0|byte(at>>8), byte(at))
	for _, n := range [...]uint32{1, 3600, 600, 86400, ttl} { // serial, refresh, retry, expire, minimum
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}
