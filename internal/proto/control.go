package proto

import (
	"encoding/binary"
	"net/netip"
)

// ControlLen is the length in bytes of every control packet: one IPv4 header.
const ControlLen = 20

// Version of the extensions that this package speaks.
const Version = 1

const (
	magicOffer  = 0xfe52
	magicAnswer = 0xfe53
)

// Features are what one side offers to receive, or what both have agreed upon.
type Features uint16

// The features. A side that does not know one leaves its bit clear in the answer.
const (
	// FeatureSuper: data frames, with super-packets and partial checksums.
	FeatureSuper Features = 1 << iota
	// FeatureConfig: the gateway sends a config frame behind its answer.
	FeatureConfig
	// FeatureIPv6: IPv6 packets are forwarded.
	FeatureIPv6
	// FeaturePing: ping frames, answered by pong frames with the same payload.
	FeaturePing
	// FeatureGoodbye: a goodbye frame gives the reason before a connection is closed.
	FeatureGoodbye
	// FeatureUSO: with FeatureSuper, also super-packets of UDP (VIRTIO_NET_HDR_GSO_UDP_L4).
	FeatureUSO
	// FeatureSession: data frames have numbers, the other end acknowledges them, and other connections may become
	// paths of the same session. Between ends that know each other's keys only.
	FeatureSession
	// FeaturePublish: the client says what its device serves, and the gateway publishes that.
	FeaturePublish
	// FeatureHello: a hello frame follows the request, which is answered only after it.
	// It has no meaning in an answer.
	FeatureHello Features = 1 << 15
)

// Has reports whether every feature of want is in f.
func (f Features) Has(want Features) bool { return f&want == want }

// A Request asks for an address.
type Request struct {
	Static netip.Addr // the wanted address; invalid: any
	// Extended is false for a 2013 client; the fields below are zero then.
	Extended bool
	Features Features
	Hint     uint16 // low 16 bits of the address held before; 0: none
}

// AppendRequest appends r as a control packet.
func AppendRequest(b []byte, r Request) []byte {
	var src [4]byte
	if r.Static.IsValid() {
		src = r.Static.As4()
	}
	h := header(src, [4]byte{})
	if r.Extended {
		extend(h[:], magicOffer, r.Features, r.Hint)
	}
	return append(b, h[:]...)
}

// ParseRequest reads a control packet that the Framer called a KindRequest.
func ParseRequest(b []byte) Request {
	var r Request
	if src := [4]byte(b[12:16]); src != [4]byte{} {
		r.Static = netip.AddrFrom4(src)
	}
	if binary.BigEndian.Uint16(b[4:]) == magicOffer && b[9] >= 1 {
		r.Extended = true
		r.Features = Features(binary.BigEndian.Uint16(b[6:]))
		r.Hint = binary.BigEndian.Uint16(b[10:])
	}
	return r
}

// A Reply assigns an address.
type Reply struct {
	Addr netip.Addr
	// Extended is false when a 2013 server answered.
	Extended bool
	Features Features
}

// AppendReply appends the answer to request, the control packet as it came: a 2013 client gets its
// own bytes back but for the addresses (protocol-2013: "same packet").
func AppendReply(b, request []byte, r Reply) []byte {
	h := [ControlLen]byte(request)
	if r.Extended {
		extend(h[:], magicAnswer, r.Features, 0)
	}
	clear(h[12:16])
	addr := r.Addr.As4()
	copy(h[16:], addr[:])
	return append(b, h[:]...)
}

// ParseReply reads a control packet that the Framer called a KindReply.
func ParseReply(b []byte) Reply {
	r := Reply{Addr: netip.AddrFrom4([4]byte(b[16:20]))}
	if binary.BigEndian.Uint16(b[4:]) == magicAnswer && b[9] == Version {
		r.Extended = true
		r.Features = Features(binary.BigEndian.Uint16(b[6:]))
	}
	return r
}

// AppendKeepalive appends a keepalive with the bytes of the 2013 client.
func AppendKeepalive(b []byte) []byte {
	ones := [4]byte{255, 255, 255, 255}
	h := header(ones, ones)
	return append(b, h[:]...)
}

// header is a control packet as the 2013 client makes it: TOS 0x14, total length 0, TTL 64.
func header(src, dst [4]byte) (h [ControlLen]byte) {
	h[0], h[1], h[8] = 0x45, 0x14, 0x40
	copy(h[12:], src[:])
	copy(h[16:], dst[:])
	return h
}

func extend(h []byte, magic uint16, f Features, hint uint16) {
	binary.BigEndian.PutUint16(h[4:], magic)
	binary.BigEndian.PutUint16(h[6:], uint16(f))
	h[9] = Version
	binary.BigEndian.PutUint16(h[10:], hint)
}
