package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// A Kind is what a connection is for.
type Kind uint32

// The kinds of requests.
const (
	Forward Kind = iota // to a service of the guest
	RawL3               // IPv4 packets to and from an interface
	RawL2               // Ethernet frames to and from an interface
)

// A Transport is a protocol of services.
type Transport uint32

// The transports of Forward.
const (
	TCP Transport = iota
	UDP
)

// String returns its name in files of events and of package net.
func (t Transport) String() string {
	if t == UDP {
		return "udp"
	}
	return "tcp"
}

// A Status says what became of a Forward of TCP through an interface.
type Status uint8

// What a guest answers.
const (
	Connected Status = iota
	Filtered         // no answer to the SYN
	Refused
	Failed // there is no such interface, or anything else
)

// A Request is what a host asks of a guest.
type Request struct {
	Kind      Kind
	Dst       netip.AddrPort // Forward: of an interface only the port counts
	Transport Transport      // Forward
	Src       netip.AddrPort // Forward: where the guest connects from; not valid or without port: as its kernel chooses
	Routed    bool           // Forward: Iface is there
	Iface     string         // that the guest owns
	Protocol  uint8          // RawL3: of IP
}

// MaxRequest is the length of the longest body that is read, in bytes: a name of an interface has 15 of them, and what is behind a
// request may grow.
const MaxRequest = 1024

// MaxDatagram is the length in bytes of the longest datagram that vpnguin reads.
const MaxDatagram = 8192

// LengthSize is the size of the length before a body or frame, in bytes.
const LengthSize = 2

// ErrRequest is wrapped by all errors of ParseRequest.
var ErrRequest = errors.New("this is no request of vpnguin")

// AppendRequest appends a request with its length. Src is the address 0.0.0.0:0, or its like, if it is not valid.
func AppendRequest(b []byte, r Request) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint32(append(b, 0, 0), uint32(r.Kind))
	switch r.Kind {
	case Forward:
		src := r.Src
		if !src.IsValid() {
			src = netip.AddrPortFrom(Unspecified(r.Dst.Addr()), 0)
		}
		b = appendAddr(b, r.Dst)
		b = binary.LittleEndian.AppendUint32(b, uint32(r.Transport))
		b = appendAddr(b, src)
		if !r.Routed {
			b = append(b, 0)
			break
		}
		b = appendName(append(b, 1), r.Iface)
	case RawL3:
		b = append(appendName(b, r.Iface), r.Protocol)
	case RawL2:
		b = appendName(b, r.Iface)
	}
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-LengthSize))
	return b
}

// Unspecified returns the address that stands for all of the family of a.
func Unspecified(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	var family uint32
	if a.Addr().Is6() {
		family = 1
	}
	b = binary.LittleEndian.AppendUint32(b, family)
	b = append(b, a.Addr().AsSlice()...)
	return binary.LittleEndian.AppendUint16(b, a.Port())
}

func appendName(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

// ParseRequest reads the body of a request.
func ParseRequest(body []byte) (r Request, err error) {
	s := scanner{b: body}
	switch r.Kind = Kind(s.u32()); r.Kind {
	case Forward:
		r.Dst = s.addr()
		r.Transport = Transport(s.u32())
		if r.Transport > UDP {
			s.fail("transport %d", r.Transport)
		}
		if s.more() {
			r.Src = s.addr()
		}
		if s.more() {
			r.Routed = s.option()
		}
		if r.Routed {
			r.Iface = s.name()
		}
	case RawL3:
		r.Iface, r.Protocol = s.name(), s.u8()
	case RawL2:
		r.Iface = s.name()
	default:
		s.fail("kind %d", r.Kind)
	}
	if s.err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrRequest, s.err)
	}
	return r, nil
}

// A scanner takes values off a body until one is not there.
type scanner struct {
	b   []byte
	err error // the first
}

func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

// more tells whether anything is left, and all was well so far.
func (s *scanner) more() bool { return s.err == nil && len(s.b) > 0 }

// take returns n bytes; zeros where they are not there, n being small then.
func (s *scanner) take(n int) []byte {
	if s.err == nil && len(s.b) < n {
		s.fail("it is too short")
	}
	if s.err != nil {
		return make([]byte, n)
	}
	b := s.b[:n]
	s.b = s.b[n:]
	return b
}

func (s *scanner) u8() uint8   { return s.take(1)[0] }
func (s *scanner) u32() uint32 { return binary.LittleEndian.Uint32(s.take(4)) }

func (s *scanner) option() bool {
	tag := s.u8()
	if tag > 1 {
		s.fail("option %d", tag)
	}
	return tag == 1
}

func (s *scanner) addr() netip.AddrPort {
	var a netip.Addr
	switch family := s.u32(); family {
	case 0:
		a = netip.AddrFrom4([4]byte(s.take(4)))
	case 1:
		a = netip.AddrFrom16([16]byte(s.take(16)))
	default:
		s.fail("address family %d", family)
	}
	return netip.AddrPortFrom(a, binary.LittleEndian.Uint16(s.take(2)))
}

func (s *scanner) name() string {
	n := binary.LittleEndian.Uint64(s.take(8))
	if n > uint64(len(s.b)) {
		s.fail("a name of %d bytes", n)
		return ""
	}
	return string(s.take(int(n)))
}

// AppendFrame appends a datagram, packet or frame with its length. It has at most 65535 bytes.
func AppendFrame(b, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(payload))), payload...)
}

// ConsumeFrame returns the frame that b begins with, and its length with that of its own length; 0: more has to come.
func ConsumeFrame(b []byte) (payload []byte, n int) {
	if len(b) < LengthSize {
		return nil, 0
	}
	n = LengthSize + int(binary.BigEndian.Uint16(b))
	if len(b) < n {
		return nil, 0
	}
	return b[LengthSize:n], n
}
