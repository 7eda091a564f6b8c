package proto

import (
	"encoding/binary"
	"errors"
)

// A Kind says what an item of the stream is.
type Kind uint8

// The kinds of items.
const (
	KindIPv4 Kind = 1 + iota
	KindIPv6
	KindKeepalive
	KindRequest // from a client only
	KindReply   // from a server only
	KindData
	KindConfig
	KindHello
	KindPing
	KindPong
	KindGoodbye
	KindJoin // on a connection for joining only, as the next one
	KindJoined
	KindAttach // from a client only
	KindAttached
	KindAck
	KindSwitch
	KindNumber
	KindFragment
	KindLimit
	KindPublish // from a client only
	KindUnknown // an extension frame of a type that this version does not know; to be skipped
)

// Reasons to end a connection: after these nobody can tell where the next item begins.
var (
	ErrNotIP  = errors.New("neither an IP packet nor a keepalive")
	ErrHeader = errors.New("IPv4 header contradicts itself")
	ErrFrame  = errors.New("extension frame too long or too short")
)

// ipv6HeaderLen is the fixed header of RFC 8200, section 3. Its payload length is 0 for a
// jumbogram too (RFC 2675), which is therefore framed as a bare header: no TUN can send one.
const ipv6HeaderLen = 40

// A Framer finds the items of one direction of a stream. It has no state: Next depends on the bytes
// alone, so the result does not depend on how reads fall.
type Framer struct {
	// FromServer is set when the bytes come from a server: it decides which of the two
	// 0.0.0.0 patterns is a control packet.
	FromServer bool
	// Extended is set once extensions were agreed upon.
	Extended bool
}

// Next returns the kind and length in bytes of the item at the start of b. The length is 0 when
// more bytes are needed to tell. An item is returned only when all of it is in b. An error is final.
func (f Framer) Next(b []byte) (Kind, int, error) {
	if len(b) == 0 {
		return 0, 0, nil
	}
	switch nibble := b[0] >> 4; {
	case nibble == 6:
		if len(b) < ipv6HeaderLen {
			return 0, 0, nil
		}
		return whole(KindIPv6, ipv6HeaderLen+int(binary.BigEndian.Uint16(b[4:])), b)
	case nibble == 8 && f.Extended:
		return nextFrame(b)
	case len(b) < ControlLen:
		return 0, 0, nil
	default:
		return f.nextIPv4(b, nibble == 4)
	}
}

// nextIPv4 tests for control packets first: only they may have any total length, any header
// length and, in a keepalive, any version.
func (f Framer) nextIPv4(b []byte, v4 bool) (Kind, int, error) {
	src, dst := binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[16:])
	switch {
	case src == 0xffffffff && dst == 0xffffffff:
		return KindKeepalive, ControlLen, nil
	case !v4:
		return 0, 0, ErrNotIP
	case !f.FromServer && dst == 0:
		return KindRequest, ControlLen, nil
	case f.FromServer && src == 0:
		return KindReply, ControlLen, nil
	}
	headerLen, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if headerLen < ControlLen || total < headerLen {
		return 0, 0, ErrHeader
	}
	return whole(KindIPv4, total, b)
}

// whole returns the item only when all n bytes of it are in b.
func whole(k Kind, n int, b []byte) (Kind, int, error) {
	if len(b) < n {
		return 0, 0, nil
	}
	return k, n, nil
}
